import math

import numpy as np
import pytest
import torch
from torch import nn
from worlds import field_of, make_lists

from dnrlib.errors import ConfigError
from dnrlib.rerankers import build
from dnrlib.rerankers.gru4rec import GRU4Rec

LISTS = make_lists(signal=0.5)
BATCH = LISTS[:9]


def model_of(lists=LISTS, **options):
    """A small model with large weights, in which every part can be seen."""
    torch.manual_seed(0)
    model = build("gru4rec", lists, **{"dim": 6, "dropout": 0.0} | options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def drawing(model, monkeypatch, items):
    """The model, which draws these negatives."""
    monkeypatch.setattr(model, "draw", lambda count: torch.tensor(items))
    return model


# The forward pass ---------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def state_by_hand(model, items):
    """h after the real items, gate by gate."""
    w = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    h = np.zeros(w["item.weight"].shape[1])
    for item in items:
        x = w["item.weight"][item]
        x_r, x_z, x_n = np.split(w["gru.weight_ih_l0"] @ x + w["gru.bias_ih_l0"], 3)
        h_r, h_z, h_n = np.split(w["gru.weight_hh_l0"] @ h + w["gru.bias_hh_l0"], 3)
        r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
        h = (1 - z) * np.tanh(x_n + r * h_n) + z * h
    return h


@pytest.mark.equation("eq-gru4rec", "eq-gru4rec-logit")
def test_the_logits_by_hand():
    model = model_of()
    table, bias = (part.weight.detach().double().numpy() for part in (model.item, model.bias))
    logits = model(BATCH, BATCH.scores).detach()
    lengths = (BATCH.history > 0).sum(dim=1)
    assert lengths.min() < lengths.max() == BATCH.history.shape[1]
    for row in range(len(BATCH)):
        candidates = BATCH.items[row].numpy()
        h = state_by_hand(model, [item for item in BATCH.history[row].tolist() if item])
        by_hand = table[candidates] @ h + bias[candidates, 0]
        np.testing.assert_allclose(logits[row].numpy(), by_hand, rtol=1e-3, atol=1e-4)


def test_more_padding_changes_nothing():
    model = model_of()
    wide = field_of(BATCH, history=nn.functional.pad(BATCH.history, (3, 0)))
    torch.testing.assert_close(model(wide, BATCH.scores), model(BATCH, BATCH.scores))


def test_the_order_of_the_history_counts():
    model = model_of()
    full = LISTS[(LISTS.history > 0).all(dim=1)]
    turned = field_of(full, history=full.history.flip(1))
    assert not torch.allclose(model(turned, full.scores), model(full, full.scores), atol=1e-3)


def test_a_user_without_history_gets_the_items_biases():
    model = model_of()
    new = field_of(BATCH, history=torch.zeros_like(BATCH.history))
    assert torch.equal(model(new, BATCH.scores), model.bias(BATCH.items)[..., 0])


def test_the_user_is_not_read_and_the_table_is_shared():
    model = model_of()
    other = field_of(BATCH, users=BATCH.users.flip(0))
    assert torch.equal(model(other, BATCH.scores), model(BATCH, BATCH.scores))
    tables = [p.shape for p in model.parameters() if len(p) in (20, 41)]
    assert tables == [(41, 6), (41, 1)]


# The loss -----------------------------------------------------------------------------------

DRAWN = [7, 7, 31, 2, 40, 18, 5, 5, 23, 11, 29, 36]


@pytest.mark.equation("eq-gru4rec-loss", "eq-gru4rec-logq")
@pytest.mark.parametrize(("alpha", "logq"), [(0.5, 0.0), (0.5, 1.0), (0.8, 0.6)])
def test_the_loss_by_hand(alpha, logq, monkeypatch):
    model = drawing(model_of(alpha=alpha, logq=logq), monkeypatch, DRAWN)
    model.begin_epoch(1, 2, LISTS)
    popularity = [max(1.0, p) for p in model.popularity.tolist()]
    table, bias = (part.weight.detach().double().numpy() for part in (model.item, model.bias))
    of_lists, left_out = [], 0
    for row in range(len(BATCH)):
        h = state_by_hand(model, [item for item in BATCH.history[row].tolist() if item])
        candidates, labels = BATCH.items[row].tolist(), BATCH.labels[row].tolist()
        o = [table[i] @ h + bias[i, 0] - logq * math.log(popularity[i]) for i in candidates]
        fresh = [i for i in DRAWN if i not in candidates]
        left_out += len(DRAWN) - len(fresh)
        o_drawn = [
            table[i] @ h + bias[i, 0] - logq * alpha * math.log(popularity[i]) for i in fresh
        ]
        others = [x for x, liked in zip(o, labels, strict=True) if not liked]
        below = sum(math.exp(x) for x in others + o_drawn)
        entropies = [
            -math.log(math.exp(x) / (math.exp(x) + below))
            for x, liked in zip(o, labels, strict=True)
            if liked
        ]
        of_lists.append(sum(entropies) / len(entropies))
    assert left_out
    by_hand = sum(of_lists) / len(of_lists)
    assert model.loss(BATCH, BATCH.scores).item() == pytest.approx(by_hand, rel=1e-4)


def test_a_liked_candidate_is_no_negative_of_another():
    """Nor is a drawn item that stands in the list: with nothing else the loss is zero."""
    model = model_of()
    model.popularity.zero_()
    model.popularity[BATCH.items[0].long()] = 1
    one = field_of(BATCH, labels=torch.ones_like(BATCH.labels))[:1]
    loss = model.loss(one, one.scores)
    assert loss.item() == 0
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_drawn_item_has_the_score_of_a_candidate_that_is_not_liked(monkeypatch):
    """A constant, or a liked one's, would tell drawn items from candidates, or blur the score."""
    model = drawing(model_of(score_use="weight"), monkeypatch, DRAWN)
    seen = []
    plain = model.score
    monkeypatch.setattr(model, "score", lambda *given: seen.append(given[1]) or plain(*given))
    model.loss(LISTS, LISTS.scores)
    of_candidates, of_drawn = seen
    assert torch.equal(of_candidates, LISTS.scores)
    whose = of_drawn[:, :, None] == LISTS.scores[:, None]
    assert (whose & ~LISTS.labels[:, None]).any(dim=2).all()
    assert len(of_drawn[0].unique()) > 1


def test_popularity_is_counted_on_the_liked_of_the_training_lists():
    model = model_of()
    assert torch.equal(model.popularity, torch.ones(41))
    model.begin_epoch(1, 3, BATCH)
    counts = [0] * 41
    for items, labels in zip(BATCH.items.tolist(), BATCH.labels.tolist(), strict=True):
        for item, liked in zip(items, labels, strict=True):
            counts[item] += liked
    assert model.popularity.tolist() == counts
    assert "popularity" in model.state_dict()


@pytest.mark.equation("eq-gru4rec-draw")
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_negatives_are_drawn_by_popularity_to_the_alpha(alpha):
    torch.manual_seed(0)
    model = model_of(make_lists(items=20), alpha=alpha)
    model.popularity.copy_(torch.arange(21) % 5)
    law = np.array([0, *(item % 5 for item in range(1, 21))], dtype=float) ** alpha
    law[0] = 0
    share = model.draw(40000).bincount(minlength=21) / 40000
    np.testing.assert_allclose(share.numpy(), law / law.sum(), atol=0.006)


# Sizes --------------------------------------------------------------------------------------


def test_it_begins_as_the_original_does():
    model = GRU4Rec(3, 500, dim=64)
    bound = math.sqrt(6 / 128)
    for gate in (*model.gru.weight_ih_l0.chunk(3), *model.gru.weight_hh_l0.chunk(3)):
        assert bound * 0.95 < gate.abs().max() <= bound
    assert model.item.weight.abs().max() <= math.sqrt(6 / (501 + 64))
    assert not any(p.any() for p in (model.gru.bias_ih_l0, model.gru.bias_hh_l0, model.bias.weight))


@pytest.mark.parametrize("name", ["alpha", "logq"])
def test_negative_options_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name} = -0.5: must not be negative"):
        model_of(**{name: -0.5})
