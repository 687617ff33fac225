import math

import numpy as np
import pytest
import torch
from torch import nn
from worlds import field_of, make_lists

from dnrlib.errors import ConfigError
from dnrlib.rerankers import build, sasrec
from dnrlib.rerankers.sasrec import SASRec, unseen

LISTS = make_lists(signal=0.5)
BATCH = LISTS[:9]


def model_of(lists=LISTS, **options):
    """A small model with large weights, in which every part can be seen."""
    torch.manual_seed(0)
    sizes = {"dim": 8, "heads": 2, "dropout": 0.0} | options
    model = build("sasrec", lists, **sizes)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    model.item.weight.data[0] = 0
    return model


# The forward pass ---------------------------------------------------------------------------


def arrays(module):
    return {name: p.detach().double().numpy() for name, p in module.named_parameters()}


def normalised(x, weights, name):
    centred = x - x.mean()
    return (
        centred / math.sqrt((centred**2).mean() + 1e-8) * weights[f"{name}.weight"]
        + weights[f"{name}.bias"]
    )


def linear(x, weights, name):
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def last_state_by_hand(model, items, heads):
    """F of the last step of one user's real items, in loops; there is no padding in it."""
    top = arrays(model)
    dim = top["position"].shape[1]
    first = len(top["position"]) - len(items)
    steps = [
        top["item.weight"][item] * math.sqrt(dim) + top["position"][first + t]
        for t, item in enumerate(items)
    ]
    for block in model.blocks:
        weights = arrays(block)
        queries = [normalised(s, weights, "norm_attention") for s in steps]
        pairs = [np.split(linear(s, weights, "key_value"), 2) for s in steps]
        after = []
        for t, q in enumerate(queries):
            mixed = []
            for h in range(heads):
                part = slice(h * dim // heads, (h + 1) * dim // heads)
                query = linear(q, weights, "query")[part]
                affinity = [
                    math.exp(query @ key[part] / math.sqrt(dim // heads))
                    for key, _ in pairs[: t + 1]
                ]
                mixed.append(
                    sum(a * v[part] for a, (_, v) in zip(affinity, pairs, strict=False))
                    / sum(affinity)
                )
            r = normalised(q + np.concatenate(mixed), weights, "norm_feed_forward")
            after.append(r + linear(np.maximum(linear(r, weights, "widen"), 0), weights, "narrow"))
        steps = after
    return normalised(steps[-1], top, "norm")


@pytest.mark.equation("eq-sasrec", "eq-sasrec-logit")
@pytest.mark.parametrize("heads", [1, 2])
def test_the_logits_by_hand(heads):
    model = model_of(heads=heads)
    table = arrays(model)["item.weight"]
    logits = model(BATCH, BATCH.scores)
    lengths = (BATCH.history > 0).sum(dim=1)
    assert lengths.min() < lengths.max() == BATCH.history.shape[1]
    for row in range(len(BATCH)):
        real = [item for item in BATCH.history[row].tolist() if item]
        by_hand = table[BATCH.items[row].numpy()] @ last_state_by_hand(model, real, heads)
        np.testing.assert_allclose(logits[row].detach().numpy(), by_hand, rtol=1e-3, atol=1e-4)


def test_a_step_sees_itself_and_what_was_before():
    model = model_of()
    full = LISTS[(LISTS.history > 0).all(dim=1)]
    states = model.states(full.history)
    other = full.history.clone()
    other[:, 2] = other[:, 2] % LISTS.meta["items"] + 1
    same = (model.states(other) == states).all(dim=2)
    assert same[:, :2].all()
    assert not same[:, 2:].any()


def test_the_order_of_the_history_counts():
    model = model_of()
    full = LISTS[(LISTS.history > 0).all(dim=1)]
    turned = field_of(
        full, history=torch.cat([full.history[:, :-1].flip(1), full.history[:, -1:]], 1)
    )
    assert not torch.allclose(model(turned, full.scores), model(full, full.scores), atol=1e-3)


def test_a_user_without_history_has_finite_logits_that_no_padding_decides():
    model = model_of()
    new = field_of(BATCH, history=torch.zeros_like(BATCH.history))
    logits = model(new, BATCH.scores)
    assert logits.isfinite().all()
    nn.init.normal_(model.position)
    assert torch.equal(model(new, BATCH.scores), logits)


def test_the_user_is_not_read_and_the_table_is_shared():
    model = model_of()
    other = field_of(BATCH, users=BATCH.users.flip(0))
    assert torch.equal(model(other, BATCH.scores), model(BATCH, BATCH.scores))
    tables = [p.shape for p in model.parameters() if len(p) in (20, 41)]
    assert tables == [(41, 8)]


# The loss -----------------------------------------------------------------------------------


def log_sigmoid(x):
    return -math.log(1 + math.exp(-x))


@pytest.mark.equation("eq-sasrec-loss")
@pytest.mark.parametrize("weight", [0.0, 1.0, 0.3])
def test_the_loss_by_hand(weight, monkeypatch):
    model = model_of(sequence_weight=weight, score_use="concat")
    others = torch.randint(1, 41, (len(BATCH), 4))
    monkeypatch.setattr(sasrec, "unseen", lambda seen, items, count: others)
    scores = 1 - BATCH.scores
    logits, states = model(BATCH, scores), model.states(BATCH.history).detach()
    table = model.item.weight.detach()
    of_list = [
        log_sigmoid(logit if liked else -logit)
        for logit, liked in zip(
            logits.flatten().tolist(), BATCH.labels.flatten().tolist(), strict=True
        )
    ]
    of_steps = []
    for row in range(len(BATCH)):
        for t in range(4):
            if BATCH.history[row, t]:
                follows = table[BATCH.history[row, t + 1]]
                other = table[others[row, t]]
                of_steps.append(
                    log_sigmoid(float(states[row, t] @ follows))
                    + log_sigmoid(-float(states[row, t] @ other))
                )
    by_hand = -sum(of_list) / len(of_list) - weight * sum(of_steps) / len(of_steps)
    assert model.loss(BATCH, scores).item() == pytest.approx(by_hand, rel=1e-4)


def test_the_contrast_of_the_next_item_is_in_neither_history_nor_list(monkeypatch):
    asked = []

    def remembered(*arguments):
        asked.append((arguments, unseen(*arguments)))
        return asked[-1][1]

    monkeypatch.setattr(sasrec, "unseen", remembered)
    model_of().loss(LISTS, LISTS.scores)
    (((seen, items, count), drawn),) = asked
    assert (items, count) == (40, 4)
    both = torch.cat([LISTS.history, LISTS.items], dim=1)
    assert torch.equal(seen.sort(dim=1).values, both.sort(dim=1).values)
    assert not (drawn[:, :, None] == both[:, None]).any()


def test_scores_and_labels_enter_by_the_candidates_alone():
    gradients = []
    for weight in (0.0, 1.0):
        model = model_of(sequence_weight=weight, score_use="concat")
        scores = BATCH.scores.clone().requires_grad_()
        model.loss(BATCH, scores).backward()
        gradients.append(scores.grad)
    torch.testing.assert_close(*gradients)
    blind = field_of(BATCH, labels=~BATCH.labels, scores=1 - BATCH.scores)
    parts = []
    for batch in (BATCH, blind):
        torch.manual_seed(1)
        parts.append(model.sequence_loss(batch, model.states(batch.history)))
    assert torch.equal(*parts)


def test_lists_with_one_item_of_history_have_no_earlier_step():
    one = BATCH.history.clone()
    one[:, :-1] = 0
    short = field_of(BATCH, history=one)
    with_part, without = (model_of(sequence_weight=w).loss(short, BATCH.scores) for w in (1.0, 0.0))
    assert torch.equal(with_part, without)


# Draws --------------------------------------------------------------------------------------


def test_unseen_items_are_drawn_uniformly():
    torch.manual_seed(0)
    seen = torch.tensor([[0, 0, 3, 7, 3, 1], [5, 8, 8, 8, 2, 6], [0, 0, 0, 0, 0, 0]])
    free = [{2, 4, 5, 6, 8}, {1, 3, 4, 7}, set(range(1, 9))]
    draws = unseen(seen, 8, 8000)
    for row, items in zip(draws, free, strict=True):
        found, counts = row.unique(return_counts=True)
        assert set(found.tolist()) == items
        share = counts / len(row)
        assert (share - 1 / len(items)).abs().max() < 0.025


def test_the_only_unseen_item_is_found():
    seen = torch.tensor([[1, 2, 4, 5], [2, 3, 4, 5], [1, 2, 3, 4]])
    assert unseen(seen, 5, 2).tolist() == [[3, 3], [1, 1], [5, 5]]


# Sizes --------------------------------------------------------------------------------------


def test_the_defaults_are_the_authors_for_films():
    model = SASRec(3, 100)
    assert len(model.blocks) == 2
    assert model.blocks[0].heads == 1
    assert model.dropout.p == 0.2
    assert model.position.shape == (20, 128)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 3}, "dim = 8 is not a multiple of heads = 3"),
        ({"blocks": 0}, "blocks = 0: must be at least 1"),
        ({"sequence_weight": -1.0}, r"sequence_weight = -1.0: must not be negative"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        model_of(**options)


def test_a_catalogue_that_a_list_may_use_up_is_refused():
    tiny = make_lists(items=17)
    with pytest.raises(ConfigError, match="Set sequence_weight = 0"):
        model_of(tiny)
    assert model_of(tiny, sequence_weight=0.0).loss(tiny, tiny.scores) > 0
