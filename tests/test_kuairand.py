"""Reading KuaiRand: made-up logs in the publisher's layout, and the real part if it is at hand."""

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from dnrlib.data import load, prepare_log, tables
from dnrlib.data.kuairand import FEEDBACK, ONE_K, PUBLICATIONS, PURE, find, parse_log, read
from dnrlib.errors import ConfigError, DataError

NAMES = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,"
    "is_hate,long_view,play_time_ms,duration_ms,profile_stay_time,comment_stay_time,"
    "is_profile_enter,is_rand,tab"
)
EARLY, LATE = PURE.logs


def line(user=7, video=30, time_ms=5_000, **values):
    """A line of a log, 0 where nothing is given."""
    row = dict.fromkeys(NAMES.split(","), 0)
    row |= {"user_id": user, "video_id": video, "time_ms": time_ms, **values}
    return ",".join(map(str, row.values()))


def log(*lines):
    return "\n".join([NAMES, *lines, ""]).encode()


LOGS = {
    EARLY: log(line(7, 30, 2_900, is_click=1), line(7, 10, 2_100, long_view=1)),
    LATE: log(line(3, 30, 9_000, is_click=1, long_view=1)),
}


def make_folder(folder, logs, publication=PURE):
    for name, data in logs.items():
        path = folder / publication.folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder / publication.folder


def make_archive(folder, logs, publication=PURE):
    with tarfile.open(folder / publication.archive, "w:gz") as archive:
        for name, data in {"video_features_basic_pure.csv": b"x", **logs}.items():
            member = tarfile.TarInfo(f"{publication.folder}/data/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return folder / publication.archive


def rows(source):
    return list(source.frame.iter_rows())


@pytest.mark.parametrize("make", [make_folder, make_archive])
def test_both_logs_are_read_in_the_order_of_time(tmp_path, make):
    source = read(PURE, make(tmp_path, LOGS))
    assert rows(source) == [(7, 10, 0.0, 2), (7, 30, 1.0, 2), (3, 30, 1.0, 9)]
    assert (source.name, source.positive, source.core) == ("kuairand-pure", 1.0, PURE.core)
    assert "missing" not in source.note


def test_logs_of_an_archive_may_come_in_any_order(tmp_path):
    late_first = {name: LOGS[name] for name in (LATE, EARLY)}
    tied = {LATE: log(line(7, 1)), EARLY: log(line(7, 2))}
    assert rows(read(PURE, make_archive(tmp_path, tied)))[0][1] == 2
    assert rows(read(PURE, make_archive(tmp_path, late_first)))[0] == (7, 10, 0.0, 2)


def test_a_log_may_be_gzipped_or_missing_and_the_note_says_so(tmp_path):
    source = read(PURE, make_folder(tmp_path, {f"{LATE}.gz": LOGS[LATE]}))
    assert rows(source) == [(3, 30, 1.0, 9)]
    assert f"{EARLY} is missing" in source.note
    assert f"{LATE}.gz: 1 rows, MD5 " in source.note
    assert "a part: 1 of 1,436,609 impressions" in source.note
    assert str(tmp_path) not in source.note


def test_1k_has_names_of_its_own(tmp_path):
    make_folder(tmp_path, {ONE_K.logs[0]: log(line())}, ONE_K)
    assert ONE_K.logs[0] == "log_standard_4_08_to_4_21_1k.csv"
    assert rows(load("kuairand-1k", tmp_path)) == [(7, 30, 0.0, 5)]


@pytest.mark.parametrize("feedback", FEEDBACK)
def test_the_chosen_feedback_is_the_rating(tmp_path, feedback):
    lines = line(1, 1, **{feedback: 1}), line(1, 2, is_hate=1)
    make_folder(tmp_path, {LATE: log(*lines)})
    source = load("kuairand-pure", tmp_path, feedback=feedback)
    assert [row[2] for row in rows(source)] == [1.0, 0.0]
    assert f"positive: {feedback}" in source.note


def test_clicks_count_by_default(tmp_path):
    assert load("kuairand-pure", make_folder(tmp_path, LOGS).parent).note.startswith(
        "positive: is_click;"
    )


@pytest.mark.parametrize("feedback", ["like", "is_hate", "is_rand", "tab"])
def test_another_feedback_is_refused_with_the_choices(tmp_path, feedback):
    with pytest.raises(ConfigError, match="must be one of is_click, long_view") as error:
        load("kuairand-pure", tmp_path, feedback=feedback)
    assert repr(feedback) in str(error.value)


def test_what_feedback_says_is_positive_cannot_be_moved_by_the_argument(tmp_path):
    lines = [line(user, item, item) for user in (1, 2) for item in range(12)]
    lines[3] = line(1, 3, 3, is_click=1)
    source = read(PURE, make_folder(tmp_path, {LATE: log(*lines)}))
    assert prepare_log(source, core=1).label.nonzero().tolist() == [[3]]
    assert prepare_log(source, core=1, positive=3.0).label.nonzero().tolist() == [[3]]
    for positive in (0.0, 1.0, 4.0):
        with pytest.raises(ConfigError, match=r"kuairand-pure's feedback.*leave positive at 3,"):
            prepare_log(source, core=1, positive=positive)


def test_the_first_exposure_in_time_is_kept_and_the_others_are_counted(tmp_path):
    lines = line(1, 5, 7_000), line(1, 5, 3_000, is_click=1), line(1, 5, 3_000), line(2, 5, 8_000)
    source = read(PURE, make_folder(tmp_path, {LATE: log(*lines)}))
    assert rows(source) == [(1, 5, 1.0, 3), (2, 5, 0.0, 8)]
    assert "2 later impressions of a video to the same user left out" in source.note


def test_random_exposure_is_left_out_and_counted(tmp_path):
    lines = line(1, 5, 1_000, is_rand=1, is_click=1), line(1, 5, 2_000)
    source = read(PURE, make_folder(tmp_path, {LATE: log(*lines)}))
    assert rows(source) == [(1, 5, 0.0, 2)]
    assert "1 impressions of random exposure left out" in source.note
    assert "later" not in source.note


def test_rows_of_one_time_keep_the_order_of_the_file_and_milliseconds_count(tmp_path):
    lines = line(1, 9, 1_500), line(1, 4, 1_500), line(1, 6, 1_499)
    source = read(PURE, make_folder(tmp_path, {LATE: log(*lines)}))
    assert rows(source) == [(1, 6, 0.0, 1), (1, 9, 0.0, 1), (1, 4, 0.0, 1)]


BAD = {
    "1,2,3": "columns",
    line() + ",": "columns",
    line() + ",9": "columns",
    "": "columns",
    line()[:-2]: "columns",
    line(tab=""): "tab is not a whole number",
    line(user="x"): "user_id is not a whole number",
    line(video="4.5"): "video_id is not a whole number",
    line(time_ms=""): "time_ms is not a whole number",
    line(time_ms="9" * 20): "time_ms is not a whole number",
    line(user=-1): "negative",
    line(video=-1): "negative",
    line(is_click=2): "is_click is not 0 or 1",
    line(is_rand=-1): "is_rand is not 0 or 1",
}


@pytest.mark.parametrize(("bad", "reason"), BAD.items())
@pytest.mark.parametrize("at_once", [1, 2**26])
def test_malformed_lines_are_named(tmp_path, monkeypatch, bad, reason, at_once):
    monkeypatch.setattr(tables, "BYTES_AT_ONCE", at_once)
    folder = make_folder(tmp_path, {LATE: log(line(), line(1), bad, line(2), "broken too")})
    with pytest.raises(DataError, match=reason) as error:
        read(PURE, folder)
    assert error.value.line == 4
    assert str(error.value).startswith(f"{folder / 'data' / LATE}, line 4: ")
    assert str(error.value).endswith(f"take the file from {PURE.url}")


def test_reading_in_small_pieces_gives_the_same(tmp_path, monkeypatch):
    whole = read(PURE, make_folder(tmp_path, LOGS))
    monkeypatch.setattr(tables, "BYTES_AT_ONCE", 1)
    assert read(PURE, tmp_path / PURE.folder).frame.equals(whole.frame)


@pytest.mark.parametrize("make", [make_folder, make_archive])
def test_bytes_that_are_no_text_are_named(tmp_path, make):
    path = make(tmp_path, {EARLY: LOGS[EARLY], LATE: log(line()) + b"\xff\xfe\x00\n"})
    with pytest.raises(DataError, match=rf"{LATE}.*, line 3: is not text"):
        read(PURE, path)


def test_binary_garbage_has_no_header(tmp_path):
    with pytest.raises(DataError, match="line 1: the header has no column user_id"):
        read(PURE, make_folder(tmp_path, {LATE: bytes(range(256)) * 9}))


def test_a_missing_column_is_named(tmp_path):
    with pytest.raises(DataError, match="line 1: the header has no column is_rand:"):
        read(PURE, make_folder(tmp_path, {LATE: NAMES.replace("is_rand,", "").encode()}))


@pytest.mark.parametrize(("data", "reason"), [(b"", "is empty"), (log(), "holds no rows")])
@pytest.mark.parametrize("make", [make_folder, make_archive])
def test_a_log_without_rows_is_refused(tmp_path, make, data, reason):
    with pytest.raises(DataError, match=rf"{LATE}.*{reason}"):
        read(PURE, make(tmp_path, {LATE: data}))


@pytest.mark.parametrize("keep", [0.3, 0.99])
def test_truncated_gzip(tmp_path, keep):
    folder = make_folder(tmp_path, {f"{LATE}.gz": log(*[line()] * 99)})
    path = folder / "data" / f"{LATE}.gz"
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(DataError, match=rf"{LATE}\.gz: cannot be read .*replace or delete it"):
        read(PURE, folder)


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.7])
def test_truncated_archive(tmp_path, keep):
    path = make_archive(tmp_path, LOGS)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(DataError, match=r"KuaiRand-Pure\.tar\.gz: cannot be unpacked"):
        read(PURE, path)


def test_an_archive_without_logs(tmp_path):
    with pytest.raises(DataError, match=f"has neither {EARLY} nor {LATE}"):
        read(PURE, make_archive(tmp_path, {}))


def test_the_archives_checksum_is_in_the_note_unless_it_is_the_publishers(tmp_path, monkeypatch):
    path = make_archive(tmp_path, LOGS)
    assert f"not the publisher's {PURE.md5}" in read(PURE, path).note
    monkeypatch.setattr("dnrlib.data.kuairand.md5", lambda path: PURE.md5)
    assert "MD5" not in read(PURE, path).note


def test_a_folder_counts_if_it_has_a_log(tmp_path):
    make_folder(tmp_path, {"log_random_4_22_to_5_08_pure.csv": log(line())})
    assert find(PURE, [tmp_path]) is None
    folder = make_folder(tmp_path, {LATE: log(line())})
    assert find(PURE, [tmp_path / "elsewhere", tmp_path]) == folder
    archive = make_archive(tmp_path, LOGS)
    assert find(PURE, [tmp_path]) == archive


@pytest.mark.parametrize("publication", PUBLICATIONS.values())
def test_what_is_missing_is_said_with_where_to_get_it(tmp_path, publication):
    with pytest.raises(DataError, match="is missing") as error:
        load(publication.name, tmp_path, download=False)
    assert error.value.path == tmp_path / publication.archive
    assert publication.url in str(error.value)


@pytest.fixture(scope="module")
def real():
    folder = os.environ.get("DNR_DATA_DIR", "")
    if not (Path(folder) / PURE.folder / "data" / f"{LATE}.gz").exists():
        pytest.skip("needs the part of KuaiRand-Pure in the folder that DNR_DATA_DIR names")
    return Path(folder)


@pytest.mark.parametrize(
    ("feedback", "rate"), [("is_click", 0.4419), ("long_view", 0.3108), ("is_like", 0.0171)]
)
def test_real_part_as_it_lies_there(real, feedback, rate):
    frame = as_it_lies(real, feedback)
    assert frame.height == 228_329
    assert (frame["user"].n_unique(), frame["item"].n_unique()) == (25_156, 6_361)
    assert round(frame["rating"].mean(), 4) == rate
    assert frame["is_rand"].sum() == 0


def as_it_lies(folder, feedback):
    with tables.opened(folder / PURE.folder / "data" / f"{LATE}.gz") as file:
        return parse_log(file, LATE, feedback, "")


def test_real_part_gives_lists(real):
    source = load("kuairand-pure", real, download=False)
    assert "a part: 228,329 of 1,436,609 impressions" in source.note
    assert source.frame.select("user", "item").is_unique().all()
    log = prepare_log(source)
    assert (log.users, log.items, len(log.item), len(log)) == (15_618, 4_112, 192_547, 23_101)
    assert log.split.bincount().tolist() == [4_708, 5_447, 12_946]
