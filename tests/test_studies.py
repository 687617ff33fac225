"""Verdicts follow the rules of the protocol study; choices are compared with all else the same."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from made_up_records import make_record
from worlds import make_lists

from dnrlib import comparisons, studies
from dnrlib.errors import DataError
from dnrlib.metrics import expected_random_ndcg
from dnrlib.statistics import estimate
from dnrlib.studies import CALIBRATED, Study

LISTS = make_lists(lists=300)
OTHER = make_lists(lists=300, seed=1)
CELL = ("shown+sampled", "in-sample")
OUT = ("shown+sampled", "crossfit")
SEEDS = (0, 1, 2)
BUDGET = {"epochs": 4, "lambda_e": 2, "batch_size": 64, "learning_rate": 3e-3}


def record(method="concat", seed=0, quality=0.3, lists=LISTS, fingerprint="", **data):
    own = {} if method in ("score", "popularity") else {"training": BUDGET}
    made = make_record(seed, method, quality, lists, data={"dataset": "ml-1m", **data}, **own)
    made.data["fingerprint"] += fingerprint
    return made


def group(method, quality, lists=LISTS, seeds=SEEDS, **data):
    # other noise than that of another method, so that differences vary from list to list
    return [record(method, seed, quality, lists, **data) for seed in seeds]


def study(cells):
    """A study of these qualities; a cell with `OTHER` has other requests."""
    made = {
        cell: {name: group(name, quality, lists) for name, quality in methods.items()}
        for cell, (lists, methods) in cells.items()
    }
    return Study(made, SEEDS, 9, 9)


def test_calibrated_concat_is_never_plain_concat():
    assert studies.label(record().config) == "concat"
    assert studies.label(record(calibration="isotonic").config) == CALIBRATED


def test_the_same_requests_are_told_by_their_counts():
    rescored = record("none", fingerprint="other scores")
    assert studies.same_requests(record(), rescored)
    assert not studies.same_requests(record(), record(lists=OTHER))


def test_a_difference_is_paired_where_the_requests_are_the_same():
    first, second = group("none", 0.6), group("concat", 0.3, fingerprint="x")
    found = studies.difference(first, second)
    values = [comparisons.per_seed(one) for one in (first, second)]
    assert found == estimate(values[0] - values[1])
    assert found.low > 0
    with pytest.raises(DataError, match="different lists"):
        comparisons.difference(first, second)  # and this is why there is another one here


def test_a_difference_needs_only_the_seeds_that_both_have():
    first, second = group("none", 0.6, seeds=(0, 1)), group("concat", 0.3, seeds=(1, 2))
    assert studies.shared_seeds(first, second) == [1]
    found = studies.difference(first, second)
    assert found == studies.difference(first[1:], second[:1])
    assert studies.difference(first[:1], second) is None
    assert studies.difference([], second) is None


def test_what_is_not_trained_stands_for_every_seed():
    score = [record("score")]
    assert studies.shared_seeds(score, score) == [0]
    found = studies.difference(group("none", 0.6), score)
    assert found.seeds == 3


def test_other_requests_are_compared_by_welch():
    """With one seed and no cluster twice this is Welch's test, up to the bootstrap's error."""
    a, b = np.random.default_rng(0).random((2, 1, 400))
    b = b[:, :250] * 2
    found = studies.unpaired(a, b)
    first, second = a.var(ddof=1) / 400, b.var(ddof=1) / 250
    assert found.mean == pytest.approx(a.mean() - b.mean())
    assert found.error == pytest.approx(math.sqrt(first + second), rel=0.05)
    freedom = (first + second) ** 2 / (first**2 / 399 + second**2 / 249)
    assert found.freedom == pytest.approx(freedom, rel=0.1)
    assert (found.p < 0.05) == (found.low > 0 or found.high < 0)
    assert found.lists == 650
    same = studies.unpaired(np.ones((1, 9)), np.ones((1, 9)))
    assert (same.mean, same.p) == (0, 1)


@pytest.mark.equation("eq-repair")
def test_the_repair_is_a_difference_of_paired_differences():
    groups = [group(m, q) for m, q in (("DNR-B", 0.8), ("concat", 0.2))]
    out = [group(m, q, fingerprint="x") for m, q in (("DNR-B", 0.5), ("concat", 0.5))]
    found = studies.repair(*groups, *out)
    y = [comparisons.per_seed(one) for one in (*groups, *out)]
    assert found.mean == pytest.approx((y[0] - y[1]).mean() - (y[2] - y[3]).mean())
    assert found == estimate(y[0] - y[1] - y[2] + y[3])
    other = [group(m, q, OTHER) for m, q in (("DNR-B", 0.5), ("concat", 0.5))]
    apart = studies.repair(*groups, *other)
    assert apart.lists == 2 * found.lists
    assert studies.repair(*groups, other[0], []) is None


@pytest.mark.parametrize(
    ("inside", "outside", "verdict"), [(0.1, 0.9, "true"), (0.9, 0.1, "false")]
)
def test_h1_is_true_if_in_sample_scores_hurt(inside, outside, verdict):
    made = study({CELL: (LISTS, {"concat": inside}), OUT: (LISTS, {"concat": outside})})
    assert studies.in_sample_hurts(made, "shown+sampled").verdict == verdict


def test_h1_is_undecided_by_an_interval_that_holds_zero_and_open_without_runs():
    equal = {"concat": 0.5}
    made = study({CELL: (LISTS, equal), OUT: (LISTS, equal)})
    assert studies.in_sample_hurts(made, "shown+sampled").verdict == "undecided"
    assert studies.in_sample_hurts(made, "retrieved").verdict == "open"
    made.cells[OUT]["concat"].pop()
    found = studies.in_sample_hurts(made, "shown+sampled")
    assert found.verdict == "open"
    assert found.found.seeds == 2  # what there is, is shown


@pytest.mark.parametrize(
    ("inside", "outside", "verdict"),
    [(0.9, 0.2, "true"), (0.2, 0.9, "false"), (0.5, 0.5, "undecided")],
)
@pytest.mark.parametrize("lists", [LISTS, OTHER])
def test_h2_is_true_if_the_gain_is_greater_in_sample(inside, outside, verdict, lists):
    cells = {
        CELL: (LISTS, {"concat": 0.2, "DNR-B": inside}),
        OUT: (lists, {"concat": 0.2, "DNR-B": outside}),
    }
    if verdict == "undecided":
        cells = {CELL: cells[CELL], OUT: (lists, {"concat": 0.2, "DNR-B": inside})}
    assert studies.gain_is_repair(study(cells), "shown+sampled").verdict == verdict


@pytest.mark.parametrize(("quality", "verdict"), [(0.9, "false"), (0.1, "true"), (0.3, "true")])
def test_h3_is_true_unless_the_interval_lies_above_zero(quality, verdict):
    made = study({OUT: (LISTS, {"concat": 0.3, "DNR-B": quality})})
    assert studies.no_gain_crossfit(made, "shown+sampled").verdict == verdict
    assert studies.no_gain_crossfit(made, "retrieved").verdict == "open"


@pytest.mark.parametrize(
    ("dnr", "remedy", "verdict"),
    [
        (0.9, 0.9, "true"),  # both above concat, and level
        (0.6, 1.2, "true"),  # the remedy is the better one
        (1.2, 0.6, "false"),  # DNR-B beats the remedy
        (0.8, 0.3, "false"),  # the remedy does not beat concat
        (0.3, 0.9, "not asked"),  # DNR-B does not beat concat
    ],
)
def test_h4_asks_for_the_best_remedy_where_dnr_beats_concat(dnr, remedy, verdict):
    qualities = {"concat": 0.3, "DNR-B": dnr, "noise-B": remedy, "score-dropout": 0.1}
    made = study({CELL: (LISTS, qualities)})
    assert studies.best_remedy(made, CELL) == "noise-B"
    assert studies.a_remedy_does_it(made, CELL).verdict == verdict
    made.cells[CELL]["score-dropout"].pop()
    assert studies.a_remedy_does_it(made, CELL).verdict == "open"


def test_h4_is_true_if_no_cell_contradicts_it():
    def cells(*verdicts):
        return [studies.Finding("H4", "", None, verdict) for verdict in verdicts]

    assert studies.no_cell_against(cells("true", "not asked")) == "true"
    assert studies.no_cell_against(cells("not asked", "not asked")) == "not asked"
    assert studies.no_cell_against(cells("true", "open")) == "open"
    assert studies.no_cell_against(cells("true", "open", "false")) == "false"


def test_ends_near_zero_keep_their_side():
    one = studies.unpaired(np.full((1, 9), 0.01) + np.arange(9) / 900, np.zeros((1, 9)))
    words = studies.in_digits(one)
    assert words == f"{one.mean:+.5f} [{one.low:+.5f}, {one.high:+.5f}]"
    assert studies.in_digits(None) == "–"


@pytest.mark.parametrize(
    ("shift", "words"), [(-0.5, "excluded: any gain"), (0.0, "not excluded: gains up to +")]
)
def test_what_no_gain_leaves_open_is_told(shift, words):
    values = np.random.default_rng(0).normal(shift, 0.1, (3, 50))
    assert studies.not_excluded(estimate(values)).startswith(words)


def test_a_study_without_any_record_is_open_everywhere(tmp_path):
    found = studies.load_study(tmp_path)
    assert (found.recorded, found.seeds) == (0, SEEDS)
    assert found.planned > 100
    assert "score-jitter" in found.cells[CELL]
    assert "score-jitter" not in found.cells["retrieved", "in-sample"]
    verdicts = {finding.verdict for finding in studies.findings(found)}
    assert verdicts == {"open"}
    assert len(studies.findings(found)) == 3 * 3 + 9 + 1


def test_a_study_keeps_calibrated_runs_apart(tmp_path):
    from dnrlib.experiments import load_experiment

    chosen = [c for c in load_experiment("protocol-study") if c.method == "concat" and not c.seed]
    for number, config in enumerate(chosen):
        made = make_record(lists=LISTS, date=f"2020-01-{number + 1:02}")
        made.config.update(studies.plain(config))
        made.save(tmp_path)
    found = studies.load_study(tmp_path)
    assert found.recorded == len(chosen) == 18
    assert all(len(cell["concat"]) == len(cell[CALIBRATED]) == 1 for cell in found.cells.values())


# The multiverse


def made_up(value, method="concat", seed=0, **data):
    one = record(method, seed, **{"train_lists": 12000, "evaluation_lists": 2000, **data})
    one.metrics["test"] = {"ndcg@6": value}
    return one


@pytest.mark.equation("eq-range")
def test_a_choice_is_measured_with_all_else_the_same():
    records = [
        made_up(0.7, protocol="shown+sampled"),
        made_up(0.2, protocol="retrieved"),
        made_up(0.6, protocol="shown+sampled", retriever="crossfit"),
        made_up(0.3, protocol="retrieved", retriever="crossfit"),
        made_up(0.9, protocol="retrieved", seed=1),  # another seed has no partner
    ]
    table = studies.frame(records)
    assert studies.moves(table, "scheme")["range"].to_list() == pytest.approx([0.1, 0.1])
    assert studies.moves(table, "protocol")["range"].to_list() == pytest.approx([0.5, 0.3])
    assert studies.moves(table, "seed")["range"].to_list() == pytest.approx([0.7])
    assert studies.moves(table, "order").height == 0
    ranked = studies.ranked_choices(table)
    assert [row["choice"] for row in ranked] == ["seed", "protocol", "scheme"]
    assert ranked[1]["range"] == pytest.approx(0.4)
    assert (ranked[1]["largest"], ranked[1]["settings"]) == (pytest.approx(0.5), 2)


def test_dnr_is_ranked_as_one_choice_among_the_others():
    records = [
        made_up(value, method, protocol=protocol)
        for protocol, values in (("retrieved", (0.2, 0.3)), ("shown+sampled", (0.7, 0.5)))
        for method, value in zip(("concat", "DNR-B"), values, strict=True)
    ]
    table = studies.frame(records)
    assert studies.gains(table)["value"].to_list() == pytest.approx([0.1, -0.2])
    rows = {row["choice"]: row for row in studies.ranked_choices(table)}
    assert rows["DNR-B for concat"]["range"] == pytest.approx(0.15)
    assert rows["protocol"]["of the gain"] == pytest.approx(0.3)


def test_only_runs_with_the_books_own_settings_are_universes(tmp_path):
    kept = [
        made_up(0.5),
        made_up(0.5, order="given", selection="test", calibration="isotonic"),
        made_up(0.5, positive=4.0, list_length=10, factorisation={"dim": 8}),
        record("score"),
    ]
    left_out = [
        made_up(0.5, candidates=20),
        make_record(data={"dataset": "ml-1m"}, options={"dim": 16}),
        make_record(data={"dataset": "ml-1m"}, reranker="sasrec"),
        make_record(data={"dataset": "simulated"}),
    ]
    for number, one in enumerate([*kept, *left_out]):
        object.__setattr__(one, "run", f"run-{number}")
        one.save(tmp_path)
    found = studies.universes(results=tmp_path)
    assert sorted(one.run for one in found) == [f"run-{number}" for number in range(len(kept))]


def test_a_row_says_what_was_chosen():
    row = studies.row_of(made_up(0.5, positive=4.0, factorisation={"dim": 8}).config)
    assert row["liked from"] == "4"
    assert row["retriever"] == "d = 8, 4 epochs"
    assert row["training"] == "12000 lists × 4 at 0.003"
    assert (row["order"], row["best epoch by"], row["places"]) == ("shuffled", "validation", False)
    assert studies.row_of(record("score").config)["training"] == "all lists"
    base = studies.base_choices()
    assert (base["scheme"], base["calibration"], base["list length"]) == ("earlier", "none", "6")


def test_twins_differ_in_one_setting_alone():
    shuffled = made_up(0.5)
    given = made_up(0.6, order="given")
    lonely = made_up(0.7, order="given", positive=4.0)
    found = studies.twins([shuffled, lonely, given], "order", "given", "shuffled")
    assert found == {("shown+sampled", "concat"): ([given], [shuffled])}


# What a figure is worth


@pytest.mark.equation("eq-shown-first")
@pytest.mark.parametrize(("liked", "shown", "k"), [(2, 3, 6), (3, 5, 4), (1, 1, 2), (4, 4, 2)])
def test_shown_first_is_the_mean_over_all_orders_of_the_shown(liked, shown, k):
    orders = set(itertools.permutations([True] * liked + [False] * (shown - liked)))
    dcg = [sum(z / math.log2(place + 2) for place, z in enumerate(o[:k])) for o in orders]
    ideal = sum(1 / math.log2(place + 2) for place in range(min(liked, k)))
    found = studies.shown_first(np.array([liked]), np.array([shown]), k)
    assert found[0] == pytest.approx(np.mean(dcg) / ideal)


def test_shown_first_is_chance_where_everything_was_shown():
    labels = LISTS.labels
    n = labels.shape[1]
    found = studies.shown_first(labels.sum(1).numpy(), np.full(len(labels), n), 6)
    assert found == pytest.approx(expected_random_ndcg(labels, 6).numpy())


@pytest.mark.equation("eq-optimism")
def test_scores_that_remember_are_optimistic():
    honest, remembered = make_lists(signal=0.5), make_lists(signal=3.0)
    assert studies.optimism(honest, honest) == 0
    x, z = remembered.scores, remembered.labels
    u, w = honest.scores, honest.labels
    wanted = (x[z].mean() - x[~z].mean()) - (u[w].mean() - u[~w].mean())
    assert studies.optimism(remembered, honest) == pytest.approx(float(wanted))
    assert studies.optimism(remembered, honest) > 0.2


def test_what_two_schemes_share_is_counted_by_request():
    n = LISTS.items.shape[1]
    assert studies.overlap(LISTS, LISTS) == (1, n)
    items = LISTS.items.clone()
    items[:, 0] = LISTS.items.max() + 1  # one candidate of each list is another
    other = replace(LISTS, items=items)
    assert studies.overlap(LISTS, other) == (1, n - 1)
    half = LISTS[::2]
    assert studies.overlap(LISTS, half) == (pytest.approx(0.5, abs=0.01), n)
    apart = replace(LISTS, list=LISTS.list + LISTS.list.max() + 1)
    share, common = studies.overlap(LISTS, apart)
    assert share == 0
    assert math.isnan(common)
