"""What only MIR promises; what every reranker does is in `test_every_reranker.py`."""

import math

import numpy as np
import pytest
import torch
from test_rerankers import permuted
from torch import nn
from worlds import field_of, make_lists

from dnrlib.errors import ConfigError
from dnrlib.rerankers import build
from dnrlib.rerankers.mir import PaddedBiLSTM, State

LISTS = make_lists(signal=0.5)
SHORT = LISTS[(LISTS.history > 0).sum(dim=1) == 2]
SIZES = {"dim": 8, "hidden": 3, "heads": 2}


def mir(seed=0, lists=LISTS, **options):
    torch.manual_seed(seed)
    model = build("mir", lists, **SIZES | options).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model


def logits_of(model, lists):
    with torch.no_grad():
        return model(lists, lists.scores)


def rows(count, n=3, m=4, v=16, q=14):
    """Made-up vectors of candidates and history for `MIR.summarise`; the first item is padding."""
    torch.manual_seed(7)
    padding = torch.zeros(count, m).bool()
    padding[:, 0] = True
    state = State(
        torch.randn(count, n, 8),
        torch.randn(count, m, q),
        torch.randn(count, m, n),
        torch.rand(count, m),
        padding,
    )
    return torch.randn(count, n, v), state


@pytest.mark.equation("eq-mir", "eq-mir-attention")
@pytest.mark.parametrize("per_place", [False, True])
def test_set_to_list_attention_by_hand(per_place):
    model = mir(lists=make_lists(n=3), per_place=per_place)
    vectors, state = rows(2)
    with torch.no_grad():
        found_v, found_q = model.summarise(vectors, state)
    w, w_v, w_q = (
        layer.weight.detach().numpy() for layer in (model.item_affinity, model.w_v, model.w_q)
    )
    n, m = 3, 4
    for b in range(2):
        v, q = vectors[b].numpy(), state.q[b].numpy()
        c = np.zeros((m, n))
        for j in range(1, m):  # item 0 is padding
            for i in range(n):
                affinity = q[j] @ w @ v[i] + state.features[b, j, i].item()
                c[j, i] = math.tanh(affinity * (1 + state.decay[b, j].item()))
        for i in range(n):
            to_v, to_q = np.zeros(n), np.full(m, -np.inf)
            for k in range(n):  # a column belongs to place k of v, to place i of q
                column = k if per_place else 0
                along = sum(q[j] @ w_q[i if per_place else 0] * c[j, k] for j in range(m))
                to_v[k] = math.tanh(v[i] @ w_v[column] + along)
            for j in range(1, m):
                along = sum(v[i] @ w_v[k if per_place else 0] * c[j, k] for k in range(n))
                to_q[j] = math.tanh(q[j] @ w_q[i if per_place else 0] + along)
            weight_v, weight_q = np.exp(to_v), np.exp(to_q)
            np.testing.assert_allclose(
                found_v[b, i], weight_v / weight_v.sum() @ v, rtol=1e-3, atol=1e-4
            )
            np.testing.assert_allclose(
                found_q[b, i], weight_q / weight_q.sum() @ q, rtol=1e-3, atol=1e-4
            )


def test_older_items_count_less_at_the_user_s_own_rate():
    model = mir()
    decay = model.encode(LISTS).decay
    assert (decay[:, -1] == 1).all()
    assert (decay.diff(dim=1) > 0).all()
    rate = -decay[:, :-1].log() / torch.arange(4, 0, -1)
    torch.testing.assert_close(rate, rate[:, :1].expand(-1, 4), rtol=1e-3, atol=1e-4)
    assert rate[:, 0].std() > 0.05
    same = LISTS.users == LISTS.users[0]
    assert same.sum() > 1
    torch.testing.assert_close(rate[same], rate[:1].expand(same.sum(), -1))


@pytest.mark.parametrize("per_place", [False, True])
def test_the_order_of_the_candidates_matters_only_with_weights_for_places(per_place):
    model = mir(per_place=per_place)
    other, order = permuted(LISTS)
    moved, logits = logits_of(model, other), logits_of(model, LISTS).gather(1, order)
    assert torch.allclose(moved, logits, rtol=1e-3, atol=1e-3) != per_place


def test_one_candidate_less_changes_the_others():
    model = mir()
    other = field_of(LISTS, items=LISTS.items.clone())
    other.items[:, 0] = LISTS.history[:, -1]
    changed = (logits_of(model, other) - logits_of(model, LISTS)).abs() > 1e-5
    assert changed[:, 1:].any(dim=1).all()


def test_the_bilstm_agrees_with_torch_s_on_the_items_without_padding():
    torch.manual_seed(0)
    ours, theirs = PaddedBiLSTM(4, 3), nn.LSTM(4, 3, batch_first=True, bidirectional=True)
    for name, weight in ours.forwards.named_parameters():
        getattr(theirs, name).data = weight.data
        getattr(theirs, f"{name}_reverse").data = getattr(ours.backwards, name).data
    sequence = torch.randn(6, 5, 4)
    length = torch.tensor([1, 2, 3, 4, 5, 5])
    padding = torch.arange(5) < 5 - length[:, None]
    states = ours(sequence, padding)
    for i, count in enumerate(length.tolist()):
        expected, _ = theirs(sequence[i : i + 1, 5 - count :])
        torch.testing.assert_close(states[i, 5 - count :], expected[0], rtol=1e-4, atol=1e-5)


def test_a_short_history_is_as_good_as_a_padded_one():
    model, narrow = mir(), mir(lists=make_lists(history=2))
    state = model.state_dict()
    state["candidates.recency"] = state["candidates.recency"][-2:]
    narrow.load_state_dict(state)
    bare = field_of(SHORT, history=SHORT.history[:, -2:])
    torch.testing.assert_close(
        logits_of(narrow, bare), logits_of(model, SHORT), rtol=1e-4, atol=1e-4
    )


def test_the_history_s_order_is_heard_by_the_lstm_and_by_the_decay():
    model, full = mir(), LISTS[(LISTS.history > 0).all(dim=1)]
    nn.init.zeros_(model.candidates.recency)
    model.rate[2].bias.data.fill_(-100)  # never forgets
    turned = field_of(full, history=full.history.flip(1))

    def differ():
        return not torch.allclose(logits_of(model, turned), logits_of(model, full), atol=1e-3)

    assert differ()
    for parameter in model.bilstm.parameters():
        nn.init.zeros_(parameter)
    assert not differ()
    model.rate[2].bias.data.fill_(1)
    assert differ()


def test_self_attention_by_hand_has_no_residual():
    model = mir(heads=1)
    x = torch.randn(2, 5, 8)
    weight, bias = (p.detach().numpy() for p in model.query_key_value.parameters())
    query, key, value = np.split(x.numpy() @ weight.T + bias, 3, axis=2)
    mixing = np.exp(query @ key.transpose(0, 2, 1) / math.sqrt(8))
    expected = mixing / mixing.sum(axis=2, keepdims=True) @ value
    with torch.no_grad():
        np.testing.assert_allclose(model.attend(x), expected, rtol=1e-3, atol=1e-4)


def test_features_and_items_both_enter_the_affinity():
    model = mir()
    logits = logits_of(model, LISTS)
    for part in (model.feature_affinity, model.item_affinity):
        kept = part.weight.data.clone()
        nn.init.zeros_(part.weight)
        assert not torch.allclose(logits_of(model, LISTS), logits)
        part.weight.data = kept
    past, item = model.candidates.item(LISTS.history), model.candidates.item(LISTS.items)
    expected = np.einsum(
        "bmd,de,bne->bmn",
        *(t.detach().numpy() for t in (past, model.feature_affinity.weight, item)),
    )
    found = model.encode(LISTS).features.detach()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_encode_does_not_read_the_scores():
    model = mir(score_use="concat")
    other = field_of(LISTS, scores=1 - LISTS.scores)
    pairs = zip(model.encode(other), model.encode(LISTS), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_perceptron_has_the_paper_s_sizes():
    layers = [layer for layer in mir().perceptron if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in layers] == [500, 200, 80, 1]
    assert layers[0].in_features == 8 + 2 * 8 + 8 + 2 * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, "hidden = 0: must be at least 1"),
        ({"heads": 3}, "dim = 8 is not a multiple of heads = 3"),
    ],
)
def test_wrong_sizes_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        mir(**options)
