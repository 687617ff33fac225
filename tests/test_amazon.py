"""Reading Amazon's ratings of books: made-up files of each edition, and the real sample."""

import gzip
import os
from pathlib import Path

import pytest

from dnrlib.data import load, prepare_log, tables
from dnrlib.data.amazon import (
    BOOKS_2014,
    BOOKS_2018,
    BOOKS_2023,
    PUBLICATIONS,
    edition_of,
    find,
    parse_ratings,
    read,
)
from dnrlib.errors import DataError

ROWS = [
    ("AZZ9GRM46PBEO6FGLWRTQCHVP5EQ", "B00AAAAAA1", "5.0", 4_000),
    ("AE224GVO7OHTYF26U6ER6BEVIUAQ", "0486241386", "2.0", 3_000),
    ("AE224GVO7OHTYF26U6ER6BEVIUAQ", "B00AAAAAA1", "4.0", 1_000),
]
"""User, book, rating and time in seconds."""


def text(edition, rows=ROWS):
    """A file of the edition."""
    lines = [",".join(edition.columns)] * edition.header
    for user, item, rating, seconds in rows:
        pair = (item, user) if edition is BOOKS_2018 else (user, item)
        lines.append(",".join(map(str, (*pair, rating, seconds * edition.per_second))))
    return "\n".join([*lines, ""]).encode()


def write(folder, data, place="amazon-books/Books.csv"):
    path = folder / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("edition", PUBLICATIONS.values())
@pytest.mark.parametrize("folder", ["amazon-books", "own"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_every_edition_gives_the_same_rows(tmp_path, edition, folder, ending):
    place = edition.name if folder == "own" else folder
    write(tmp_path, text(edition), f"{place}/{edition.file}{ending}")
    source = load(edition.name, tmp_path, download=False)
    assert list(source.frame.iter_rows()) == [
        (0, 1, 4.0, 1000),
        (0, 0, 2.0, 3000),
        (1, 1, 5.0, 4000),
    ]
    assert (source.name, source.positive, source.core) == (edition.name, None, 5)


def test_ids_are_numbered_in_the_order_of_their_texts(tmp_path):
    users = ["AB" + "X" * 26, "AA" + "X" * 26, "AA_" + "X" * 26, "A1" + "X" * 26]
    rows = [(user, "0000000001", "3.0", 9) for user in users]
    frame = read(BOOKS_2023, write(tmp_path, text(BOOKS_2023, rows))).frame
    assert frame["user"].to_list() == [sorted(users).index(user) for user in users]


def test_the_note_names_file_rows_and_md5_and_says_that_it_is_a_part(tmp_path):
    note = read(BOOKS_2023, write(tmp_path, text(BOOKS_2023))).note
    assert note.startswith("a part: 3 of 29,139,329 ratings; Books.csv: 3 ratings, MD5 ")
    assert str(tmp_path) not in note
    assert "left out" not in note


def test_a_pair_keeps_its_first_rating_in_time_and_the_others_are_counted(tmp_path):
    user, item, *_ = ROWS[0]
    rows = [(user, item, "1.0", 7), (user, item, "5.0", 3), (user, item, "2.0", 3), ROWS[1]]
    source = read(BOOKS_2014, write(tmp_path, text(BOOKS_2014, rows)))
    assert list(source.frame.iter_rows()) == [(1, 1, 5.0, 3), (0, 0, 2.0, 3000)]
    assert "2 later ratings of a book by the same user left out" in source.note


def test_a_rating_of_0_is_none_and_counted(tmp_path):
    rows = [*ROWS[:2], (*ROWS[2][:2], "0.0", 1)]
    source = read(BOOKS_2018, write(tmp_path, text(BOOKS_2018, rows)))
    assert sorted(source.frame["rating"]) == [2.0, 5.0]
    assert "1 ratings of 0 left out" in source.note


@pytest.mark.parametrize("asked", PUBLICATIONS.values())
@pytest.mark.parametrize("there", PUBLICATIONS.values())
def test_another_edition_is_refused_with_what_to_do(tmp_path, asked, there):
    path = write(tmp_path, text(there), f"amazon-books/{asked.file}")
    if asked is there:
        assert load(asked.name, tmp_path).frame.height == 3
        return
    with pytest.raises(DataError, match=f"is of {there.name}, not {asked.name}") as error:
        load(asked.name, tmp_path)
    assert (error.value.path, error.value.line) == (str(path), 1)
    for advice in (f"use dataset {there.name}", asked.url, asked.archive):
        assert advice in str(error.value)


def test_editions_can_lie_side_by_side(tmp_path):
    shared = write(tmp_path, text(BOOKS_2023))
    own = write(tmp_path / "second", text(BOOKS_2018), "amazon-books-2018/Books.csv.gz")
    folders = [tmp_path, tmp_path / "second"]
    assert find(BOOKS_2023, iter(folders)) == shared
    assert find(BOOKS_2018, iter(folders)) == own
    assert find(BOOKS_2014, iter(folders)) is None


@pytest.mark.parametrize("line", ["", "hello", "1,2,3,4", "0486241386,0486241387,5.0,1", "a,b"])
def test_lines_of_no_edition(line):
    assert edition_of(line) is None


BAD = {
    "A28,0486241386,5.0": "columns",
    "A28,0486241386,5.0,1,2": "columns",
    "": "columns",
    ",0486241386,5.0,1": "an id is missing",
    "A28,,5.0,1": "an id is missing",
    "A28,0486241386,five,1": "rating is not a number",
    "A28,0486241386,6.0,1": "rating is not in 1 … 5",
    "A28,0486241386,-1,1": "rating is not in 1 … 5",
    "A28,0486241386,nan,1": "rating is not in 1 … 5",
    "A28,0486241386,5.0,1.5": "timestamp is not a whole number",
    "A28,0486241386,5.0,": "timestamp is not a whole number",
}


@pytest.mark.parametrize(("bad", "reason"), BAD.items())
@pytest.mark.parametrize("edition", [BOOKS_2014, BOOKS_2023])
@pytest.mark.parametrize("at_once", [1, 2**26])
def test_malformed_lines_are_named(tmp_path, monkeypatch, edition, bad, reason, at_once):
    monkeypatch.setattr(tables, "BYTES_AT_ONCE", at_once)
    path = write(tmp_path, text(edition) + f"{bad}\nbroken too\n".encode())
    with pytest.raises(DataError, match=reason) as error:
        read(edition, path)
    assert error.value.line == 4 + edition.header
    assert str(error.value).endswith(f"put the file from {edition.url} at {edition.archive}")


@pytest.mark.parametrize("edition", PUBLICATIONS.values())
def test_bytes_that_are_no_text_are_named(tmp_path, edition):
    path = write(tmp_path, text(edition) + b"\xff\n")
    with pytest.raises(DataError, match=f"line {4 + edition.header}: is not text"):
        read(edition, path)


@pytest.mark.parametrize("edition", PUBLICATIONS.values())
@pytest.mark.parametrize("data", [bytes(range(256)) * 9, b"user_id,rating,timestamp\n"])
def test_what_is_of_no_edition_is_refused(tmp_path, edition, data):
    with pytest.raises(DataError, match=f"line 1: no file of {edition.name} .* begins so"):
        read(edition, write(tmp_path, data))


def test_files_without_rows_are_refused(tmp_path):
    with pytest.raises(DataError, match="is empty"):
        read(BOOKS_2014, write(tmp_path, b""))
    with pytest.raises(DataError, match="holds no rows"):
        read(BOOKS_2023, write(tmp_path, text(BOOKS_2023, [])))


@pytest.mark.parametrize("keep", [0.2, 0.99])
def test_truncated_gzip(tmp_path, keep):
    path = write(tmp_path, text(BOOKS_2023, ROWS * 99), "amazon-books/Books.csv.gz")
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(DataError, match=r"Books\.csv\.gz: cannot be read .*replace or delete it"):
        read(BOOKS_2023, path)


def test_what_is_no_gzip(tmp_path):
    path = write(tmp_path, b"", "amazon-books/Books.csv.gz")
    path.write_bytes(text(BOOKS_2023))
    with pytest.raises(DataError, match=r"Books\.csv\.gz: cannot be read .*replace or delete it"):
        read(BOOKS_2023, path)


@pytest.mark.parametrize("edition", PUBLICATIONS.values())
def test_what_is_missing_is_not_downloaded_but_said_with_where_to_get_it(tmp_path, edition):
    with pytest.raises(DataError, match="is missing. Put the file from") as error:
        load(edition.name, tmp_path, download=True)
    assert error.value.path == tmp_path / edition.archive
    assert edition.url in str(error.value)


@pytest.fixture(scope="module")
def real():
    folder = Path(os.environ.get("DNR_DATA_DIR", ""))
    if not (folder / "amazon-books" / "Books.csv.gz").exists():
        pytest.skip("needs the sample of Amazon's books in the folder that DNR_DATA_DIR names")
    return folder


def test_real_sample_as_it_lies_there(real):
    with tables.opened(real / "amazon-books" / "Books.csv.gz") as file:
        frame = parse_ratings(file, "", BOOKS_2023)
    assert frame.height == 160_666
    assert (frame["user"].n_unique(), frame["item"].n_unique()) == (38_640, 15_853)
    assert (frame["user"].max(), frame["item"].max()) == (38_639, 15_852)


def test_real_sample_gives_lists(real):
    source = load("amazon-books-2023", real, download=False)
    assert "a part: 160,666 of 29,139,329 ratings" in source.note
    log = prepare_log(source)
    assert (log.users, log.items, len(log.item), len(log)) == (4_867, 4_499, 45_861, 5_482)
    assert log.split.bincount().tolist() == [1_116, 921, 3_445]
