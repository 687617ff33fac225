"""The baselines that need no training, and PRM with one thing changed."""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import pytest
import torch
from scipy import stats
from torch.nn.utils import parameters_to_vector
from worlds import field_of, make_lists, with_made_up_words

from dnrlib.checks import serving_reads_no_feedback
from dnrlib.errors import ConfigError
from dnrlib.export import export_program
from dnrlib.metrics import auc, auc_shown_vs_rest, ndcg, rank
from dnrlib.prepare import shown_first
from dnrlib.rerankers import PRM, RERANKERS, SCORE_USES, build
from dnrlib.stacked import Stack
from dnrlib.training import Trainer, TrainingConfig, score_lists

LISTS = make_lists(signal=0.5)
SMALL = {"dim": 16, "heads": 2, "feed_forward": 24, "dropout": 0.0}
DISTURBANCES = ("dropout", "jitter")
each_disturbance = pytest.mark.parametrize("disturbance", DISTURBANCES)


def small(name, seed=0, lists=LISTS, **options):
    torch.manual_seed(seed)
    return build(name, lists, **SMALL | {"score_use": "concat"} | options)


def fitted(model, lists, epochs=20):
    """The model trained on the training lists; its logits on the test lists."""
    config = TrainingConfig(epochs=epochs, batch_size=32, learning_rate=3e-3)
    Trainer(model, lists.of_split("train"), lists.of_split("validation"), config).run()
    return score_lists(model, lists.of_split("test"))


# Popularity -------------------------------------------------------------------------------


def test_popularity_counts_the_likes_of_the_training_lists():
    logits = build("popularity", LISTS)(LISTS, LISTS.scores)
    train = LISTS.of_split("train")
    for row, items in enumerate(LISTS.items[:20].tolist()):
        for place, item in enumerate(items):
            likes = sum(
                item in liked[z] for liked, z in zip(train.items, train.labels, strict=True)
            )
            assert logits[row, place] == likes
    assert logits.max() > logits.min()


def test_popularity_knows_nothing_of_other_lists():
    train = LISTS.split == 0
    turned = torch.where(train[:, None], LISTS.labels, LISTS.shown & ~LISTS.labels)
    one, other = build("popularity", LISTS), build("popularity", field_of(LISTS, labels=turned))
    assert torch.equal(one.likes, other.likes)
    changed = torch.where(train[:, None], LISTS.shown & ~LISTS.labels, LISTS.labels)
    assert not torch.equal(one.likes, build("popularity", field_of(LISTS, labels=changed)).likes)


def test_popularity_needs_training_lists_and_no_weights():
    assert not list(build("popularity", LISTS).parameters())
    with pytest.raises(ConfigError, match="training lists, and there are none"):
        build("popularity", LISTS.of_split("test"))


def test_popularity_finds_what_everybody_likes():
    shown = torch.ones_like(LISTS.shown)
    taste = field_of(LISTS, shown=shown, labels=LISTS.items % 4 == 0)
    test = taste.of_split("test")
    test = test[test.labels.any(dim=1)]
    model = build("popularity", taste)
    assert (ndcg(rank(score_lists(model, test), test.labels), 6) == 1).all()


# Oracle -----------------------------------------------------------------------------------


def test_nothing_orders_better_than_the_oracle():
    logits = score_lists(build("oracle", LISTS), LISTS)
    for k in (1, 6):
        assert (ndcg(rank(logits, LISTS.labels), k) == 1).all()
    assert (auc(rank(logits, LISTS.labels)) == 1).all()


@pytest.mark.parametrize("name", RERANKERS)
def test_only_the_oracle_reads_feedback(name):
    sizes = SMALL if name.startswith("prm") else {}
    finding = serving_reads_no_feedback(build(name, with_made_up_words(LISTS), **sizes), LISTS)
    assert finding.passed == (not name.endswith("oracle")), finding.fault


def test_the_oracle_cannot_serve():
    with pytest.raises(ConfigError, match="Oracle cannot be exported: .*reads `labels`"):
        export_program(build("oracle", LISTS), LISTS)


# Disturbed scores -------------------------------------------------------------------------


@each_disturbance
@pytest.mark.parametrize("score_use", SCORE_USES)
def test_a_disturbed_model_serves_as_prm(disturbance, score_use):
    plain = small("prm", score_use=score_use)
    model = small("prm-disturbed", seed=1, score_use=score_use, disturbance=disturbance)
    model.load_state_dict(plain.state_dict())
    assert torch.equal(score_lists(model, LISTS), score_lists(plain, LISTS))
    model.eval()
    assert torch.equal(model(LISTS, LISTS.scores), plain.eval()(LISTS, LISTS.scores))


@each_disturbance
def test_training_sees_other_scores_each_time(disturbance):
    model = small("prm-disturbed", disturbance=disturbance).train()
    one, other = (model(LISTS, LISTS.scores) for _ in range(2))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("options", [{"rate": 0.0}, {"disturbance": "jitter", "sigma": 0.0}])
def test_without_a_disturbance_training_is_prm_s(options):
    model, plain = small("prm-disturbed", **options).train(), small("prm").train()
    torch.testing.assert_close(
        model(LISTS, LISTS.scores), plain(LISTS, LISTS.scores), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_dropout_takes_the_scores_of_whole_lists(rate):
    model = small("prm-disturbed", rate=rate)
    scores = torch.rand(20_000, 12)
    disturbed = model.disturbed(scores)
    kept = (disturbed == scores).all(dim=1)
    mean = scores.mean(dim=1, keepdim=True).expand_as(scores)
    torch.testing.assert_close(disturbed[~kept], mean[~kept])
    assert float((~kept).float().mean()) == pytest.approx(rate, abs=0.015)


@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_jitter_moves_each_logit_by_a_normal_draw(sigma):
    model = small("prm-disturbed", disturbance="jitter", sigma=sigma)
    scores = 0.02 + 0.96 * torch.rand(500, 12)
    moved = model.disturbed(scores).logit() - scores.logit()
    assert stats.kstest(moved.flatten().numpy() / sigma, "norm").pvalue > 0.01
    assert abs(float(torch.corrcoef(moved.T)[0, 1])) < 0.15


def test_jitter_leaves_scores_of_0_and_1_finite():
    model = small("prm-disturbed", disturbance="jitter")
    disturbed = model.disturbed(torch.tensor([[0.0, 1.0, 0.5]]).repeat(100, 1))
    assert ((disturbed > 0) & (disturbed < 1)).all()
    assert (disturbed[:, 0] < 0.01).all()
    assert (disturbed[:, 1] > 0.99).all()


@each_disturbance
def test_the_gradient_goes_through_the_disturbance(disturbance):
    model = small("prm-disturbed", disturbance=disturbance)
    scores = LISTS.scores.clone().requires_grad_()
    weight = torch.linspace(1, 2, scores.shape[1])
    (gradient,) = torch.autograd.grad((model.disturbed(scores) * weight).sum(), scores)
    assert (gradient > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"disturbance": "noise"}, "'noise' is unknown: choose one of dropout, jitter"),
        ({"rate": 1.5}, r"rate = 1\.5"),
        ({"rate": float("nan")}, "rate = nan"),
        ({"sigma": -1.0}, r"sigma = -1\.0"),
        ({"sigma": float("inf")}, "sigma = inf"),
        ({"sigma": "much"}, r"options\.sigma = 'much'"),
    ],
)
def test_wrong_disturbances_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        small("prm-disturbed", **options)


def test_a_checkpoint_tells_disturbances_apart():
    changes = [{}, {"rate": 0.4}, {"sigma": 0.4}, {"disturbance": "jitter"}]
    assert len({repr(small("prm-disturbed", **change)) for change in changes}) == len(changes)


@each_disturbance
def test_the_seeds_of_a_stack_are_disturbed_each_by_itself(disturbance):
    """Equal weights and batches: only what is drawn differs."""
    lists = LISTS[:32]
    config = TrainingConfig(epochs=1, batch_size=32)
    models = [small("prm-disturbed", disturbance=disturbance) for _ in range(3)]
    Stack([Trainer(model, lists, lists, config) for model in models]).run()
    weights = [parameters_to_vector(model.parameters()) for model in models]
    assert not any(torch.equal(one, other) for one, other in pairwise(weights))


def over_confident():
    """The item tells what is liked; a high score does too in training, and elsewhere does not."""
    lists = make_lists(lists=400)
    labels = lists.items % 3 == 0
    high = torch.where((lists.split == 0)[:, None], labels, lists.scores > 0.67)
    lists = field_of(
        lists, labels=labels, shown=torch.ones_like(lists.shown), scores=0.1 + 0.8 * high
    )
    return lists[labels.any(dim=1)]


@cache
def reached(name, **options):
    """Mean NDCG@6 on the test lists over three seeds."""
    lists = over_confident()
    labels = lists.of_split("test").labels
    models = [small(name, seed, lists, **options) for seed in range(3)]
    return sum(float(ndcg(rank(fitted(model, lists), labels), 6).mean()) / 3 for model in models)


@each_disturbance
def test_disturbed_scores_are_trusted_less(disturbance):
    assert reached("prm-disturbed", disturbance=disturbance) > reached("prm") + 0.05


# Places -----------------------------------------------------------------------------------


def test_without_its_places_it_is_prm():
    model = small("prm-placed", seed=1)
    model.load_state_dict(small("prm").state_dict(), strict=False)
    torch.nn.init.zeros_(model.place.weight)
    assert torch.equal(score_lists(model, LISTS), score_lists(small("prm"), LISTS))


def test_places_tell_what_was_shown_only_where_the_lists_are_as_written():
    shuffled = make_lists(lists=400)
    given = shown_first(shuffled)

    def knows_the_shown(name, lists):
        logits = fitted(small(name, score_use="none", lists=lists), lists, epochs=10)
        return float(auc_shown_vs_rest(rank(logits, lists.of_split("test").shown)).mean())

    assert knows_the_shown("prm-placed", given) > 0.95
    assert knows_the_shown("prm-placed", shuffled) == pytest.approx(0.5, abs=0.08)
    assert knows_the_shown("prm", given) == pytest.approx(0.5, abs=0.08)


def test_a_place_is_no_rank():
    """Other scores leave the places, and with them the logits, as they are."""
    model = small("prm-placed", score_use="none").eval()
    moved = replace(LISTS, scores=LISTS.scores.flip(1))
    assert torch.equal(model(LISTS, LISTS.scores), model(moved, moved.scores))
    assert not isinstance(build("prm", LISTS), RERANKERS["prm-placed"])
    assert isinstance(model, PRM)
