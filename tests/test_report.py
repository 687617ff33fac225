"""A report says what its rule says, about files that nobody has seen before."""

import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from math import inf

import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import norm
from worlds import make_lists

from dnrlib import cli
from dnrlib.errors import ConfigError, DataError
from dnrlib.log import TEST, TRAIN, VALIDATION
from dnrlib.logged import check
from dnrlib.records import load_records
from dnrlib.report import (
    Asked,
    answered,
    contrasts,
    find,
    lists_needed,
    page_of,
    pictures,
    plan,
    write,
)
from dnrlib.report.answer import Contrast, _by_seed_alone, nothing_to_order
from dnrlib.report.extras import robust, serving
from dnrlib.report.found import _clusters
from dnrlib.report.runs import DENOISING, SIMPLER
from dnrlib.report.score import _less, score_alone
from dnrlib.statistics import estimate

SMALL = {"options": {"dim": 8, "layers": 1}}


def log_file(path, requests=80, n=6, seed=0, lean=1.5, **columns):
    """A log in which the score knows something of the label; some candidates were not shown."""
    rng = np.random.default_rng(seed)
    shown = rng.random((requests, n)).argsort(1) < 4
    liked = shown & (rng.random((requests, n)) < 0.4)
    liked[:, 0], shown[:, 0] = True, True
    frame = {
        "request": np.repeat(np.arange(requests), n),
        "time": np.repeat(np.arange(requests), n),
        "user": np.repeat(rng.integers(9, size=requests), n),
        "item": rng.random((requests, 30)).argsort(1)[:, :n].ravel(),
        "score": (lean * liked + rng.normal(size=liked.shape)).ravel(),
        "label": liked.ravel(),
        "shown": shown.ravel(),
    } | columns
    frame = pl.DataFrame({name: column for name, column in frame.items() if column is not None})
    getattr(frame, f"write_{path.suffix[1:]}")(path)
    return path


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    """The folder of all tests, with a log whose name is awkward in HTML and in a shell."""
    folder = tmp_path_factory.mktemp("report")
    log_file(folder / "my <b>& lists.csv")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture
def no_graphs(monkeypatch):
    """Without comparing programs, which takes seconds and is tried once."""
    monkeypatch.setattr("dnrlib.report.extras._graphs", lambda models, lists: dict.fromkeys(models))


@pytest.fixture(scope="module")
def asked(place):
    file = str(place / "my <b>& lists.csv")
    return Asked(file, seeds=2, epochs=2, learning_rates=(0.002, 0.02), settings=SMALL)


@pytest.fixture(scope="module")
def found(asked, place):
    said = []
    there = find(asked, results=place / "results", runs=place / "runs", say=said.append)
    assert said[0].startswith("24 runs to do: about")
    return there


# The rule ----------------------------------------------------------------------------------


def noise(seeds=3, lists=400, mean=0.0, spread=0.05, seed=0):
    rng = np.random.default_rng(seed)
    return mean + rng.normal(0, spread, (seeds, lists))


def verdicts(values, effect=0.02):
    zero = np.zeros_like(next(iter(values.values())))
    return {one.method: one.verdict for one in contrasts(values, zero, effect)}


def test_the_four_verdicts():
    values = {
        "DNR-G": noise(mean=0.05),
        "DNR-B": noise(mean=-0.05, seed=1),
        "noise-G": noise(seed=2),
        "noise-B": noise(spread=1.0, seed=3),
    }
    assert verdicts(values) == {
        "DNR-G": "better",
        "DNR-B": "worse",
        "noise-G": "as good",
        "noise-B": "open",
    }


def test_to_try_many_methods_is_paid_for():
    one = noise(mean=0.0065, seed=5)
    assert estimate(one).p < 0.05
    others = {name: noise(seed=10 + i) for i, name in enumerate((*SIMPLER, *DENOISING[1:]))}
    assert verdicts({"noise-G": one}, 0.001)["noise-G"] == "better"
    assert verdicts({"noise-G": one, **others}, 0.001)["noise-G"] == "open"


@pytest.mark.equation("eq-own-cascade-difference")
def test_the_difference_is_paired_by_list_and_seed(found):
    own = [one.per_list()["ndcg@6"].numpy() for one in found.runs.of["DNR-B"]]
    plain = [one.per_list()["ndcg@6"].numpy() for one in found.runs.of["concat"]]
    pairs = [a - b for row, other in zip(own, plain, strict=True)
             for a, b in zip(row, other, strict=True)]  # fmt: skip
    [mine] = [one for one in found.contrasts if one.method == "DNR-B"]
    assert mine.found.mean == pytest.approx(sum(pairs) / len(pairs))
    assert mine.found.seeds == 2


@pytest.mark.equation("eq-own-cascade-needed")
def test_lists_needed_are_those_of_the_textbook_where_seeds_agree():
    row = np.random.default_rng(0).normal(0, 0.1, 500)
    z = norm.ppf(0.975) + norm.ppf(0.8)
    assert lists_needed(row[None], 0.01) == pytest.approx((z * row.std() / 0.01) ** 2, rel=0.1)
    assert lists_needed(row[None], 0.005) == pytest.approx(
        4 * lists_needed(row[None], 0.01), rel=1e-3
    )


def test_with_the_lists_needed_the_test_finds_the_effect_as_often_as_it_says():
    """Where seeds and lists vary together, the test is cautious, and so must the number be."""
    rng, said, found = np.random.default_rng(0), [], []
    for _ in range(150):
        by_list, by_both = rng.normal(0, 0.05, 300), rng.normal(0, 0.2, (3, 300))
        values = 0.035 + by_list + by_both
        said.append(lists_needed(values, 0.035, 0.01) <= 300)
        found.append(estimate(values, resamples=200).p < 0.01)
    assert sum(said) > 30
    assert np.mean(found, where=said) > 0.7


def test_no_number_of_lists_tells_what_seeds_hide():
    seeds = np.array([[0.05], [-0.05], [0.0]])
    assert lists_needed(seeds + noise(lists=5000), 0.01) == inf
    assert np.isfinite(lists_needed(seeds + noise(lists=5000), 0.2))


def test_what_varies_by_seed_alone_is_found_in_a_table_that_adds_up():
    by_seed, by_list = np.array([[0.1], [0.4], [0.2]]), np.random.default_rng(0).normal(size=50)
    assert _by_seed_alone(by_seed + by_list) == pytest.approx(by_seed.var(ddof=1))
    assert _by_seed_alone(by_list[None]) == 0


def test_an_effect_must_be_positive():
    with pytest.raises(ConfigError, match="effect = 0"):
        lists_needed(noise(), 0)


# The sentence ------------------------------------------------------------------------------


def contrast(method, verdict, mean=0.0, half=0.01, needed=10.0):
    values = estimate(np.random.default_rng(0).normal(size=(3, 50)))
    fitted = replace(values, mean=mean, low=mean - half, high=mean + half)
    return Contrast(method, fitted, 0.5, 0.5, verdict, needed)


def answer_of(*found, effect=0.02):
    rest = [
        contrast(name, "open") for name in DENOISING if name not in {one.method for one in found}
    ]
    return answered([*found, *rest], effect, requests=12)


def test_what_is_better_is_named_with_its_interval():
    answer = answer_of(contrast("DNR-B", "better", 0.05), contrast("noise-G", "better", 0.06))
    assert answer.kind == "helps"
    assert "noise-G +0.060 (+0.050 to +0.070), DNR-B +0.050 (+0.040 to +0.060)" in answer.sentence
    assert "not excluded" not in answer.sentence


def test_a_gain_that_may_be_too_small_to_matter_is_called_so():
    sentence = answer_of(contrast("DNR-B", "better", 0.025)).sentence
    assert "less than 0.02, the smallest gain that matters to you, is not excluded" in sentence


def test_a_simpler_remedy_that_does_it_too_is_named():
    answer = answer_of(contrast("DNR-B", "better", 0.05), contrast("score-jitter", "better", 0.04))
    assert "Simpler than denoising, and better too: score-jitter +0.040" in answer.sentence


def test_one_worse_and_none_better_hurts():
    answer = answer_of(contrast("DNR-B", "worse", -0.05))
    assert answer.kind == "hurts"
    assert "DNR-B -0.050" in answer.sentence


def test_all_within_the_effect_is_no_difference():
    assert answer_of(*(contrast(name, "as good") for name in DENOISING)).kind == "no difference"


def test_a_simpler_remedy_alone_is_no_help_of_denoising():
    assert answer_of(contrast("score-jitter", "better", 0.04)).kind == "open"


@pytest.mark.parametrize(
    ("needed", "words"),
    [
        (1234, "you would need about 1,200 test lists, a log of about 15,000 requests"),
        (inf, "takes more seeds first"),
        (20, "would have been found with a probability of 80%"),
    ],
)
def test_an_open_answer_says_what_would_close_it(needed, words):
    answer = answer_of(contrast("DNR-B", "open", 0.01, 0.03, needed))
    assert answer.kind == "open"
    assert "Differences of more than 0.040 NDCG@6 do not fit" in answer.sentence
    assert words in answer.sentence


# The score alone ---------------------------------------------------------------------------


def lists_with(train=0.0, later=0.0, **more):
    """300 lists in time order whose score leans towards the label, in training as said."""
    lists = make_lists(lists=300, signal=0.0, **more)
    split = torch.full((300,), TRAIN, dtype=torch.int8)
    split[240:270], split[270:] = VALIDATION, TEST
    lean = torch.where(split[:, None] == TRAIN, train, later)
    scores = ((1 - lean.abs()) * lists.scores + lean.abs() * (lists.labels == (lean > 0))).float()
    return replace(lists, split=split, scores=scores, list=torch.arange(300, dtype=torch.int32))


def test_a_step_where_training_ends_is_in_sample():
    alone = score_alone(lists_with(train=0.4), exposure=True)
    assert alone.in_sample
    assert alone.gap.low > 0.1
    assert any("looks in-sample" in text for text in alone.warnings())


def test_a_score_that_is_the_same_throughout_is_not():
    alone = score_alone(lists_with(train=0.2, later=0.2), exposure=True)
    assert not alone.in_sample
    assert not alone.reversed_is_better
    assert list(alone.warnings()) == []


def test_a_score_that_points_the_wrong_way_is_said_loudly():
    alone = score_alone(lists_with(train=-0.4, later=-0.4), exposure=True)
    assert alone.reversed_is_better
    assert alone.ndcg["score"].mean < alone.ndcg["random order"].mean
    assert "Your score reversed ranks better" in next(alone.warnings())


def test_the_order_of_the_tensors_is_not_the_order_of_time():
    lists = lists_with(train=0.4)
    shuffled = lists[torch.randperm(300, generator=torch.Generator().manual_seed(0))]
    first, second = (score_alone(one, exposure=True) for one in (lists, shuffled))
    assert first.step.mean == pytest.approx(second.step.mean, abs=0.02)
    np.testing.assert_allclose(first.blocks[0], second.blocks[0])


def test_no_stretch_of_the_log_spans_two_splits():
    alone = score_alone(lists_with(), exposure=True)
    assert alone.borders == pytest.approx((0.8, 0.9))
    assert len(alone.blocks[0]) == 20
    width = 1 / 20
    for border in alone.borders:
        assert not any(abs(middle - border) < width / 2 - 1e-9 for middle in alone.blocks[0])


@pytest.mark.parametrize(
    ("side", "words"),
    [(1, "as under shown+sampled"), (-1, "as under shown+retrieved"), (0, "as under retrieved")],
)
def test_the_protocol_is_read_from_what_was_shown(side, words):
    lists = lists_with()
    noise = torch.rand(lists.shown.shape, generator=torch.Generator().manual_seed(1))
    scores = 0.5 * noise + 0.25 + 0.25 * side * (2.0 * lists.shown - 1)
    assert words in score_alone(replace(lists, scores=scores), exposure=True).looks_like()
    assert "not known" in score_alone(lists, exposure=False).looks_like()


def test_intervals_of_auc_keep_the_lists_of_a_user_together():
    # every list four times: with users, that is no news; without, it seems to be
    lists = lists_with(train=0.2)
    of = torch.arange(300).repeat_interleave(4)
    number = torch.arange(1200, dtype=torch.int32)
    four = replace(lists[of], list=number, users=of.to(lists.users.dtype))
    four = replace(four, meta=lists.meta | {"users": 300})
    once = score_alone(lists, exposure=True)
    users = score_alone(four, exposure=True, by_user=True)
    blind = score_alone(four, exposure=True)
    for name in ("gap", "step", "shown_apart"):
        one, kept, seeming = (getattr(found, name) for found in (once, users, blind))
        assert kept.mean == pytest.approx(one.mean)
        assert kept.error == pytest.approx(one.error, rel=0.1)
        assert seeming.error == pytest.approx(one.error / 2, rel=0.1)


def test_the_error_of_a_difference_of_other_lists_is_that_of_welch():
    rng = np.random.default_rng(0)
    a, b = rng.normal(1, 1, 400), rng.normal(0, 3, 300)
    found = _less(a, b, np.arange(400), np.arange(400, 700))
    assert found.mean == pytest.approx(a.mean() - b.mean())
    welch = np.sqrt(a.var(ddof=1) / 400 + b.var(ddof=1) / 300)
    assert found.error == pytest.approx(welch, rel=0.05)
    # the same lists of the same users on both sides
    assert _less(a, a, np.arange(400), np.arange(400)).error == pytest.approx(0, abs=1e-12)
    assert _less(a[:1], b, np.arange(1), np.arange(300)) is None
    assert _less(a, b, np.zeros(400), np.zeros(300)) is None


def test_a_score_that_is_a_probability_lies_on_the_line():
    lists = lists_with()
    rng = torch.Generator().manual_seed(0)
    scores = torch.rand(lists.scores.shape, generator=rng)
    labels = torch.rand(lists.scores.shape, generator=rng) < scores
    alone = score_alone(replace(lists, scores=scores, labels=labels, shown=labels), exposure=False)
    mean, liked = alone.calibration
    np.testing.assert_allclose(liked, mean, atol=0.2)
    assert np.abs(liked - mean).mean() < 0.08


# What is run -------------------------------------------------------------------------------


def test_every_method_has_the_same_budget(found, asked):
    assert set(found.runs.of) == {"score", "score-reversed", "popularity", "oracle", *asked.methods}
    for method in asked.methods:
        records = found.runs.of[method]
        assert [one.seed for one in records] == [0, 1]
        assert {len(one.curves) for one in records} == {2}
        assert set(found.runs.tried[method]) == {0.002, 0.02}


def test_validation_chooses_the_learning_rate(found, place):
    records = [*load_records(place / "results")]
    for method, tried in found.runs.tried.items():
        first = {
            one.config["training"]["learning_rate"]: one.metrics["validation"]["ndcg@6"]
            for one in records
            if one.method == method and one.seed == 0
        }
        assert first == tried
        rates = {one.config["training"]["learning_rate"] for one in found.runs.of[method]}
        assert rates == {max(first, key=first.get)}


def test_given_again_nothing_is_done_twice(found, asked, place, no_graphs):
    folders = {"results": place / "results", "runs": place / "runs"}
    name = found.runs.of["DNR-G"][1].run
    [path] = (place / "results").rglob(f"{name}.json")
    before = {one: one.stat().st_mtime_ns for one in (place / "results").rglob("*.json")}
    path.unlink()
    assert [method for method, _ in plan(asked, found.lists, **folders).epochs_left] == ["DNR-G"]
    said = []
    again = find(asked, **folders, say=said.append)
    after = {one: one.stat().st_mtime_ns for one in (place / "results").rglob("*.json")}
    assert {one for one in before if before[one] != after[one]} == {path}
    assert said[0].startswith("1 runs to do, 23 are recorded already")
    assert again.answer == found.answer


def test_a_budget_that_is_too_small_stops_before_anything_is_done(asked, tmp_path):
    with pytest.raises(ConfigError, match=r"budget = 0\.001 minutes: the 24 runs would take about"):
        find(asked, results=tmp_path / "results", runs=tmp_path / "runs", budget=0.001)
    assert not [*tmp_path.rglob("*.json")]


def test_a_budget_offers_what_fits(found):
    planned = replace(found.planned, epochs_left=[("concat", 2)] * 100)
    with pytest.raises(ConfigError, match=r"Give --train-lists \d+ \(about") as error:
        planned.check_budget(0.8 * planned.seconds / 60)
    offered = int(re.findall(r"--train-lists (\d+)", str(error.value))[0])
    assert planned._with("--train-lists", offered) <= 0.8 * planned.seconds
    assert planned._with("--train-lists", 2 * offered) > 0.8 * planned.seconds
    planned.check_budget(1.01 * planned.seconds / 60)


def test_a_method_that_cannot_be_trained_is_left_out_with_the_reason(asked, found):
    ranks = replace(asked, settings={"options": {**SMALL["options"], "score_use": "rank"}})
    planned = plan(ranks, found.lists)
    assert set(planned.left_out) == {"DNR-G", "DNR-B"}
    assert "no gradient" in planned.left_out["DNR-B"]


def test_variants_of_prm_are_not_compared_with_another_reranker(asked):
    methods = replace(asked, reranker="setrank").methods
    assert set(asked.methods) - set(methods) == {"score-dropout", "score-jitter"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seeds": 0}, "seeds = 0"),
        ({"effect": 0.0}, "effect = 0"),
        ({"learning_rates": ()}, "learning_rates"),
        ({"reranker": "prn"}, "reranker 'prn' is unknown"),
        ({"settings": {"seed": 3}}, "sets seed"),
        ({"settings": {"data": {"file": "other.csv"}}}, "sets data.file"),
        ({"settings": {"training": {"lamda_c": 0.3}}}, "training.lamda_c"),
    ],
)
def test_what_cannot_be_asked(asked, wrong, message):
    with pytest.raises(ConfigError, match=message):
        replace(asked, **wrong)


def test_the_printed_command_asks_the_same(asked):
    words = shlex.split(asked.command)
    assert words[:3] == ["dnr", "report", asked.file]
    pairs = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    assert cli._settings(pairs) == asked.settings
    rates = [float(words[i + 1]) for i, word in enumerate(words) if word == "--learning-rate"]
    assert tuple(rates) == asked.learning_rates


# The page ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(found):
    """The page of the fixture's report."""
    return page_of(found)


class Seen(HTMLParser):
    """What a browser would be told to load, and what it could be told to go to."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.links, self.ids, self.alts, self.tags = [], [], set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append(tag)
        self.loads += [given[name] for name in ("src", "srcset") if name in given]
        self.links += [given["href"]] if "href" in given else []
        self.ids |= {given["id"]} if "id" in given else set()
        self.alts += [given.get("alt")] * (tag == "img")


def test_the_page_needs_nothing_else_and_its_links_lead_somewhere(text):
    seen = Seen(text)
    assert seen.loads
    assert all(source.startswith("data:image/svg+xml;base64,") for source in seen.loads)
    assert all(link.startswith("#") and link[1:] in seen.ids for link in seen.links)
    assert not {"script", "link", "iframe"} & set(seen.tags)
    assert all(seen.alts)
    assert len(seen.alts) == 4


def test_the_page_begins_with_the_answer(found, text):
    text = re.sub("<[^>]+>", " ", text.partition("<nav")[0])
    assert found.answer.headline in text
    assert found.contrasts[0].found.lists == len(found.lists.of_split("test"))
    assert f"{found.contrasts[0].found.lists} test lists" in text


def test_a_name_is_text_and_no_markup(text):
    assert "my <b>&" not in text
    assert "my &lt;b&gt;&amp; lists.csv" in text


def test_every_run_is_named(found, text):
    assert all(one.run in text for group in found.runs.of.values() for one in group)
    assert found.lists.fingerprint in text


def test_the_score_is_beside_reversed_popularity_and_oracle(found):
    rows = {row["order"]: row for row in pictures.score_rows(found)}
    assert list(rows) == [
        "score alone", "score reversed", "popularity", "oracle (bound)", "random (expected)",
    ]  # fmt: skip
    assert rows["oracle (bound)"]["NDCG@6"].startswith("1.000")
    assert {"AUC among shown", "AUC shown or not"} <= set(rows["score alone"])


def test_denoising_is_served_by_the_same_operations_and_a_model_without_score_is_not(found):
    same = {name: one.same_graph for name, one in found.serving.items()}
    assert all(same[name] for name in DENOISING)
    assert same["none"] is False


def test_a_method_that_ignores_the_score_does_not_feel_a_disturbed_one(found):
    levels = found.robustness.means["none"]
    assert len(set(levels.values())) == 1
    assert found.robustness.means["score"]["reversed", 1.0] < levels["clean", 0.0]


def test_without_the_weights_the_rest_is_still_said(place, found):
    of, nowhere = found.runs.of, place / "nowhere"
    assert robust({"concat": of["concat"]}, found.lists, nowhere) is None
    assert serving({"concat": of["concat"][0]}, found.lists, nowhere) == {}
    other = page_of(replace(found, robustness=None, serving={}))
    assert "the weights of some runs are not on this machine" in other


def test_nothing_is_left_of_a_page_that_could_not_be_written(found, tmp_path, monkeypatch):
    def broken(_):
        raise OSError("full")

    monkeypatch.setattr("dnrlib.report.page.page_of", broken)
    with pytest.raises(OSError, match="full"):
        write(found, tmp_path / "report.html")
    assert not [*tmp_path.iterdir()]


# Files -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [0] * 480}, "no list of n = 6 has a positive label"),
        ({"score": [0.5] * 479 + [float("nan")]}, "line 481: score is 'NaN', but must be a finite"),
        ({"item": [1] * 480}, "stands in this request before"),
        ({"request": range(480)}, "the longest has 1"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_nothing_is_written(tmp_path, columns, message):
    path = log_file(tmp_path / "log.csv", **columns)
    with pytest.raises(DataError, match=message) as error:
        find(Asked(str(path)), results=tmp_path / "results", runs=tmp_path / "runs")
    assert str(path) in str(error.value)
    assert [*tmp_path.iterdir()] == [path]


FAST = {"seeds": 1, "epochs": 1, "learning_rates": (0.01,), "settings": SMALL}


def test_where_everything_is_liked_there_is_nothing_to_answer(tmp_path, no_graphs):
    path = log_file(tmp_path / "log.parquet", label=[1] * 480, shown=None)
    there = find(Asked(str(path), **FAST), results=tmp_path / "results", runs=tmp_path / "runs")
    assert there.answer == nothing_to_order()
    assert "This log cannot answer it" in page_of(there)


def test_constant_scores_unknown_exposure_and_one_seed_are_said(tmp_path, no_graphs):
    path = log_file(tmp_path / "log.parquet", score=[7.0] * 480, shown=None)
    there = find(Asked(str(path), **FAST), results=tmp_path / "results", runs=tmp_path / "runs")
    assert not there.exposure
    assert "all scores are the same" in there.understood.warnings
    assert any("With one seed" in text for text in there.answer.besides)
    assert "outside of the map" in page_of(there)


def test_lists_of_one_user_stay_together_where_users_are_known(found, tmp_path):
    users = found.lists.of_split("test").users.numpy()
    assert len(set(users.tolist())) > 1
    np.testing.assert_array_equal(found.clusters, users)
    nobody = check(log_file(tmp_path / "log.parquet", user=None))
    assert _clusters(nobody, found.lists.of_split("test")) is None


# The command -------------------------------------------------------------------------------


def dnr(*arguments):
    """Exit code of a command."""
    try:
        cli.main([str(one) for one in arguments])
    except SystemExit as stop:
        return stop.code
    return 0


def test_the_command_writes_the_page(place, capsys, no_graphs):
    log_file(place / "own.parquet")
    options = ["--seeds", 1, "--epochs", 1, "--learning-rate", 0.01, "--workers", 1]
    small = ["--train-lists", 64, "--set", "options={dim: 8, layers: 1}", "--out", "own.html"]
    assert dnr("report", "own.parquet", *options, *small) == 0
    out = capsys.readouterr().out
    assert re.search(r"8 runs to do: about .*given again, it goes on", out)
    assert "[12/12]" in out
    assert "Wrote own.html" in out
    text = (place / "own.html").read_text()
    assert "64 training lists" in text
    assert "--set data.train_lists=64" in text


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["nowhere.csv"], 3), (["own.csv", "--out", "."], 2), (["own.csv", "--effect", 2], 2)],
)
def test_a_wrong_command_writes_nothing(tmp_path, monkeypatch, arguments, code):
    monkeypatch.chdir(tmp_path)
    log_file(tmp_path / "own.csv")
    assert dnr("report", *arguments) == code
    assert [one.name for one in tmp_path.iterdir()] == ["own.csv"]
