import math
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import nn
from worlds import field_of, make_lists

from dnrlib.errors import ConfigError
from dnrlib.rerankers import build, pier
from dnrlib.rerankers.pier import FPSM, OCPM
from dnrlib.rerankers.slates import take

LISTS = make_lists(signal=0.5)
BATCH = LISTS[:9]
PLACES = 3
ORDERS = list(permutations(range(PLACES)))


def model_of(lists=LISTS, seed=0, **options):
    """A small model with large weights, in which every part can be seen."""
    torch.manual_seed(seed)
    sizes = {"dim": 8, "places": PLACES, "bits": 16, "dropout": 0.0, "score_use": "concat"}
    model = build("pier", lists, **sizes | options).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model


def parts_of(model, batch=BATCH):
    """What the model makes of a batch: embeddings, fields, point-wise logits, pages."""
    item, matched, pages, behaviour, filled = model.encode(batch)
    x, point = model.see(item, matched, batch.scores)
    return {
        "item": item, "x": x, "point": point,
        "pages": pages, "behaviour": behaviour, "filled": filled,
    }  # fmt: skip


def slates_of(logits, k=PLACES):
    return logits.argsort(dim=1, descending=True)[:, :k]


# Selection of permutations ------------------------------------------------------------------


@pytest.mark.equation("eq-pier-distance")
def test_the_distance_of_an_order_by_hand():
    torch.manual_seed(0)
    fpsm = FPSM(4, PLACES, 7)
    chosen, pages = torch.randn(1, PLACES, 4), torch.randn(1, 3, PLACES, 4)
    filled = torch.tensor([[False, True, True]])
    matrices = nn.functional.one_hot(torch.tensor(ORDERS)).float()
    distance = fpsm(chosen, pages, filled, matrices)[0].tolist()

    place = fpsm.place.numpy()
    projection = fpsm.projection.numpy()

    def signature(vectors):
        page = sum(p * v for p, v in zip(place, vectors, strict=True))
        return [page @ projection[:, bit] > 0 for bit in range(7)]

    for number, order in enumerate(ORDERS):
        ours = signature(chosen[0].numpy()[list(order)])
        expected = 0.0
        for age, page in enumerate((2, 1)):  # page 0 is padding
            theirs = signature(pages[0, page].numpy())
            expected += 0.5**age * sum(a != b for a, b in zip(ours, theirs, strict=True))
        assert distance[number] == pytest.approx(expected)


def test_the_order_that_the_user_has_seen_is_the_nearest():
    torch.manual_seed(0)
    fpsm = FPSM(32, 5, 64)
    chosen = torch.randn(4, 5, 32)
    orders = torch.tensor(list(permutations(range(5))))
    matrices = nn.functional.one_hot(orders).float()
    page = chosen[:, orders[77]][:, None]
    distance = fpsm(chosen, page, torch.ones(4, 1, dtype=torch.bool), matrices)
    assert (distance.argmin(dim=1) == 77).all()
    assert (distance[:, 77] == 0).all()
    others = distance[:, [number for number in range(120) if number != 77]]
    assert 24 < others.mean() < 32  # unlike orders have half of the 64 bits in common


def test_orders_with_more_in_common_are_nearer():
    torch.manual_seed(0)
    fpsm = FPSM(64, 5, 256)
    chosen = torch.randn(50, 5, 64)
    orders = torch.tensor(list(permutations(range(5))))
    matrices = nn.functional.one_hot(orders).float()
    filled = torch.ones(50, 1, dtype=torch.bool)
    distance = fpsm(chosen, chosen[:, None], filled, matrices).mean(dim=0)
    same = (orders == torch.arange(5)).sum(dim=1)
    steps = [distance[same == count].mean().item() for count in (5, 3, 2, 1, 0)]
    assert steps == sorted(steps)


def test_the_history_is_cut_into_pages_from_the_latest_backwards():
    model = model_of()
    history = torch.tensor([[0, 0, 7, 8, 9], [0, 3, 4, 5, 6]]).int()
    parts = parts_of(model, field_of(LISTS[:2], history=history))
    e = model.candidates.item.weight
    nothing = torch.zeros(8)
    expected = [
        [[nothing, nothing, nothing], [e[7], e[8], e[9]]],
        [[nothing, nothing, e[3]], [e[4], e[5], e[6]]],
    ]
    for row, page in enumerate(expected):
        for number, vectors in enumerate(page):
            assert torch.equal(parts["pages"][row, number], torch.stack(vectors))
    assert parts["filled"].tolist() == [[False, True], [True, True]]


# Prediction of clicks -----------------------------------------------------------------------


def attention_by_hand(layer, vectors):
    query, key, value = np.split(layer.query_key_value.weight.detach().double().numpy(), 3)
    seen = []
    for v in vectors:
        weights = [math.exp(query @ v @ (key @ w) / math.sqrt(len(v))) for w in vectors]
        values = [a * (value @ w) for a, w in zip(weights, vectors, strict=True)]
        seen.append(sum(values) / sum(weights))
    return seen


def linear(layer, x):
    y = layer.weight.detach().double().numpy() @ x
    return y if layer.bias is None else y + layer.bias.detach().double().numpy()


def clicks_by_hand(ocpm, x, behaviour):
    """Logits of one slate x [k, fields, dim] in its order, in loops."""
    k, fields, _ = x.shape
    seen = [attention_by_hand(ocpm.within_field, x[:, f]) for f in range(fields)]
    columns = [
        linear(ocpm.in_order, np.concatenate([x[i, f] + seen[f][i] for i in range(k)]))
        for f in range(fields)
    ]
    mixed = attention_by_hand(ocpm.between_fields, columns)
    page = linear(ocpm.page, np.concatenate([c + m for c, m in zip(columns, mixed, strict=True)]))
    weights = [math.exp(page @ b / math.sqrt(len(page))) for b in behaviour]
    interest = sum(w * b for w, b in zip(weights, behaviour, strict=True)) / sum(weights)
    logits = []
    for i in range(k):
        own = [seen[f][i] for f in range(fields)]
        mixed = attention_by_hand(ocpm.fields_of_item, own)
        context = linear(
            ocpm.item, np.concatenate([a + b for a, b in zip(own, mixed, strict=True)])
        )
        plain = linear(ocpm.plain, x[i].reshape(-1))
        plain = plain / (1 + np.exp(-plain))
        hidden = linear(ocpm.from_page, np.concatenate([page, interest]))
        hidden = hidden + linear(ocpm.from_item, np.concatenate([context, plain]))
        hidden = linear(ocpm.predict[1], np.maximum(hidden, 0))
        logits.append(linear(ocpm.predict[3], np.maximum(hidden, 0))[0])
    return logits


def ocpm_of(dim=4):
    torch.manual_seed(1)
    ocpm = OCPM(dim, PLACES)
    for parameter in ocpm.parameters():
        nn.init.normal_(parameter, std=0.6)
    return ocpm


@pytest.mark.equation("eq-pier-page")
def test_click_logits_by_hand():
    ocpm = ocpm_of()
    x, behaviour = torch.randn(1, PLACES, 2, 4), torch.randn(1, 3, 4)
    filled = torch.tensor([[False, True, True]])
    logits = ocpm(x, behaviour, filled)[0, 0].tolist()
    expected = clicks_by_hand(ocpm, x[0].double().numpy(), behaviour[0, 1:].double().numpy())
    assert logits == pytest.approx(expected, rel=1e-4)


def test_the_orders_of_a_set_are_what_each_would_be_alone():
    ocpm = ocpm_of()
    x, behaviour = torch.randn(5, PLACES, 2, 4), torch.randn(5, 2, 4)
    filled = torch.ones(5, 2, dtype=torch.bool)
    matrices = nn.functional.one_hot(torch.tensor(ORDERS)).float().expand(5, -1, -1, -1)
    together = ocpm(x, behaviour, filled, matrices)
    for number, order in enumerate(ORDERS):
        alone = ocpm(x[:, list(order)], behaviour, filled)[:, 0]
        torch.testing.assert_close(together[:, number, list(order)], alone, rtol=1e-4, atol=1e-5)
    assert (together.std(dim=1) > 1e-3).all()  # the order matters


@pytest.mark.parametrize("field", [0, 1])
def test_each_field_of_each_item_is_seen_by_all(field):
    ocpm = ocpm_of()
    x, behaviour = torch.randn(1, PLACES, 2, 4), torch.randn(1, 2, 4)
    filled = torch.ones(1, 2, dtype=torch.bool)
    logits = ocpm(x, behaviour, filled)
    for item in range(PLACES):
        other = x.clone()
        other[0, item, field] += 1
        assert (ocpm(other, behaviour, filled) != logits).all()


# Decoding -----------------------------------------------------------------------------------


@pytest.mark.equation("eq-pier")
@pytest.mark.parametrize("discounted", [True, False])
@pytest.mark.parametrize("near", [1, 3, 6])
def test_the_slate_is_the_best_of_the_near_orders(near, discounted):
    model = model_of(near=near, discounted=discounted)
    parts = parts_of(model)
    slates = slates_of(model(BATCH, BATCH.scores))
    chosen = parts["point"].topk(PLACES, dim=1).indices
    for row in range(len(BATCH)):
        one = slice(row, row + 1)
        pages = parts["pages"][one], parts["filled"][one]
        candidates = []
        for number, order in enumerate(ORDERS):
            slate = chosen[one, list(order)]
            in_order = nn.functional.one_hot(torch.arange(PLACES))[None].float()
            distance = model.fpsm(take(parts["item"][one], slate), *pages, in_order).item()
            fields = model.fields(parts["x"][one], slate)
            clicks = model.ocpm(fields, parts["behaviour"][one], pages[1])[0, 0].sigmoid()
            gain = sum(
                c / math.log2(k + 2) if discounted else c for k, c in enumerate(clicks.tolist())
            )
            candidates.append((distance, number, gain, slate[0].tolist()))
        best = max(sorted(candidates)[:near], key=lambda c: c[2])
        assert slates[row].tolist() == best[3]


def test_without_history_the_point_wise_order_is_the_nearest():
    model = model_of(near=1)
    batch = field_of(BATCH, history=torch.zeros_like(BATCH.history))
    point = parts_of(model, batch)["point"]
    logits = model(batch, batch.scores)
    assert torch.equal(logits.argsort(descending=True), point.argsort(dim=1, descending=True))


def test_the_head_chooses_the_slate_s_members_and_orders_the_rest():
    model = model_of()
    head = parts_of(model)["point"].argsort(dim=1, descending=True)
    ours = model(BATCH, BATCH.scores).argsort(dim=1, descending=True)
    assert torch.equal(ours[:, :PLACES].sort().values, head[:, :PLACES].sort().values)
    assert torch.equal(ours[:, PLACES:], head[:, PLACES:])
    assert not torch.equal(ours[:, :PLACES], head[:, :PLACES])


@pytest.mark.parametrize("score_use", ["concat", "add", "weight"])
def test_the_scores_are_seen_by_the_head_and_by_the_prediction_of_clicks(score_use):
    model = model_of(score_use=score_use)
    slate = BATCH.items.argsort(dim=1)[:, :PLACES]

    def seen(scores):
        parts = parts_of(model, field_of(BATCH, scores=scores))
        pages = parts["behaviour"], parts["filled"]
        return parts["point"], model.ocpm(model.fields(parts["x"], slate), *pages)[:, 0]

    head, clicks = seen(BATCH.scores)
    other_head, other_clicks = seen(1 - BATCH.scores)
    assert (head != other_head).all()
    assert (clicks != other_clicks).all()


# Loss ---------------------------------------------------------------------------------------


def log_loss(logits, labels):
    p = 1 / (1 + np.exp(-logits.detach().double().numpy()))
    z = labels.numpy()
    return -(z * np.log(p) + (1 - z) * np.log(1 - p)).mean()


@pytest.mark.equation("eq-pier-loss")
@pytest.mark.parametrize("compared", [1, 2])
def test_the_loss_by_hand(monkeypatch, compared):
    slate = torch.rand(BATCH.items.shape).argsort(dim=1)[:, :PLACES]
    monkeypatch.setattr(pier, "random_slates", lambda labels, k: slate)
    model = model_of(compared=compared, contrast=0.25)
    parts = parts_of(model)
    pages = parts["behaviour"], parts["filled"]
    clicks = model.ocpm(model.fields(parts["x"], slate), *pages)[:, 0]
    expected = log_loss(parts["point"], BATCH.labels)
    expected += log_loss(clicks, BATCH.labels.gather(1, slate))
    chosen = parts["point"].topk(PLACES, dim=1).indices
    distance = model.fpsm(
        take(parts["item"], chosen), parts["pages"], parts["filled"], model.orders
    )
    near, far = [], []
    for row in range(len(BATCH)):
        ranked = sorted(range(len(ORDERS)), key=lambda order: (distance[row, order], order))
        for side, numbers in ((near, ranked[:compared]), (far, ranked[-compared:])):
            for number in numbers:
                one = slice(row, row + 1)
                fields = model.fields(parts["x"][one], chosen[one, list(ORDERS[number])])
                side += model.ocpm(fields, *(p[one] for p in pages)).sigmoid().flatten().tolist()
    expected -= 0.25 * (np.mean(near) - np.mean(far))
    assert model.loss(BATCH, BATCH.scores).item() == pytest.approx(expected, rel=1e-4)


def test_the_contrast_is_learnt_from():
    slopes = []
    for contrast in (0.0, 1.0):
        torch.manual_seed(0)
        model = model_of(contrast=contrast)
        model.loss(BATCH, BATCH.scores).backward()
        slopes.append(model.ocpm.in_order.weight.grad)
    assert not torch.allclose(*slopes)


def test_the_distance_itself_has_no_gradient():
    model = model_of()
    parts = parts_of(model)
    chosen = take(parts["item"], parts["point"].topk(PLACES, dim=1).indices)
    distance = model.fpsm(chosen, parts["pages"], parts["filled"], model.orders)
    assert not distance.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"places": 0}, "places = 0: must be at least 1"),
        ({"places": 9}, "places = 9: must be at most 8"),
        ({"near": 0}, "near = 0: must be at least 1"),
        ({"bits": 0}, "bits = 0: must be at least 1"),
        ({"compared": 0}, "compared = 0: must be at least 1"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        build("pier", LISTS, **options)


def test_more_places_than_candidates_are_refused():
    with pytest.raises(ConfigError, match="places = 6: must be at most 5"):
        build("pier", make_lists(n=5))
