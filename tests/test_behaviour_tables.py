"""The tables of several kinds of feedback: empty, half full, and full of runs that nobody did."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up_records import make_record
from test_behaviours import several
from worlds import make_lists

from dnrlib.behaviour_tables import (
    ALL,
    HYPOTHESES,
    case,
    cells_of,
    given,
    hypotheses,
    kinds_table,
    label,
    levels_table,
    matrix,
    metrics_table,
    shown_feedback,
    verdict,
)
from dnrlib.experiments import FIXED, evaluate, load_experiment
from dnrlib.identity import plain
from dnrlib.records import Record
from dnrlib.rerankers import build
from dnrlib.rerankers.base import Reranker
from dnrlib.tables import NOT_YET, Compared, done

LISTS = several(make_lists(lists=400))
KINDS = LISTS.names
CONFIGS = [one for one in load_experiment("behaviours") if one.data.dataset == "ml-1m"]
CLEAR = 0.3
"""By so much some runs know of the second kind what the others do not."""


class Made(Reranker):
    """Ranks each kind by noise of the run, and knows of the second what it is told."""

    def __init__(self, seed, known):
        super().__init__()
        self.seed, self.known = seed, known

    def logits_of_each(self, batch, scores):
        noise = torch.rand(
            batch.behaviours.shape, generator=torch.Generator().manual_seed(self.seed)
        )
        return noise + self.known * batch.behaviours * torch.tensor([0.0, 1.0, 0.0])

    def forward(self, batch, scores):
        return self.logits_of_each(batch, scores)[:, :, 0]


def known_of(config):
    """DNR-B of all kinds and the noise of the third kind know of the second."""
    helped = {("DNR-B", ALL, ()), ("noise-B", ALL, (2,))}
    return CLEAR if case(config) in helped else 0.0


def record_of(config):
    fixed = config.method in FIXED
    made = build(config.reranker, LISTS) if fixed else Made(config.seed, known_of(config))
    return replace(
        make_record(seed=config.seed),
        run=f"{hash(str(config))}", method=config.method, config=plain(config),
        data={"fingerprint": "x", "test": len(LISTS.of_split("test")), "candidates": 12},
        best_epoch=0 if fixed else 1, **evaluate(made, LISTS),
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    for config in CONFIGS:
        record_of(config).save(folder)
    return folder


def test_nothing_breaks_before_the_first_run(tmp_path):
    cells = cells_of("ml-1m", tmp_path)
    assert len(cells) == 16
    assert not any(done(cell) for cell in cells.values())
    found = hypotheses(cells, KINDS)
    assert found == {name: {} for name in HYPOTHESES}
    assert verdict(found["K1"], 3) == NOT_YET
    assert set(matrix(cells, KINDS).values()) == {None}
    assert levels_table(cells, KINDS)[4]["kind 1"] == NOT_YET
    assert metrics_table(cells, "kind 1", KINDS)[4]["NDCG@6"] == NOT_YET


def test_a_difference_that_is_there_is_found_where_it_is(results):
    cells = cells_of("ml-1m", results)
    found = hypotheses(cells, KINDS)
    sides = {name: {kind: one.side for kind, one in of.items()} for name, of in found.items()}
    even = dict.fromkeys(KINDS, "not told apart")
    assert sides["K1"] == even
    assert sides["K2"] == sides["K3"] == even | {"kind 1": "above"}
    assert [pair for pair, side in sides["K4"].items() if side == "above"] == ["kind 2 on kind 1"]
    assert len(sides["K4"]) == 6
    words = {name: verdict(of, len(of)) for name, of in found.items()}
    assert words == {"K1": "not shown", "K2": "holds in part", "K3": "holds in part",
                     "K4": "holds in part"}  # fmt: skip
    gains = matrix(cells, KINDS)
    assert gains[2, 1].mean == pytest.approx(found["K4"]["kind 2 on kind 1"].found.mean)
    assert gains[0, 0].mean == 0


def test_a_family_that_is_not_complete_has_no_verdict(results, tmp_path):
    for path in results.glob("*.json"):
        record = Record.load(path)
        if record.seed != 7:
            record.save(tmp_path)
    found = hypotheses(cells_of("ml-1m", tmp_path), KINDS)
    assert verdict(found["K2"], 3) == NOT_YET


def of_sides(*sides):
    made = {"above": (1.0, 0.01), "below": (-1.0, 0.01), "not told apart": (1.0, 0.5)}
    one = hypotheses_example()
    return {
        str(number): Compared(replace(one, mean=made[side][0]), made[side][1])
        for number, side in enumerate(sides)
    }


def hypotheses_example():
    from dnrlib.statistics import estimate

    return estimate(np.arange(6.0))


@pytest.mark.parametrize(
    ("sides", "words"),
    [
        (("above", "above"), "holds"),
        (("above", "not told apart"), "holds in part"),
        (("above", "below"), "mixed"),
        (("below", "not told apart"), "contradicted"),
        (("not told apart", "not told apart"), "not shown"),
    ],
)
def test_the_rule_is_that_of_the_experiments_head(sides, words):
    assert verdict(of_sides(*sides), 2) == words
    assert verdict(of_sides(*sides), 3) == NOT_YET


def test_the_shown_candidates_come_back_with_all_their_feedback(results):
    cells = cells_of("ml-1m", results)
    (record,) = done(cells["score", (), ()])
    test = LISTS.of_split("test")
    there = test.behaviours[test.shown].numpy()
    found = shown_feedback(record)
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, there.tolist()))
    share = given(found)
    both = (there[:, 1] & there[:, 2]).sum()
    assert share[1, 2] == pytest.approx(both / there[:, 1].sum())
    assert np.allclose(np.diag(share), 1)
    rows = kinds_table(record)
    assert [row["kind"] for row in rows] == KINDS
    assert rows[1]["of shown"] == f"{there[:, 1].mean():.1%}"
    assert rows[0]["correlation with the first"] == pytest.approx(1)


def test_rows_are_told_apart():
    rows = {(label(case(one)), case(one)[1]) for one in CONFIGS}
    assert len(rows) == 16
