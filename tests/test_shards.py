"""Candidate lists made part by part against those made at once."""

from dataclasses import replace

import pytest
import torch
from test_data_stream import WORLD, written

from dnrlib import prepare as in_memory
from dnrlib import shards as module
from dnrlib.data import prepare_log
from dnrlib.data.stream import Cutting, log_in_parts
from dnrlib.errors import ConfigError
from dnrlib.lists import TENSORS, CandidateLists
from dnrlib.prepare import DataConfig
from dnrlib.protocols import PROTOCOLS, candidate_lists
from dnrlib.retriever import SCHEMES, MatrixFactorisation, RetrieverConfig, plan
from dnrlib.shards import candidate_shards, prepare_streaming

SMALL = RetrieverConfig(dim=4, epochs=2)
BASE = DataConfig("simulated", candidates=20, history=5, core=22, folds=3, factorisation=SMALL)
LOG = prepare_log(WORLD.source(), core=22)


class Table:
    """A retriever whose logits are given."""

    def __init__(self, table):
        self.table = table

    def logits(self, users):
        return self.table[users]


def models(number):
    made = [MatrixFactorisation(LOG.users, LOG.items, 4) for _ in range(number)]
    for model in made:
        torch.nn.init.normal_(model.user.weight)
    return made


@pytest.fixture(scope="module")
def in_parts(tmp_path_factory):
    """The log in 1, 3 and 7 parts."""
    folder = tmp_path_factory.mktemp("parts")
    source = written(WORLD.frame(), folder, files=2)
    return {
        parts: log_in_parts(source, folder / f"log-{parts}", Cutting(22, parts=parts))
        for parts in (1, 3, 7)
    }


def whole(paths):
    shards = [CandidateLists.load(path) for path in paths]
    return CandidateLists.concatenate(shards, shards[0].meta).validate(), shards


def in_order(lists):
    """The tensors of each list's candidates in the order of their numbers."""
    order = lists.items.argsort(dim=1)
    candidates = ("items", "scores", "labels", "shown")
    return {
        name: getattr(lists, name).gather(1, order) if name in candidates else getattr(lists, name)
        for name in TENSORS
    }


def shown_only(lists):
    """User, list, item, label and score of everything that was shown."""
    row, column = lists.shown.nonzero().T
    facts = torch.stack(
        [lists.list[row], lists.users[row], lists.items[row, column], lists.labels[row, column]]
    )
    order = (facts[0].long() * 10_000 + facts[2]).argsort()
    return facts[:, order], lists.scores[row, column][order]


@pytest.mark.parametrize("parts", [1, 3, 7])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_shards_hold_the_lists_of_the_whole(protocol, scheme, parts, in_parts, tmp_path):
    config = replace(BASE, protocol=protocol, retriever=scheme)
    scoring = plan(LOG, scheme, config.folds, config.seed)
    retrievers = models(len(scoring.trained_on))
    expected = candidate_lists(LOG, retrievers, scoring, protocol, n=20, history=5)
    made, shards = whole(candidate_shards(in_parts[parts], retrievers, config, tmp_path))
    assert len(shards) == parts
    for name in ("users", "history", "split", "list"):
        assert torch.equal(getattr(made, name), getattr(expected, name)), name
    (facts, scores), (other, same_scores) = shown_only(made), shown_only(expected)
    assert torch.equal(facts, other)
    torch.testing.assert_close(scores, same_scores)
    for name in ("without_history", "without_positive"):
        assert sum(shard.meta[name] for shard in shards) == expected.meta[name]
    if protocol != "shown+sampled":
        one, two = in_order(made), in_order(expected)
        assert torch.equal(one["items"], two["items"])
        assert torch.equal(one["labels"], two["labels"])
        torch.testing.assert_close(one["scores"], two["scores"])
    if parts == 1:
        assert all(torch.equal(getattr(made, name), getattr(expected, name)) for name in TENSORS)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_one_part_is_what_prepare_makes(scheme, tmp_path, monkeypatch):
    config = replace(BASE, retriever=scheme)
    monkeypatch.setattr(in_memory, "load", lambda name, feedback: WORLD.source())
    expected = in_memory.prepare(config, tmp_path / "memory")
    made, _ = whole(prepare_streaming(config, written(WORLD.frame(), tmp_path), tmp_path / "s", 1))
    assert all(torch.equal(getattr(made, name), getattr(expected, name)) for name in TENSORS)


def test_a_retriever_trained_part_by_part_learns(tmp_path):
    config = replace(BASE, retriever="in-sample", factorisation=replace(SMALL, epochs=20))
    made, _ = whole(prepare_streaming(config, written(WORLD.frame(), tmp_path), tmp_path / "s", 5))
    train = made.split == 0
    liked = (train[:, None] & made.labels, train[:, None] & made.shown & ~made.labels)
    high, low = (made.scores[mask].mean() for mask in liked)
    assert high > low + 0.1


def test_finished_shards_are_kept_and_the_missing_made(tmp_path, monkeypatch):
    source, cache = written(WORLD.frame(), tmp_path), tmp_path / "s"
    paths = prepare_streaming(BASE, source, cache, 4)
    before = [path.read_bytes() for path in paths]
    paths[2].unlink()
    stamps = [path.stat().st_mtime_ns for path in paths if path.exists()]
    calls = []
    make = module.candidate_lists
    monkeypatch.setattr(module, "candidate_lists", lambda *a, **k: calls.append(1) or make(*a, **k))
    monkeypatch.setattr(in_memory, "fit_parts", lambda *args: 1 / 0)
    assert prepare_streaming(BASE, source, cache, 4) == paths
    assert len(calls) == 1
    assert [path.read_bytes() for path in paths] == before
    assert [p.stat().st_mtime_ns for p in paths if p != paths[2]] == stamps
    assert not list(cache.rglob("*.part"))


def test_other_sources_settings_and_parts_have_other_shards(tmp_path):
    source = written(WORLD.frame(), tmp_path)
    made = {prepare_streaming(BASE, source, tmp_path / "s", parts)[0].parent for parts in (1, 2)}
    made.add(prepare_streaming(replace(BASE, seed=1), source, tmp_path / "s", 1)[0].parent)
    WORLD.frame()[:-1].write_parquet(source / "0.parquet")
    made.add(prepare_streaming(BASE, source, tmp_path / "s", 1)[0].parent)
    assert len(made) == 4


def test_parts_without_a_list_are_shards_too(in_parts, tmp_path):
    """A retriever that ranks last whatever all users but the first were shown finds nothing."""
    first = in_parts[7].part(0)
    table = torch.zeros(LOG.users, LOG.items + 1)
    table[LOG.user, LOG.item] = -9.0
    table[0] *= -1
    config = replace(BASE, protocol="retrieved", retriever="in-sample", candidates=18)
    shards = whole(candidate_shards(in_parts[7], [Table(table)], config, tmp_path))[1]
    assert [len(shard) > 0 for shard in shards] == [True] + [False] * 6
    assert set(shards[0].users.tolist()) == {0}
    assert shards[1].meta["without_positive"] + shards[1].meta["without_history"] == len(
        in_parts[7].part(1)
    )
    assert len(first) > len(shards[0])


def test_what_a_stream_cannot_do_is_refused(tmp_path):
    for changed, message in (
        ({"train_lists": 5}, "a stream makes all lists"),
        ({"retriever": "noisy-truth"}, "choose one of in-sample, earlier, crossfit"),
    ):
        with pytest.raises(ConfigError, match=message):
            prepare_streaming(replace(BASE, **changed), tmp_path, tmp_path)
