"""Reading MovieLens files: made-up ones in the publisher's layout, and the real ones if at hand."""

import os
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest

from dnrlib.data import load, prepare_log
from dnrlib.data.movielens import ML_1M, ML_100K, find, parse_ratings, parse_titles, read
from dnrlib.errors import DataError

RATINGS = b"7::30::5::1000\n7::10::2::1001\n3::30::1::900\n"
TITLES = "10::Caf\xe9 (1995)::Drama\n30::A: The Film (2000)::Comedy|War\n".encode("latin-1")
MEMBERS = {ML_1M.ratings: RATINGS, ML_1M.titles: TITLES}


def make_zip(folder, members, name="ml-1m.zip"):
    with ZipFile(folder / name, "w", ZIP_DEFLATED) as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return folder / name


def make_folder(folder, members):
    for member, data in members.items():
        (folder / member).parent.mkdir(exist_ok=True)
        (folder / member).write_bytes(data)
    return folder


def test_zip(tmp_path):
    source = read(ML_1M, make_zip(tmp_path, MEMBERS))
    rows = [(7, 30, 5.0, 1000), (7, 10, 2.0, 1001), (3, 30, 1.0, 900)]
    assert list(source.frame.iter_rows()) == rows
    assert source.titles == {10: "Café (1995)", 30: "A: The Film (2000)"}
    assert source.name == "ml-1m"


def test_folder_holds_the_same_as_the_zip(tmp_path):
    unpacked = read(ML_1M, make_folder(tmp_path, MEMBERS) / "ml-1m")
    zipped = read(ML_1M, make_zip(tmp_path, MEMBERS))
    assert unpacked.frame.equals(zipped.frame)
    assert unpacked.titles == zipped.titles
    assert "ml-1m/ratings.dat unpacked" in unpacked.note


def test_ml_100k_layout(tmp_path):
    members = {
        ML_100K.ratings: b"196\t242\t3\t881250949\n",
        ML_100K.titles: b"242|Kolya (1996)|24-Jan-1997||http://example.org|0|0|1\n",
    }
    source = load("ml-100k", make_folder(tmp_path, members))
    assert source.frame.row(0) == (196, 242, 3.0, 881250949)
    assert source.titles == {242: "Kolya (1996)"}


def test_note_says_that_a_checksum_is_not_the_publishers(tmp_path):
    path = make_zip(tmp_path, MEMBERS)
    note = read(ML_1M, path).note
    assert ML_1M.md5 in note
    assert str(tmp_path) not in note
    make_zip(tmp_path, MEMBERS | {"ml-1m/README": b"changed"})
    assert read(ML_1M, path).note != note


def test_no_note_on_the_publishers_file(tmp_path, monkeypatch):
    monkeypatch.setattr("dnrlib.data.movielens.md5", lambda path: ML_1M.md5)
    assert read(ML_1M, make_zip(tmp_path, MEMBERS)).note == ""


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"4::30::5", "columns"),
        (b"4::30::5::1000::9", "columns"),
        (b"4::30::5::1000::", "columns"),
        (b"4:30:5:1000", "columns"),
        (b"4\t30\t5\t1000", "columns"),
        (b"", "columns"),
        (b"four::30::5::1000", "whole number"),
        (b"4::30::4.5::1000", "whole number"),
        (b"4::30::::1000", "whole number"),
        (b"99999999999999999999::30::5::1000", "whole number"),
        (b"-4::30::5::1000", "negative"),
        (b"4::-30::5::1000", "negative"),
        (b"4::30::0::1000", "rating"),
        (b"4::30::6::1000", "rating"),
        (b"7::10::2::1001", "rated this item before"),
        (b"7::10::4::1009", "rated this item before"),
        ("4::30::5::10é".encode(), "ascii"),
    ],
)
def test_malformed_ratings_name_the_line(bad, reason):
    with pytest.raises(DataError, match=reason) as error:
        parse_ratings(RATINGS + bad + b"\n1::1::1::1\n", "ratings.dat", "::")
    assert error.value.line == 4
    assert str(error.value).startswith("ratings.dat, line 4: ")


def test_the_first_of_several_bad_lines_is_named():
    with pytest.raises(DataError) as error:
        parse_ratings(RATINGS + b"1::1::9::1\n1::2::9::1\n", "ratings.dat", "::")
    assert error.value.line == 4


def test_last_line_needs_no_newline():
    assert parse_ratings(RATINGS.rstrip(), "", "::").equals(parse_ratings(RATINGS, "", "::"))


@pytest.mark.parametrize("bad", [b"ten::A film::Drama", b"10", b""])
def test_malformed_titles_name_the_line(bad):
    with pytest.raises(DataError, match=r"movies\.dat, line 3"):
        parse_titles(TITLES + bad + b"\n", "movies.dat", "::")


@pytest.mark.parametrize("member", [ML_1M.ratings, ML_1M.titles])
@pytest.mark.parametrize("make", [make_zip, lambda *a: make_folder(*a) / "ml-1m"])
def test_bad_files_are_named(tmp_path, member, make):
    path = make(tmp_path, MEMBERS | {member: b""})
    with pytest.raises(DataError, match=rf"{member}\): is empty"):
        read(ML_1M, path)


@pytest.mark.parametrize("member", [ML_1M.ratings, ML_1M.titles])
def test_missing_members_are_named(tmp_path, member):
    members = {name: data for name, data in MEMBERS.items() if name != member}
    with pytest.raises(DataError, match=f"has no member {member}"):
        read(ML_1M, make_zip(tmp_path, members))
    with pytest.raises(DataError, match=f"{member}: cannot be read"):
        read(ML_1M, make_folder(tmp_path, members) / "ml-1m")


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.99])
def test_truncated_zip(tmp_path, keep):
    path = make_zip(tmp_path, MEMBERS)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(DataError, match=r"ml-1m\.zip: cannot be unpacked"):
        read(ML_1M, path)


@pytest.mark.parametrize(
    ("after", "offset", "value"),
    [
        (b"ratings.dat", 0, 0xFF),
        (b"PK\x01\x02", 4, 0x01),
        (b"PK\x01\x02", 6, 0x63),
    ],
    ids=["damaged", "encrypted", "unknown method"],
)
def test_damaged_zip(tmp_path, after, offset, value):
    path = make_zip(tmp_path, MEMBERS)
    data = bytearray(path.read_bytes())
    data[data.index(after) + len(after) + offset] = value
    path.write_bytes(data)
    with pytest.raises(DataError, match="cannot be unpacked"):
        read(ML_1M, path)


@pytest.mark.parametrize("name", ["../evil", "ml-1m/../../evil", "/etc/evil", "..\\evil"])
def test_zip_that_climbs_out(tmp_path, name):
    path = make_zip(tmp_path, MEMBERS | {name: b"boo"})
    with pytest.raises(DataError, match="climbs out"):
        read(ML_1M, path)
    assert list(tmp_path.iterdir()) == [path]


def test_zip_goes_before_folder(tmp_path):
    make_folder(tmp_path, MEMBERS)
    assert find(ML_1M, [tmp_path]) == tmp_path / "ml-1m"
    path = make_zip(tmp_path, MEMBERS)
    assert find(ML_1M, [tmp_path / "elsewhere", tmp_path]) == path


@pytest.fixture(scope="module")
def real():
    folder = os.environ.get("DNR_DATA_DIR")
    if not folder or not find(ML_1M, [Path(folder)]):
        pytest.skip("needs the real ml-1m.zip in the folder that DNR_DATA_DIR names")
    return load("ml-1m", folder, download=False)


def test_real_ml_1m_is_whole(real):
    histogram = real.frame["rating"].value_counts().sort("rating")["count"].to_list()
    assert histogram == [56_174, 107_557, 261_197, 348_971, 226_310]
    assert real.frame["user"].n_unique() == 6_040
    assert real.frame["item"].n_unique() == 3_706
    assert real.titles.keys() >= set(real.frame["item"])


def test_real_ml_1m_gives_the_papers_counts(real):
    log = prepare_log(real)
    assert (log.users, log.items, len(log.item), len(log)) == (6_022, 3_043, 995_154, 161_657)
    _, rows = log.user.unique(return_counts=True)
    assert int((rows // log.list_length).sum()) == 163_348
    assert round(log.label[log.rows()].sum(1).float().mean().item(), 2) == 5.08
