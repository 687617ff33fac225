import numpy as np
import pytest
import torch
from torch import nn
from worlds import field_of, make_lists

from dnrlib.errors import ConfigError
from dnrlib.rerankers import build
from dnrlib.rerankers.attention_rank import attention_rank
from dnrlib.rerankers.dlcm import DLCM

LISTS = make_lists(signal=0.5)
BATCH = LISTS[:9]


def dlcm(**options):
    torch.manual_seed(0)
    model = build("dlcm", LISTS, **{"dim": 8, "dropout": 0.0} | options)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model.eval()


def read_by_hand(gru, rows):
    """The GRU's state after each row, one step at a time."""
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    w_in, w_state, b_in, b_state = (getattr(gru, n).detach().double().numpy() for n in names)
    h, states = np.zeros(w_state.shape[1]), []
    for row in rows:
        r_in, u_in, c_in = np.split(w_in @ row + b_in, 3)
        r_h, u_h, c_h = np.split(w_state @ h + b_state, 3)
        reset, update = (1 / (1 + np.exp(-v)) for v in (r_in + r_h, u_in + u_h))
        h = (1 - update) * np.tanh(c_in + reset * c_h) + update * h
        states.append(h)
    return states


def local_by_hand(model, h, s):
    """The local ranking function of one candidate, head by head."""
    weights = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    heads, dim = weights["v"].shape
    total = 0.0
    for a in range(heads):
        part = slice(a * dim, (a + 1) * dim)
        inner = (
            weights["from_candidate.weight"][part] @ h
            + weights["from_list.weight"][part] @ s
            + weights["from_list.bias"][part]
        )
        total += weights["head_weight"][a] * (weights["v"][a] @ np.tanh(inner))
    return total / heads


@pytest.mark.equation("eq-dlcm")
def test_the_logits_by_hand():
    model = dlcm()
    vectors = model.input(BATCH).detach().double().numpy()
    logits = model(BATCH, BATCH.scores).detach()
    for scores, rows, ours in zip(BATCH.scores.tolist(), vectors, logits, strict=True):
        worst_first = sorted(range(len(scores)), key=lambda i: scores[i])
        states = read_by_hand(model.gru, rows[worst_first])
        for place, i in enumerate(worst_first):
            local = local_by_hand(model, states[place], states[-1])
            assert ours[i].item() == pytest.approx(local, abs=1e-4)


def changed_at(place, scores, model):
    """Which logits change with the item in a place of the initial list, the best being 0."""
    index = scores.argsort(dim=1, descending=True)[:, place : place + 1]
    items = BATCH.items.long()
    other = field_of(BATCH, items=items.scatter(1, index, items.gather(1, index) % 40 + 1))
    moved = model(other, scores) != model(BATCH, scores)
    return moved.gather(1, scores.argsort(dim=1, descending=True)).float().mean(dim=0)


def test_the_list_is_read_from_its_end():
    """Without the final state a candidate knows of what is worse, and of nothing better."""
    model = dlcm()
    model.from_list.weight.data.zero_()
    assert changed_at(0, BATCH.scores, model).tolist() == [1.0] + [0.0] * 11
    assert changed_at(11, BATCH.scores, model).min() > 0.5
    middle = changed_at(5, BATCH.scores, model)
    assert middle[:6].min() > 0.5
    assert middle[6:].max() == 0


def test_the_final_state_brings_the_best_candidate_to_all_others():
    assert changed_at(0, BATCH.scores, dlcm()).min() > 0.5


def test_the_order_is_all_that_a_rank_says():
    model = dlcm(score_use="rank")
    assert not hasattr(model.score_input, "position")
    logits = model(BATCH, BATCH.scores)
    assert torch.equal(model(BATCH, BATCH.scores**3), logits)
    assert not torch.allclose(model(BATCH, 1 - BATCH.scores), logits)


def test_without_scores_the_list_is_read_by_item_number():
    blind, ranked = dlcm(score_use="none"), dlcm(score_use="rank")
    by_number = -BATCH.items / 41
    torch.testing.assert_close(blind(BATCH, BATCH.scores), ranked(BATCH, by_number))
    assert repr(blind) != repr(ranked)


def test_as_a_number_the_score_enters_the_vectors_besides_the_order():
    model = dlcm(score_use="concat")
    other = BATCH.scores**3  # in the same order
    assert not torch.allclose(model(BATCH, other), model(BATCH, BATCH.scores))
    model.score_input.mix.weight.data[:, -1] = 0
    assert torch.equal(model(BATCH, other), model(BATCH, BATCH.scores))
    assert not torch.allclose(model(BATCH, 1 - other), model(BATCH, BATCH.scores))


def test_dlcm_is_trained_by_attention_rank_of_the_scores_that_are_given():
    model = dlcm()
    other = 1 - BATCH.scores
    loss = attention_rank(model(BATCH, other), BATCH.labels.float())
    assert model.loss(BATCH, other).item() == pytest.approx(loss.item())


def test_a_head_has_its_own_weight():
    model = dlcm()
    whole = model(BATCH, BATCH.scores)
    parts = []
    for a in range(3):
        alone = dlcm()
        alone.head_weight.data[torch.arange(3) != a] = 0
        parts.append(alone(BATCH, BATCH.scores))
    torch.testing.assert_close(sum(parts), whole)


def test_sizes():
    model = DLCM(3, 5)
    assert model.v.shape == (3, 128)
    assert model.gru.num_layers == 1
    with pytest.raises(ConfigError, match="heads = 0: must be at least 1"):
        DLCM(3, 5, heads=0)
