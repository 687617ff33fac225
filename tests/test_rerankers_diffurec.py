"""What only DiffuRec promises; what every reranker does is in `test_every_reranker.py`."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from worlds import field_of, make_lists

from dnrlib.errors import ConfigError
from dnrlib.metrics import ranking
from dnrlib.rerankers import build
from dnrlib.rerankers.diffurec import T, step_waves, truncated_linear

LISTS = make_lists(signal=0.5)
FULL = LISTS[(LISTS.history > 0).all(dim=1)]


def diffurec(seed=0, **options):
    torch.manual_seed(seed)
    sizes = {"dim": 16, "heads": 2, "layers": 2, "dropout": 0.0, "embedding_dropout": 0.0}
    return build("diffurec", LISTS, **sizes | options).eval()


def logits_of(model, lists):
    with torch.no_grad():
        return model(lists, lists.scores)


def by_hand(steps):
    """Weights of x̂_0 and x_t, and the noise's width, for each step taken: in plain NumPy."""
    beta = np.linspace(0.013125, 0.635, 32)
    alpha_bar = [np.prod(1 - beta[: t + 1]) for t in range(32)]
    taken = [round(t) for t in np.linspace(31, 0, steps)]
    rows, width = [], 1.0
    for k, t in enumerate(taken):
        here, before = alpha_bar[t], alpha_bar[taken[k + 1]] if k + 1 < steps else 1.0
        step = 1 - here / before
        of_x_0 = step * math.sqrt(before) / (1 - here)
        of_x_t = math.sqrt(1 - step) * (1 - before) / (1 - here)
        rows.append((t, of_x_0, of_x_t, width))
        width = math.sqrt(step)
    return rows


def test_the_schedule_is_linear_and_ends_near_noise():
    beta = truncated_linear()
    assert len(beta) == T == 32
    assert beta[0].item() == pytest.approx(0.013125)
    assert beta[-1].item() == pytest.approx(0.635)
    assert (beta.diff() - beta.diff()[0]).abs().max() < 1e-12
    assert diffurec().alpha_bar[-1] < 1e-4


@pytest.mark.equation("eq-diffurec")
def test_the_noise_grows_with_the_step():
    model = diffurec()
    x_0 = torch.full((4000, 16), 2.0)
    for t in (0, 7, 31):
        x_t = model.diffuse(x_0, torch.full((4000,), t))
        kept = np.prod(1 - np.linspace(0.013125, 0.635, 32)[: t + 1])
        assert x_t.mean().item() == pytest.approx(2 * math.sqrt(kept), abs=0.02)
        assert x_t.var().item() == pytest.approx(1 - kept, abs=0.02)


def test_the_waves_of_a_step_by_hand():
    waves = step_waves(torch.tensor([0, 3]), 5)
    angles = 3 * 1000 / 32 * np.array([1.0, 0.01])
    assert waves[0].tolist() == [1, 1, 0, 0, 0]
    assert waves[1].tolist() == pytest.approx([*np.cos(angles), *np.sin(angles), 0], abs=1e-4)


@pytest.mark.equation("eq-diffurec-reverse")
@pytest.mark.parametrize("steps", [1, 2, 5, 32])
def test_the_way_back_by_hand(steps, monkeypatch):
    model = diffurec(steps=steps)
    rows, seen = by_hand(steps), []

    def half(history, x_t, step):  # a network that halves what it sees
        seen.append(int(step[0]))
        return x_t / 2

    monkeypatch.setattr(model, "approximate", half)
    x = 0.0
    draws = torch.randn(steps, 16, generator=torch.Generator().manual_seed(0)).double()
    for (_, of_x_0, of_x_t, width), draw in zip(rows, draws, strict=True):
        x_t = x + width * draw
        x = of_x_0 * x_t / 2 + of_x_t * x_t
    torch.testing.assert_close(model.reverse(LISTS.history)[3].double(), x, rtol=1e-4, atol=1e-5)
    assert seen == [t for t, *_ in rows]


def test_the_last_step_gives_the_prediction_itself():
    for steps in (1, 2, 32):
        model = diffurec(steps=steps)
        assert model.of_x_0[-1].item() == pytest.approx(1, abs=1e-6)
        assert model.of_x_t[-1].item() == 0


def test_the_noise_of_serving_is_always_the_same_and_leaves_the_random_stream_alone():
    one, other = diffurec(seed=1, steps=7), diffurec(seed=2, steps=7)
    assert torch.equal(one.noise, other.noise)
    state = torch.get_rng_state()
    one._make_schedule(3)
    logits_of(one, LISTS)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_steps_matter_only_as_far_as_lambda_lets_them():
    def order(steps, delta):
        return ranking(logits_of(diffurec(steps=steps, delta=delta), LISTS))

    assert (order(1, 1e-3) == order(32, 1e-3)).float().mean() > 0.97
    assert (order(1, 1.0) == order(32, 1.0)).float().mean() < 0.8


def test_attention_goes_both_ways_and_has_no_positions():
    """Any order of the earlier items gives the same, and the first item is heard."""
    model, history = diffurec(), FULL.history
    x_t, step = torch.zeros(len(history), 16), torch.zeros(len(history)).long()
    state = model.approximate(history, x_t, step)
    turned = torch.cat([history[:, :-1].flip(1), history[:, -1:]], dim=1)
    torch.testing.assert_close(model.approximate(turned, x_t, step), state)
    other = history.clone()
    other[:, 0] = history[:, 0] % 40 + 1
    assert (model.approximate(other, x_t, step) != state).any(dim=1).all()
    # Causal attention would leave the states of earlier items deaf to later ones.
    h = torch.randn(2, 4, 16)
    changed = torch.cat([h[:, :3], torch.randn(2, 1, 16)], dim=1)
    block, mask = model.blocks[0], torch.zeros(2, 1, 1, 4)
    assert (block(h, mask) != block(changed, mask))[:, 0].any(dim=1).all()


def test_keys_are_masked_so_that_padding_is_as_good_as_no_padding():
    model = diffurec()
    short = LISTS.history[(LISTS.history > 0).sum(dim=1) == 2]
    x_t, step = torch.randn(len(short), 16), torch.full((len(short),), 4)
    padded, bare = (model.approximate(h, x_t, step) for h in (short, short[:, -2:]))
    torch.testing.assert_close(padded, bare, rtol=1e-4, atol=1e-5)


def test_a_block_is_normalised_before_its_branches():
    model = diffurec()
    block, mask = model.blocks[0], torch.zeros(3, 1, 1, 5)
    torch.nn.init.normal_(block.norm_attention.weight)
    h = torch.randn(3, 5, 16) * 7
    states = block.query_key_value, block.output, block.widen, block.narrow
    (w_qkv, b_qkv), (w_o, b_o), (w_1, b_1), (w_2, b_2) = (
        (layer.weight.detach().numpy(), layer.bias.detach().numpy()) for layer in states
    )

    def normalised(x, norm):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * norm.weight.detach().numpy() + norm.bias.detach().numpy()

    x = h.numpy()
    qkv = normalised(x, block.norm_attention) @ w_qkv.T + b_qkv
    mixed = np.zeros_like(x)
    for head in range(2):
        q, k, v = (qkv[..., i * 16 + head * 8 : i * 16 + head * 8 + 8] for i in range(3))
        weight = np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(8))
        mixed[..., head * 8 : head * 8 + 8] = weight / weight.sum(-1, keepdims=True) @ v
    x = x + mixed @ w_o.T + b_o
    wide = normalised(x, block.norm_feed_forward) @ w_1.T + b_1
    gelu = 0.5 * wide * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)))
    expected = torch.from_numpy(x + gelu @ w_2.T + b_2).float()
    torch.testing.assert_close(block(h, mask), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.equation("eq-diffurec")
def test_the_history_s_tokens_carry_the_noisy_target(monkeypatch):
    model = diffurec(delta=0.5)
    model.blocks = torch.nn.ModuleList()
    x_t, step = torch.randn(len(FULL), 16), torch.full((len(FULL),), 9)
    added = 0.5 * (x_t + model.step(step_waves(step, 16)))
    token = model.norm_item(model.item(FULL.history[:, -1])) + added
    torch.testing.assert_close(model.approximate(FULL.history, x_t, step), model.norm_output(token))


def test_lambda_is_drawn_in_training_and_its_mean_when_serving():
    model, tokens = diffurec(delta=0.25), []
    model.blocks = torch.nn.ModuleList([torch.nn.Module()])
    model.blocks[0].forward = lambda h, mask: tokens.append(h) or h
    torch.nn.init.zeros_(model.step[2].weight)
    torch.nn.init.zeros_(model.step[2].bias)
    torch.nn.init.zeros_(model.norm_item.weight)
    ones, step = torch.ones(len(LISTS), 16), torch.zeros(len(LISTS)).long()
    model.approximate(LISTS.history, ones, step)
    assert (tokens[-1] == 0.25).all()
    model.train().approximate(LISTS.history, ones, step)
    assert tokens[-1].mean().item() == pytest.approx(0.25, abs=0.02)
    assert tokens[-1].std().item() == pytest.approx(0.25, abs=0.02)


def fixed_state(model, monkeypatch):
    """x̂_0 of each list, made up, so that the loss can be worked out by hand."""
    x_0 = torch.randn(len(LISTS), model.dim, generator=torch.Generator().manual_seed(5))
    monkeypatch.setattr(model, "approximate", lambda history, x_t, step: x_0[: len(history)])
    return x_0.numpy()


@pytest.mark.equation("eq-diffurec")
@pytest.mark.parametrize("score_use", ["none", "add"])
@pytest.mark.parametrize("catalogue", [True, False])
def test_the_loss_by_hand(score_use, catalogue, monkeypatch):
    model = diffurec(score_use=score_use, catalogue=catalogue)
    x_0 = fixed_state(model, monkeypatch)
    lists = LISTS[:8]
    one = lists.labels.long().argmax(dim=1)
    lists = field_of(lists, labels=torch.nn.functional.one_hot(one, 12).bool())
    table = model.item.weight.detach().numpy()
    losses = []
    for i in range(8):
        logit = {item: float(table[item] @ x_0[i]) for item in range(1, 41)}
        for item, score in zip(lists.items[i].tolist(), lists.scores[i].tolist(), strict=True):
            if score_use == "add":
                along = float(model.score_input.direction.detach().numpy() @ x_0[i])
                logit[item] += score * along
        target = int(lists.items[i, one[i]])
        over = logit if catalogue else lists.items[i].tolist()
        losses.append(math.log(sum(math.exp(logit[item]) for item in over)) - logit[target])
    found = model.loss(lists, lists.scores).item()
    assert found == pytest.approx(np.mean(losses), rel=1e-4)
    moved = model.loss(lists, 1 - lists.scores).item()
    assert (moved == pytest.approx(found)) == (score_use == "none")


def test_the_target_is_one_of_the_liked_candidates():
    model = diffurec()
    targets = []
    model.diffuse = lambda x_0, step: targets.append(x_0) or x_0
    lists = LISTS[LISTS.labels.sum(dim=1) > 2][:1]
    liked = lists.items[lists.labels]
    for _ in range(60):
        model.loss(lists, lists.scores)
    near = (torch.cat(targets)[:, None] - model.item.weight).abs().sum(dim=2).argmin(dim=1)
    assert set(near.tolist()) == set(liked.tolist())


def test_users_are_not_read():
    model = diffurec()
    other = replace(LISTS, users=LISTS.users.flip(0))
    assert torch.equal(logits_of(model, other), logits_of(model, LISTS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 10, "heads": 4}, "dim = 10 is not a multiple of heads = 4"),
        ({"steps": 33}, "steps = 33: the diffusion has 32"),
        ({"steps": 0}, "steps = 0: must be at least 1"),
        ({"layers": 0}, "layers = 0: must be at least 1"),
    ],
)
def test_wrong_sizes_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        diffurec(**options)
