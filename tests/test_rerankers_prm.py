import math

import numpy as np
import pytest
import torch
from torch import nn
from worlds import make_lists

from dnrlib.losses import bernoulli, softmax
from dnrlib.rerankers import build

LISTS = make_lists(signal=0.5)
BATCH = LISTS[:6]
DIM, HEADS = 8, 2


def prm(score_use="rank"):
    torch.manual_seed(0)
    sizes = {"dim": DIM, "heads": HEADS, "feed_forward": 12, "dropout": 0.0}
    model = build("prm", LISTS, score_use=score_use, **sizes).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    model.item.weight.data[0] = 0
    return model


def arrays(module):
    return {name: p.detach().double().numpy() for name, p in module.named_parameters()}


def linear(x, weights, name):
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def normalised(x, weights, name):
    centred = x - x.mean()
    scaled = centred / math.sqrt((centred**2).mean() + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def candidates_by_hand(model, users, history, items, scores):
    """e + a + b ⊙ e + the vector of the initial rank, for each candidate of one list."""
    weights = arrays(model)
    real = [(step, item) for step, item in enumerate(history) if item]
    share = np.exp([weights["recency"][step] for step, _ in real])
    taste = sum(s * weights["item.weight"][item] for s, (_, item) in zip(share, real, strict=True))
    request = np.concatenate([weights["user.weight"][users], taste / share.sum()])
    a, b = np.split(linear(request, weights, "from_request"), 2)
    rows = []
    for item, score in zip(items, scores, strict=True):
        rank = sum(other > score for other in scores)
        e = weights["item.weight"][item]
        rows.append(e + a + b * e + weights["score_input.position.weight"][rank])
    return rows


def layer_by_hand(layer, rows):
    """One encoder layer: all candidates of a list see all, then each by itself."""
    weights, size = arrays(layer), DIM // HEADS
    triples = [np.split(linear(row, weights, "query_key_value"), 3) for row in rows]
    out = []
    for row, (query, _, _) in zip(rows, triples, strict=True):
        read = []
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            match = np.exp([query[part] @ key[part] / math.sqrt(size) for _, key, _ in triples])
            values = [value[part] for _, _, value in triples]
            read.append(match / match.sum() @ np.stack(values))
        after = normalised(
            row + linear(np.concatenate(read), weights, "output"), weights, "norm_attention"
        )
        wide = np.maximum(linear(after, weights, "widen"), 0)
        out.append(
            normalised(after + linear(wide, weights, "narrow"), weights, "norm_feed_forward")
        )
    return out


@pytest.mark.equation("eq-prm")
def test_the_logits_by_hand():
    model = prm()
    logits = model(BATCH, BATCH.scores)
    columns = (BATCH.users, BATCH.history, BATCH.items, BATCH.scores)
    for ours, *request in zip(logits, *(c.tolist() for c in columns), strict=True):
        rows = candidates_by_hand(model, *request)
        for layer in model.layers:
            rows = layer_by_hand(layer, rows)
        by_hand = [linear(row, arrays(model), "head").item() for row in rows]
        assert ours.tolist() == pytest.approx(by_hand, abs=1e-3)


@pytest.mark.equation("eq-prm-loss")
def test_both_losses_by_hand():
    """Logits 0, log 3 and log 2, of which the last two are liked."""
    logits = torch.tensor([[0.0, math.log(3), math.log(2)]])
    liked = torch.tensor([[False, True, True]])
    # sigmoids 1/2, 3/4 and 2/3; softmax 1/6, 3/6 and 2/6
    by_candidate = -(math.log(1 / 2) + math.log(3 / 4) + math.log(2 / 3)) / 3
    by_list = -(math.log(3 / 6) + math.log(2 / 6)) / 2
    assert bernoulli(logits, liked).item() == pytest.approx(by_candidate, rel=1e-6)
    assert softmax(logits, liked).item() == pytest.approx(by_list, rel=1e-6)


def test_the_place_in_the_tensor_is_no_input_but_the_rank_is():
    """A candidate's position vector is that of its initial rank, wherever it stands."""
    model = prm()
    x = torch.zeros(1, 4, DIM)
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.2]])
    position = model.score_input(x, scores)[0]
    torch.testing.assert_close(position, model.score_input.position.weight[[3, 0, 1, 2]])
