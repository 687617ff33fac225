"""Lists are made once, are what the configuration says, and teach what they should."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import polars as pl
import pytest
import torch
from scipy.special import expit
from worlds import field_of, make_lists

from dnrlib import prepare as module
from dnrlib.calibration import calibrated
from dnrlib.data import SimulatedWorld, sources, stages
from dnrlib.data.steps import raw_ids
from dnrlib.errors import ConfigError, DataError
from dnrlib.experiments import RunConfig, compute, run_config, run_name
from dnrlib.identity import from_dict
from dnrlib.logged import read_lists
from dnrlib.metrics import ndcg, rank
from dnrlib.prepare import DataConfig, NoisyTruth, chosen_on_test, prepare, shown_first
from dnrlib.protocols import PROTOCOLS
from dnrlib.retriever import RetrieverConfig

WORLD = partial(SimulatedWorld, users=150, items=160)
BASE = DataConfig(
    dataset="simulated", candidates=20, history=5, factorisation=RetrieverConfig(dim=4, epochs=1)
)
TRUTH = replace(BASE, retriever="noisy-truth")
FIELDS = ("users", "history", "items", "scores", "labels", "shown", "split", "list")
ASKED = {"order": "given", "selection": "test", "calibration": "isotonic"}
"""What is done to lists after they were made."""


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
    monkeypatch.setattr(module, "load", lambda name, feedback: replace(WORLD().source(), name=name))
    changed = {
        "dataset": "ml-100k", "protocol": "retrieved", "retriever": "crossfit", "candidates": 21,
        "history": 6, "list_length": 5, "positive": 4.0, "core": 3, "folds": 4,
        "factorisation": RetrieverConfig(dim=5, epochs=1), "noisy_truth": NoisyTruth(scale=2.0),
        "seed": 1, "feedback": "is_like",
    }  # fmt: skip
    cut_or_asked = {"train_lists", "evaluation_lists", "file", *ASKED}
    assert changed.keys() == vars(BASE).keys() - cut_or_asked
    prepare(BASE)
    for number, (name, value) in enumerate(changed.items(), start=2):
        prepare(replace(BASE, **{name: value}))
        assert len(files(tmp_path)) == number, name


def test_what_counts_as_liked_cannot_be_moved_where_feedback_says_it(monkeypatch, tmp_path):
    source = replace(WORLD().source(), positive=4.0)
    monkeypatch.setattr(module, "load", lambda name, feedback: source)
    assert len(prepare(BASE)) > 0
    before = files(tmp_path)
    with pytest.raises(ConfigError, match=r"positive = 4: simulated's feedback says .*leave pos"):
        prepare(replace(BASE, positive=4.0))
    assert files(tmp_path) == before


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
        ({"order": "nosuch"}, "order = 'nosuch': choose one of shuffled, given"),
        ({"selection": "nosuch"}, "selection = 'nosuch': choose one of validation, test"),
        ({"calibration": "nosuch"}, "calibration = 'nosuch': choose one of none, isotonic"),
        ({"dataset": "lists"}, r"dataset = 'lists' needs data\.file"),
        ({"file": "a.csv"}, r"file = 'a\.csv' needs dataset = 'lists'"),
        ({"protocol": "logged"}, "protocol = 'logged': choose one of"),
        ({"retriever": "logged"}, "retriever = 'logged': choose one of"),
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


# Order, selection and calibration ---------------------------------------------------------


def described(lists):
    """With the list, the item and the score of each candidate as its features."""
    whose = lists.list[:, None].expand_as(lists.items)
    return field_of(lists, features=torch.stack([whose, lists.items, lists.scores], dim=2).float())


def facts(lists):
    """All that is known of each candidate, as {(list, item): …}."""
    row, column = torch.ones_like(lists.shown).nonzero().T
    columns = (lists.list[row], lists.items[row, column], lists.scores[row, column],
               lists.labels[row, column], lists.shown[row, column])  # fmt: skip
    known = zip(*(values.tolist() for values in columns), strict=True)
    features = lists.features[row, column].tolist()
    return {(a, b): (*rest, *more) for (a, b, *rest), more in zip(known, features, strict=True)}


def test_the_shown_come_first_and_then_the_best_by_hand():
    shown = torch.tensor([[False, True, False, True, False]])
    lists = field_of(
        make_lists(lists=1, n=5),
        items=torch.tensor([[1, 2, 3, 4, 5]]),
        scores=torch.tensor([[0.9, 0.2, 0.7, 0.4, 0.8]]),
        shown=shown,
        labels=shown & torch.tensor([[True, True, True, False, True]]),
    )
    first = shown_first(lists)
    assert first.items.tolist() == [[4, 2, 1, 5, 3]]
    assert first.labels.tolist() == [[False, True, False, False, False]]
    assert first.shown.tolist() == [[True, True, False, False, False]]
    torch.testing.assert_close(first.scores, torch.tensor([[0.4, 0.2, 0.9, 0.8, 0.7]]))
    assert first.meta == lists.meta | {"order": "given"}


def test_all_that_is_known_of_a_candidate_moves_with_it():
    lists = described(make_lists())
    first = shown_first(lists).validate()
    assert facts(first) == facts(lists)
    assert torch.equal(first.features[:, :, 1], first.items.float())
    assert not torch.equal(first.items, lists.items)


@pytest.mark.parametrize("least", [0.0, 1e-9])
def test_no_score_is_too_small_for_the_order(least):
    """Nor so large that what was not shown comes first."""
    shown = torch.tensor([[False, True, True, False]])
    lists = field_of(
        make_lists(lists=1, n=4),
        items=torch.tensor([[1, 2, 3, 4]]),
        scores=torch.tensor([[1.0, least, 3e-9, 0.5]]),
        shown=shown,
        labels=shown,
    )
    assert shown_first(lists).items.tolist() == [[3, 2, 1, 4]]


def test_the_test_lists_stand_in_for_validation():
    lists = described(make_lists())
    chosen = chosen_on_test(lists).validate()
    train, validation, test = (chosen.of_split(name) for name in ("train", "validation", "test"))
    assert same(train, lists.of_split("train"))
    assert same(test, lists.of_split("test"))
    assert facts(validation) == facts(test) == facts(lists.of_split("test"))
    assert same(field_of(validation, split=test.split), test)
    assert chosen.meta == lists.meta | {"selection": "test"}


def test_what_is_asked_for_is_done_to_the_same_lists(tmp_path):
    plain = prepare(TRUTH)
    assert plain.meta.keys().isdisjoint(ASKED)
    wanted = {"order": shown_first, "selection": chosen_on_test, "calibration": calibrated}
    prints = {plain.fingerprint}
    for name, value in ASKED.items():
        lists = prepare(replace(TRUTH, **{name: value}))
        assert lists.fingerprint == wanted[name](plain).fingerprint, name
        prints.add(lists.fingerprint)
    assert len(prints) == 4
    assert len(files(tmp_path)) == 1


def test_calibration_through_prepare_makes_scores_probabilities():
    lists = prepare(replace(TRUTH, calibration="isotonic", noisy_truth=NoisyTruth(optimism=2.0)))
    plain = prepare(replace(TRUTH, noisy_truth=NoisyTruth(optimism=2.0)))
    for name in ("train", "validation"):
        off, was = (
            float((part.scores.mean() - part.labels.float().mean()).abs())
            for part in (lists.of_split(name), plain.of_split(name))
        )
        assert off < 0.01 < was, name


def test_calibration_knows_no_label_of_the_test_lists_that_it_is_chosen_on():
    """Its map is fitted before the test lists take the place of the validation lists."""
    both = prepare(replace(TRUTH, **ASKED))
    calibrated_alone = prepare(replace(TRUTH, calibration="isotonic"))
    assert same(both.of_split("test"), shown_first(calibrated_alone).of_split("test"))
    assert torch.equal(both.of_split("validation").items, both.of_split("test").items)
    assert ASKED.items() <= both.meta.items()


# The reader's own lists -------------------------------------------------------------------


@pytest.fixture
def log(tmp_path):
    return write_log(tmp_path / "log.parquet")


def write_log(path, requests=60, length=8, items=30, seed=0):
    """Requests in time order, of which two candidates each are liked and have better scores."""
    generator = torch.Generator().manual_seed(seed)
    item = torch.rand(requests, items, generator=generator).argsort(dim=1)[:, :length]
    liked = torch.rand(requests, length, generator=generator).argsort(dim=1) < 2
    score = (torch.rand(requests, length, generator=generator) + liked) / 2
    number = torch.arange(requests).repeat_interleave(length)
    pl.DataFrame(
        {
            "request": number.numpy(),
            "time": number.numpy(),
            "user": (number % 7).numpy(),
            "item": item.flatten().numpy(),
            "score": score.double().flatten().numpy(),
            "label": liked.flatten().numpy(),
            "shown": [True] * len(number),
            "feature_price": torch.rand(len(number), generator=generator).double().numpy(),
        }
    ).write_parquet(path)
    return path


def own(path, **changed):
    return DataConfig(**{"dataset": "lists", "file": str(path), "history": 4} | changed)


def test_own_lists_are_those_of_the_file(log):
    config = own(log, seed=3)
    assert (config.protocol, config.retriever) == ("logged", "logged")
    lists = prepare(config)
    assert lists.fingerprint == read_lists(log, None, history=4, seed=3).fingerprint
    assert lists.items.shape == (60, 8)
    assert lists.features.shape == (60, 8, 1)
    assert prepare(own(log, candidates=5)).items.shape[1] == 5
    assert prepare(own(log, history=2)).history.shape[1] == 2


def test_own_lists_are_read_again_when_the_file_has_changed(log, tmp_path):
    before = prepare(own(log)).fingerprint
    assert prepare(own(log)).fingerprint == before
    write_log(log, seed=1)
    assert prepare(own(log)).fingerprint != before
    assert not files(tmp_path)


def test_own_lists_can_be_cut_and_calibrated(log):
    whole = prepare(own(log))
    asked = {name: value for name, value in ASKED.items() if name != "order"}
    part = prepare(own(log, train_lists=20, evaluation_lists=3, **asked)).validate()
    assert [len(part.of_split(name)) for name in ("train", "validation", "test")] == [20, 3, 3]
    assert asked.items() <= part.meta.items()
    cut = prepare(own(log, train_lists=20, evaluation_lists=3))
    moved = part.of_split("test")
    before = {key: (liked, price) for key, (_, liked, _, price) in facts(cut).items()}
    after = {key: (liked, price) for key, (_, liked, _, price) in facts(moved).items()}
    assert after.items() <= before.items()
    assert len(after) == 3 * 8
    assert facts(cut).items() <= facts(whole).items()


@pytest.mark.parametrize("method", ["concat", "DNR-B"])
def test_own_lists_end_to_end(method, log):
    config = run_config(
        {
            "method": method,
            "data": {"dataset": "lists", "file": str(log), "history": 4},
            "options": {"dim": 8, "heads": 2, "feed_forward": 8, "layers": 1},
            "training": {"epochs": 2, "lambda_e": 1, "batch_size": 16},
        }
    )
    lists = prepare(config.data)
    record, weights = compute(config, lists)
    assert record.run.startswith(f"lists.logged.{method}.0.")
    assert set(weights) == {"concat": {"reranker"}, "DNR-B": {"reranker", "generator"}}[method]
    assert record.data["protocol"] == "logged"
    assert record.data["fingerprint"] == lists.fingerprint
    assert record.data["candidates"] == 8
    assert [row["phase"] for row in record.curves] == [1, 1 if method == "concat" else 2]
    assert 0 < record.metrics["test"]["ndcg@6"] <= 1
    # the record leads back to the very run
    again = from_dict(RunConfig, record.config)
    assert again == config
    assert run_name(again, prepare(again.data)) == record.run


def test_a_missing_file_of_own_lists_is_named(tmp_path):
    with pytest.raises(DataError, match="no such file") as error:
        prepare(own(tmp_path / "nosuch.parquet"))
    assert error.value.path == tmp_path / "nosuch.parquet"


def test_a_list_of_one_candidate_is_refused(log):
    with pytest.raises(ConfigError, match="n = 1: a list needs at least 2"):
        prepare(own(log, candidates=1))


def test_own_lists_are_not_put_shown_first(log):
    with pytest.raises(ConfigError, match="order = 'given'"):
        own(log, order="given")
