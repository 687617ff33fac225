import math

import numpy as np
import pytest
import torch
from torch import nn
from worlds import field_of, make_lists

from dnrlib.errors import ConfigError
from dnrlib.rerankers import build
from dnrlib.rerankers.caser import Caser

LISTS = make_lists(signal=0.5, history=7)
BATCH = LISTS[:9]


def model_of(lists=LISTS, **options):
    """A small model with large weights, in which every part can be seen."""
    torch.manual_seed(0)
    sizes = {"dim": 6, "vertical": 2, "horizontal": 3, "dropout": 0.0} | options
    model = build("caser", lists, **sizes)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model


# The forward pass ---------------------------------------------------------------------------


def state_by_hand(model, user, items):
    """[c ; p_u] of one user, in loops over filters, columns and places."""
    weights = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    height, dim = len(items), weights["item.weight"].shape[1]
    picture = np.stack([weights["item.weight"][i] if i else np.zeros(dim) for i in items])
    found = []
    for filter_, bias in zip(weights["vertical.weight"], weights["vertical.bias"], strict=True):
        found += [filter_ @ picture[:, column] + bias for column in range(dim)]
    for h in range(1, height + 1):
        name = f"horizontal.{h - 1}"
        for filter_, bias in zip(weights[f"{name}.weight"], weights[f"{name}.bias"], strict=True):
            places = [
                max(0, (filter_.T * picture[t : t + h]).sum() + bias) for t in range(height - h + 1)
            ]
            found.append(max(places))
    c = np.maximum(weights["dense.weight"] @ np.array(found) + weights["dense.bias"], 0)
    return np.concatenate([c, weights["user.weight"][user]])


@pytest.mark.equation("eq-caser", "eq-caser-filters")
@pytest.mark.parametrize("recent", [1, 3, 5])
def test_the_logits_by_hand(recent):
    model = model_of(recent=recent)
    output, bias = (part.weight.detach().double().numpy() for part in (model.output, model.bias))
    logits = model(BATCH, BATCH.scores).detach()
    for row in range(len(BATCH)):
        items, candidates = BATCH.history[row, -recent:].tolist(), BATCH.items[row].numpy()
        state = state_by_hand(model, int(BATCH.users[row]), items)
        by_hand = output[candidates] @ state + bias[candidates, 0]
        np.testing.assert_allclose(logits[row].numpy(), by_hand, rtol=1e-3, atol=1e-4)


def test_only_the_last_items_are_read_and_their_order_counts():
    model = model_of()
    full = LISTS[(LISTS.history > 0).all(dim=1)]
    logits = model(full, full.scores)
    for moved, same in ((slice(0, 2), True), (slice(2, 7), False)):
        history = full.history.clone()
        history[:, moved] = history[:, moved].flip(1)
        assert torch.equal(model(field_of(full, history=history), full.scores), logits) == same


def test_a_history_shorter_than_the_picture_is_padded_on_the_left():
    short = make_lists(signal=0.5, history=3)
    model = model_of(short)
    wide = field_of(short, history=nn.functional.pad(short.history, (4, 0)))
    assert torch.equal(model(short, short.scores), model(wide, short.scores))
    late = field_of(short, history=nn.functional.pad(short.history, (3, 1)))
    assert not torch.equal(model(short, short.scores), model(late, short.scores))


def test_the_user_meets_the_candidate_beside_the_convolutions():
    model = model_of()
    other = field_of(BATCH, users=(BATCH.users + 1) % 20)
    difference = model(other, BATCH.scores) - model(BATCH, BATCH.scores)
    users = model.user.weight[other.users] - model.user.weight[BATCH.users]
    meets = (model.output(BATCH.items)[..., 6:] * users[:, None]).sum(dim=2)
    torch.testing.assert_close(difference, meets, rtol=1e-3, atol=1e-4)


def test_input_and_output_tables_are_two():
    model = model_of()
    assert model.item.weight.shape == (41, 6)
    assert model.output.weight.shape == (41, 12)


def test_the_score_does_not_scale_the_bias():
    model = model_of(score_use="weight")
    logits = model(BATCH, torch.zeros_like(BATCH.scores))
    assert torch.equal(logits, model.bias(BATCH.items)[..., 0])


def test_dropout_acts_on_what_the_filters_found_in_training_only():
    model = model_of(dropout=0.5)
    assert not torch.equal(model(BATCH, BATCH.scores), model(BATCH, BATCH.scores))
    model.eval()
    assert torch.equal(model(BATCH, BATCH.scores), model(BATCH, BATCH.scores))
    nn.init.zeros_(model.dense.weight)
    model.train()  # behind the dense layer nothing is dropped
    assert torch.equal(model(BATCH, BATCH.scores), model(BATCH, BATCH.scores))


# The loss -----------------------------------------------------------------------------------


@pytest.mark.equation("eq-caser-loss")
def test_the_loss_by_hand():
    model = model_of(score_use="concat")
    scores = 1 - BATCH.scores
    logits = model(BATCH, scores).tolist()
    of_lists = []
    for row, labels in zip(logits, BATCH.labels.tolist(), strict=True):
        liked = [math.log(1 + math.exp(-x)) for x, z in zip(row, labels, strict=True) if z]
        other = [math.log(1 + math.exp(x)) for x, z in zip(row, labels, strict=True) if not z]
        of_lists.append(sum(liked) / len(liked) + sum(other) / len(other))
    assert len({sum(labels) for labels in BATCH.labels.tolist()}) > 1
    by_hand = sum(of_lists) / len(of_lists)
    assert model.loss(BATCH, scores).item() == pytest.approx(by_hand, rel=1e-4)


def test_a_list_with_one_kind_of_candidates_has_a_finite_loss():
    model = model_of()
    for labels in (torch.ones_like(BATCH.labels), torch.zeros_like(BATCH.labels)):
        assert model.loss(field_of(BATCH, labels=labels), BATCH.scores).isfinite()


# Sizes --------------------------------------------------------------------------------------


def test_the_defaults_are_the_authors():
    model = Caser(3, 5)
    assert [tuple(filters.weight.shape) for filters in model.horizontal] == [
        (16, 128, height) for height in range(1, 6)
    ]
    assert model.vertical.weight.shape == (4, 5)
    assert model.dense.weight.shape == (128, 4 * 128 + 5 * 16)
    assert model.dropout.p == 0.5


@pytest.mark.parametrize("size", ["recent", "vertical", "horizontal"])
def test_sizes_below_one_are_refused(size):
    with pytest.raises(ConfigError, match=f"{size} = 0: must be at least 1"):
        model_of(**{size: 0})
