from dataclasses import replace

import pytest
import torch
from worlds import make_log, preference

from dnrlib.errors import ConfigError, DnrError
from dnrlib.log import TEST, TRAIN, VALIDATION
from dnrlib.metrics import pooled_auc
from dnrlib.retriever import (
    SCHEMES,
    ExactIndex,
    MatrixFactorisation,
    RetrieverConfig,
    fit,
    fit_parts,
    plan,
    positives,
)

LOG = make_log()
SMALL = RetrieverConfig(dim=8, epochs=3, batch_size=64, negatives=32)


def weights(model):
    return torch.cat([tensor.flatten() for tensor in model.state_dict().values()])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_scheme_trains_on_validation_or_test_lists(scheme):
    made = plan(LOG, scheme)
    assert made.trained_on.any(dim=1).all()
    assert not made.trained_on[:, LOG.split != TRAIN].any()
    assert made.scorer.max() == len(made.trained_on) - 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme_scores_all_validation_and_test_lists_with_one_model(scheme):
    made = plan(LOG, scheme)
    assert made.scorer[LOG.split != TRAIN].unique().tolist() == [len(made.trained_on) - 1]


def test_in_sample_scores_what_it_was_trained_on():
    made = plan(LOG, "in-sample")
    assert torch.equal(made.trained_on, (LOG.split == TRAIN)[None])
    assert (made.scorer == 0).all()


def test_earlier_trains_on_the_first_half_of_each_user_and_scores_the_rest():
    made = plan(LOG, "earlier")
    for user in range(LOG.users):
        train = [
            number
            for number in range(len(LOG))
            if LOG.list_user[number] == user and LOG.split[number] == TRAIN
        ]
        half = (len(train) + 1) // 2
        assert made.trained_on[0, train].tolist() == [True] * half + [False] * (len(train) - half)
        assert made.scorer[train].tolist() == [-1] * half + [0] * (len(train) - half)


@pytest.mark.parametrize("folds", [2, 5])
def test_crossfit_scores_each_training_list_with_a_model_that_did_not_see_it(folds):
    made = plan(LOG, "crossfit", folds=folds)
    train = LOG.split == TRAIN
    assert made.trained_on.shape == (folds + 1, len(LOG))
    seen = made.trained_on[made.scorer, torch.arange(len(LOG))]
    assert not seen.any()
    for model in range(folds):  # … and saw everything else
        assert torch.equal(made.trained_on[model], train & (made.scorer != model))
    assert torch.equal(made.trained_on[folds], train)
    assert set(made.scorer[train].tolist()) == set(range(folds))


def test_folds_depend_on_the_seed_alone():
    assert torch.equal(plan(LOG, "crossfit", seed=1).scorer, plan(LOG, "crossfit", seed=1).scorer)
    assert not torch.equal(
        plan(LOG, "crossfit", seed=1).scorer, plan(LOG, "crossfit", seed=2).scorer
    )


def test_unknown_schemes_and_single_folds_are_refused():
    with pytest.raises(ConfigError, match="'none' is unknown.*in-sample, earlier, crossfit"):
        plan(LOG, "none")
    with pytest.raises(ConfigError, match="folds = 1"):
        plan(LOG, "crossfit", folds=1)


def test_fit_uses_only_the_positives_of_the_given_lists():
    lists = plan(LOG, "earlier").trained_on[0]
    model = fit(LOG, lists, SMALL, seed=0)
    inside = torch.zeros(len(LOG.user), dtype=torch.bool)
    inside[LOG.rows()[lists].flatten()] = True
    used = inside & LOG.label
    elsewhere = replace(
        LOG,
        item=torch.where(used, LOG.item, LOG.item % LOG.items + 1),
        label=torch.where(inside, LOG.label, ~LOG.label),
    )
    assert torch.equal(weights(fit(elsewhere, lists, SMALL, seed=0)), weights(model))
    first = int(used.nonzero()[0])
    item = LOG.item.clone()
    item[first] = item[first] % LOG.items + 1
    assert not torch.equal(
        weights(fit(replace(LOG, item=item), lists, SMALL, seed=0)), weights(model)
    )


def test_fit_depends_on_its_seed_and_leaves_the_global_stream_alone():
    lists = LOG.split == TRAIN
    torch.manual_seed(5)
    before = torch.get_rng_state()
    model = fit(LOG, lists, SMALL, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(weights(fit(LOG, lists, SMALL, seed=0)), weights(model))
    assert not torch.equal(weights(fit(LOG, lists, SMALL, seed=1)), weights(model))


def test_parts_are_read_in_each_epoch_and_may_be_empty():
    pairs = positives(LOG, LOG.split == TRAIN)
    reads = []

    class Parts:
        def __iter__(self):
            reads.append(1)
            return iter([pairs[:, :0], pairs[:, :50], pairs[:, 50:]])

    model = fit_parts(Parts(), LOG.users, LOG.items, SMALL, seed=0)
    assert len(reads) == 2 + SMALL.epochs  # to see that it can be, and to count
    assert weights(model).isfinite().all()
    whole = fit_parts([pairs], LOG.users, LOG.items, SMALL, seed=0)
    assert torch.equal(weights(whole), weights(fit(LOG, LOG.split == TRAIN, SMALL, seed=0)))
    with pytest.raises(DnrError, match="are to be read anew"):
        fit_parts(iter([pairs]), LOG.users, LOG.items, SMALL, seed=0)


def test_plans_of_parts_with_one_generator_are_the_plan_of_the_whole():
    """Two logs of the same users' lists draw on where the one before stopped."""
    generator = torch.Generator().manual_seed(3)
    first, second = (plan(LOG, "crossfit", seed=generator).scorer for _ in range(2))
    assert torch.equal(first, plan(LOG, "crossfit", seed=3).scorer)
    assert not torch.equal(first, second)


def test_a_fitted_model_is_frozen():
    model = fit(LOG, LOG.split == TRAIN, SMALL, seed=0)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_fit_without_a_positive_is_refused():
    with pytest.raises(DnrError, match="no positive"):
        fit(LOG, torch.zeros(len(LOG), dtype=torch.bool), SMALL, seed=0)


def test_factorisation_learns_who_likes_what():
    log = make_log(users=60, noise=0.05)
    model = fit(log, log.split == TRAIN, replace(SMALL, epochs=8), seed=0)
    logits = model.logits(torch.arange(60))[:, 1:]
    assert pooled_auc(logits, preference(torch.arange(60), log.items)[:, 1:]) > 0.8
    held_out = log.rows()[(log.split == VALIDATION) | (log.split == TEST)].flatten()
    scores = logits[log.user[held_out], log.item[held_out] - 1]
    assert pooled_auc(scores[None], log.label[held_out][None]) > 0.75


def test_logits_and_loss_agree_with_the_formula():
    torch.manual_seed(0)
    model = MatrixFactorisation(4, 6, 3)
    torch.nn.init.normal_(model.bias.weight)
    users, positives, negatives = (
        torch.tensor([1, 3]),
        torch.tensor([2, 5]),
        torch.tensor([1, 6, 6]),
    )
    full = model.user.weight @ model.item.weight.T + model.bias.weight[:, 0]
    torch.testing.assert_close(model.logits(users), full[users])
    expected = -full[users, positives].sigmoid().log().mean()
    expected -= (-full[users][:, negatives]).sigmoid().log().mean()
    torch.testing.assert_close(model.loss(users, positives, negatives), expected)


class Table:
    """A retriever whose logits are given."""

    def __init__(self, table):
        self.table = table

    def logits(self, users):
        return self.table[users]


def test_exact_index_gives_the_best_items_that_are_not_excluded():
    torch.manual_seed(0)
    table = torch.randn(7, 31)
    table[:, 0] = 9  # the padding must never be retrieved
    excluded = torch.randint(0, 31, (7, 10))
    found = ExactIndex(Table(table)).top_n(torch.arange(7), 8, excluded)
    for user in range(7):
        order = sorted(range(1, 31), key=lambda item: -table[user, item])
        allowed = [item for item in order if item not in excluded[user].tolist()]
        assert found[user].tolist() == allowed[:8]


class Everyone(Table):
    """A retriever that hands out its own table."""

    def logits(self, users):
        return self.table


def test_exact_index_does_not_write_into_the_retriever():
    table = torch.randn(3, 11)
    before = table.clone()
    ExactIndex(Everyone(table)).top_n(torch.arange(3), 4, torch.tensor([[1], [2], [0]]))
    assert torch.equal(table, before)
