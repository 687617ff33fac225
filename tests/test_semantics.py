"""Texts of items, their vectors, the reranker that reads them, and liked items seldom shown."""

import logging
import math
import socket
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from worlds import make_lists, with_made_up_words

from dnrlib import comparisons, semantics
from dnrlib.cold_items import (
    GROUPS,
    by_method,
    difference,
    difference_between,
    groups_of,
    measure,
    times_shown,
)
from dnrlib.data import SimulatedWorld, movielens
from dnrlib.errors import ConfigError, DataError
from dnrlib.experiments import lists_of, load_experiment, run, run_config, run_name
from dnrlib.export import export_program, same_program
from dnrlib.identity import hash_of
from dnrlib.lists import CandidateLists
from dnrlib.metrics import ndcg, rank
from dnrlib.prepare import DataConfig
from dnrlib.rerankers import build
from dnrlib.semantics import (
    AXES,
    embed,
    item_texts,
    simulated_texts,
    with_feature,
    with_words,
    worded,
)
from dnrlib.training import Trainer, TrainingConfig, score_lists

LISTS = make_lists(signal=0.5)
WORDED = with_made_up_words(LISTS)
SMALL = {"dim": 16, "heads": 2, "feed_forward": 24}
FILMS = """1::Heat (1995)::Action|Crime
3::Café (1994)::Drama
"""


@pytest.fixture
def offline(monkeypatch):
    """No connection can be made."""

    def refuse(*_):
        raise OSError("the network is off")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def small(lists=WORDED, seed=0, **options):
    torch.manual_seed(seed)
    return build("prm-text", lists, **SMALL | {"dropout": 0.0} | options).eval()


# Texts ------------------------------------------------------------------------------------


def folder_of(tmp_path, text):
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    (folder / "movies.dat").write_bytes(text.encode("latin-1"))
    return folder


def films(monkeypatch, folder):
    monkeypatch.setattr(semantics, "_obtain", lambda *_, **__: folder)
    return semantics._films(movielens.ML_1M)


def test_a_film_s_text_is_title_year_and_genres(tmp_path, monkeypatch):
    found = films(monkeypatch, folder_of(tmp_path, FILMS))
    assert found == {1: "Heat (1995). Action, Crime", 3: "Café (1994). Drama"}


def test_a_line_without_genres_is_named(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"movies\.dat.*line 2.*genres"):
        films(monkeypatch, folder_of(tmp_path, FILMS.replace("::Drama", "")))


def test_marks_of_ml_100k_are_genres():
    marks = ["0"] * len(semantics.GENRES)
    marks[semantics.GENRES.index("War")] = marks[semantics.GENRES.index("Drama")] = "1"
    row = ["7", "Title (1990)", "01-Jan-1990", "", "url", *marks]
    assert semantics._marked(row) == ["Drama", "War"]
    assert semantics._marked(row[:-1]) == semantics._marked([*row[:-1], "2"]) == []


def test_texts_stand_in_the_numbering_of_the_lists(monkeypatch):
    """Item i of the lists is the i-th raw id that the core keeps."""
    monkeypatch.setitem(semantics.TEXTS, "simulated", lambda: {i: f"raw {i}" for i in range(400)})
    config = DataConfig(dataset="simulated", core=65)
    texts = item_texts(config)
    frame = SimulatedWorld().source().frame
    rows = None
    while rows != len(frame):  # the core by brute force
        rows = len(frame)
        for column in ("user", "item"):
            counts = frame[column].value_counts()
            enough = counts.filter(counts["count"] >= 65)[column].to_list()
            frame = frame.filter(frame[column].is_in(enough))
    kept = sorted(frame["item"].unique().to_list())
    assert 0 < len(kept) < 400
    assert texts == [f"raw {item}" for item in kept]


def test_an_item_without_a_title_is_named(monkeypatch):
    monkeypatch.setitem(semantics.TEXTS, "simulated", dict)
    with pytest.raises(DataError, match="item 0 is rated but has no title"):
        item_texts(DataConfig(dataset="simulated"))


@pytest.mark.parametrize("dataset", ["kuairand-pure", "amazon-books-2023"])
def test_data_without_words_are_refused(dataset):
    with pytest.raises(ConfigError, match=f"{dataset}.*without words.*ml-1m"):
        item_texts(DataConfig(dataset=dataset))


def test_a_simulated_text_tells_the_quarter_of_each_factor():
    world = SimulatedWorld(users=2, items=200)
    texts = simulated_texts(world)
    quarters = (world.item_factors[:, :, None] > np.array([-0.6745, 0, 0.6745])).sum(axis=2)
    for item, row in enumerate(quarters):
        words = ", ".join(AXES[factor][quarter] for factor, quarter in enumerate(row))
        assert texts[item] == f"A {words} film"
    assert {int(q) for q in quarters.flatten()} == {0, 1, 2, 3}


# Vectors ----------------------------------------------------------------------------------


def test_vectors_are_those_of_the_package_without_what_all_share(offline):
    texts = ["Heat (1995). Action, Crime", "Alien (1979). Horror, Sci-Fi", "Aliens (1986). Sci-Fi"]
    vectors = embed(texts)
    model = semantics._wordllama()
    tokens = model.tokenizer.encode(texts[0], add_special_tokens=False).ids
    raw = [
        model.embedding[model.tokenizer.encode(text, add_special_tokens=False).ids].mean(axis=0)
        for text in texts
    ]
    assert len(tokens) > 5
    unit = np.stack([row / np.linalg.norm(row) for row in raw])
    wanted = unit - unit.mean(axis=0)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors.numpy(), wanted, atol=1e-5)
    assert vectors.shape == (3, semantics.DIM)
    assert vectors[1] @ vectors[2] > vectors[0] @ vectors[2]


def test_other_libraries_stay_as_quiet_as_they_were():
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    with semantics._logging_as_it_was():
        logging.basicConfig(level=logging.DEBUG, force=True)
    assert (root.level, root.handlers) == before


def test_without_the_package_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wordllama", None)
    with pytest.raises(ConfigError, match=r"pip install 'dnrlib\[text\]'"):
        embed(["a film"])


# Lists ------------------------------------------------------------------------------------


def test_words_go_with_the_lists_and_into_their_fingerprint():
    vectors = torch.randn(40, 8)
    lists = worded(LISTS, vectors, "one")
    assert torch.equal(lists.words[1:], vectors)
    assert not lists.words[0].any()
    for part in (lists[3:5], lists.of_split("test"), lists.to("cpu"), replace(lists, meta={})):
        assert torch.equal(part.words, lists.words)
    assert (
        len({LISTS.fingerprint, lists.fingerprint, worded(LISTS, vectors, "two").fingerprint}) == 3
    )
    assert lists.meta["lists"] == LISTS.fingerprint
    assert torch.equal(lists.items, LISTS.items)
    assert lists.validate() is lists
    with pytest.raises(ConfigError, match="39 text vectors for 40 items"):
        worded(LISTS, vectors[1:], "one")


def test_a_run_on_words_has_lists_with_words():
    settings = {"data": {"dataset": "simulated", "train_lists": 20, "evaluation_lists": 10}}
    config = run_config({"reranker": "prm-text", **settings})
    lists = lists_of(config)
    plain = lists_of(run_config(settings))
    assert torch.equal(lists.words, with_words(plain, config.data).words)
    assert lists.words.shape == (lists.meta["items"] + 1, semantics.DIM)
    assert lists.meta["words"].startswith("wordllama l2_supercat of ")
    assert run_name(config, lists) != run_name(config, plain)
    assert build("prm-text", lists)(lists[:2], lists.scores[:2]).isfinite().all()


def test_runs_with_and_without_words_are_paired_list_by_list(tmp_path):
    data = {"dataset": "simulated", "train_lists": 20, "evaluation_lists": 10}
    folders = tmp_path / "results", tmp_path / "runs"
    score = run(run_config({"method": "score", "data": data}), *folders)
    words = run(run_config({"method": "text-similarity", "data": data}), *folders)
    assert score.data["fingerprint"] != words.data["fingerprint"]
    found = comparisons.difference([words], [score])
    wanted = words.per_list()["ndcg@6"] - score.per_list()["ndcg@6"]
    assert found.mean == pytest.approx(float(wanted.mean()))
    other = run(run_config({"method": "score", "data": data | {"seed": 1}}), *folders)
    with pytest.raises(DataError, match="cannot be paired"):
        comparisons.difference([words], [other])


def test_features_are_added_behind_those_there_are():
    values = torch.rand(LISTS.items.shape)
    once = with_feature(LISTS, values)
    twice = with_feature(once, -values)
    assert torch.equal(twice.features, torch.stack([values, -values], dim=2))
    assert twice.meta["features"] == 2
    assert len({LISTS.fingerprint, once.fingerprint, twice.fingerprint}) == 3
    with pytest.raises(ConfigError, match="NaN"):
        with_feature(LISTS, values * math.nan)


# The rerankers ----------------------------------------------------------------------------


@pytest.mark.equation("eq-semantics-item")
def test_an_item_is_its_own_vector_plus_the_map_of_its_text():
    model = small()
    items = torch.tensor([[3, 40]])
    wanted = [
        model.item.own.weight[i] + model.item.project.weight @ WORDED.words[i] for i in (3, 40)
    ]
    torch.testing.assert_close(model.item(items)[0], torch.stack(wanted))
    alone = small(use="text")
    torch.testing.assert_close(alone.item(items)[0, 0], alone.item.project.weight @ WORDED.words[3])
    assert "item.own.weight" not in alone.state_dict()


def test_a_text_alone_tells_items_of_one_text_not_apart():
    """Neither as candidates nor in the history: also an item never seen has a place."""
    words = WORDED.words.clone()
    words[7] = words[9]
    lists = replace(WORDED, words=words)
    swap = torch.arange(41)
    swap[7], swap[9] = 9, 7
    other = replace(
        lists, items=swap[lists.items.long()].int(), history=swap[lists.history.long()].int()
    )
    model = small(lists, use="text")
    torch.testing.assert_close(model(other, other.scores), model(lists, lists.scores))
    both = small(lists)
    assert (both(other, other.scores) - both(lists, lists.scores)).abs().max() > 1e-3


def test_shuffled_texts_are_the_same_ones_dealt_out_anew():
    plain, control = small(), small(shuffled=True)
    words, dealt = plain.item.words, control.item.words
    assert not dealt[0].any()
    assert (words != dealt).any(dim=1).sum() > 30
    assert torch.equal(words[words[:, 0].argsort()], dealt[dealt[:, 0].argsort()])
    assert torch.equal(small(seed=1, shuffled=True).item.words, dealt)


def test_folded_is_the_same_function_and_served_by_the_graph_of_prm():
    model = small()
    served = model.folded()
    torch.testing.assert_close(served(LISTS, LISTS.scores), model(LISTS, LISTS.scores))
    plain = build("prm", LISTS, **SMALL, dropout=0.0, score_use="concat")
    assert same_program(export_program(served, LISTS), export_program(plain, LISTS))
    assert not same_program(export_program(model, LISTS), export_program(plain, LISTS))


def test_the_texts_are_not_kept_with_the_weights():
    assert not [name for name in small().state_dict() if name.endswith("words")]
    assert not build("text-similarity", WORDED).state_dict()


def test_features_are_read_if_they_are_asked_for():
    lists = with_feature(WORDED, torch.rand(LISTS.items.shape))
    model = small(lists, features=1)
    moved = replace(lists, features=1 - lists.features)
    assert (model(lists, lists.scores) - model(moved, lists.scores)).abs().max() > 1e-3
    blind = small(lists)
    assert torch.equal(blind(lists, lists.scores), blind(moved, lists.scores))
    state = model.encode(lists) - super(type(model), model).encode(lists)
    torch.testing.assert_close(
        state, lists.features * model.describe.weight[:, 0], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    ("lists", "options", "message"),
    [
        (LISTS, {}, "carry no words about the items"),
        (WORDED, {"text_dim": 8}, r"\(41, 256\), but must have \(41, 8\)"),
        (WORDED, {"use": "title"}, "'title' is unknown: choose one of both, text"),
        (WORDED, {"text_dim": 0}, "text_dim = 0"),
        (WORDED, {"features": -1}, "features = -1"),
        (WORDED, {"features": 2}, "features = 2, but the lists have 0"),
    ],
)
def test_wrong_options_are_refused(lists, options, message):
    with pytest.raises(ConfigError, match=message):
        small(lists, **options)


@pytest.mark.equation("eq-semantics-cosine")
def test_text_similarity_is_the_cosine_with_the_history_s_mean_text():
    model = build("text-similarity", WORDED)
    logits = model(LISTS, LISTS.scores)
    for row in (0, 5):
        past = [WORDED.words[i] for i in LISTS.history[row].tolist() if i]
        taste = torch.stack(past).mean(dim=0)
        for place in (0, 11):
            text = WORDED.words[int(LISTS.items[row, place])]
            wanted = F.cosine_similarity(text, taste, dim=0)
            torch.testing.assert_close(logits[row, place], wanted)
    new = replace(LISTS, history=torch.zeros_like(LISTS.history))
    assert not model(new, new.scores).any()


def test_words_carry_over_to_items_that_training_never_showed():
    """Half of the items of each kind are new in the test lists; only their texts tell the kind."""
    random = torch.Generator().manual_seed(0)
    kinds = torch.arange(201) % 2
    words = F.one_hot(kinds, 2).float() + 0.1 * torch.randn(201, 2, generator=random)
    words[0] = 0

    def lists(first, last, count=400):
        items = first + torch.rand(count, last - first, generator=random).argsort(1)[:, :12]
        wanted = torch.arange(count) % 2
        liked = kinds[items] == wanted[:, None]
        past = 1 + 2 * torch.randint(49, (count, 5), generator=random) + (wanted[:, None] + 1) % 2
        return CandidateLists(
            users=torch.zeros(count).int(), history=past.int(), items=items.int(),
            scores=torch.full(items.shape, 0.5), labels=liked, shown=torch.ones_like(liked),
            split=torch.zeros(count).to(torch.int8), list=torch.arange(count).int(),
            meta={"users": 1, "items": 200},
        )  # fmt: skip

    seen, new = lists(1, 101), lists(101, 201)
    config = TrainingConfig(epochs=4, batch_size=16, learning_rate=3e-3)
    found = {}
    for use in ("text", "both", "none"):
        torch.manual_seed(0)
        name, options = ("prm", {}) if use == "none" else ("prm-text", {"use": use, "text_dim": 2})
        train = worded(seen, words[1:], "made up")
        model = build(name, train, **SMALL, **options, dropout=0.0, score_use="none")
        Trainer(model, train, train, config).run()
        found[use] = float(ndcg(rank(score_lists(model, new), new.labels), 6).nanmean())
    assert found["text"] > 0.95
    assert found["none"] < 0.7 < found["both"]


# Items seldom shown -----------------------------------------------------------------------


def few_shown():
    """Items 1 … 40; item i was shown in about i times as many training lists as item 1."""
    lists = make_lists(lists=1000, items=40, seed=3, signal=0.5)
    kept = torch.rand(lists.items.shape, generator=torch.Generator().manual_seed(1))
    kept = kept < lists.items / 40
    return replace(lists, shown=lists.shown & kept, labels=lists.labels & kept)


def test_items_are_counted_where_they_were_shown_in_training():
    lists = few_shown()
    counts = times_shown(lists)
    for item in (0, 1, 17, 40):
        there = (lists.items == item) & lists.shown & (lists.split == 0)[:, None]
        assert counts[item] == there.sum()


def test_every_candidate_is_in_one_group(monkeypatch):
    lists = few_shown()
    groups = groups_of(lists)
    assert sum(members.int() for members in groups.values()).eq(1).all()
    test, counts = lists.of_split("test"), times_shown(lists)
    for name, (least, most) in GROUPS.items():
        shown = counts[test.items[groups[name]].long()]
        assert (shown >= least).all()
        assert (shown <= most).all()


def test_a_group_is_ranked_without_the_liked_items_of_others(monkeypatch):
    bounds = {"few": (0, 25), "many": (26, math.inf)}
    monkeypatch.setattr("dnrlib.cold_items.GROUPS", bounds)
    lists = few_shown()
    reranker = build("score", lists)
    rows = {row["group"]: row for row in measure(lists, reranker)}
    test, counts = lists.of_split("test"), times_shown(lists)
    unpacked = by_method([{"run": "r", "method": "score", "seed": 0, "rows": [*rows.values()]}])
    for name, (least, most) in bounds.items():
        wanted = []
        for items, labels, scores in zip(test.items, test.labels, test.scores, strict=True):
            shown = counts[items.long()]
            inside = (shown >= least) & (shown <= most)
            keep = ~labels | inside
            wanted.append(float(ndcg(rank(scores[keep][None], labels[keep][None]), 6)))
        wanted = np.array(wanted)
        assert 0 < np.isnan(wanted).sum() < len(wanted)
        np.testing.assert_allclose(unpacked["score"][name][0], wanted, atol=1e-6)
        assert rows[name]["ndcg@6"] == pytest.approx(np.nanmean(wanted), abs=1e-6)
    liked = sum(row["items"] for row in rows.values())
    assert liked == int(test.labels.sum())


def test_runs_can_be_given_names():
    rows = measure(few_shown(), build("score", few_shown()))
    runs = [{"run": f"r{i}", "method": "concat", "seed": i % 2, "rows": rows} for i in range(5)]
    names = {f"r{i}": "text" if i < 2 else "plain" for i in range(4)}
    found = by_method(runs, names)
    assert {name: len(groups["0-9"]) for name, groups in found.items()} == {"text": 2, "plain": 2}


# The experiment ---------------------------------------------------------------------------


def test_the_experiment_shares_its_rows_of_prm_with_the_ablations():
    configs, shared = load_experiment("semantics"), load_experiment("ablations")
    known = {hash_of(config) for config in shared}
    new = [config for config in configs if hash_of(config) not in known]
    assert not [config for config in new if config.reranker == "prm"]
    assert {config.seed for config in new if config.reranker == "prm-text"} == {5, 6, 7, 8, 9}
    assert len({hash_of(config.data) for config in configs}) == 1


def test_groups_are_compared_list_by_list_and_with_each_other():
    rng = np.random.default_rng(0)
    there = {"0-9": rng.random(50) < 0.3, "100 or more": rng.random(50) < 0.6}
    sides = [
        {group: np.where(mask, rng.random((3, 50)), np.nan) for group, mask in there.items()}
        for _ in range(2)
    ]
    means = {group: np.nanmean(sides[0][group] - sides[1][group]) for group in there}
    for group in there:
        assert difference(*sides, group).mean == pytest.approx(means[group])
    found = difference_between(*sides, "0-9", "100 or more")
    assert found.mean == pytest.approx(means["0-9"] - means["100 or more"])
    assert found.low < found.mean < found.high
    raised = [
        {**side, "0-9": side["0-9"] + shift} for side, shift in zip(sides, (9, 0), strict=True)
    ]
    assert difference_between(*raised, "0-9", "100 or more").error == pytest.approx(found.error)
    empty = [{**side, "0-9": np.full((3, 50), np.nan)} for side in sides]
    assert difference(*empty, "0-9") is None
    assert difference_between(*empty, "0-9", "100 or more") is None
