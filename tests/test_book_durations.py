"""What a chapter is going to take is predicted from what it took."""

import json
from pathlib import Path

import pytest
from made_up_book import notebook, write_book

from dnrlib.book import BookError, durations, record_durations, run_chapter

ON_ML_1M = {"dataset": "ml-1m"}


@pytest.fixture
def take(tmp_path: Path, monkeypatch):
    """Execute a chapter that takes so many seconds; what was it predicted to take?"""
    write_book(tmp_path)
    clock = iter([])
    monkeypatch.setattr("dnrlib.book.jobs.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("dnrlib.book.jobs.execute", lambda *_: (notebook(), []))

    def run(seconds: float, dataset: str | None = "simulated", **parameters) -> float | None:
        nonlocal clock
        clock = iter([100.0, 100.0 + seconds])
        path = run_chapter("one", parameters, root=tmp_path, dataset=dataset)
        return json.loads(path.read_text())["metadata"]["dnr"]["predicted"]

    return run


def test_a_chapter_is_predicted_from_its_last_execution(take, tmp_path, capfd):
    assert take(20.0) is None
    assert take(30.0) == 20.0
    assert "one: executed in 30 s (predicted: 20 s)\n" in capfd.readouterr().out
    assert take(99.0, size=7) is None  # not like the others
    assert take(9.0) == 30.0
    assert take(50.0, dataset="ml-1m") is None
    assert take(9.0) == 9.0
    (tmp_path / durations.LAST).write_text("{")
    assert take(7.0) is None
    assert take(7.0) == 7.0


def test_on_another_machine_recorded_durations_are_scaled_by_its_speed(take, tmp_path, monkeypatch):
    with pytest.raises(BookError, match=r"_build/durations.json is not there: execute the chap"):
        record_durations(tmp_path)
    take(20.0)
    monkeypatch.setattr("dnrlib.book.jobs.speed", lambda: 1000.0)
    assert record_durations(tmp_path) == tmp_path / "book/durations.json"
    monkeypatch.setattr("dnrlib.book.durations.machine", lambda: "another")
    monkeypatch.setattr("dnrlib.book.jobs.speed", lambda: 250.0)
    assert take(70.0) == 80.0
    assert take(70.0) == 70.0
    assert list(durations.read(tmp_path / durations.LAST)["seconds"].values()) == [70.0]
    for damaged in ("", "[]", '{"seconds": 3}', '{"seconds": {"one, quick, auto": "x"}}'):
        (tmp_path / "book/durations.json").write_text(damaged)
        assert take(1.0, dataset=None) is None
        (tmp_path / durations.LAST).unlink()


def recorded(root: Path) -> dict:
    return json.loads((root / durations.RECORDED).read_text())


def test_recorded_durations_of_what_was_not_executed_stay(tmp_path):
    durations.note(tmp_path, "one, quick, ml-1m", 20.0)
    durations.note(tmp_path, "two, quick, ml-1m", 30.0)
    durations.record(tmp_path, 1000.0)
    (tmp_path / durations.LAST).unlink()
    durations.note(tmp_path, "one, ci, ml-1m", 4.0)
    durations.note(tmp_path, "two, quick, ml-1m", 33.0)
    durations.record(tmp_path, 900.0)  # the same machine, measured again
    kept = {"one, quick, ml-1m": 20.0, "two, quick, ml-1m": 33.0, "one, ci, ml-1m": 4.0}
    assert recorded(tmp_path)["seconds"] == kept
    assert recorded(tmp_path)["speed"] == 900.0


def test_those_of_another_machine_stay_as_what_they_would_take_here(tmp_path, monkeypatch):
    durations.note(tmp_path, "one, quick, ml-1m", 20.0)
    durations.record(tmp_path, 1000.0)
    monkeypatch.setattr("dnrlib.book.durations.machine", lambda: "twice as fast")
    durations.note(tmp_path, "two, quick, ml-1m", 30.0)
    assert durations.record(tmp_path, 2000.0) == tmp_path / durations.RECORDED
    assert recorded(tmp_path) == {
        "machine": "twice as fast",
        "speed": 2000.0,
        "seconds": {"one, quick, ml-1m": 10.0, "two, quick, ml-1m": 30.0},
    }
