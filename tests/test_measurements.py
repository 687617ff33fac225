"""What is measured of recorded runs: of the right weights, written whole, read back."""

import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from scipy import stats
from worlds import make_lists

from dnrlib import measurements, theory
from dnrlib.data import SimulatedWorld, prepare_log
from dnrlib.errors import ConfigError, DataError
from dnrlib.experiments import load_experiment, run
from dnrlib.measurements import (
    by_label,
    heuristic_noises,
    load_measurement,
    measure,
    nearest,
    noise,
)
from dnrlib.noise import MLPNoise
from dnrlib.prepare import prepare
from dnrlib.records import Record

EXPERIMENT = """
base:
  data: {dataset: simulated, retriever: noisy-truth, train_lists: 300, evaluation_lists: 100}
  options: {dim: 8, layers: 1}
  training: {epochs: 2, lambda_e: 1}
grid: {method: [score, concat, DNR-B], seed: [0]}
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder in which the runs of an experiment are done."""
    folder = tmp_path_factory.mktemp("done")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "experiments").mkdir()
        (folder / "experiments/small.yml").write_text(EXPERIMENT)
        for config in load_experiment("small"):
            run(config, group="small")
    return folder


@pytest.fixture
def workplace(done, tmp_path, monkeypatch):
    """A copy of it that can be spoilt."""
    shutil.copytree(done, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def denoised(workplace):
    """The record of the run with a generator."""
    (path,) = workplace.glob("results/small/*DNR-B*.json")
    return Record.load(path)


def test_noise_is_measured_of_the_runs_with_a_generator(workplace, denoised):
    said = []
    assert measure("noise", "small", say=said.append) == measurements.MEASUREMENTS / (
        "small-noise.json"
    )
    found = load_measurement("small", "noise")
    (one,) = found.runs
    assert (one["run"], one["method"], one["seed"]) == (denoised.run, "DNR-B", 0)
    assert (one["data"], one["code"]) == (denoised.data["fingerprint"], denoised.code)
    assert {"date", "commit", "machine", "versions"} <= found.made.keys()
    assert said == [f"Measuring noise of {denoised.run}"]
    kinds = [(row["noise"], row["given"]) for row in found.rows()]
    names = ("real", "Gaussian", "Beta", "generator")
    assert kinds == [(name, part) for name in names for part in ("pooled", "z = 0", "z = 1")]
    assert all((row["method"], row["seed"]) == ("DNR-B", 0) for row in found.rows())


def test_a_measurement_can_be_repeated(workplace):
    first = measure("noise", "small").read_text()
    torch.manual_seed(5)
    second = measure("noise", "small").read_text()
    assert json.loads(first)["runs"] == json.loads(second)["runs"]


def test_the_distances_are_those_to_the_real_noise_of_the_test_lists(denoised):
    lists = make_lists(lists=400, signal=0.3)
    test = lists.of_split("test")
    generator = MLPNoise("scores", 0.4)
    before = torch.get_rng_state()
    rows = noise(denoised, lists, torch.nn.Identity(), generator)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(denoised.seed)
    x = heuristic_noises(0.4)["Gaussian"](test.labels)
    (row,) = (one for one in rows if (one["noise"], one["given"]) == ("Gaussian", "z = 1"))
    real, synthetic = (scores[test.labels] - 1 for scores in (test.scores, x))
    assert row["KS"] == pytest.approx(stats.ks_2samp(real, synthetic).statistic)
    assert row["Wasserstein"] == pytest.approx(stats.wasserstein_distance(real, synthetic))
    assert nearest([row, row | {"noise": "other", "KS": 0.0}], "KS") == "other"
    assert nearest([row, row | {"noise": "real", "KS": 0.0}], "KS") == "Gaussian"


@pytest.mark.equation("eq-noise-synthetic")
def test_synthetic_noise_is_lambda_c_times_epsilon_less_the_label():
    lists = make_lists()
    noises = heuristic_noises(0.3) | {"generator": MLPNoise("scores", 0.3)}
    for name, draw in noises.items():
        torch.manual_seed(0)
        with torch.no_grad():
            epsilon = draw.epsilon(lists.labels.float())
        torch.manual_seed(0)
        with torch.no_grad():
            sample = by_label(lists, draw(lists.labels))["pooled"]
        wanted = draw.lambda_c * (epsilon - lists.labels.float())
        assert torch.allclose(torch.from_numpy(sample.values).float(), wanted, atol=1e-6), name


@pytest.mark.equation("eq-noise-range")
def test_the_sign_of_real_noise_tells_the_label():
    parts = by_label(lists := make_lists(), lists.scores)
    assert parts["z = 1"].values[parts["z = 1"].mask].max() <= 0
    assert parts["z = 0"].values[parts["z = 0"].mask].min() >= 0


def test_weights_that_are_missing_are_made_again(workplace, denoised):
    first = json.loads(measure("noise", "small").read_text())
    shutil.rmtree(workplace / "runs")
    said = []
    second = json.loads(measure("noise", "small", say=said.append).read_text())
    assert first["runs"] == second["runs"]
    assert said[0] == f"The weights of {denoised.run} are not in runs: doing the run again"
    assert (workplace / "runs" / denoised.run / "generator.safetensors").exists()


def test_another_run_is_refused(workplace, denoised):
    denoised.metrics["test"]["ndcg@6"] += 0.02
    denoised.save(workplace / "results/small")
    shutil.rmtree(workplace / "runs")
    with pytest.raises(DataError, match="done again, its test NDCG@6 is .*: not the same run"):
        measure("noise", "small")
    assert not (workplace / "runs" / denoised.run / "reranker.safetensors").exists()
    assert not (workplace / "measurements").exists()


def test_other_lists_are_told(workplace, denoised):
    changed = replace(denoised, data=denoised.data | {"fingerprint": "other"})
    changed.save(workplace / "results/small")
    said = []
    measure("noise", "small", say=said.append)
    assert said[0] == f"{denoised.run}: the lists made here differ from those of the record"


def test_embeddings_are_measured_of_every_trained_run(workplace, monkeypatch):
    seen = []

    def measured(record, lists, reranker, generator):
        fits = lists.fingerprint == prepare(load_experiment("small")[0].data).fingerprint
        seen.append((record.method, fits, reranker.training, generator is not None))
        return [{"silhouette": 0.5}]

    monkeypatch.setitem(sys.modules, "dnrlib.embeddings", SimpleNamespace(measure=measured))
    monkeypatch.setattr("dnrlib.embeddings", SimpleNamespace(measure=measured), raising=False)
    measure("embeddings", "small")
    assert seen == [("concat", True, False, False), ("DNR-B", True, False, True)]
    rows = load_measurement("small", "embeddings").rows()
    assert rows[0] == {"method": "concat", "seed": 0, "silhouette": 0.5}


def test_what_cannot_be_measured(workplace):
    with pytest.raises(ConfigError, match="measure 'x' is unknown: choose one of noise, embedd"):
        measure("x", "small")
    with pytest.raises(DataError, match="make it with `dnr measure noise --experiment small`"):
        load_measurement("small", "noise")
    measure("noise", "small").write_text("{}")
    with pytest.raises(DataError, match="not a measurement"):
        load_measurement("small", "noise")


# What needs no run ----------------------------------------------------------------------------


def test_the_worlds_hold_the_identities_and_refute_the_rest(tmp_path):
    """Each row again from the definitions: log p(z) is known, and a derivative is a quotient."""
    path = measure("worlds", folder=tmp_path)
    found = load_measurement("", "worlds", tmp_path)
    rows = found.rows()
    assert path.name == "worlds.json"
    assert len(rows) == measurements.WORLDS == len({row["seed"] for row in rows})
    assert max(row["direct"] for row in rows) < 1e-12 > max(row["dnr"] for row in rows)
    row, world = rows[7], theory.random_world(7, 1 + 7 % 4, 1 + 7 // 4 % 3, 2 + 7 // 12 % 3)
    q = theory.random_table(*world.p_z_given_x.shape, 7)
    short = world.evidence - theory.l_direct(q, world)
    assert row["bound"] == pytest.approx(float(short.max()))
    assert row["l1"] == pytest.approx(largest_slope(q.log(), world), rel=1e-5)


def largest_slope(logits, world, step=1e-6):
    def l_1(place, size):
        moved = logits.clone()
        moved[place] += size
        return theory.l_1(moved.softmax(1), world)

    places = [(x, z) for x in range(logits.shape[0]) for z in range(logits.shape[1])]
    slopes = [(l_1(place, step) - l_1(place, -step)) / (2 * step) for place in places]
    return max(float(slope.abs().max()) for slope in slopes)


def test_counts_are_those_of_the_logs_that_are_at_hand(tmp_path, monkeypatch):
    def load(name, download):
        assert not download
        if name != "simulated":
            raise DataError(name, "is missing")
        return SimulatedWorld(users=40).source()

    said = []
    monkeypatch.setattr(measurements, "load", load)
    measure("counts", folder=tmp_path, say=said.append)
    (run,) = load_measurement("", "counts", tmp_path).runs
    log = prepare_log(SimulatedWorld(users=40).source())
    assert run["rows"] == [
        {"users": log.users, "items": log.items, "interactions": len(log.item), "lists": len(log)}
    ]
    assert (run["run"], run["data"]) == ("simulated", log.fingerprint)
    assert "Left out: ml-1m: is missing" in said


def test_what_has_no_experiment_takes_none_and_the_others_need_one(tmp_path):
    with pytest.raises(ConfigError, match="the measure 'noise' needs one"):
        measure("noise", folder=tmp_path)
    with pytest.raises(ConfigError, match="the measure 'worlds' is of no experiment"):
        measure("worlds", "small", folder=tmp_path)
    with pytest.raises(DataError, match="make it with `dnr measure worlds`"):
        load_measurement("", "worlds", tmp_path)
