"""Where data sets are looked for, and what happens when they are not there."""

import pytest
from test_data_movielens import MEMBERS, make_zip
from test_kuairand import LOGS, make_archive

from dnrlib.data import DATASETS, load, prepare_log, resolve, sources
from dnrlib.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """An empty project whose subfolder is the current directory, and no network."""
    (tmp_path / "book").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path / "book")
    monkeypatch.delenv("DNR_DATA_DIR", raising=False)
    monkeypatch.setattr(sources, "fetch", unreachable)
    return tmp_path


def unreachable(url, target, checksum):
    raise DataError(url, f"cannot be downloaded to {target}")


def test_data_raw_of_the_project_is_looked_into(project):
    (project / "data" / "raw").mkdir(parents=True)
    make_zip(project / "data" / "raw", MEMBERS)
    assert load("ml-1m").frame.height == 3
    assert resolve() == ("ml-1m", "The data set is ml-1m.")


def test_dnr_data_dir_goes_first(project, monkeypatch):
    for place in ("data/raw", "mine"):
        (project / place).mkdir(parents=True)
    make_zip(project / "data/raw", dict.fromkeys(MEMBERS, b""))
    make_zip(project / "mine", MEMBERS)
    monkeypatch.setenv("DNR_DATA_DIR", str(project / "mine"))
    assert load("ml-1m").frame.height == 3


def test_dnr_data_dir_that_does_not_exist_is_an_error_even_for_auto(monkeypatch):
    monkeypatch.setenv("DNR_DATA_DIR", "nowhere")
    with pytest.raises(ConfigError, match="DNR_DATA_DIR is 'nowhere'"):
        resolve()


def test_what_is_missing_is_downloaded_to_data_raw(project, monkeypatch):
    (project / "data" / "raw").mkdir(parents=True)
    (project / "mine").mkdir()
    monkeypatch.setenv("DNR_DATA_DIR", str(project / "mine"))
    monkeypatch.setattr(sources, "fetch", lambda url, target, _: make_zip(target.parent, MEMBERS))
    assert resolve()[0] == "ml-1m"
    assert [path.name for path in (project / "data" / "raw").iterdir()] == ["ml-1m.zip"]


def test_a_given_folder_is_the_only_one(project, monkeypatch):
    make_zip(project, MEMBERS)
    monkeypatch.setenv("DNR_DATA_DIR", str(project))
    assert load("ml-1m", project).frame.height == 3
    with pytest.raises(DataError, match="book"):
        load("ml-1m", project / "book")


def test_auto_without_ml_1m_is_simulated_and_says_so():
    dataset, sentence = resolve()
    assert dataset == "simulated"
    assert "ml-1m is not on this machine" in sentence


def test_any_other_name_stands_for_itself():
    assert resolve("ml-100k")[0] == "ml-100k"


def test_what_is_missing_without_download_says_what_to_do():
    with pytest.raises(DataError) as error:
        load("ml-1m", download=False)
    for advice in ("ml-1m.zip: is missing", "https://", "DNR_DATA_DIR", "DATASET=simulated"):
        assert advice in str(error.value)


def test_simulated_needs_no_file():
    assert prepare_log("simulated").name == "simulated"


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError) as error:
        load("ml-2m")
    assert all(dataset in str(error.value) for dataset in DATASETS)


@pytest.mark.parametrize("dataset", ["ml-1m", "simulated", "amazon-books-2023"])
def test_feedback_is_refused_where_there_is_one_kind(dataset):
    with pytest.raises(ConfigError, match=f"'is_click', but {dataset} has one kind"):
        load(dataset, feedback="is_click")


def test_a_wrong_feedback_is_refused_before_anything_is_downloaded():
    with pytest.raises(ConfigError, match="must be one of is_click"):
        load("kuairand-1k", feedback="clicks")


def test_what_has_a_published_md5_is_downloaded_and_checked(project, monkeypatch):
    asked = []
    archive = make_archive(project, LOGS)
    monkeypatch.setattr(sources, "fetch", lambda *request: asked.append(request) or archive)
    assert load("kuairand-pure").frame.height == 3
    ((url, target, md5),) = asked
    assert url == "https://zenodo.org/records/10439422/files/KuaiRand-Pure.tar.gz"
    assert target == project / "data" / "raw" / "KuaiRand-Pure.tar.gz"
    assert md5 == "0820331067a3784d9691136f772b35a7"
