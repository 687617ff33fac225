"""Benchmarks: what is recorded comes back, and the parts that no clock decides."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dnrlib.errors import DataError
from dnrlib.timings import Figure, Timings, load_timings

ROOT = Path(__file__).parents[1]
ROW = Figure("training", "speed", 10.0, 9.0, 12.0, "lists/s", "one thread", goal=9.5)


def test_a_goal_is_reached_on_its_own_side():
    assert ROW.reached
    assert not Figure(**{**vars(ROW), "at_least": False}).reached
    assert Figure(**{**vars(ROW), "goal": None}).reached is None


def test_what_is_saved_is_loaded_and_found(tmp_path):
    timings = Timings("speed", [ROW], {"machine": "some"})
    timings.save(tmp_path)
    assert list(load_timings(tmp_path)) == [timings]
    assert timings.find("speed") == ROW
    with pytest.raises(KeyError, match="no figure 'nosuch' in the benchmarks 'speed'"):
        timings.find("nosuch")
    assert [path.name for path in tmp_path.iterdir()] == ["speed.json"]


@pytest.mark.parametrize("content", ["", "{}", '{"group": "x", "figures": [1], "made": {}}'])
def test_a_damaged_record_names_its_file(content, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"x\.json: not a record of benchmarks"):
        Timings.load(path)
    with pytest.raises(DataError, match="make bench"):
        Timings.load(tmp_path / "nosuch.json")


def test_the_recorded_benchmarks_can_be_read_and_say_what_they_were_made_on():
    recorded = list(load_timings(ROOT / "benchmarks/records"))
    assert {one.group for one in recorded} >= {"training", "inference", "scale"}
    for one in recorded:
        assert one.made["machine"]
        assert one.made["versions"]["torch"]
        assert all(row.low <= row.value <= row.high for row in one.figures)


def test_the_gpu_benchmark_runs_on_a_cpu_and_records_nothing_when_quick(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "gpu", "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for word in ("32-true", "bf16-mixed", "seeds stacked"):
        assert word in done.stdout
    assert not list(tmp_path.iterdir())


def test_an_unknown_group_is_refused():
    command = [sys.executable, "-m", "benchmarks", "nosuch"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "unknown group nosuch: choose of training" in done.stderr


def test_ratios_are_taken_round_by_round():
    sys.path.insert(0, str(ROOT))
    from benchmarks.common import figure, interleaved, ratios

    calls = []
    counter = iter(range(1, 100))
    cases = {name: lambda name=name: calls.append(name) or float(next(counter)) for name in "ab"}
    values = interleaved(cases, rounds=3)
    assert calls == ["a", "b"] * 4  # the first round warms up
    assert values == {"a": [3.0, 5.0, 7.0], "b": [4.0, 6.0, 8.0]}
    assert ratios(values, "b", "a") == [4 / 3, 6 / 5, 8 / 7]
    row = figure("x", "ratio", ratios(values, "b", "a"), "x", "")
    assert (row.low, row.value, row.high) == (8 / 7, 6 / 5, 4 / 3)
    assert json.dumps(vars(row))
