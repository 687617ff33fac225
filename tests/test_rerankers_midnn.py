import pytest
import torch
from torch import nn
from worlds import make_lists

from dnrlib.errors import ConfigError
from dnrlib.losses import bernoulli
from dnrlib.rerankers import OwnLoss, build
from dnrlib.rerankers.midnn import MiDNN, global_features
from dnrlib.trainers import trainer_for
from dnrlib.training import Trainer

LISTS = make_lists(signal=0.5)
BATCH = LISTS[:9]


def midnn(**options):
    torch.manual_seed(0)
    return build("midnn", LISTS, **{"dim": 8, "feed_forward": 16} | options).eval()


@pytest.mark.equation("eq-midnn")
def test_global_features_by_hand():
    """Three candidates with a price, a feature that they all share, and one below zero."""
    f = torch.tensor([[[10.0, 4.0, -1.0], [30.0, 4.0, -3.0], [15.0, 4.0, -1.5]]])
    expected = [[[0.0, 0.5, 1.0], [1.0, 0.5, 0.0], [0.25, 0.5, 0.75]]]
    torch.testing.assert_close(global_features(f), torch.tensor(expected))


@pytest.mark.equation("eq-midnn")
def test_the_perceptron_sees_local_and_global_features():
    model = midnn()
    f = torch.randn(2, 5, 8)
    low, high = f.min(dim=1).values, f.max(dim=1).values
    for row in range(2):
        for i in range(5):
            beside = (f[row, i] - low[row]) / (high[row] - low[row])
            x = nn.functional.layer_norm(torch.cat([f[row, i], beside]), (16,))
            for layer in (1, 4, 7):
                x = (model.layers[layer].weight @ x + model.layers[layer].bias).clamp(min=0)
            logit = model.head.weight @ x + model.head.bias
            ours = model.score(f, BATCH.scores[:2, :5])[row, i]
            assert ours.item() == pytest.approx(logit.item(), abs=1e-5)


def test_global_features_do_not_depend_on_unit_and_origin():
    f = torch.randn(4, 6, 3)
    torch.testing.assert_close(global_features(7 * f - 2), global_features(f))
    assert global_features(f).amin(dim=1).eq(0).all()
    assert global_features(f).amax(dim=1).eq(1).all()


def test_a_list_in_which_all_is_alike_has_a_finite_gradient():
    f = torch.ones(2, 4, 3, requires_grad=True)
    (f * global_features(f)).sum().backward()
    assert torch.equal(global_features(f), torch.full_like(f, 0.5))
    assert f.grad.isfinite().all()


def test_candidates_know_of_each_other_by_the_extremes_alone():
    model = midnn()
    f = torch.randn(3, 6, 8)
    f[:, 0] = f[:, 1:].mean(dim=1)
    scores = BATCH.scores[:3, :6]
    inside, outside = f.clone(), f.clone()
    inside[:, 0] = f[:, 1:].median(dim=1).values
    outside[:, 0] = 5.0
    logits = model.score(f, scores)
    torch.testing.assert_close(model.score(inside, scores)[:, 1:], logits[:, 1:])
    assert not torch.allclose(model.score(inside, scores)[:, 0], logits[:, 0])
    assert (model.score(outside, scores) != logits).any(dim=0).all()


def test_the_score_is_among_the_features():
    """A raised score moves the others' logits: it is the list's new maximum."""
    model = midnn(score_use="concat")
    other = BATCH.scores.clone()
    other[:, 0] = 3.0
    assert (model(BATCH, other) != model(BATCH, BATCH.scores))[:, 1:].any(dim=0).all()


def test_midnn_is_trained_by_the_point_wise_log_loss():
    model = midnn()
    assert not isinstance(model, OwnLoss)
    assert trainer_for(type(model)) is Trainer
    logits = model(BATCH, BATCH.scores)
    p, z = logits.sigmoid(), BATCH.labels.float()
    by_hand = -(z * p.log() + (1 - z) * (1 - p).log()).mean()
    assert bernoulli(logits, BATCH.labels).item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_sizes():
    model = MiDNN(3, 5)
    widths = [layer.out_features for layer in model.layers if isinstance(layer, nn.Linear)]
    assert widths == [512, 256, 128]
    assert model.layers[1].in_features == 256
    assert {layer.p for layer in model.layers if isinstance(layer, nn.Dropout)} == {0.2}
    with pytest.raises(ConfigError, match="feed_forward = 3: must be at least 4"):
        MiDNN(3, 5, feed_forward=3)
