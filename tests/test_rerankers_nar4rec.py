from dataclasses import replace
from math import exp, log, sqrt

import pytest
import torch
from torch import nn
from worlds import make_lists

from dnrlib.errors import ConfigError
from dnrlib.rerankers import build
from dnrlib.rerankers.nar4rec import SlateEvaluator, separation, similarity, unlikelihood
from dnrlib.rerankers.slates import slate_logits

LISTS = make_lists(signal=0.5)
BATCH = LISTS[:9]


def nar4rec(seed=0, **options):
    torch.manual_seed(seed)
    sizes = {"dim": 16, "heads": 2, "feed_forward": 24, "dropout": 0.0, "score_use": "concat"}
    return build("nar4rec", LISTS, **sizes | options)


def matched(model, batch=BATCH):
    with torch.no_grad():
        return model.match(model.vectors(batch, batch.scores))


# The generator --------------------------------------------------------------------------------


@pytest.mark.equation("eq-nar4rec")
def test_the_matching_is_a_softmax_over_candidates_for_each_place():
    model = nar4rec(places=3)
    matching, x, t = matched(model)
    assert matching.shape == (9, 3, 12)
    weights = [exp(sum(a * b for a, b in zip(row, t[4, 2].tolist(), strict=True)) / sqrt(16))
               for row in x[4].tolist()]  # fmt: skip
    expected = torch.tensor([weight / sum(weights) for weight in weights])
    torch.testing.assert_close(matching.softmax(dim=2)[4, 2], expected, rtol=1e-4, atol=1e-6)


def test_each_place_sees_the_others_and_all_candidates():
    model = nar4rec()
    scores = BATCH.scores.clone()
    scores[:, 0] = 1 - scores[:, 0]
    _, x, t = matched(model)
    _, other_x, other_t = matched(model, replace(BATCH, scores=scores))
    assert (x != other_x).any(dim=2).all()
    assert (t != other_t).any(dim=2).all()
    nn.init.normal_(model.place.data[5])
    _, same_x, moved_t = matched(model)
    assert torch.equal(same_x, x)
    assert (moved_t != t).any(dim=2).all()


def test_without_cross_attention_places_know_nothing_of_the_candidates():
    model = nar4rec()
    for layer in model.position_encoder:
        nn.init.zeros_(layer.cross_output.weight)
    _, _, t = matched(model)
    assert torch.equal(t, t[:1].expand_as(t))


# Its loss -------------------------------------------------------------------------------------


@pytest.mark.equation("eq-nar4rec-unlikelihood")
def test_unlikelihood_by_hand():
    p = torch.tensor([[[0.5, 0.25, 0.25], [0.2, 0.7, 0.1]], [[0.5, 0.25, 0.25], [0.2, 0.7, 0.1]]])
    slate = torch.tensor([[0, 2], [0, 1]])
    loss = float(unlikelihood(p, slate, torch.tensor([True, False])))
    good = -log(0.5) - log(0.1)
    bad = -log(1 - 0.5) - log(1 - 0.7)
    assert loss == pytest.approx((good + bad) / 2, rel=1e-4)


def test_a_certain_place_costs_much_but_not_infinitely_and_has_a_gradient():
    logits = torch.tensor([[[40.0, 0.0, 0.0]]], requires_grad=True)
    loss = unlikelihood(logits.softmax(dim=2), torch.tensor([[0]]), torch.tensor([False]))
    loss.backward()
    assert 10 < float(loss.detach()) < 20
    assert logits.grad.isfinite().all()


@pytest.mark.equation("eq-nar4rec-contrast")
def test_separation_by_hand():
    v = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]]])
    cosines = {(0, 1): 0.0, (0, 2): 0.6, (1, 2): 0.8}
    expected = 2 * sum(max(0, 0.5 - 1 + cosine) for cosine in cosines.values()) / 6
    assert float(separation(v, 0.5)) == pytest.approx(expected)
    assert float(separation(v, 0.1)) == 0


def test_a_slate_is_good_when_it_holds_enough_of_the_likes_that_it_could_hold(monkeypatch):
    seen = []

    def spy(p, slate, good):
        seen.append((slate, good))
        return p.sum() * 0

    monkeypatch.setattr("dnrlib.rerankers.nar4rec.unlikelihood", spy)
    nar4rec(places=3, threshold=0.6, samples=5).loss(LISTS, LISTS.scores)
    ((slates, good),) = seen
    assert len(slates) == 5 * len(LISTS)
    for row in range(0, len(slates), 7):
        labels = LISTS.labels[row // 5].tolist()
        held = sum(labels[i] for i in slates[row].tolist())
        assert good[row].item() == (held / min(sum(labels), 3) >= 0.6)
    assert good.any()
    assert not good.all()


def test_learning_moves_probability_from_bad_slates_to_good_ones():
    model = nar4rec()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    torch.manual_seed(0)
    for _ in range(60):
        optimiser.zero_grad()
        model.loss(BATCH, BATCH.scores).backward()
        optimiser.step()
    p = matched(model)[0].softmax(dim=2).mean(dim=1)
    assert p[BATCH.labels].mean() > 1.5 * p[~BATCH.labels].mean()


# Decoding -------------------------------------------------------------------------------------


def decoded(p, s, alpha):
    """Contrastive decoding of one list in plain Python."""
    chosen = []
    for place in p:
        best = max(
            (i for i in range(len(s)) if i not in chosen),
            key=lambda i: (
                (1 - alpha) * place[i] - alpha * max((s[i][c] for c in chosen), default=0)
            ),
        )
        chosen.append(best)
    return chosen


@pytest.mark.equation("eq-nar4rec-decoding")
def test_decoding_by_brute_force():
    model = nar4rec(places=4, alpha=0.9, slates=4)
    torch.manual_seed(0)
    p, x = (3 * torch.randn(30, 4, 12)).softmax(dim=2), torch.randn(30, 12, 3)
    slates, cosine = model.decode(p, x), similarity(x)
    assert slates.shape == (30, 4, 4)
    for row in range(30):
        expected = [
            decoded(p[row].tolist(), cosine[row].tolist(), alpha) for alpha in (0, 0.3, 0.6, 0.9)
        ]
        assert slates[row].tolist() == expected
    assert (slates[:, 0] != slates[:, -1]).any(dim=1).all()


def test_a_candidate_that_is_best_everywhere_stands_in_one_place_only():
    model = nar4rec(places=3)
    p = torch.tensor([0.9, 0.05, 0.03, 0.02]).expand(1, 3, 4)
    slates = model.decode(p, torch.eye(4)[None])
    assert slates[0, 0].tolist() == [0, 1, 2]


def test_the_evaluator_picks_the_slate_with_most_expected_likes():
    model = nar4rec(alpha=0.9).eval()
    matching, x, _ = matched(model)
    slates = model.decode(matching.softmax(dim=2), x)
    h = model.vectors(BATCH, BATCH.scores)
    picked = set()
    for row in range(len(BATCH)):
        utilities = [
            model.evaluator(h[row][slate][None]).sigmoid().sum().item() for slate in slates[row]
        ]
        best = utilities.index(max(utilities))
        picked.add(best)
        expected = slate_logits(slates[row : row + 1, best], matching[row : row + 1].mean(dim=1))
        assert torch.equal(model(BATCH, BATCH.scores)[row : row + 1], expected)
    assert len(picked) > 1


def test_the_evaluator_reads_the_whole_slate_and_its_order():
    torch.manual_seed(0)
    evaluator = SlateEvaluator(8, 4, 2, 8, nn.Dropout(0))
    slate = torch.randn(5, 4, 8)
    other = slate.clone()
    other[:, 3] += 1
    assert (evaluator(other) != evaluator(slate)).all()
    assert not torch.allclose(evaluator(slate.flip(1)).flip(1), evaluator(slate), atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"places": 13}, "places = 13: must lie in 2 … 12"),
        ({"threshold": 1.5}, r"threshold = 1.5: must lie in \[0, 1\]"),
        ({"slates": 0}, "slates = 0: must be at least 1"),
        ({"dim": 15}, "dim = 15 is not a multiple of heads = 2"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        nar4rec(**options)
