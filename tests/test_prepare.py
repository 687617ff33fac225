"""Lists are made once, are what the configuration says, and teach what they should."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
import torch
from scipy.special import expit
from worlds import make_lists

from dnrlib import prepare as module
from dnrlib.data import SimulatedWorld, sources, stages
from dnrlib.data.steps import raw_ids
from dnrlib.errors import ConfigError, DataError
from dnrlib.metrics import ndcg, rank
from dnrlib.prepare import DataConfig, NoisyTruth, prepare
from dnrlib.protocols import PROTOCOLS
from dnrlib.retriever import RetrieverConfig

WORLD = partial(SimulatedWorld, users=150, items=160)
BASE = DataConfig(
    dataset="simulated", candidates=20, history=5, factorisation=RetrieverConfig(dim=4, epochs=1)
)
TRUTH = replace(BASE, retriever="noisy-truth")
FIELDS = ("users", "history", "items", "scores", "labels", "shown", "split", "list")


@pytest.fixture(autouse=True)
def small_world(monkeypatch, tmp_path):
    """A small simulated world, and a cache of its own."""
    monkeypatch.setattr(sources, "SimulatedWorld", WORLD)
    monkeypatch.setattr(module, "SimulatedWorld", WORLD)
    monkeypatch.setattr(module, "CACHE", tmp_path)


def same(first, second):
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in FIELDS)


def score_alone(lists, split):
    part = lists.of_split(split)
    return float(ndcg(rank(part.scores, part.labels), 6).mean())


# The cache --------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [BASE, TRUTH], ids=["earlier", "noisy-truth"])
def test_lists_are_made_once_and_the_same_anywhere(config, tmp_path):
    first, said = prepare(config), []
    again = prepare(config, say=said.append)
    assert len(said) == 1
    assert said[0].startswith("Reading ")
    elsewhere = prepare(config, tmp_path / "elsewhere")
    assert first.fingerprint == again.fingerprint == elsewhere.fingerprint
    assert same(first, elsewhere)


def files(folder, of="lists"):
    return {p for p in folder.glob("*.safetensors") if ("-retriever-" in p.name) == (of != "lists")}


def test_every_field_that_matters_makes_other_lists(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_make", lambda *args: make_lists())
    monkeypatch.setattr(module, "load", lambda name: replace(WORLD().source(), name=name))
    changed = {
        "dataset": "ml-100k", "protocol": "retrieved", "retriever": "crossfit", "candidates": 21,
        "history": 6, "list_length": 5, "positive": 4.0, "core": 3, "folds": 4,
        "factorisation": RetrieverConfig(dim=5, epochs=1), "noisy_truth": NoisyTruth(scale=2.0),
        "seed": 1,
    }  # fmt: skip
    assert changed.keys() == vars(BASE).keys() - {"train_lists", "evaluation_lists"}
    prepare(BASE)
    for number, (name, value) in enumerate(changed.items(), start=2):
        prepare(replace(BASE, **{name: value}))
        assert len(files(tmp_path)) == number, name


def test_other_data_and_other_code_make_other_lists(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_make", lambda *args: make_lists())
    prepare(BASE)
    monkeypatch.setattr(sources, "SimulatedWorld", partial(WORLD, seed=1))
    prepare(BASE)
    assert len(files(tmp_path)) == 2
    monkeypatch.setattr(module, "code_hash", lambda patterns: "changed")
    prepare(BASE)
    assert len(files(tmp_path)) == 3


def test_who_comes_second_waits_and_reads(monkeypatch):
    made = []

    def slowly(*args):
        made.append(args)
        time.sleep(0.2)
        return make_lists()

    monkeypatch.setattr(module, "_make", slowly)
    with ThreadPoolExecutor(3) as pool:
        lists = list(pool.map(prepare, [BASE] * 3))
    assert len(made) == 1
    assert len({part.fingerprint for part in lists}) == 1


def test_a_damaged_file_is_named(tmp_path):
    prepare(BASE)
    (lists,), (retriever,) = files(tmp_path), files(tmp_path, "retriever")
    for path in (lists, retriever):
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(DataError, match="is damaged; delete it") as error:
            prepare(BASE)
        assert error.value.path == path
        lists.unlink(missing_ok=True)


# What is in the lists ---------------------------------------------------------------------


def test_the_protocols_share_their_retriever(monkeypatch, tmp_path):
    trained = []
    fit = module.fit_parts
    monkeypatch.setattr(module, "fit_parts", lambda *args: trained.append(1) or fit(*args))
    scores = []
    for protocol in PROTOCOLS:
        lists = prepare(replace(BASE, protocol=protocol))
        assert lists.meta["protocol"] == protocol
        scores.append(scores_of_shown(lists))
    assert len(trained) == len(files(tmp_path, "retriever")) == 1
    assert scores[0] == scores[1]
    assert scores[2].items() <= scores[0].items()


def scores_of_shown(lists):
    row, column = lists.shown.nonzero().T
    keys = zip(lists.list[row].tolist(), lists.items[row, column].tolist(), strict=True)
    values = lists.scores[row, column].double().round(decimals=5).tolist()
    return dict(zip(keys, values, strict=True))


def test_a_part_has_the_size_that_was_asked_for(tmp_path):
    whole = prepare(TRUTH)
    part = prepare(replace(TRUTH, train_lists=100, evaluation_lists=30))
    assert [len(part.of_split(name)) for name in ("train", "validation", "test")] == [100, 30, 30]
    assert set(part.list.tolist()) < set(whole.list.tolist())
    assert (part.list.diff() > 0).all()
    assert part.fingerprint != whole.fingerprint
    part.validate()
    assert len(files(tmp_path)) == 1


def test_a_part_is_the_same_each_time_and_another_for_another_seed():
    config = replace(TRUTH, train_lists=100, evaluation_lists=30)
    first = prepare(config)
    assert same(first, prepare(config))
    assert set(first.list.tolist()) != set(prepare(replace(config, seed=1)).list.tolist())


@pytest.mark.parametrize("evaluation_lists", [0, 30])
def test_the_number_of_training_lists_leaves_validation_and_test_alone(evaluation_lists):
    parts = [
        prepare(replace(TRUTH, train_lists=number, evaluation_lists=evaluation_lists))
        for number in (0, 100, 200)
    ]
    for name in ("validation", "test"):
        first, *others = (part.of_split(name) for part in parts)
        assert all(same(first, other) for other in others)


def test_more_lists_than_there_are_are_all_of_them():
    whole, wanted = prepare(TRUTH), prepare(replace(TRUTH, train_lists=100_000))
    assert wanted.list.equal(whole.list)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"protocol": "nosuch"}, r"protocol = 'nosuch': choose one of shown\+retrieved"),
        ({"retriever": "nosuch"}, "retriever = 'nosuch': choose one of .*noisy-truth"),
        ({"train_lists": -1}, "train_lists = -1: must not be negative"),
        ({"evaluation_lists": -1}, "evaluation_lists = -1"),
        ({"core": -1}, "core = -1"),
        ({"history": 0}, "history = 0: must be at least 1"),
        ({"dataset": "ml-1m", "retriever": "noisy-truth"}, "noisy-truth.*needs.*simulated"),
    ],
)
def test_values_that_cannot_be_are_refused_before_any_work(changed, message):
    with pytest.raises(ConfigError, match=message):
        replace(BASE, **changed)


# The simulated retriever ------------------------------------------------------------------


def test_without_noise_the_scores_are_the_true_probabilities():
    world = WORLD()
    *_, (_, frame) = stages(world.source(), core=50)
    users, items = raw_ids(frame)
    assert len(items) < world.items
    lists = prepare(replace(TRUTH, core=50, noisy_truth=NoisyTruth(scale=0.0)))
    truth = world.logits[users[lists.users.long()][:, None], items[lists.items.long() - 1]]
    torch.testing.assert_close(lists.scores, torch.from_numpy(expit(truth)))


def test_less_noise_makes_a_better_score():
    means = [
        sum(
            score_alone(prepare(replace(TRUTH, noisy_truth=NoisyTruth(scale=s), seed=seed)), "test")
            for seed in range(2)
        )
        for s in (0.0, 1.0, 2.0, 8.0)
    ]
    assert means == sorted(means, reverse=True)
    assert means[0] > means[1] + 0.05 > means[3] + 0.2


def test_optimism_raises_the_scores_of_training_lists_only():
    plain, optimistic = (
        prepare(replace(TRUTH, noisy_truth=NoisyTruth(optimism=optimism)))
        for optimism in (0.0, 2.0)
    )
    assert torch.equal(plain.items, optimistic.items)
    change = optimistic.scores - plain.scores
    train = plain.split == 0
    assert (change[train][plain.labels[train]] > 0).all()
    assert (change[train][(plain.shown & ~plain.labels)[train]] < 0).all()
    assert (change[train][~plain.shown[train]] == 0).all()
    assert (change[~train] == 0).all()
    assert score_alone(optimistic, "train") > score_alone(plain, "train") + 0.1
    assert score_alone(optimistic, "test") == score_alone(plain, "test")
