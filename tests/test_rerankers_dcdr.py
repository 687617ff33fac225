import math
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import nn
from worlds import make_lists

from dnrlib.errors import ConfigError
from dnrlib.rerankers import build, dcdr
from dnrlib.rerankers.dcdr import LIKED, UNKNOWN, one_swap, swapped
from dnrlib.rerankers.inputs import initial_order
from dnrlib.rerankers.slates import take

LISTS = make_lists(signal=0.5)
BATCH = LISTS[:9]
N, PLACES = LISTS.items.shape[1], 3


def model_of(lists=LISTS, seed=0, **options):
    """A small model with large weights, in which every part can be seen."""
    torch.manual_seed(seed)
    sizes = {"dim": 8, "heads": 2, "feed_forward": 12, "places": PLACES, "dropout": 0.0}
    model = build("dcdr", lists, **sizes | {"score_use": "concat"} | options).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    return model


def neighbours(slate, n, operation):
    """By trying all pairs of an ordering whose first places are the slate."""
    order = list(slate) + [c for c in range(n) if c not in slate]
    found = []
    for i in range(len(slate)):
        for j in range(i + 1, n):
            kind = "permutation" if j < len(slate) else "replacement"
            if operation in ("both", kind):
                other = order.copy()
                other[i], other[j] = other[j], other[i]
                found.append(tuple(other[: len(slate)]))
    return found


def slates_of(logits):
    return logits.argsort(dim=1, descending=True)[:, :PLACES]


# Noise --------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["both", "permutation", "replacement"])
def test_the_swaps_lead_to_each_neighbour_once(operation):
    for slate in [(0, 1, 2), (4, 0, 3)]:
        allowed = one_swap(torch.tensor([slate]), 5, operation)[0].nonzero()[:, 0]
        after, undo = swapped(torch.tensor([slate]).expand(len(allowed), -1), allowed, 5)
        assert Counter(map(tuple, after.tolist())) == Counter(neighbours(slate, 5, operation))
        back, again = swapped(after, undo, 5)
        assert (back == torch.tensor(slate)).all()
        assert torch.equal(again, allowed)
        assert all(one_swap(after, 5, operation)[range(len(undo)), undo])


def test_staying_changes_nothing():
    slate = torch.tensor([[2, 0, 1], [4, 3, 0]])
    after, undo = swapped(slate, torch.tensor([15, 15]), 5)
    assert torch.equal(after, slate)
    assert undo.tolist() == [15, 15]


@pytest.mark.equation("eq-dcdr-forward")
def test_a_step_swaps_with_probability_beta_and_any_neighbour_alike():
    model = model_of(steps=2)
    assert model.beta.tolist() == [0.75, 1.0]
    torch.manual_seed(0)
    start = torch.tensor([1, 4, 2])
    path, undo = model.diffuse(start.expand(40_000, -1), 5)
    counts = Counter(map(tuple, path[:, 0].tolist()))
    assert counts.pop((1, 4, 2)) / 40_000 == pytest.approx(0.25, abs=0.01)
    assert set(counts) == set(neighbours((1, 4, 2), 5, "both"))
    assert max(counts.values()) < 1.1 * min(counts.values())
    assert torch.equal(swapped(path[:, 1], undo[:, 1], 5)[0], path[:, 0])
    assert (undo[:, 1] < 15).all()  # β_2 = 1


@pytest.mark.equation("eq-dcdr-posterior")
def test_the_step_that_was_made_is_a_draw_from_the_posterior():
    model = model_of(make_lists(n=3), places=2, steps=3)
    states = list(permutations(range(3), 2))
    kernels = []
    for beta in model.beta.tolist():
        kernel = np.eye(6) * (1 - beta)
        for row, state in enumerate(states):
            around = neighbours(state, 3, "both")
            for other in around:
                kernel[row, states.index(other)] += beta / len(around)
        kernels.append(kernel)
    two_steps = (kernels[0] @ kernels[1])[0]  # q(R_2 | R_0), of R_0 = the first state
    joint = two_steps[:, None] * kernels[2]  # of R_2 and R_3
    posterior = joint / joint.sum(axis=0)

    torch.manual_seed(0)
    path, undo = model.diffuse(torch.tensor(states[0]).expand(60_000, -1), 3)
    before = swapped(path[:, 2], undo[:, 2], 3)[0]
    seen = np.zeros((6, 6))
    pairs = zip(map(tuple, before.tolist()), map(tuple, path[:, 2].tolist()), strict=True)
    for (a, b), count in Counter(pairs).items():
        seen[states.index(a), states.index(b)] = count
    np.testing.assert_allclose(seen / seen.sum(axis=0), posterior, atol=0.02)


# Denoiser -----------------------------------------------------------------------------------


@pytest.mark.equation("eq-dcdr")
def test_the_logit_of_a_swap_is_what_the_affinities_gain():
    model = model_of()
    denoiser = model.denoiser
    h = model.vectors(BATCH, BATCH.scores)
    slate = torch.rand(BATCH.items.shape).argsort(dim=1)[:, :PLACES]
    response = torch.tensor([[[1, 0, 2]]])
    logits = denoiser(h, slate[:, None], torch.tensor([[3]]), response)[:, 0]

    tokens = take(h, slate) + denoiser.place.weight + denoiser.step.weight[3]
    seen = denoiser.layers(tokens + denoiser.response.weight[response[0, 0]])
    affinity = (denoiser.wanted(seen) @ h.transpose(1, 2)).tolist()
    for row in range(len(BATCH)):
        order = slate[row].tolist() + [c for c in range(N) if c not in slate[row]]

        def total(order, row=row):
            return sum(affinity[row][i][order[i]] for i in range(PLACES))

        for i in range(PLACES):
            for j in range(N):
                logit = logits[row, i * N + order[j]].item()
                if j <= i:
                    assert logit == -math.inf  # itself, or a pair that has been counted
                else:
                    other = order.copy()
                    other[i], other[j] = other[j], other[i]
                    assert logit == pytest.approx(total(other) - total(order), rel=1e-3, abs=1e-3)
    torch.testing.assert_close(logits[:, -1:], denoiser.stay(seen.mean(dim=1)))


def test_the_denoiser_reads_place_step_and_response():
    model = model_of()
    h = model.vectors(BATCH, BATCH.scores)
    slate = torch.rand(BATCH.items.shape).argsort(dim=1)[:, None, :PLACES]

    def stay(step, response, slate=slate):
        return model.denoiser(h, slate, torch.tensor([[step]]), torch.tensor([[response]]))[..., -1]

    base = stay(0, [1, 1, 1])
    assert (stay(1, [1, 1, 1]) != base).all()
    assert (stay(0, [1, 0, 1]) != base).all()
    assert (stay(0, [1, 1, 1], slate.flip(2)) != base).all()


# Loss ---------------------------------------------------------------------------------------


@pytest.mark.equation("eq-dcdr-loss")
def test_the_loss_by_hand(monkeypatch):
    slate = torch.rand(BATCH.items.shape).argsort(dim=1)[:, :PLACES]
    monkeypatch.setattr(dcdr, "random_slates", lambda labels, k: slate)
    model = model_of(steps=2, drop=0.0)
    starts = []

    def diffuse(start, n, whole=model.diffuse):
        starts.append(start)
        torch.manual_seed(5)
        return whole(start, n)

    monkeypatch.setattr(model, "diffuse", diffuse)
    loss = model.loss(BATCH, BATCH.scores).item()
    labels, start = BATCH.labels.numpy(), starts[0]
    for row in range(len(BATCH)):
        liked = [c for c in slate[row].tolist() if labels[row, c]]
        assert start[row].tolist() == liked + [c for c in slate[row].tolist() if c not in liked]

    path, undo = diffuse(start, N)
    h = model.vectors(BATCH, BATCH.scores)
    cross_entropy, log_loss = [], []
    for row in range(len(BATCH)):
        one = slice(row, row + 1)
        response = torch.tensor([[[int(labels[row, c]) for c in start[row].tolist()]]])
        for t in range(2):
            logits = model.denoiser(h[one], path[one, t : t + 1], torch.tensor([[t]]), response)
            p = np.exp(logits[0, 0].detach().double().numpy())
            cross_entropy.append(-math.log(p[undo[row, t]] / p.sum()))
        for c, logit in zip(slate[row], model.evaluator(take(h, slate))[row].tolist(), strict=True):
            p = 1 / (1 + math.exp(-logit))
            log_loss.append(-math.log(p if labels[row, c] else 1 - p))
    expected = np.mean(cross_entropy) + np.mean(log_loss)
    assert loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("drop", "share"), [(0.0, 0.0), (0.3, 0.3), (0.99, 0.99)])
def test_the_condition_is_dropped_for_whole_lists(monkeypatch, drop, share):
    model = model_of(drop=drop)
    seen = []
    model.denoiser.register_forward_pre_hook(lambda module, given: seen.append(given[3]))
    torch.manual_seed(0)
    for _ in range(5):
        model.loss(LISTS, LISTS.scores)
    unknown = torch.cat(seen)[:, 0] == UNKNOWN
    assert torch.equal(unknown.any(dim=1), unknown.all(dim=1))
    assert unknown.float().mean().item() == pytest.approx(share, abs=0.06)


# Decoding -----------------------------------------------------------------------------------


def utility(model, h, slate):
    clicks = model.evaluator(h[slate][None]).sigmoid()[0].tolist()
    return sum(c / math.log2(k + 2) for k, c in enumerate(clicks))


def decoded(model, h, first):
    """Beam search of one list, in loops over slates."""
    followed, best = [(0.0, tuple(first))], tuple(first)
    for t in range(model.steps, 0, -1):
        reached = []
        for log_p, slate in followed:
            step = torch.tensor([[t - 1]])
            response = torch.full((1, 1, PLACES), LIKED)
            logits = model.denoiser(h[None], torch.tensor([[slate]]), step, response)[0, 0, :-1]
            logits = logits.log_softmax(dim=0)
            for swap in logits.isfinite().nonzero()[:, 0]:
                after = swapped(torch.tensor([slate]), swap[None], N)[0][0].tolist()
                reached.append((log_p + logits[swap].item(), tuple(after)))
        followed = sorted(reached, reverse=True)[: model.beam]
        found = max((s for _, s in followed), key=lambda s: utility(model, h, list(s)))
        if utility(model, h, list(found)) <= utility(model, h, list(best)):
            break
        best = found
    return list(best)


@pytest.mark.parametrize(("steps", "beam"), [(1, 1), (2, 3), (3, 2)])
def test_beam_search_by_brute_force(steps, beam):
    model = model_of(steps=steps, beam=beam)
    with torch.no_grad():
        h = model.vectors(BATCH, BATCH.scores)
        first = initial_order("concat", BATCH.scores, BATCH.items)[:, :PLACES].tolist()
        slates = slates_of(model(BATCH, BATCH.scores)).tolist()
        expected = [decoded(model, h[row], first[row]) for row in range(len(BATCH))]
    assert slates == expected
    assert any(sorted(a) != sorted(b) for a, b in zip(slates, first, strict=True))


def test_where_nothing_is_better_the_initial_list_stays():
    model = model_of()
    model.evaluator.head.weight.data.zero_()
    first = initial_order("concat", BATCH.scores, BATCH.items)[:, :PLACES]
    assert torch.equal(slates_of(model(BATCH, BATCH.scores)), first)


def test_permutations_alone_keep_the_initial_members():
    first = initial_order("concat", BATCH.scores, BATCH.items)[:, :PLACES]
    model = model_of(operation="permutation")
    slates = slates_of(model(BATCH, BATCH.scores))
    assert torch.equal(slates.sort().values, first.sort().values)
    assert not torch.equal(slates, first)


def test_guidance_goes_from_the_unconditional_to_the_conditional_logits_and_beyond():
    model = model_of()
    h = model.vectors(BATCH, BATCH.scores)
    slate = torch.rand(BATCH.items.shape).argsort(dim=1)[:, None, :PLACES]
    step = torch.tensor([[1]])
    logits = {
        response: model.denoiser(h, slate, step, torch.tensor([[[response]]]))[..., :-1]
        for response in (LIKED, UNKNOWN)
    }
    for guidance in (0.0, 1.0, 3.0):
        model.guidance = guidance
        mixed = guidance * logits[LIKED] + (1 - guidance) * logits[UNKNOWN]
        mixed = mixed.masked_fill(logits[LIKED].isinf(), -math.inf).log_softmax(dim=2)
        torch.testing.assert_close(model.reverse_step(h, slate, 2), mixed)


def test_the_others_follow_by_what_each_is_worth_alone():
    model = model_of()
    ranked = model(BATCH, BATCH.scores).argsort(dim=1, descending=True)
    h = model.vectors(BATCH, BATCH.scores)
    for row in range(len(BATCH)):
        alone = [model.evaluator(v[None, None]).item() for v in h[row]]
        rest = [alone[c] for c in ranked[row, PLACES:].tolist()]
        assert rest == sorted(rest, reverse=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"places": 1}, "places = 1: must be at least 2 and at most 11"),
        ({"places": 12}, "places = 12: must be at least 2 and at most 11"),
        ({"steps": 0}, "steps = 0: must be at least 1"),
        ({"beam": 0}, "beam = 0: must be at least 1"),
        ({"dim": 10, "heads": 4}, "dim = 10 is not a multiple of heads = 4"),
        ({"drop": 1.0}, "drop = 1.0: must be at least 0 and below 1"),
        ({"operation": "insertion"}, "'insertion' is unknown: choose one of both, permutation"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        build("dcdr", LISTS, **options)
