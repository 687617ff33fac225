import math

import numpy as np
import pytest
import torch
from test_rerankers import permuted
from torch import nn
from worlds import make_lists

from dnrlib.errors import ConfigError
from dnrlib.losses import softmax
from dnrlib.rerankers import build
from dnrlib.rerankers.attention_rank import attention_rank
from dnrlib.rerankers.prm import ListDropout
from dnrlib.rerankers.setrank import IMSAB, MAB, MSAB, SetRank

LISTS = make_lists(signal=0.5)
BATCH = LISTS[:9]


def with_large_weights(module):
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    return module.eval()


def setrank(**options):
    sizes = {"dim": 16, "heads": 2, "induced": 5, "dropout": 0.0} | options
    return with_large_weights(build("setrank", LISTS, **sizes))


# The loss -----------------------------------------------------------------------------------


@pytest.mark.equation("eq-dlcm-loss")
def test_attention_rank_by_hand():
    """Grades 2, 0 and 1: the first deserves e² of e² + e, the second nothing."""
    scores = [0.3, -1.0, 2.0]
    first, third = math.exp(2) / (math.exp(2) + math.e), math.e / (math.exp(2) + math.e)
    log_total = math.log(sum(math.exp(s) for s in scores))
    graded = -first * (0.3 - log_total) - third * (2.0 - log_total)
    nothing_relevant = 0.0
    loss = attention_rank(torch.tensor([scores, scores]), torch.tensor([[2.0, 0, 1], [0, 0, 0]]))
    assert loss.item() == pytest.approx((graded + nothing_relevant) / 2, rel=1e-6)


def test_attention_rank_is_least_where_the_scores_are_the_relevance():
    relevance = torch.tensor([[3.0, 1.0, 2.0]])
    scores = relevance.clone().requires_grad_()
    attention_rank(scores, relevance).backward()
    assert scores.grad.abs().max() < 1e-6


@pytest.mark.equation("eq-setrank-loss")
def test_with_binary_feedback_attention_rank_is_prm_s_listwise_loss():
    scores = torch.randn(LISTS.labels.shape)
    binary = attention_rank(scores, LISTS.labels.float())
    assert binary.item() == pytest.approx(softmax(scores, LISTS.labels).item(), rel=1e-6)


def test_setrank_is_trained_by_attention_rank_of_the_scores_that_are_given():
    model = setrank(score_use="concat")
    other = 1 - BATCH.scores
    loss = attention_rank(model(BATCH, other), BATCH.labels.float())
    assert model.loss(BATCH, other).item() == pytest.approx(loss.item())
    assert model.loss(BATCH, other).item() != pytest.approx(model.loss(BATCH, BATCH.scores).item())


# The blocks ---------------------------------------------------------------------------------


def arrays(module):
    return {name: p.detach().double().numpy() for name, p in module.named_parameters()}


def normalised(x, weights, name):
    centred = x - x.mean()
    scaled = centred / math.sqrt((centred**2).mean() + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(x, weights, name):
    return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]


def mab_by_hand(block, queries, x):
    """One list, in loops over queries and heads."""
    weights, heads = arrays(block), block.heads
    pairs = [np.split(np.maximum(linear(row, weights, "key_value"), 0), 2) for row in x]
    out = []
    for row in queries:
        query = np.maximum(linear(row, weights, "query"), 0)
        read = []
        for head in range(heads):
            part = slice(head * len(row) // heads, (head + 1) * len(row) // heads)
            match = [query[part] @ key[part] / math.sqrt(len(row) / heads) for key, _ in pairs]
            share = np.exp(match) / np.exp(match).sum()
            read.append(sum(a * value[part] for a, (_, value) in zip(share, pairs, strict=True)))
        b = normalised(row + np.concatenate(read), weights, "norm_attention")
        wide = np.maximum(linear(b, weights, "widen"), 0)
        out.append(normalised(b + linear(wide, weights, "narrow"), weights, "norm_feed_forward"))
    return np.stack(out)


@pytest.mark.equation("eq-setrank")
def test_the_blocks_by_hand():
    block = with_large_weights(IMSAB(8, 2, 3, ListDropout(0.0)))
    x = torch.randn(2, 5, 8)
    points = block.points.detach().double().numpy()[0]
    for rows, ours in zip(x.double().numpy(), block(x).detach(), strict=True):
        summary = mab_by_hand(block.gather, points, rows)
        assert ours.numpy() == pytest.approx(mab_by_hand(block.spread, rows, summary), abs=1e-4)
    plain = with_large_weights(MSAB(8, 2, ListDropout(0.0)))
    rows = x[0].double().numpy()
    by_hand = mab_by_hand(plain.block, rows, rows)
    assert plain(x)[0].detach().numpy() == pytest.approx(by_hand, abs=1e-4)


def test_what_is_read_is_a_mean_of_values_behind_a_relu():
    block = with_large_weights(MAB(8, 2, ListDropout(0.0)))
    x = torch.randn(3, 5, 8)
    read = block.attend(x, x)
    assert read.min() >= 0
    value = block.key_value(x).chunk(2, dim=2)[1].relu()
    assert (read <= value.amax(dim=1, keepdim=True) + 1e-6).all()


def test_with_one_induced_point_all_candidates_read_the_same():
    block = with_large_weights(IMSAB(8, 2, 1, ListDropout(0.0)))
    x = torch.randn(3, 5, 8)
    read = block.spread.attend(x, block.gather(block.points, x))
    torch.testing.assert_close(read, read[:, :1].expand_as(read))


# The model ----------------------------------------------------------------------------------


@pytest.mark.parametrize("induced", [0, 5])
def test_a_permutation_of_the_candidates_permutes_the_logits(induced):
    model = setrank(induced=induced)
    other, order = permuted(BATCH)
    moved, logits = model(other, other.scores), model(BATCH, BATCH.scores)
    torch.testing.assert_close(moved, logits.gather(1, order), rtol=1e-3, atol=1e-4)
    assert logits.std(dim=1).min() > 1e-3


def test_with_the_initial_rank_the_set_has_an_order():
    model = setrank(score_use="rank")
    turned = model(BATCH, 1 - BATCH.scores)
    assert not torch.allclose(turned, model(BATCH, BATCH.scores), atol=1e-3)


def test_lists_of_any_length_are_scored_by_the_same_weights():
    model = setrank()
    short = make_lists(n=7)
    assert model(short, short.scores).shape == (len(short), 7)


@pytest.mark.parametrize("induced", [0, 5])
def test_every_block_and_point_is_trained(induced):
    model = setrank(induced=induced)
    model.loss(LISTS, LISTS.scores).backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_sizes():
    model = SetRank(3, 5)
    assert model.blocks[0].points.shape == (1, 20, 128)
    assert model.blocks[0].gather.widen.weight.shape == (512, 128)
    assert len(SetRank(3, 5, dim=8, blocks=6).blocks) == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": 0}, "blocks = 0: must be at least 1"),
        ({"induced": -1}, "induced = -1: must be at least 0"),
        ({"dim": 10, "heads": 4}, "dim = 10 is not a multiple of heads = 4"),
    ],
)
def test_wrong_sizes_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        SetRank(3, 5, **options)
