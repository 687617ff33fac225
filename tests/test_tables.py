"""Tables of runs: what is there and what is not, paired by the seeds that all have, one family."""

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import yaml
from made_up_records import make_record
from scipy.stats import t as student
from worlds import make_lists

from dnrlib import comparisons, tables
from dnrlib.claims import load_claims
from dnrlib.errors import DataError
from dnrlib.experiments import METHODS, UNTRAINED
from dnrlib.statistics import Estimate, equivalence, estimate, holm

LISTS = make_lists(lists=200)
EXPERIMENT = {
    "base": {"data": {"dataset": "simulated", "train_lists": 50}},
    "grid": {"seed": [0, 1, 2], "method": ["score", "none", "concat", "DNR-B"]},
}


def found(mean=0.1, error=0.01, freedom=20.0, p=0.01):
    return Estimate(mean, mean - 0.02, mean + 0.02, 100, 0, error, freedom, p, 0.5, 3)


def ndcg(records):
    return np.stack([record.per_list()["ndcg@6"].numpy() for record in records])


def of(method, seeds=(0, 1, 2), quality=0.3):
    return [make_record(seed, method, quality, LISTS) for seed in seeds]


@pytest.fixture
def half_done(tmp_path, monkeypatch):
    """An experiment with some runs recorded, and the oracle recorded for another one."""
    monkeypatch.chdir(tmp_path)
    Path("experiments").mkdir()
    Path("experiments/made-up.yml").write_text(yaml.safe_dump(EXPERIMENT))
    recorded = [("concat", 0), ("concat", 2), ("DNR-B", 2), ("oracle", 0)]
    for method, seed in recorded:
        quality = 2 if method == "oracle" else 0.3
        record = make_record(seed, method, quality, LISTS, data=EXPERIMENT["base"]["data"])
        record.save(Path("results/other"))
    return tables.layout("made-up")["simulated", "shown+sampled"]


def test_a_layout_has_what_is_done_and_what_is_not(half_done):
    assert [*half_done] == [*UNTRAINED, "none", "concat", "DNR-B"]
    seeds = {case: [r and r.seed for r in cell] for case, cell in half_done.items()}
    assert seeds["concat"] == [0, None, 2]
    assert seeds["DNR-B"] == [None, None, 2]
    assert seeds["none"] == [None, None, None]
    assert seeds["oracle"] == [0]
    assert seeds["score"] == [None]
    assert tables.progress("made-up") == "3 of 10 runs"


def test_cases_may_be_settings(half_done):
    by_seed = tables.layout("made-up", case=lambda config: f"seed {config.seed}")
    cells = by_seed["simulated", "shown+sampled"]
    assert [*cells][len(UNTRAINED) :] == ["seed 0", "seed 1", "seed 2"]
    assert [len(tables.done(cell)) for cell in cells.values()][-3:] == [1, 0, 2]


def test_a_table_of_a_half_done_experiment_says_so(half_done):
    rows = {row["method"]: row for row in tables.comparison_table(half_done, "concat")}
    assert rows["PRM without score"]["NDCG@6"] == "not run yet"
    assert rows["PRM without score"]["seeds"] == "0 of 3"
    assert rows["PRM + score (concat)"]["seeds"] == "2 of 3"
    assert rows["PRM + score (concat)"]["p (Holm)"] == "–"
    assert rows["PRM + DNR-B"]["minus PRM + score (concat)"].startswith("+0.000")
    assert rows["oracle (bound)"]["NDCG@6"] == "1.000 [1.000, 1.000]"
    metrics = {row["method"]: row for row in tables.metrics_table(half_done)}
    assert metrics["PRM without score"]["AUC"] is None
    assert metrics["oracle (bound)"]["AUC of shown"] == 1


def test_nothing_recorded_at_all(half_done):
    empty = {case: [None] * len(cell) for case, cell in half_done.items()}
    assert tables.against(empty, "concat") == {}
    assert tables.in_words({}) == "not run yet"
    assert tables.conditions(tables.records_of({("a", "b"): empty})) == "not run yet"
    assert {row["NDCG@6"] for row in tables.comparison_table(empty, "concat")} == {"not run yet"}


def test_a_complete_difference_is_that_of_comparisons():
    first, second = of("DNR-B", quality=0.5), of("concat")
    assert tables.contrast([first], [second]) == comparisons.difference(first, second)
    score = of("score", [0])
    assert tables.contrast([first], [score]) == comparisons.difference(first, score)
    assert tables.level(first) == estimate(ndcg(first))


def test_only_seeds_that_all_have_are_paired():
    first, second = of("DNR-B", [0, 1, 2], 0.5), of("concat", [2, 1])
    there = tables.contrast([[*first]], [[None, *second]])
    assert there == comparisons.difference(first[1:], second)
    assert there.seeds == 2
    assert tables.contrast([of("DNR-B", [0])], [of("concat", [1])]) is None
    assert tables.contrast([first], [[None]]) is None


def test_an_interaction_is_a_difference_of_differences():
    groups = [of(method, quality=q) for method, q in
              [("DNR-B", 0.9), ("concat", 0.2), ("DNR-G", 0.4), ("none", 0.3)]]  # fmt: skip
    treated_a, plain_a, treated_b, plain_b = map(ndcg, groups)
    one = tables.contrast([groups[0], groups[3]], [groups[1], groups[2]])
    assert one == estimate((treated_a - plain_a) - (treated_b - plain_b))
    assert one.mean > 0.1


def test_different_lists_are_not_subtracted():
    others = [make_record(0, "concat", 0.3, make_lists(seed=5))]
    with pytest.raises(DataError, match="cannot be paired"):
        tables.contrast([of("DNR-B", [0])], [others])


def test_a_family_leaves_out_what_is_not_there_and_adjusts_the_rest():
    family = tables.family({"a": found(p=0.01), "b": None, "c": found(p=0.04), "d": found(p=0.03)})
    adjusted = holm({"a": 0.01, "b": 1.0, "c": 0.04, "d": 0.03})
    assert {name: one.p for name, one in family.items()} == {n: adjusted[n] for n in "acd"}


def test_no_side_is_told_while_seeds_are_missing():
    """One seed may be above by luck; and runs that arrive later turn no side that was told."""
    strong = of("DNR-B", quality=0.9)
    sides = {"whole": ([strong], [of("concat")]), "half": ([[strong[0], None]], [of("concat")])}
    found_now = tables.compared(sides)
    assert {name: one.side for name, one in found_now.items()} == {
        "whole": "above",
        "half": "seeds missing",
    }
    assert tables.in_words(found_now).endswith("seeds missing for half")
    alone = tables.compared({"whole": sides["whole"]})["whole"]
    assert found_now["whole"].p == pytest.approx(min(1, 2 * alone.p))
    cells = {"concat": of("concat"), "DNR-B": [strong[0], None, None]}
    row = tables.comparison_table(cells, "concat")[1]
    assert row["p (Holm)"] == "seeds missing"


def test_a_size_is_not_settled_while_seeds_are_missing():
    there = {"a": tables.Compared(found(0.0), 1.0), "b": tables.Compared(found(), 1.0, False)}
    settled = tables.settle(there, {"a": 0.5, "b": 0.5, "c": 0.5})
    assert settled["b"].words == "seeds missing"
    assert settled["a"].p_equivalent == pytest.approx(3 * equivalence(found(0.0), 0.5))


def test_the_scheme_is_that_of_the_records():
    other = make_record(0, "concat", 0.3, LISTS, data={"retriever": "crossfit"})
    assert tables.scores_of([other]) == "crossfit scores"
    assert tables.scores_of([*of("concat"), other]) == "crossfit or earlier scores"
    assert tables.scores_of([]) == "scores not run yet"


def test_the_oracle_is_in_no_family():
    cells = {"concat": of("concat"), "DNR-B": of("DNR-B"), "oracle": of("oracle", [0])}
    assert [*tables.against(cells, "concat")] == ["DNR-B"]


def test_words_follow_the_adjusted_p_value():
    compared = {
        "a": tables.Compared(found(0.1), 0.01),
        "b": tables.Compared(found(-0.1), 0.01),
        "c": tables.Compared(found(0.2), 0.06),
    }
    assert tables.in_words(compared, "for", 100, 1) == (
        "above for a (+10.0); below for b (-10.0); not told apart for c (+20.0)"
    )


@pytest.mark.parametrize(
    ("mean", "p", "margin", "words"),
    [
        (0.10, 0.01, 0.11, "about this size"),
        (0.10, 0.01, 0.05, "larger"),
        (0.10, 0.01, 0.50, "smaller"),
        (-0.1, 0.01, 0.11, "the opposite"),
        (0.01, 0.60, 0.30, "no difference of this size"),
        (0.01, 0.60, 0.01, "open"),
    ],
)
def test_a_difference_against_a_margin(mean, p, margin, words):
    one = tables.settle({"a": tables.Compared(found(mean), p)}, {"a": margin})["a"]
    assert one.words == words
    assert one.p_equivalent == equivalence(found(mean), margin)


def test_the_least_margin_is_where_equivalence_begins():
    one = found(-0.03, 0.02, 11)
    assert equivalence(one, tables.least_margin(one)) == pytest.approx(tables.LEVEL)


def test_more_runs_are_enough_if_there_is_no_difference():
    settled = tables.settle({"a": tables.Compared(found(0.0, error=0.08), 1.0)}, {"a": 0.04})["a"]
    narrower = replace(settled.compared.found, error=0.08 / settled.more**0.5)
    assert equivalence(narrower, 0.04) == pytest.approx(tables.LEVEL)
    assert settled.more == pytest.approx((student.ppf(0.95, 20) * 2) ** 2)


def test_another_unit_changes_neither_p_nor_size():
    one = tables.scaled(found(0.1, 0.02), 100)
    assert (one.mean, one.error, one.low) == pytest.approx((10, 2, 8))
    assert (one.p, one.size, one.freedom) == (0.01, 0.5, 20)


def test_every_method_has_a_label():
    assert tables.label("concat") == "PRM + score (concat)"
    assert tables.label("pier-DNR-B-no-adv") == "PIER + DNR-B without L_adv"
    assert tables.label("score-reversed") == "score reversed"
    assert tables.parts_of("prm-placed-concat") == ("prm-placed", "concat")
    assert tables.parts_of("DNR-B-no-x") == ("prm", "DNR-B-no-x")
    labels = [tables.label(method) for method in METHODS]
    assert len(set(labels)) == len(METHODS)


def test_the_paper_s_order():
    cases = ["DNR-B", "pier-concat", "sasrec-DNR-G", "sasrec-none", "oracle"]
    cells: tables.Cells = {case: [None] for case in cases}
    assert [*tables.in_paper_order(cells)] == [
        "oracle", "sasrec-none", "sasrec-DNR-G", "DNR-B", "pier-concat"
    ]  # fmt: skip


def test_the_paper_s_rows_are_those_of_the_claims():
    claims = load_claims()
    column, metric = tables.PAPER_COLUMNS["ml-1m"]
    for case, row in tables.PAPER_ROWS.items():
        claim = claims[f"main-{row}-{column}"]
        assert claim.evidence == f"full/{case}"
        assert claim.metric == metric
    assert {f"main-{row}-{column}" for row in tables.PAPER_ROWS.values()
            for column, _ in tables.PAPER_COLUMNS.values()} <= claims.keys()  # fmt: skip


def test_ours_beside_the_paper_s():
    cells = {"concat": of("concat"), "DNR-B": [None], "none": of("none")}
    plain, dnr = tables.beside_paper("ml-1m", cells)
    assert (plain.case, plain.metric, plain.paper) == ("concat", "ndcg@6", 72.85)
    assert plain.difference == pytest.approx(100 * ndcg(cells["concat"]).mean() - 72.85)
    assert dnr.difference is None
    rows = tables.paper_table("ml-1m", cells)
    assert rows[1]["ours, %"] == "not run yet"
    assert tables.beside_paper("simulated", cells) == []


def test_the_level_is_that_of_the_rules():
    rules = yaml.safe_load(Path("data/rules.yml").read_text("utf-8"))
    assert rules["family_level"] == tables.LEVEL


def test_what_the_runs_saw():
    sizes = {"users": 20, "items": 40, "train": 1200, "validation": 30}
    there = [replace(one, data=one.data | sizes) for one in of("concat", [3, 1])]
    assert tables.conditions([*there, *of("score", [0])]) == (
        "data set ml-1m, protocol shown+sampled, scores earlier, training lists 1,200, "
        "test lists 40, epochs 10, seeds 1, 3"
    )
    (row,) = tables.data_table(there)
    assert (row["data set"], row["train"], row["test"], row["note"]) == ("ml-1m", 1200, 40, "–")


def test_verdicts_of_some_kinds(tmp_path):
    rows = tables.verdict_table("naive use", "hyperparameter", results=tmp_path)
    kinds = ("naive use", "hyperparameter")
    assert len(rows) == sum(claim.kind in kinds for claim in load_claims().values())
    assert {row["verdict"] for row in rows} == {"not testable here"}
    assert rows[0]["claim"].endswith("(ml-1m)")


def test_a_forest_has_bars_for_what_is_there():
    fig, ax = plt.subplots()
    tables.forest(ax, {"a": found(0.1), "b": None}, {"a": "red"}, {"b": 0.3})
    drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines]
    plt.close(fig)
    assert drawn == [([0.1 - 0.02, 0.1 + 0.02], [0, 0]), ([0.1], [0]), ([0.3], [1])]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
