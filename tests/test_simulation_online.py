"""The simulated online test: in the simulated world, whose truth is known."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from dnrlib.errors import ConfigError, DataError
from dnrlib.measurements import load_measurement
from dnrlib.simulation import online
from dnrlib.simulation.cascade import SLATE, WORLDS, _unseen, requests_of
from dnrlib.simulation.experiment import lift
from dnrlib.simulation.online import OnlineConfig, run
from dnrlib.simulation.recorded import (
    DEFINITIONS,
    Definition,
    load_definition,
    of_row,
    record,
    recorded,
    row,
)

TINY = {"epochs": 1, "lambda_e": 0}
SMALL = {"train_lists": 130, "evaluation_lists": 30}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("prepared")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def world(cache):
    return online.world("simulated", cache=cache)


def totals(world, batch=1024, **settings):
    """A test of arms that need no training, in a world that is at hand."""
    test = online.Ready(OnlineConfig(**settings), world, {})
    return online.carry_out(test, batch=batch)


def equal(one, other):
    periods = [(one.sums, other.sums), (one.before, other.before), (one.daily, other.daily)]
    return one.metrics == other.metrics and all(
        np.array_equal(a[name], b[name]) for a, b in periods for name in one.metrics
    )


# What is served ---------------------------------------------------------------------------


def test_candidates_are_the_best_of_what_was_not_shown(world):
    users, generator = torch.tensor([0, 0, 5, 599]), torch.Generator().manual_seed(0)
    state = requests_of(world, users, requests=8, n=50, history=20)
    logits = _unseen(world, users.unique())[[0, 0, 1, 2]]
    for step in range(8):
        who = torch.arange(4) if step % 2 else torch.tensor([1, 3])
        expected = logits[who].topk(50, dim=1).indices.sort(dim=1).values
        lists = state.lists(who)
        assert torch.equal(lists.items.sort(dim=1).values, expected)
        scores = world.retriever.logits(lists.users).sigmoid().gather(1, lists.items)
        torch.testing.assert_close(lists.scores, scores)
        best = torch.rand(len(who), 50, generator=generator).topk(SLATE, dim=1).indices
        shown = state.serve(who, best)
        assert torch.equal(shown, lists.items.gather(1, best))
        logits[who[:, None], shown] = -torch.inf  # nothing is shown twice


def test_what_the_log_showed_is_not_shown_again(world):
    state = requests_of(world, torch.arange(world.log.users), requests=4, n=50, history=20)
    for user in range(0, world.log.users, 50):
        rows = world.log.user == user
        assert not set(world.log.item[rows].tolist()) & set(state.queue[user].tolist())
        assert state.queue[user].unique().numel() == 50 + 4 * SLATE
        assert torch.equal(state.history[user], world.log.item[rows][-20:])


def test_history_grows_with_what_was_watched(world):
    state = requests_of(world, torch.arange(2), requests=1, n=50, history=4)
    state.history = torch.tensor([[0, 0, 0, 9], [5, 6, 7, 8]])
    shown = torch.tensor([[1, 2, 3], [1, 2, 3]])
    watched = torch.tensor([[True, False, True], [False, False, False]])
    state.watched(torch.arange(2), shown, watched)
    assert state.history.tolist() == [[0, 9, 1, 3], [5, 6, 7, 8]]


def test_a_catalogue_that_is_too_small_is_refused(world):
    with pytest.raises(ConfigError, match="lower requests, before or data.candidates"):
        requests_of(world, torch.arange(3), requests=60, n=50, history=20)


# What users do ----------------------------------------------------------------------------

ONE = {"requests": 1, "requests_per_day": 1, "before": 0, "spread": 0.0}


def expected_realshow(world, arm, users, examination):
    """Of one request, exactly: over the candidates in any order, or in that of the truth."""
    real = torch.arange(users) * world.log.users // users
    lists = requests_of(world, real, 1, 50, 20).lists(torch.arange(users))
    found = world.responses.probabilities(lists.users, lists.items)[..., 0]
    looked = examination ** torch.arange(SLATE)
    if arm == "random":
        return found.mean(dim=1) * looked.sum()
    return found.sort(dim=1, descending=True).values[:, :SLATE] @ looked


@pytest.mark.parametrize("arm", ["random", "oracle"])
def test_one_request_gives_what_can_be_computed(world, arm):
    users, examination = 6000, 0.8
    found = totals(world, arms=(arm,), users=users, examination=examination, **ONE)
    expected = expected_realshow(world, arm, users, examination).numpy()
    realshow = found.sums["realshow"]
    error = realshow.std() / users**0.5
    assert realshow.mean() == pytest.approx(expected.mean(), abs=4 * error)
    assert (found.sums["requests"] == 1).all()
    assert (found.sums["shows"] == SLATE).all()


def test_a_better_order_gives_the_lift_that_can_be_computed(world):
    users = 6000
    found = totals(world, arms=("random", "oracle"), users=users, seed=1, **ONE)
    means = [expected_realshow(world, arm, users, 0.9).mean() for arm in ("random", "oracle")]
    control, treated = (found.sums["realshow"][found.arm == number] for number in (0, 1))
    measured = lift(control, treated)
    assert measured.lift == pytest.approx(
        float(100 * (means[1] / means[0] - 1)), abs=4 * measured.error
    )


def test_places_are_looked_at_as_assumed(world):
    certain = replace(world.responses, constant=torch.full_like(world.responses.constant, 50.0))
    found = totals(replace(world, responses=certain), arms=("score",), users=4000,
                   examination=0.5, **ONE)  # fmt: skip
    assert found.sums["realshow"].mean() == pytest.approx(2 * (1 - 0.5**SLATE), abs=0.1)


def test_a_planted_effect_is_in_the_other_arms_alone_and_in_the_test_alone(world):
    settings = {"arms": ("score", "score"), "users": 800, "requests": 4, "before": 4}
    none, planted = (totals(world, planted=effect, **settings) for effect in (0.0, 0.5))
    control = none.arm == 0
    assert np.array_equal(none.sums["realshow"][control], planted.sums["realshow"][control])
    assert np.array_equal(none.before["realshow"], planted.before["realshow"])
    assert planted.sums["realshow"][~control].mean() > 1.1 * none.sums["realshow"][~control].mean()


def test_the_same_arm_twice_shows_a_lift_as_rarely_as_it_should(world):
    p = []
    for seed in range(40):
        found = totals(world, arms=("random", "random"), users=250, seed=seed, **ONE)
        p.append(lift(*(found.sums["realshow"][found.arm == number] for number in (0, 1))).p)
    alarms = sum(value < 0.1 for value in p)
    assert alarms <= 10  # of 40 at 10 %: more by chance once in two hundred
    assert 0.35 < np.mean(p) < 0.65


def test_the_oracle_is_the_best(world):
    arms = ("score", "random", "oracle")
    found = totals(world, arms=arms, users=3000, requests=8, before=0)
    means = {a: found.sums["realshow"][found.arm == i].mean() for i, a in enumerate(arms)}
    assert means["oracle"] > 1.1 * max(means["score"], means["random"])


def test_sessions_end_sooner_without_anything_watched(world):
    never = totals(world, arms=("score",), users=400, requests=8, before=0, examination=0.0,
                   patience=(1.0, 0.5))  # fmt: skip
    # the first place is always looked at, so what is left are lists whose first item is disliked
    assert never.sums["requests"].mean() < 8
    always = totals(world, arms=("score",), users=300, requests=8, before=4, patience=(1.0, 1.0))
    assert (always.sums["requests"] == 8).all()
    assert (always.before["requests"] == 4).all()


# The same whatever the batch --------------------------------------------------------------


def test_neither_batch_nor_seed_of_others_changes_a_user(world):
    settings = {"arms": ("score", "random", "oracle"), "users": 200, "requests": 8, "before": 4}
    one = totals(world, **settings)
    assert equal(one, totals(world, batch=37, **settings))
    assert not equal(one, totals(world, seed=1, **settings))


@pytest.mark.parametrize("batch", [1, 3])
def test_a_batch_may_have_one_user_of_an_arm(world, batch):
    arms = ("random", "score", "oracle")
    few = totals(world, batch=batch, arms=arms, users=7, requests=4, before=4)
    assert equal(few, totals(world, arms=arms, users=7, requests=4, before=4))


def test_days_add_up(world):
    found = totals(world, arms=("score", "oracle"), users=100, requests=8, requests_per_day=2)
    for name in found.metrics:
        assert found.daily[name].shape == (4, 100)
        np.testing.assert_allclose(found.daily[name].sum(axis=0), found.sums[name])
    assert (found.daily["requests"] >= 1).all()  # everybody comes once a day
    watched = found.sums["realshow"] > 0
    assert (found.sums["app_time"] > 0).tolist() == watched.tolist()
    for name in ("like", "share", "comment"):
        assert (found.sums[name] <= found.sums["realshow"]).all()


def test_trained_arms_are_served_and_kept(cache, runs):
    config = OnlineConfig(
        arms=("none", "DNR-B", "oracle"), users=90, requests=4, before=4, data=SMALL, training=TINY
    )
    said = []
    one = run(config, said.append, cache=cache, runs=runs)
    assert sum(text.startswith("Training") for text in said) == 2
    said.clear()
    other = run(config, said.append, online.in_processes, batch=32, cache=cache, runs=runs)
    assert not any(text.startswith("Training") for text in said)
    assert "left" in said[-1]
    for name in one.metrics:  # rounding can turn what is almost level
        np.testing.assert_allclose(one.sums[name].mean(), other.sums[name].mean(), rtol=0.02)
    assert equal_users(one, other) > 0.95


@pytest.mark.filterwarnings("ignore::FutureWarning:ray", "ignore::DeprecationWarning:ray")
def test_a_cluster_serves_the_same(world):
    pytest.importorskip("ray")
    test = online.Ready(
        OnlineConfig(arms=("score", "oracle"), users=90, requests=4, before=0), world, {}
    )
    here, there = (online.carry_out(test, engine=one, batch=40) for one in (None, online.on_ray))
    assert equal(here, there)


def test_a_worker_with_other_code_is_refused(world):
    test = online.Ready(OnlineConfig(arms=("score",), users=2, requests=4, before=0), world, {})
    with pytest.raises(ConfigError, match="has other code than here"):
        online._block_there((test, "other", 1), 0, 2)


def equal_users(one, other):
    same = [one.sums[name] == other.sums[name] for name in one.metrics]
    return np.all(same, axis=0).mean()


# Records ----------------------------------------------------------------------------------


def test_moments_are_those_of_the_users(world):
    found = totals(world, arms=("score", "oracle"), users=300, requests=8, before=4)
    said = row(found, 1)
    mine = found.arm == 1
    assert (said["arm"], said["users"]) == ("oracle", mine.sum())
    realshow, before = found.sums["realshow"][mine], found.before["realshow"][mine]
    read = of_row(json.loads(json.dumps(said)))
    assert read.mean_of("realshow") == pytest.approx(realshow.mean())
    covariance = read.unit("realshow") @ read.covariance @ read.unit("before:realshow")
    assert covariance == pytest.approx(np.cov(realshow, before)[0, 1])


def test_an_arm_of_one_user_is_refused(world):
    found = totals(world, arms=("score", "oracle"), users=3, requests=4, before=0)
    lonely = int(np.bincount(found.arm, minlength=2).argmin())
    with pytest.raises(ConfigError, match="in an arm, which needs two or more"):
        row(found, lonely)


def test_a_test_is_recorded_seed_by_seed(cache, runs, tmp_path):
    config = OnlineConfig(arms=("score", "oracle"), users=60, requests=4, before=0)
    both = Definition("made-up", [config, replace(config, seed=1)])
    given = {"cache": cache, "runs": runs, "folder": tmp_path}
    record(replace(both, configs=both.configs[:1]), **given)
    said = []
    path = record(both, said.append, **given)
    assert path.name == "online-made-up.json"
    assert [text for text in said if "recorded already" in text] == [
        "[1/2] simulated, seed 0 is recorded already"
    ]
    measurement = load_measurement("", "online-made-up", tmp_path)
    assert [one["seed"] for one in measurement.runs] == [0, 1]
    assert measurement.runs[0]["config"] == json.loads(json.dumps(asdict(config)))
    assert [one["arm"] for one in measurement.rows()] == ["score", "oracle"] * 2
    assert [one["seed"] for one in recorded(both, tmp_path)] == [0, 1]
    changed = Definition("made-up", [replace(config, users=61)])
    assert not recorded(changed, tmp_path)
    record(changed, said.append, **given)
    assert load_measurement("", "online-made-up", tmp_path).runs[0]["config"]["users"] == 61


def test_a_test_is_done_again_when_a_reranker_is_another(cache, runs, tmp_path):
    config = OnlineConfig(
        arms=("none", "score"), users=60, requests=4, before=0, data=SMALL, training=TINY
    )
    test, given = Definition("made-up", [config]), {"cache": cache, "runs": runs}
    said = []
    path = record(test, **given, folder=tmp_path)
    written = path.read_text()
    record(test, said.append, **given, folder=tmp_path)
    assert any("recorded already" in text for text in said)
    assert path.read_text() == written  # with the day and commit on which it was done
    content = json.loads(written)
    name = content["runs"][0]["rerankers"]["none"]["run"]
    content["runs"][0]["rerankers"]["none"]["run"] = "another"
    path.write_text(json.dumps(content))
    said.clear()
    record(test, said.append, **given, folder=tmp_path)
    assert not any("recorded already" in text for text in said)
    assert recorded(test, tmp_path)[0]["rerankers"]["none"]["run"] == name


def test_every_definition_can_be_done():
    names = [path.stem for path in DEFINITIONS.glob("*.yml")]
    assert {"simulated", "ml-1m", "kuairand-pure"} <= {*names}
    for name in names:
        configs = load_definition(name).configs
        assert len(configs) >= 3
        assert configs[0].world in WORLDS


def test_a_definition_with_a_fault_says_which(tmp_path):
    with pytest.raises(DataError, match="no such test; there are: none"):
        load_definition("nowhere", tmp_path)
    (tmp_path / "a.yml").write_text("seeds: [0]\nuser: 5\n")
    with pytest.raises(ConfigError, match=r"a\.yml: unknown parameter user"):
        load_definition("a", tmp_path)
    (tmp_path / "b.yml").write_text("users: 5\n")
    with pytest.raises(DataError, match="needs settings and `seeds`"):
        load_definition("b", tmp_path)
    for text in ("seeds: []\n", "seeds: [0]\nseed: 1\n"):
        (tmp_path / "c.yml").write_text(text)
        with pytest.raises(DataError, match="give `seeds`, one or more, and no `seed`"):
            load_definition("c", tmp_path)


def test_a_test_that_is_not_recorded_says_how_to_record_it(tmp_path):
    with pytest.raises(DataError, match="make it with `dnr simulate ml-1m`"):
        load_measurement("", "online-ml-1m", tmp_path)
    with pytest.raises(DataError, match="make it with `dnr measure noise --experiment main`"):
        load_measurement("main", "noise", tmp_path)


# Faults -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"users": 0}, "users = 0: must be at least 1"),
        ({"requests": 6}, "requests = 6: must be whole days"),
        ({"before": -4}, "before = -4: must be whole days"),
        ({"arms": ("none", "best")}, "arms: 'best' is unknown, choose from"),
        ({"arms": "none"}, "must be a list"),
        ({"shares": (1.0,)}, "shares: 1 for 5 arms"),
        ({"arms": ("none", "score"), "shares": (0.5, 0.6)}, "positive numbers with the sum 1"),
        ({"examination": 1.2}, r"examination = 1.2: must be in \[0, 1\]"),
        ({"spread": -1.0}, "spread = -1.0"),
    ],
)
def test_a_wrong_parameter_is_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        OnlineConfig(**settings)


def test_an_unknown_world_is_refused(cache):
    with pytest.raises(ConfigError, match="world = 'mars': choose one of simulated"):
        run(OnlineConfig(world="mars", arms=("score",)), cache=cache)


def test_a_world_without_its_data_says_what_to_do(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("DNR_DATA_DIR", str(tmp_path))

    def refuse(url, target, md5):
        raise DataError(url, f"cannot be downloaded to {target}")

    monkeypatch.setattr("dnrlib.data.sources.fetch", refuse)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="cannot be downloaded"):
        run(OnlineConfig(world="kuairand-pure", arms=("score",)), cache=cache)
