"""Several kinds of feedback: joined to the lists, learnt together, and kept in the record."""

import math
from dataclasses import replace

import polars as pl
import pytest
import torch
from made_up_records import make_record
from test_kuairand import LATE, line, log, make_folder
from torch.nn import functional as F
from worlds import make_lists

from dnrlib.behaviours import BehaviourLists, behaviours_of
from dnrlib.comparisons import difference
from dnrlib.data import SimulatedWorld
from dnrlib.data.steps import raw_ids, to_log
from dnrlib.errors import ConfigError, DataError, DnrError
from dnrlib.experiments import (
    FIXED,
    UNTRAINED,
    evaluate,
    lists_of,
    load_experiment,
    load_generator,
    load_reranker,
    run,
    run_config,
)
from dnrlib.feedback import KINDS, exposures, interactions, kinds_of, with_behaviours
from dnrlib.lists import CandidateLists
from dnrlib.losses import conditional_regulariser, gaussian_kl, moments
from dnrlib.metrics import ndcg, per_list, rank
from dnrlib.noise import BetaNoise, GaussianNoise, MLPNoise
from dnrlib.prepare import DataConfig
from dnrlib.records import Record
from dnrlib.rerankers import build
from dnrlib.training import Trainer, TrainingConfig, synthetic_lists
from dnrlib.variants.behaviours import (
    BehaviourNoise,
    BehaviourTrainer,
    MeanNoise,
    mean_ndcg,
    regulariser_of_all,
)

SIZES = {"dim": 16, "heads": 2, "feed_forward": 24, "layers": 1, "score_use": "concat"}
DNR = TrainingConfig(epochs=3, lambda_e=1, batch_size=16, noise="beta", generator="scores")
DATA = DataConfig("simulated", retriever="noisy-truth", train_lists=200, evaluation_lists=80)


def several(lists=None, kinds=3, seed=0):
    """Lists whose first kind is the label; each later one is a random half of what was shown."""
    lists = make_lists() if lists is None else lists
    generator = torch.Generator().manual_seed(seed)
    others = torch.rand(*lists.labels.shape, kinds - 1, generator=generator) < 0.5
    found = torch.cat([lists.labels[:, :, None], others & lists.shown[:, :, None]], dim=2)
    names = [f"kind {number}" for number in range(kinds)]
    meta = lists.meta | {"behaviours": names}
    return BehaviourLists(**lists._tensors(), behaviours=found, meta=meta)


LISTS = several(make_lists(signal=0.5))
TRAIN, VALIDATION = LISTS.of_split("train"), LISTS.of_split("validation")


def small(seed=0, name="prm-behaviours", lists=LISTS, **options):
    torch.manual_seed(seed)
    return build(name, lists, **SIZES | options)


# The lists --------------------------------------------------------------------------------


def test_the_kinds_go_wherever_the_lists_go():
    part = LISTS[torch.tensor([3, 1])]
    assert torch.equal(part.behaviours, LISTS.behaviours[[3, 1]])
    assert isinstance(LISTS.to("cpu"), BehaviourLists)
    assert torch.equal(TRAIN.behaviours, LISTS.behaviours[LISTS.split == 0])
    again = BehaviourLists.concatenate([LISTS[:5], LISTS[5:]], LISTS.meta)
    assert again.fingerprint == LISTS.fingerprint
    assert type(LISTS.plain) is CandidateLists
    assert LISTS.plain.fingerprint != LISTS.fingerprint


def test_other_feedback_makes_other_lists():
    flipped = LISTS.behaviours.clone()
    flipped[0, 0, 2] ^= True
    assert replace(LISTS, behaviours=flipped).fingerprint != LISTS.fingerprint
    named = replace(LISTS, meta=LISTS.meta | {"behaviours": ["a", "b", "c"]})
    assert named.fingerprint != LISTS.fingerprint


def test_kinds_that_cannot_be_are_refused():
    assert LISTS.validate() is LISTS
    flipped = LISTS.behaviours.clone()
    flipped[4, 0, 0] ^= True
    with pytest.raises(DnrError, match=r"list 4 \(1 in all\): kind 0 is not the label"):
        replace(LISTS, behaviours=flipped).validate()
    hidden = LISTS.behaviours.clone()
    hidden[:, :, 1] |= ~LISTS.shown
    with pytest.raises(DnrError, match=r"list 0 .*not shown has feedback"):
        replace(LISTS, behaviours=hidden).validate()
    with pytest.raises(DnrError, match="behaviours is of shape"):
        replace(LISTS, behaviours=LISTS.behaviours[:, :, :2]).validate()


def test_lists_of_one_kind_have_it_as_often_as_asked():
    assert torch.equal(behaviours_of(LISTS), LISTS.behaviours)
    one = behaviours_of(LISTS.plain, 2)
    assert one.shape == (*LISTS.labels.shape, 2)
    assert torch.equal(one[:, :, 1], LISTS.labels)


# Joining ----------------------------------------------------------------------------------


def hand_made(config, rows):
    """Lists of the log's shown items and of three others, every list of the log."""
    source, frame = exposures(config)
    made = to_log(frame, source.name, source.note, config.list_length)
    shown = made.item[made.rows()]
    others = [[i for i in range(1, made.items + 1) if i not in row][:3] for row in shown.tolist()]
    items = torch.cat([shown, torch.tensor(others)], dim=1)
    was_shown = torch.zeros(items.shape, dtype=torch.bool)
    was_shown[:, : config.list_length] = True
    labels = torch.zeros_like(was_shown)
    labels[:, : config.list_length] = made.label[made.rows()]
    count = len(items)
    lists = CandidateLists(
        users=made.list_user.int(), history=items[:, :2].int(), items=items.int(),
        scores=torch.full(items.shape, 0.5), labels=labels, shown=was_shown,
        split=made.split, list=torch.arange(count).int(),
        meta={"users": made.users, "items": made.items, "log": made.fingerprint},
    )  # fmt: skip
    return lists, raw_ids(frame)


@pytest.fixture
def kuairand(tmp_path, monkeypatch):
    """Nine videos shown to each of two users; who did what is told by (user, video)."""
    done = {
        (user, video): {
            "is_click": int((user + video) % 3 > 0),
            "long_view": int(video % 2 == 0),
            "is_like": int(user == 7 and video in (31, 35)),
        }
        for user in (3, 7)
        for video in range(30, 39)
    }
    rows = [line(user, video, 1000 * video, **actions) for (user, video), actions in done.items()]
    make_folder(tmp_path, {LATE: log(*rows)})
    monkeypatch.setenv("DNR_DATA_DIR", str(tmp_path))
    return done


def test_each_candidate_has_what_the_log_says_of_its_pair(kuairand):
    config = DataConfig("kuairand-pure", core=1, list_length=4)
    lists, (users, videos) = hand_made(config, kuairand)
    found = with_behaviours(lists, config)
    assert found.names == ["is_click", "long_view", "is_like"]
    assert len(found) == 4
    for number in range(len(found)):
        for place, item in enumerate(found.items[number].tolist()):
            pair = int(users[found.users[number]]), int(videos[item - 1])
            expected = [*map(bool, kuairand[pair].values())] if place < 4 else [False] * 3
            assert found.behaviours[number, place].tolist() == expected
    assert torch.equal(CandidateLists(**{n: getattr(found, n) for n in lists._tensors()},
                                      meta=lists.meta).items, lists.items)  # fmt: skip


def test_lists_of_other_data_or_with_another_label_are_refused(kuairand):
    config = DataConfig("kuairand-pure", core=1, list_length=4)
    lists, _ = hand_made(config, kuairand)
    other = replace(lists, meta=lists.meta | {"log": "0"})
    with pytest.raises(DataError, match="lists are of other data"):
        with_behaviours(other, config)
    with pytest.raises(DnrError, match="is_click is not the label"):
        with_behaviours(replace(lists, labels=lists.shown), config)
    for change in ({"feedback": "long_view"}, {"positive": 4.0}):
        with pytest.raises(ConfigError, match="lists of the first"):
            with_behaviours(lists, replace(config, **change))


def test_simulated_kinds_are_thresholds_of_the_truth():
    frame = interactions("simulated").frame
    world = SimulatedWorld()
    for user, item, _, _, liked, loved, fitting in frame.sample(200, seed=0).iter_rows():
        assert liked == world.liked[user, item]
        assert fitting == (world.probability[user, item] >= 0.5)
        assert loved == (liked and fitting)


def test_ratings_are_nested(monkeypatch):
    source = replace(interactions("simulated"), name="ml-1m")
    rated = source.frame.select("user", "item", "time", rating=pl.col("item") % 5 + 1)
    monkeypatch.setattr("dnrlib.feedback.load", lambda _: replace(source, frame=rated))
    frame = interactions("ml-1m").frame
    counts = frame.group_by("rating").agg(pl.col(KINDS["ml-1m"]).all()).sort("rating")
    assert [row[1:] for row in counts.iter_rows()] == [
        (False, False, False), (False, False, False), (True, False, False), (True, True, False),
        (True, True, True),
    ]  # fmt: skip


def test_a_data_set_with_one_kind_is_refused():
    with pytest.raises(ConfigError, match="'amazon-books-2023' has one kind of feedback"):
        kinds_of("amazon-books-2023")


# The reranker -----------------------------------------------------------------------------


def test_with_one_kind_it_is_prm_to_the_last_bit():
    config = replace(DNR, learning_rate=1e-3)
    plain, mine = small(name="prm"), small()
    ours = BehaviourTrainer(mine, TRAIN, VALIDATION, config, seed=4).run()
    theirs = Trainer(plain, TRAIN.plain, VALIDATION.plain, config, seed=4).run()
    assert [row.losses for row in ours] == [row.losses for row in theirs]
    assert [row.validation for row in ours] == pytest.approx([r.validation for r in theirs])
    state = mine.state_dict()
    assert all(torch.equal(state[name], one) for name, one in plain.state_dict().items())


def test_each_kind_is_ranked_by_its_own_head_else_by_the_first():
    model = small(behaviours=[1, 0]).eval()
    each = model.logits_of_each(LISTS, LISTS.scores)
    heads = model.logits_of_heads(LISTS, LISTS.scores)
    assert torch.equal(each, heads[:, :, [1, 0, 0]])
    assert torch.equal(model(LISTS, LISTS.scores), heads[:, :, 0])


@pytest.mark.equation("eq-kinds-loss")
def test_the_loss_is_the_mean_of_the_heads_losses():
    model = small(behaviours=[0, 2]).eval()
    heads = model.logits_of_heads(LISTS, LISTS.scores).unbind(dim=2)
    losses = [
        F.binary_cross_entropy_with_logits(logits, LISTS.behaviours[:, :, kind].float())
        for logits, kind in zip(heads, (0, 2), strict=True)
    ]
    torch.testing.assert_close(model.loss(LISTS, LISTS.scores), sum(losses) / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"behaviours": []}, "behaviours is empty"),
        ({"behaviours": [0, 0]}, "must be different numbers"),
        ({"behaviours": [True]}, "must be different numbers"),
        ({"noise_of": [-1]}, r"noise_of = \[-1\]: must be different numbers"),
        ({"behaviours": 1}, "options.behaviours = 1"),
        ({"dim": 10, "heads": 4}, "dim = 10 is not a multiple of heads = 4"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        small(**options)


def test_a_kind_that_the_lists_do_not_have_is_refused():
    with pytest.raises(ConfigError, match=r"has 3, but the lists have 3 kinds .* 0 … 2"):
        BehaviourTrainer(small(behaviours=[3]), TRAIN, VALIDATION, DNR)
    with pytest.raises(ConfigError, match="has 4, but"):
        BehaviourTrainer(small(noise_of=[4]), TRAIN, VALIDATION, DNR)


def test_popularity_and_the_oracle_know_of_each_kind():
    counts = build("behaviours-popularity", LISTS).logits_of_each(LISTS, LISTS.scores)
    for kind in range(3):
        item = LISTS.items[7, 2]
        times = (TRAIN.items[TRAIN.behaviours[:, :, kind]] == item).sum()
        assert counts[7, 2, kind] == times
    best = build("behaviours-oracle", LISTS).logits_of_each(LISTS, LISTS.scores)
    assert torch.equal(best.bool(), LISTS.behaviours)


# Noise and training -----------------------------------------------------------------------


@pytest.mark.equation("eq-kinds-mean")
@pytest.mark.parametrize("noise", [GaussianNoise(0.3), BetaNoise(0.3)])
def test_heuristic_noise_mixes_the_mean_of_the_kinds(noise):
    z = LISTS.behaviours
    torch.manual_seed(1)
    made = MeanNoise(noise)(z)
    torch.manual_seed(1)
    epsilon = noise.epsilon(LISTS.scores)
    torch.testing.assert_close(made, 0.7 * z.float().mean(2) + 0.3 * epsilon)
    torch.manual_seed(1)
    alone = MeanNoise(noise)(z[:, :, :1])
    torch.manual_seed(1)
    assert torch.equal(alone, noise(LISTS.labels))


@pytest.mark.equation("eq-kinds-generator")
@pytest.mark.parametrize("output", ["scores", "epsilon"])
def test_the_generator_hears_every_kind_and_is_the_papers_of_one(output):
    torch.manual_seed(2)
    made = BehaviourNoise(3, output, 0.4)
    z = LISTS.behaviours
    torch.manual_seed(3)
    base = made(z)
    for kind in range(3):
        flipped = z.clone()
        flipped[:, :, kind] ^= True
        torch.manual_seed(3)
        assert not torch.allclose(made(flipped), base)
    torch.manual_seed(2)
    one = BehaviourNoise(1, output, 0.4)
    torch.manual_seed(2)
    papers = MLPNoise(output, 0.4)
    torch.manual_seed(3)
    ours = one(z[:, :, :1])
    torch.manual_seed(3)
    assert torch.equal(ours, papers(LISTS.labels))
    if output == "scores":
        assert ((base > 0) & (base < 1)).all()


@pytest.mark.equation("eq-kinds-regulariser")
def test_the_regulariser_sums_over_the_patterns_of_feedback():
    synthetic = torch.rand(LISTS.scores.shape, generator=torch.Generator().manual_seed(0))
    z = LISTS.behaviours[:, :, :2]
    real = moments(LISTS.scores, torch.ones_like(LISTS.scores))
    expected = 0.0
    for first in (False, True):
        for second in (False, True):
            here = (z[:, :, 0] == first) & (z[:, :, 1] == second)
            ones = synthetic[here][None]
            kl = gaussian_kl(moments(ones, torch.ones_like(ones)), real)
            expected += float(here.float().mean() * kl)
    assert float(regulariser_of_all(synthetic, z, LISTS.scores)) == pytest.approx(expected, 1e-4)
    one = regulariser_of_all(synthetic, z[:, :, :1], LISTS.scores)
    assert torch.equal(one, conditional_regulariser(synthetic, LISTS.labels, LISTS.scores))


@pytest.mark.parametrize(("noise_of", "kinds"), [([1], [1]), ([], [0, 2]), ([2, 1, 0], [0, 1, 2])])
def test_synthetic_scores_are_made_of_the_kinds_that_are_asked_for(noise_of, kinds):
    model = small(behaviours=[0, 2], noise_of=noise_of)
    config = replace(DNR, generator="none", lambda_c=0.0)
    trainer = BehaviourTrainer(model, TRAIN, VALIDATION, config)
    heard = []
    logits, model.logits_of_heads = (
        model.logits_of_heads,
        lambda batch, scores: heard.append(scores) or logits(batch, scores),
    )
    trainer.step(TRAIN[:12], phase=1)
    m = synthetic_lists(12, config.lambda_m)
    clean = TRAIN.behaviours[:m][:, :, kinds].float().mean(2)
    torch.testing.assert_close(heard[0][:m], clean)
    assert torch.equal(heard[0][m:], TRAIN.scores[m:12])


def test_the_best_epoch_is_that_of_the_mean_over_the_kinds_that_are_learnt():
    model = small(behaviours=[1, 2]).eval()
    heads = model.logits_of_heads(VALIDATION, VALIDATION.scores)
    values = [
        float(ndcg(rank(heads[:, :, head], VALIDATION.behaviours[:, :, kind]), 6).nanmean())
        for head, kind in enumerate((1, 2))
    ]
    assert mean_ndcg(model, VALIDATION) == pytest.approx(sum(values) / 2)
    trainer = BehaviourTrainer(model, TRAIN, VALIDATION, replace(DNR, epochs=2))
    rows = trainer.run()
    assert max(row.validation for row in rows) == pytest.approx(mean_ndcg(model, VALIDATION))


def test_phase_two_trains_the_generator_of_all_kinds():
    trainer = BehaviourTrainer(small(behaviours=[0, 1, 2]), TRAIN, VALIDATION, DNR)
    assert isinstance(trainer.generator, BehaviourNoise)
    before = [one.clone() for one in trainer.generator.parameters()]
    rows = trainer.run()
    assert set(rows[0].losses) == {"L_direct", "L_z"}
    assert set(rows[-1].losses) == {"L_direct", "L_z", "L_adv", "L_x"}
    after = trainer.generator.parameters()
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))


def test_a_training_that_was_killed_ends_with_the_same_bits(tmp_path):
    def trainer(seed):
        return BehaviourTrainer(small(seed, behaviours=[0, 1]), TRAIN, VALIDATION, DNR, seed=1)

    whole = trainer(0)
    whole.run()
    killed = trainer(0)
    killed.finished = lambda: len(killed.curves) >= 2
    killed.run(tmp_path / "checkpoint.pt")
    resumed = trainer(5)
    resumed.run(tmp_path / "checkpoint.pt")
    states = whole.reranker.state_dict(), resumed.reranker.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    other = BehaviourTrainer(small(behaviours=[0, 1], noise_of=[1]), TRAIN, VALIDATION, DNR, seed=1)
    with pytest.raises(DataError, match="of another run"):
        other.run(tmp_path / "checkpoint.pt")


def test_what_the_trainer_cannot_do_is_refused():
    with pytest.raises(ConfigError, match="trains prm-behaviours, not PRM"):
        BehaviourTrainer(small(name="prm"), TRAIN, VALIDATION, DNR)
    with pytest.raises(ConfigError, match="regulariser = 'pooled'"):
        BehaviourTrainer(small(), TRAIN, VALIDATION, replace(DNR, regulariser="pooled"))
    with pytest.raises(ConfigError, match="estimator = 'exact'"):
        BehaviourTrainer(small(), TRAIN, VALIDATION, replace(DNR, estimator="exact"))


# Runs and records -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    config = run_config({
        "method": "behaviours-DNR-B",
        "data": vars(DATA) | {"factorisation": {}, "noisy_truth": {}},
        "options": {"dim": 8, "layers": 1, "feed_forward": 8, "behaviours": [0, 2]},
        "training": {"epochs": 2, "lambda_e": 1},
    })  # fmt: skip
    return config, run(config, folder / "results", folder / "runs"), folder


def test_a_run_keeps_the_ranking_of_each_kind(done):
    config, record, folder = done
    lists = lists_of(config)
    assert record.data["behaviours"] == ["liked", "loved", "fitting"]
    assert Record.load(folder / f"results/{record.run}.json").behaviours == record.behaviours
    model = load_reranker(record, lists, folder / "runs")
    assert load_generator(record, folder / "runs").mlp[0].in_features == 2 + 8
    test = lists.of_split("test")
    with torch.no_grad():
        logits = model.eval().logits_of_each(test, test.scores)
    for kind, name in enumerate(lists.names):
        ranked = rank(logits[:, :, kind], test.behaviours[:, :, kind])
        labels, shown = record.ranked(name)
        assert torch.equal(labels, ranked)
        own = per_list(labels, shown)["ndcg@6"]
        assert torch.equal(record.per_list()[f"{name}/ndcg@6"].nan_to_num(), own.nan_to_num())
        mean = float(ndcg(ranked, 6).nanmean())
        assert record.metrics["test"][f"{name}/ndcg@6"] == pytest.approx(mean)
        share = float(test.behaviours[:, :, kind].any(1).float().mean())
        assert record.metrics["test"][f"{name}/ndcg@6:defined"] == pytest.approx(share)
    assert record.metrics["test"]["liked/ndcg@6"] == record.metrics["test"]["ndcg@6"]


def test_a_ranking_of_a_kind_that_is_another_contradicts_the_record(done):
    _, record, _ = done
    assert record.contradictions() == {}
    swapped = record.behaviours | {"loved": record.behaviours["fitting"]}
    found = replace(record, behaviours=swapped).contradictions()
    assert "loved/ndcg@6" in found
    assert all(name.startswith("loved/") for name in found)
    said = {"test": record.metrics["test"] | {"fitting/map@6": 0.5}}
    assert [*replace(record, metrics=said).contradictions()] == ["fitting/map@6"]


def test_a_record_without_kinds_is_written_as_it_ever_was(tmp_path):
    path = make_record().save(tmp_path)
    assert '"behaviours"' not in path.read_text("utf-8")
    assert Record.load(path).behaviours == {}


def test_kinds_are_compared_over_the_lists_that_have_them(done):
    config, record, _ = done
    score = evaluate(build("behaviours-score", lists_of(config)), lists_of(config))
    other = replace(record, **score, best_epoch=0, method="behaviours-score")
    found = difference([record], [other], "fitting/ndcg@6")
    values = record.per_list()["fitting/ndcg@6"] - other.per_list()["fitting/ndcg@6"]
    assert found.mean == pytest.approx(float(values.nanmean()))
    assert (found.lists, found.dropped) == (
        int(values.isfinite().sum()), int(values.isnan().sum())
    )  # fmt: skip
    assert not math.isnan(found.p)


def test_reference_orders_know_of_each_kind(done):
    config, _, _ = done
    lists = lists_of(config)
    for name in ("score", "score-reversed", "popularity", "oracle"):
        found = evaluate(build(f"behaviours-{name}", lists), lists)["metrics"]["test"]
        plain = evaluate(build(name, lists.plain), lists.plain)
        assert plain["behaviours"] == {}
        assert plain["metrics"]["test"] == {key: found[key] for key in plain["metrics"]["test"]}
        assert found["liked/ndcg@6"] == found["ndcg@6"]
        assert (found["loved/ndcg@6"] == 1) == (name == "oracle")


def test_the_experiment_has_the_runs_that_its_head_speaks_of():
    configs = load_experiment("behaviours")
    assert len(configs) == 80
    assert {config.trainer for config in configs if config.method not in FIXED} == {"behaviours"}
    assert {*FIXED} >= {*UNTRAINED} | {f"behaviours-{name}" for name in UNTRAINED}
    kinds = {tuple(config.options.get("behaviours", ())) for config in configs}
    assert kinds == {(), (0,), (1,), (2,), (0, 1, 2)}
