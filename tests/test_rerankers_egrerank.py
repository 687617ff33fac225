from itertools import pairwise, permutations
from math import exp, log, sqrt

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from worlds import make_lists

from dnrlib.errors import ConfigError
from dnrlib.rerankers import build
from dnrlib.rerankers.egrerank import advantage, clipped, most_likely, returns, sampled, seen
from dnrlib.rerankers.slates import Evaluator, slate_logits
from dnrlib.trainers import OwnLossTrainer
from dnrlib.training import TrainingConfig

LISTS = make_lists(signal=0.5)
BATCH = LISTS[:9]


def egrerank(lists=LISTS, **options):
    torch.manual_seed(0)
    sizes = {"dim": 16, "hidden": 12, "dropout": 0.0, "score_use": "concat"}
    return build("egrerank", lists, **sizes | options)


def walked(model, choose, slates=1, batch=BATCH):
    with torch.no_grad():
        return model.policy(model.input(batch), batch.scores, slates, choose)


# The parts of the objective ---------------------------------------------------------------------


def test_returns_by_hand():
    rewards = torch.tensor([[[0.5, 0.2, 0.1]]])
    expected = [0.5 + 0.9 * 0.2 + 0.81 * 0.1, 0.2 + 0.9 * 0.1, 0.1]
    assert returns(rewards, 0.9)[0, 0].tolist() == pytest.approx(expected)
    assert torch.equal(returns(rewards, 0.0), rewards)


@pytest.mark.equation("eq-egrerank-advantage")
def test_the_advantage_is_taken_place_by_place_over_the_slates_of_a_list():
    value = torch.tensor([[[1.0, 4.0], [3.0, 4.0]], [[10.0, 0.0], [16.0, 4.0]]])
    expected = [[[-1.0, 0.0], [1.0, 0.0]], [[-1.0, -1.0], [1.0, 1.0]]]
    torch.testing.assert_close(advantage(value), torch.tensor(expected))
    three = advantage(torch.tensor([[[0.0], [1.0], [5.0]]]))[0, :, 0].tolist()
    spread = sqrt((4 + 1 + 9) / 3)
    assert three == pytest.approx([-2 / spread, -1 / spread, 3 / spread], rel=1e-5)


@pytest.mark.equation("eq-egrerank")
@pytest.mark.parametrize(
    ("ratio", "better", "value", "slope"),
    [
        (1.05, 2.0, 2.1, 2.0),
        (1.3, 2.0, 2.2, 0.0),  # enough of a good thing
        (1.3, -2.0, -2.6, -2.0),
        (0.5, -2.0, -1.8, 0.0),
        (0.5, 2.0, 1.0, 2.0),
    ],
)
def test_the_clip_by_hand(ratio, better, value, slope):
    at = torch.full((1, 1, 1), ratio, requires_grad=True)
    objective = clipped(at, torch.full((1, 1, 1), better), 0.1)
    objective.backward()
    assert float(objective.detach()) == pytest.approx(value)
    assert float(at.grad) == pytest.approx(slope)


# The generator ----------------------------------------------------------------------------------


def test_no_slate_holds_a_candidate_twice_and_the_chosen_have_no_probability():
    slates, log_p = walked(egrerank(), sampled, slates=40)
    assert (slates.sort(dim=2).values.diff(dim=2) > 0).all()
    for place in range(1, 6):
        chosen = slates[:, :, :place]
        assert log_p[:, :, place].gather(2, chosen).exp().max() == 0
    torch.testing.assert_close(log_p.exp().sum(dim=3), torch.ones(9, 40, 6))


@pytest.mark.equation("eq-egrerank-policy")
def test_the_second_choice_by_hand():
    model = egrerank()
    policy = model.policy
    slates, log_p = walked(model, most_likely)
    with torch.no_grad():
        h = policy.score_input(model.input(BATCH), BATCH.scores)[0]
        state = policy.lstm(torch.zeros(1, 16), (torch.zeros(1, 16), torch.zeros(1, 16)))
        first = slates[0, 0, 0].item()
        state = policy.lstm(h[first][None], state)[0]
        c, asked, w = policy.encoder(h), policy.from_state(state)[0], policy.head.weight[0]
    logits = [
        sum(a * max(0, b + d) for a, b, d in zip(w.tolist(), row, asked.tolist(), strict=True))
        for row in c.tolist()
    ]
    total = sum(exp(logit) for i, logit in enumerate(logits) if i != first)
    expected = [0 if i == first else exp(logit) / total for i, logit in enumerate(logits)]
    assert log_p[0, 0, 1].exp().tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.equation("eq-egrerank-policy")
def test_the_slates_of_a_small_list_have_probabilities_that_sum_to_one():
    lists = make_lists(n=4, shown=3, lists=9)
    model = egrerank(lists, places=3)
    nn.init.normal_(model.policy.head.weight, std=3)
    every = torch.tensor(list(permutations(range(4), 3))).expand(9, 24, 3)
    slates, log_p = walked(model, lambda place, _: every[:, :, place], 24, lists)
    assert torch.equal(slates, every)
    p = log_p.gather(3, every[..., None])[..., 0].sum(dim=2).exp()
    torch.testing.assert_close(p.sum(dim=1), torch.ones(9))
    torch.manual_seed(0)
    drawn, _ = walked(model, sampled, 4000, lists)
    same = (drawn[:, :, None] == every[:, None]).all(dim=3).float().mean(dim=1)
    torch.testing.assert_close(same, p, atol=0.04, rtol=0)


def test_a_choice_depends_on_what_was_chosen_before_and_in_which_order():
    model = egrerank()
    paths = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 5, 4], [1, 0, 2, 3, 4, 5]])
    _, log_p = walked(model, lambda place, _: paths[:, place].expand(9, 3), 3)
    assert torch.equal(log_p[:, 0, :5], log_p[:, 1, :5])
    assert (log_p[:, 0, 2, 6:] != log_p[:, 2, 2, 6:]).any()


def test_serving_is_greedy_and_the_rest_follows_by_the_last_place():
    model = egrerank().eval()
    slates, log_p = walked(model, most_likely)
    for place in range(6):
        left = log_p[:, 0, place]
        assert torch.equal(slates[:, 0, place], left.argmax(dim=1))
    expected = slate_logits(slates[:, 0], log_p[:, 0, 5])
    assert torch.equal(model(BATCH, BATCH.scores), expected)


# Two stages -------------------------------------------------------------------------------------


@pytest.mark.equation("eq-egrerank-evaluator")
def test_the_evaluator_learns_the_feedback_of_each_place(monkeypatch):
    model = egrerank(samples=2, places=3)
    torch.manual_seed(1)
    slates = torch.rand(9, 2, 12).argsort(dim=2)[:, :, :3]
    monkeypatch.setattr(model, "some_slates", lambda batch: slates)
    h = model.score_input(model.input(BATCH), BATCH.scores)
    logits = seen(model.evaluator, h, slates)
    losses = []
    for row in range(9):
        for slate in range(2):
            for place in range(3):
                p = 1 / (1 + exp(-logits[row, slate, place].item()))
                liked = BATCH.labels[row, slates[row, slate, place]].item()
                losses.append(-log(p) if liked else -log(1 - p))
    loss = model.loss(BATCH, BATCH.scores).item()
    assert loss == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_the_evaluator_reads_what_came_before_and_not_what_comes_after():
    model = egrerank()
    h = torch.randn(5, 12, 16)
    logits = seen(model.evaluator, h, torch.tensor([[[0, 1, 2]]]).expand(5, 1, 3))
    other = seen(model.evaluator, h, torch.tensor([[[0, 3, 2]]]).expand(5, 1, 3))
    assert torch.equal(other[:, 0, 0], logits[:, 0, 0])
    assert (other[:, 0, 1:] != logits[:, 0, 1:]).all()


def test_the_evaluator_is_trained_in_the_first_third_and_then_frozen():
    model = egrerank()
    states = []

    def keep(epoch, epochs, lists):
        states.append({key: value.clone() for key, value in model.state_dict().items()})
        type(model).begin_epoch(model, epoch, epochs, lists)

    model.begin_epoch = keep
    OwnLossTrainer(model, LISTS, LISTS, TrainingConfig(epochs=6, weight_decay=0.1)).run()
    model.begin_epoch = type(model).begin_epoch
    for name, _ in model.named_parameters():
        moved = [not torch.equal(a[name], b[name]) for a, b in pairwise(states)]
        generator = name.startswith("policy.")
        assert moved == [not generator] * 2 + [generator] * 3, name


def test_the_older_policy_is_renewed_every_so_many_steps_and_not_trained():
    model = egrerank(lag=2)
    assert not [name for name, _ in model.named_parameters() if name.startswith("old.")]
    model.begin_epoch(2, 2, LISTS)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    same = []
    for _ in range(4):
        optimiser.zero_grad()
        model.loss(LISTS, LISTS.scores).backward()
        same.append(torch.equal(model.old.lstm.weight_hh, model.policy.lstm.weight_hh))
        optimiser.step()
    assert same == [True, False, True, False]


def test_the_generator_is_rewarded_by_the_evaluator_and_sees_no_feedback():
    """It finds the candidates that an evaluator likes which nobody else does."""
    model = egrerank(entropy=0.0)
    model.begin_epoch(2, 2, LISTS)
    direction = torch.randn(16)

    class Biased(Evaluator):
        def forward(self, slate):
            return 8 * slate @ direction

    model.evaluator = Biased(16)
    optimiser = torch.optim.Adam(model.policy.parameters(), lr=1e-2)
    unliked = make_lists(signal=0.5)
    unliked.labels.zero_()
    for _ in range(60):
        optimiser.zero_grad()
        model.loss(unliked, unliked.scores).backward()
        optimiser.step()
    h = model.score_input(model.input(BATCH), BATCH.scores)
    best = (h @ direction).topk(6, dim=1).indices
    slate = model.eval()(BATCH, BATCH.scores).topk(6, dim=1).indices
    hits = (best[:, :, None] == slate[:, None]).any(dim=2).float().mean()
    assert hits > 0.75


def test_the_discriminator_tells_slates_apart_and_adds_to_the_reward(monkeypatch):
    model = egrerank(discriminator=0.5)
    model.begin_epoch(2, 2, LISTS)
    rewards = []
    monkeypatch.setattr(
        "dnrlib.rerankers.egrerank.returns", lambda r, discount: rewards.append(r) or r
    )
    monkeypatch.setattr(model.old, "load_state_dict", lambda state: None)
    drawn = []
    old = model.old.forward
    model.old.forward = lambda *args: drawn.append(old(*args)) or drawn[-1]
    loss = model.loss(BATCH, BATCH.scores)
    h = model.score_input(model.input(BATCH), BATCH.scores)
    slates = drawn[0][0]
    d = seen(model.discriminator, h, slates).sigmoid()
    expected = seen(model.evaluator, h, slates).sigmoid() - 0.5 * (1 - d).log()
    torch.testing.assert_close(rewards[0], expected)
    loss.backward()
    assert all(p.grad.any() for p in model.discriminator.parameters())
    assert all(p.grad is None for p in model.evaluator.parameters())
    assert F.softplus(torch.tensor(0.3)).item() == pytest.approx(-log(1 - 1 / (1 + exp(-0.3))))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 1}, "samples = 1: must be at least 2"),
        ({"places": 13}, "places = 13: must lie in 1 … 12"),
        ({"lag": 0}, "lag = 0: must be at least 1"),
        ({"discount": 2.0}, r"discount = 2.0: must lie in \[0, 1\]"),
        ({"entropy": -1.0}, "entropy = -1.0: must not be negative"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        egrerank(**options)
