import math
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn
from worlds import field_of, make_lists

from dnrlib.errors import ConfigError, DataError, TrainingError
from dnrlib.losses import bernoulli, conditional_regulariser, softmax
from dnrlib.metrics import expected_random_ndcg, ndcg, rank
from dnrlib.noise import GaussianNoise, Noise
from dnrlib.rerankers import Reranker, build
from dnrlib.training import (
    Trainer,
    TrainingConfig,
    score_lists,
    synthetic_lists,
    turn_gradient,
    validation_ndcg,
)

LISTS = make_lists(signal=0.5)
TRAIN, VALIDATION = LISTS.of_split("train"), LISTS.of_split("validation")
BATCH = TRAIN[:16]
DIRECT = TrainingConfig(epochs=4, batch_size=16, learning_rate=1e-2)
HEURISTIC = replace(DIRECT, noise="gaussian")
DNR = replace(DIRECT, noise="beta", generator="epsilon", lambda_e=2)
EXACT = replace(DNR, estimator="exact")
CONFIGS = {"direct": DIRECT, "heuristic": HEURISTIC, "DNR": DNR, "exact": EXACT}


def prm(dim=8, dropout=0.1, score_use="concat", seed=0):
    torch.manual_seed(seed)
    sizes = {"dim": dim, "heads": 2, "feed_forward": 8, "layers": 1}
    return build("prm", LISTS, score_use=score_use, dropout=dropout, **sizes)


class Linear(nn.Module):
    """logit = w x + b: the least that joins the trainer, and simple enough to differentiate."""

    def __init__(self):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(-0.2))

    def forward(self, batch, scores):
        return self.w * scores + self.b


def trainer(config=DNR, reranker=None, train=TRAIN, validation=VALIDATION, seed=0):
    return Trainer(reranker or prm(), train, validation, config, seed=seed)


def weights(module):
    return torch.cat([p.detach().flatten().clone() for p in module.state_dict().values()])


def trained(config=DNR, **options):
    """The weights that a run ends with, and its curves without the clock."""
    made = trainer(config, **options)
    curves = untimed(made.run())
    return weights(made.reranker), curves


def untimed(curves):
    clock = ("seconds", "lists_per_second")
    return [{k: v for k, v in asdict(row).items() if k not in clock} for row in curves]


def same_run(a, b):
    return torch.equal(a[0], b[0]) and a[1] == b[1]


# One step


@pytest.mark.parametrize("likelihood", [bernoulli, softmax])
def test_a_reranker_step_follows_the_gradient_of_direct_plus_lambda_m_denoising(likelihood):
    config = replace(DNR, likelihood=likelihood.__name__, lambda_m=0.3, clip=1e9, weight_decay=0.0)
    made = trainer(config, Linear())
    made.optimiser = torch.optim.SGD(made.reranker.parameters(), lr=0.1)
    w, b = torch.tensor(0.5, requires_grad=True), torch.tensor(-0.2, requires_grad=True)
    torch.manual_seed(3)
    synthetic = made.generator(BATCH.labels).detach()
    direct = likelihood(w * BATCH.scores + b, BATCH.labels)
    denoising = likelihood(w * synthetic + b, BATCH.labels)
    by_hand = torch.stack(torch.autograd.grad(direct + 0.3 * denoising, [w, b]))
    before, phi = weights(made.reranker), weights(made.generator)
    torch.manual_seed(3)
    losses = made.update_reranker(BATCH, made.generator)
    torch.testing.assert_close(weights(made.reranker), before - 0.1 * by_hand)
    assert torch.equal(weights(made.generator), phi)
    assert all(p.grad is None for p in made.generator.parameters())
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(
        {"L_direct": direct.item(), "L_z": denoising.item()}
    )


def test_a_generator_step_follows_its_own_gradient_and_leaves_the_reranker_alone():
    config = replace(DNR, adversarial_weight=0.7, regulariser_weight=0.2, clip=1e9)
    made = trainer(config, prm(dropout=0.0))
    parameters = list(made.generator.parameters())
    made.generator_optimiser = torch.optim.SGD(parameters, lr=0.1)
    made.step(BATCH, phase=1)
    theta = weights(made.reranker)
    theta_gradient = [p.grad.clone() for p in made.reranker.parameters()]
    torch.manual_seed(3)
    synthetic = made.generator(BATCH.labels)
    log_q = -bernoulli(made.reranker(BATCH, synthetic), BATCH.labels)
    regulariser = conditional_regulariser(synthetic, BATCH.labels, BATCH.scores)
    by_hand = torch.autograd.grad(0.7 * log_q + 0.2 * regulariser, parameters)
    before = [p.detach().clone() for p in parameters]
    torch.manual_seed(3)
    losses = made.update_generator(BATCH)
    for parameter, old, gradient in zip(parameters, before, by_hand, strict=True):
        torch.testing.assert_close(parameter.detach(), old - 0.1 * gradient)
    assert torch.equal(weights(made.reranker), theta)
    for parameter, gradient in zip(made.reranker.parameters(), theta_gradient, strict=True):
        assert torch.equal(parameter.grad, gradient)
    assert losses["L_adv"].item() == pytest.approx(log_q.item())
    assert losses["L_x"].item() == pytest.approx(regulariser.item())


def mixed_gradients(made, batch, seed):
    """The gradient of one mixed pass over θ, and over φ if there is a generator."""
    made.optimiser = torch.optim.SGD(made.reranker.parameters(), lr=0.0)
    optimisers = [made.optimiser]
    if made.generator:
        made.generator_optimiser = torch.optim.SGD(made.generator.parameters(), lr=0.0)
        optimisers.append(made.generator_optimiser)
    torch.manual_seed(seed)
    losses = made.step(batch, phase=2)
    modules = filter(None, (made.reranker, made.generator))
    return losses, [torch.cat([p.grad.flatten() for p in m.parameters()]) for m in modules]


def test_a_mixed_step_is_the_gradient_of_each_term_over_its_own_lists():
    config = replace(DNR, adversarial_weight=0.7, regulariser_weight=0.2, lambda_m=0.4, clip=1e9)
    made = trainer(config, Linear())
    m = synthetic_lists(len(BATCH), 0.4)
    assert m == 5
    losses, (theta, phi) = mixed_gradients(made, BATCH, seed=3)
    w, b = (p.detach().clone().requires_grad_() for p in made.reranker.parameters())
    torch.manual_seed(3)
    synthetic = made.generator(BATCH.labels[:m])
    direct = bernoulli(w * BATCH.scores[m:] + b, BATCH.labels[m:])
    denoising = bernoulli(w * synthetic + b, BATCH.labels[:m])
    regulariser = conditional_regulariser(synthetic, BATCH.labels[:m], BATCH.scores)
    by_hand = torch.stack(torch.autograd.grad(direct + 0.4 * denoising, [w, b], retain_graph=True))
    torch.testing.assert_close(theta, by_hand)
    by_hand = torch.autograd.grad(
        0.7 * -denoising + 0.2 * regulariser, list(made.generator.parameters())
    )
    torch.testing.assert_close(phi, torch.cat([g.flatten() for g in by_hand]))
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(
        {"L_direct": direct.item(), "L_z": denoising.item(), "L_adv": -denoising.item(),
         "L_x": regulariser.item()}
    )  # fmt: skip


@pytest.mark.parametrize("lambda_m", [0.1, 0.5, 1.0])
def test_a_mixed_step_is_unbiased(lambda_m):
    """Mean over many random divisions of the lists: the exact form's gradient, within 5 errors."""
    config = replace(HEURISTIC, lambda_m=lambda_m, clip=1e9)
    made = trainer(config, prm(dropout=0.0))

    class Fixed(Noise):
        """Synthetic scores that belong to the list, so that only the division is random."""

        def forward(self, labels):
            return labels * 0.6 + 0.3 * (labels.float().cumsum(1) % 2)

    fixed = Fixed(0.4)
    made.optimiser = torch.optim.SGD(made.reranker.parameters(), lr=0.0)
    made.heuristic = fixed
    made.update_reranker(BATCH, fixed)
    exact = torch.cat([p.grad.flatten() for p in made.reranker.parameters()])
    draws = []
    for seed in range(300):
        torch.manual_seed(seed)
        made.step(BATCH[torch.randperm(len(BATCH))], phase=1)
        draws.append(torch.cat([p.grad.flatten() for p in made.reranker.parameters()]))
    draws = torch.stack(draws).double()
    error = draws.std(dim=0) / len(draws) ** 0.5
    away = (draws.mean(dim=0) - exact).abs() / error.clamp(min=1e-7)
    assert away.max() < 5
    wrong = (draws.mean(dim=0) - 1.1 * exact).abs() / error.clamp(min=1e-7)
    assert wrong.max() > 5  # the bound is tight enough to see an error of a tenth


def test_the_share_of_synthetic_lists_is_neymans_and_leaves_both_kinds_a_list():
    assert [synthetic_lists(300, x) for x in (0.5, 1.0, 0.25)] == [100, 150, 60]
    assert [synthetic_lists(2, x) for x in (0.01, 1.0, 50.0)] == [1, 1, 1]


def test_a_turned_gradient_leaves_the_value_as_it_is():
    x = torch.rand(7, requires_grad=True)
    y = turn_gradient(x, 0.3)
    assert torch.equal(y, x)
    (gradient,) = torch.autograd.grad((y * torch.arange(7.0)).sum(), x)
    torch.testing.assert_close(gradient, -0.3 * torch.arange(7.0))


def test_the_adversary_makes_the_feedback_less_likely():
    config = replace(DNR, regulariser_weight=0.0, generator_learning_rate=1e-3)
    made = trainer(config, Linear())

    def log_q():
        torch.manual_seed(0)
        synthetic = made.generator(TRAIN.labels)
        return -bernoulli(made.reranker(TRAIN, synthetic), TRAIN.labels).item()

    before = log_q()
    for _ in range(20):
        made.update_generator(TRAIN)
    assert log_q() < before - 1e-3


def test_the_regulariser_draws_the_generated_scores_to_the_real_ones():
    config = replace(DNR, adversarial_weight=0.0, generator_learning_rate=1e-2)
    made = trainer(config, Linear())
    losses = [made.update_generator(TRAIN)["L_x"].item() for _ in range(150)]
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize(
    ("config", "phase", "terms"),
    [
        (DIRECT, 1, {"L_direct"}),
        (HEURISTIC, 1, {"L_direct", "L_z"}),
        (DNR, 1, {"L_direct", "L_z"}),
        (DNR, 2, {"L_direct", "L_z", "L_adv", "L_x"}),
        (replace(DNR, noise="none"), 1, {"L_direct"}),
    ],
)
def test_a_step_has_the_terms_of_its_phase(config, phase, terms):
    assert set(trainer(config).step(BATCH, phase)) == terms


def test_phases_switch_after_lambda_e():
    assert [DNR.phase(epoch) for epoch in (1, 2, 3, 4)] == [1, 1, 2, 2]
    assert [replace(DNR, lambda_e=0).phase(epoch) for epoch in (1, 2)] == [2, 2]
    assert {HEURISTIC.phase(epoch) for epoch in range(1, 100)} == {1}


def test_the_generator_is_trained_in_phase_two_only():
    made = trainer(DNR)
    phi = weights(made.generator)
    made.step(BATCH, phase=1)
    assert torch.equal(weights(made.generator), phi)
    made.step(BATCH, phase=2)
    assert not torch.equal(weights(made.generator), phi)


def test_phase_one_takes_heuristic_and_phase_two_generated_scores():
    made = trainer(DNR)
    seen = []
    one_pass = made.one_pass
    made.one_pass = lambda batch, noise: seen.append(noise) or one_pass(batch, noise)
    made.step(BATCH, phase=1)
    made.step(BATCH, phase=2)
    assert seen == [made.heuristic, made.generator]
    made = trainer(EXACT)
    seen = []
    made.update_reranker = lambda batch, noise, weight: seen.append(noise) or {}
    made.update_generator = lambda batch, weight: seen.append("generator") or {}
    made.step(BATCH, phase=1)
    made.step(BATCH, phase=2)
    assert seen == [made.heuristic, made.generator, "generator"]


def test_gradients_are_clipped():
    made = trainer(replace(HEURISTIC, clip=1e-3))
    made.step(BATCH, phase=1)
    norm = torch.cat([p.grad.flatten() for p in made.reranker.parameters()]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    "change",
    [
        {"adversarial_weight": 0.0},
        {"regulariser_weight": 0.0},
        {"regulariser": "pooled"},
        {"generator": "none"},
        {"generator": "scores"},
        {"noise": "none"},
        {"noise": "gaussian"},
        {"beta": (2.0, 2.0)},
        {"lambda_c": 0.2},
        {"lambda_m": 0.1},
        {"lambda_e": 1},
        {"likelihood": "softmax"},
        {"estimator": "exact"},
        {"learning_rate": 1e-3},
        {"generator_learning_rate": 1e-2},
        {"weight_decay": 0.5},
        {"clip": 0.1},
        {"batch_size": 8},
    ],
    ids=lambda change: "-".join(f"{name}={value}" for name, value in change.items()),
)
def test_every_switch_acts(change):
    ends = []
    for config in (DNR, replace(DNR, **change)):
        made = trainer(replace(config, epochs=3))
        made.run()
        ends.append(made.curves[-1].losses)
    assert ends[0] != ends[1]


def test_lambda_m_0_without_a_generator_is_direct_training():
    ends = [
        trained(replace(config, batch_size=len(TRAIN)), reranker=prm(dropout=0.0))[0]
        for config in (DIRECT, replace(HEURISTIC, lambda_m=0.0))
    ]
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)


# A run


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_same_seed_gives_the_same_run_and_another_seed_another(config):
    assert same_run(trained(config, seed=1), trained(config, seed=1))
    assert not same_run(trained(config, seed=1), trained(config, seed=2))


def test_a_run_does_not_depend_on_the_global_stream():
    first = trained(reranker=prm())
    reranker = prm()
    torch.manual_seed(99)
    assert same_run(trained(reranker=reranker), first)


def test_every_list_comes_once_an_epoch_in_a_new_order():
    made = trainer(replace(DIRECT, batch_size=17))
    epochs = [[batch.list for batch, _ in made.batches(number)] for number in (1, 2)]
    sizes = [len(numbers) for numbers in epochs[0]]
    assert len(sizes) == made.steps == math.ceil(len(TRAIN) / 17)
    assert 17 >= max(sizes) >= min(sizes) >= max(sizes) - 1
    orders = [torch.cat(numbers).tolist() for numbers in epochs]
    assert sorted(orders[0]) == sorted(orders[1]) == TRAIN.list.tolist()
    assert orders[0] != orders[1]


def test_epochs_differ_in_their_order_noise_and_dropout():
    made = trainer(DIRECT)
    orders, step = [], made.step
    made.step = lambda batch, *rest: orders.append(batch.list) or step(batch, *rest)
    for number in (1, 2):
        made.epoch(number, lambda _: None)
    assert not torch.equal(torch.cat(orders[:5]), torch.cat(orders[5:]))


def test_training_is_in_training_mode():
    assert same_run(trained(reranker=prm().eval()), trained(reranker=prm().train()))


def test_training_does_not_see_test_lists():
    ends = []
    for labels in (LISTS.labels, LISTS.labels ^ (LISTS.split == 2)[:, None]):
        lists = field_of(LISTS, labels=labels)
        train, validation = lists.of_split("train"), lists.of_split("validation")
        ends.append(trained(train=train, validation=validation))
    assert same_run(*ends)


def test_validation_lists_choose_the_epoch_and_change_no_gradient():
    other = field_of(VALIDATION, labels=VALIDATION.shown & ~VALIDATION.labels)
    losses = [
        [row["losses"] for row in trained(validation=validation)[1]]
        for validation in (VALIDATION, other)
    ]
    assert losses[0] == losses[1]


def test_the_weights_of_the_best_epoch_are_loaded():
    made = trainer(replace(DIRECT, epochs=8))
    after = []
    made.run(on_progress=lambda p: after.append(weights(made.reranker)) if p.validation else None)
    values = [row.validation for row in made.curves]
    assert made.best_epoch == values.index(max(values)) + 1
    assert made.best_epoch < 8  # otherwise this test says nothing
    assert torch.equal(weights(made.reranker), after[made.best_epoch - 1])
    assert validation_ndcg(made.reranker, VALIDATION) == max(values)


def scripted(config, values, monkeypatch):
    """A run whose validation NDCG is given."""
    values = iter(values)
    monkeypatch.setattr("dnrlib.training.validation_ndcg", lambda *_, **__: next(values))
    made = trainer(config)
    made.run()
    return made


def test_the_earliest_of_equally_good_epochs_is_the_best(monkeypatch):
    made = scripted(DIRECT, [0.1, 0.3, 0.3, 0.2], monkeypatch)
    assert made.best_epoch == 2
    two = scripted(replace(DIRECT, epochs=2), [0.1, 0.3], monkeypatch)
    assert torch.equal(weights(made.reranker), weights(two.reranker))


@pytest.mark.parametrize(
    ("config", "values", "epochs"),
    [
        (replace(DIRECT, patience=2), [0.5, 0.6, 0.1, 0.6, 0.9, 0.9], 4),
        (replace(DIRECT, patience=0), [0.9] + [0.1] * 5, 6),
        (replace(DIRECT, patience=3), [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 6),
        (replace(DNR, patience=2), [0.9] + [0.1] * 5, 4),  # counted from lambda_e = 2
        (replace(DNR, patience=2), [0.5, 0.5, 0.5, 0.6, 0.1, 0.1], 6),
    ],
)
def test_patience(config, values, epochs, monkeypatch):
    assert len(scripted(replace(config, epochs=6), values, monkeypatch).curves) == epochs


def test_progress_tells_how_far_it_is(monkeypatch):
    monkeypatch.setattr("dnrlib.training.CHECK_EVERY", 2)
    reports = []
    trainer(DNR).run(on_progress=reports.append)
    steps = math.ceil(len(TRAIN) / 16)
    first = [report for report in reports if report.epoch == 1]
    assert [report.step for report in first] == [2, 4, steps, steps]
    assert [report.validation is None for report in first] == [True, True, True, False]
    assert [report.phase for report in reports if report.validation] == [1, 1, 2, 2]
    assert set(reports[-1].losses) == {"L_direct", "L_z", "L_adv", "L_x"}
    assert all(report.seconds_left >= 0 and report.lists_per_second > 0 for report in reports)
    assert reports[-1].seconds_left == 0
    assert reports[-1].best == max(r.validation for r in reports if r.validation)


def test_training_learns_what_the_score_tells():
    train, validation = (make_lists(lists=400, signal=2.0, seed=s) for s in (1, 2))
    chance = expected_random_ndcg(validation.labels, 6).mean().item()
    for config in CONFIGS.values():
        made = trainer(replace(config, batch_size=64), train=train, validation=validation)
        assert max(row.validation for row in made.run()) > chance + 0.3


def test_shuffled_labels_are_worth_nothing():
    """No leak: labels put on candidates at random cannot be told from anything else."""
    train, validation = (shuffled(make_lists(lists=400, signal=2.0, seed=seed)) for seed in (1, 2))
    gains = []
    for config in CONFIGS.values():
        made = trainer(replace(config, batch_size=64), train=train, validation=validation)
        made.run()
        ranked = rank(score_lists(made.reranker, validation), validation.labels)
        gains.append(ndcg(ranked, 6) - expected_random_ndcg(validation.labels, 6))
    for gain in gains:
        assert gain.mean().abs() < 3.5 * gain.std() / len(gain) ** 0.5


def shuffled(lists):
    order = torch.rand(lists.labels.shape, generator=torch.Generator().manual_seed(7)).argsort(1)
    return field_of(lists, labels=lists.labels.gather(1, order))


# Any module


class OnlyScore(Reranker):
    """A reranker that overrides `score` alone; its state is the batch."""

    def __init__(self):
        super().__init__()
        self.item = nn.Embedding(41, 1)

    def score(self, state, scores):
        return self.item(state.items)[..., 0] + scores


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("make", [Linear, OnlyScore])
def test_any_module_can_be_trained(make, config):
    module = make()
    before = weights(module)
    made = trainer(config, module)
    made.run()
    assert not torch.equal(weights(module), before)
    assert validation_ndcg(module, VALIDATION) == max(row.validation for row in made.curves)


def test_the_encoder_runs_once_for_both_passes():
    made = trainer(HEURISTIC)
    calls = []
    encode = made.reranker.encode
    made.reranker.encode = lambda batch: calls.append(1) or encode(batch)
    made.update_reranker(BATCH, GaussianNoise(0.4))
    assert len(calls) == 1


def test_scoring_is_in_evaluation_mode_and_in_order():
    model = prm(dropout=0.5).train()
    whole = score_lists(model, LISTS)
    assert model.training
    torch.testing.assert_close(score_lists(model, LISTS, batch_size=7), whole)
    assert torch.equal(whole, model.eval()(LISTS, LISTS.scores))
    score_lists(model, LISTS)
    assert not model.training


def test_validation_is_the_mean_over_all_lists():
    model = prm()
    per_list = ndcg(rank(score_lists(model, VALIDATION), VALIDATION.labels), 6)
    assert validation_ndcg(model, VALIDATION) == per_list.mean().item()


def test_validation_breaks_ties_at_random():
    """A scorer that knows nothing must not profit from where the positives stand."""
    first = VALIDATION.labels.sort(dim=1, descending=True).values
    constant = build("score", LISTS)
    many = field_of(VALIDATION, labels=first, scores=torch.zeros_like(VALIDATION.scores))
    many = many[torch.arange(3000) % len(VALIDATION)]
    chance = expected_random_ndcg(first, 6).mean().item()
    assert validation_ndcg(constant, many) == pytest.approx(chance, abs=0.03)


# Kill and resume


class KilledError(Exception):
    """Stands for kill -9."""


def killed_after(config, path, report, **options):
    """A run that dies at the given report (counted from 0) and leaves its checkpoint."""
    reports = iter(range(1000))

    def on_progress(_):
        if next(reports) == report:
            raise KilledError

    with pytest.raises(KilledError):
        trainer(config, **options).run(path, on_progress)


@pytest.mark.parametrize("report", range(3, 24, 4))
@pytest.mark.parametrize("config", [DIRECT, DNR], ids=["direct", "DNR"])
def test_a_killed_run_resumes_bit_for_bit(config, report, tmp_path, monkeypatch):
    monkeypatch.setattr("dnrlib.training.CHECK_EVERY", 1)
    steps = math.ceil(len(TRAIN) / 16)
    assert steps == 5  # six reports an epoch: five within it, one after it
    whole = trained(config)
    path = tmp_path / "run.pt"
    killed_after(config, path, report)
    assert path.exists() == (report >= 5)
    torch.manual_seed(report)
    fresh = trainer(config, prm(seed=0 if report < 5 else 9))
    curves = fresh.run(path)
    assert same_run((weights(fresh.reranker), untimed(curves)), whole)


@pytest.mark.parametrize("config", [DIRECT, DNR], ids=["direct", "DNR"])
def test_a_run_can_be_killed_many_times(config, tmp_path):
    path = tmp_path / "run.pt"
    for _ in range(3):
        killed_after(config, path, 2)
    last = trainer(config, prm(seed=9))
    curves = last.run(path)
    assert same_run((weights(last.reranker), untimed(curves)), trained(config))


def test_a_finished_run_is_not_repeated(tmp_path):
    path = tmp_path / "run.pt"
    first = trainer(DNR)
    first.run(path)
    again = trainer(DNR, prm(seed=9))
    assert again.run(path, on_progress=lambda _: pytest.fail("trained again")) == first.curves
    assert torch.equal(weights(again.reranker), weights(first.reranker))


def test_only_the_checkpoint_is_left(tmp_path):
    trainer(DIRECT).run(tmp_path / "new" / "run.pt")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["run.pt"]


def test_a_failed_save_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    killed_after(DIRECT, path, 1)
    good = path.read_bytes()

    def fail(state, file):
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space"):
        trainer(DIRECT).run(path)
    assert path.read_bytes() == good


@pytest.mark.parametrize(
    "other",
    [
        {"config": replace(DIRECT, lambda_c=0.3)},
        {"seed": 1},
        {"train": TRAIN[1:]},
        {"validation": VALIDATION[1:]},
        {"reranker": prm(dim=16)},
        {"reranker": prm(score_use="add")},
        {"reranker": Linear()},
    ],
    ids=["config", "seed", "train", "validation", "size", "score use", "model"],
)
def test_a_checkpoint_of_another_run_is_refused(other, tmp_path):
    path = tmp_path / "run.pt"
    killed_after(DIRECT, path, 1)
    good = path.read_bytes()
    with pytest.raises(DataError, match=r"run\.pt.*another run"):
        trainer(**{"config": DIRECT} | other).run(path)
    assert path.read_bytes() == good


def test_a_checkpoint_of_the_same_sizes_but_another_score_use_is_refused(tmp_path):
    path = tmp_path / "run.pt"
    killed_after(DIRECT, path, 1, reranker=prm(score_use="none"))
    with pytest.raises(DataError, match="another run"):
        trainer(DIRECT, prm(score_use="weight")).run(path)


@pytest.mark.parametrize("spoil", ["truncated", "empty", "text", "pickle", "tensor"])
def test_a_corrupted_checkpoint_is_a_data_error(spoil, tmp_path):
    path = tmp_path / "run.pt"
    killed_after(DIRECT, path, 1)
    content = path.read_bytes()
    if spoil == "pickle":
        torch.save({"reranker": {}}, path)
    elif spoil == "tensor":
        torch.save(torch.zeros(3), path)
    else:
        path.write_bytes(
            {"truncated": content[: len(content) // 2], "empty": b"", "text": b"hello"}[spoil]
        )
    with pytest.raises(DataError, match=r"run\.pt.*delete it to start over"):
        trainer(DIRECT).run(path)


# Losses that are not finite


class Spoiled(Linear):
    """Returns logits that are not finite at one step."""

    def __init__(self, at, value):
        super().__init__()
        self.at, self.value, self.calls = at, value, 0

    def forward(self, batch, scores):
        self.calls += self.training
        logits = super().forward(batch, scores)
        return logits * self.value if self.training and self.calls == self.at else logits


@pytest.mark.parametrize("check_every", [1, 2, 50])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(value, check_every, tmp_path, monkeypatch):
    monkeypatch.setattr("dnrlib.training.CHECK_EVERY", check_every)
    path = tmp_path / "run.pt"
    after_one = trainer(replace(DIRECT, epochs=1), Linear())
    after_one.run()
    with pytest.raises(TrainingError, match="epoch 2, step 3: L_direct is (nan|inf|-inf)"):
        trainer(DIRECT, Spoiled(5 + 3, value)).run(path)
    last_good = trainer(DIRECT, Spoiled(0, 1.0))
    last_good.load(path)
    assert len(last_good.curves) == 1
    assert torch.equal(weights(last_good.reranker), weights(after_one.reranker))


@pytest.mark.parametrize(("call", "term"), [(1, "L_direct"), (2, "L_z"), (3, "L_adv")])
def test_the_term_that_is_not_finite_is_named(call, term):
    config = replace(EXACT, lambda_e=0)
    with pytest.raises(TrainingError, match=f"epoch 1, step 4: {term} is nan"):
        trainer(config, Spoiled(1 + 3 * 3 + call, math.nan)).run()  # one call before training


def test_a_regulariser_that_is_not_finite_is_named():
    made = trainer(replace(DNR, lambda_e=0))
    made.regulariser = lambda synthetic, labels, scores: synthetic.sum() * math.inf
    with pytest.raises(TrainingError, match="epoch 1, step 1: L_x is"):
        made.run()


class BadGradient(Linear):
    """A finite loss whose gradient is not: the square root at 0."""

    def forward(self, batch, scores):
        return super().forward(batch, scores) + (self.b + 0.2).abs().sqrt()


def test_weights_that_are_not_finite_at_the_end_of_an_epoch_stop_the_run():
    whole = replace(DIRECT, batch_size=len(TRAIN))
    with pytest.raises(TrainingError, match="epoch 1"):
        trainer(whole, BadGradient()).run()


# Bad configurations


@pytest.mark.parametrize(
    "bad",
    [
        {"likelihood": "hinge"},
        {"noise": "uniform"},
        {"generator": "gan"},
        {"regulariser": "mmd"},
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"clip": -1.0},
        {"generator_learning_rate": 0.0},
        {"weight_decay": -0.1},
        {"lambda_m": -0.1},
        {"lambda_e": -1},
        {"patience": -1},
    ],
    ids=lambda bad: next(iter(bad)),
)
def test_bad_configurations_name_the_parameter(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        replace(DNR, **bad)


def test_a_bad_noise_is_refused_when_the_trainer_is_made():
    with pytest.raises(ConfigError, match="lambda_c"):
        trainer(replace(DNR, lambda_c=1.5))
    with pytest.raises(ConfigError, match="beta"):
        trainer(replace(DNR, beta=(0.0, 1.0)))


@pytest.mark.parametrize("part", ["train", "validation"])
def test_no_lists_are_refused(part):
    with pytest.raises(ConfigError, match="at least one training and one validation list"):
        trainer(**{part: LISTS[:0]})


@pytest.mark.parametrize("score_use", ["none", "rank"])
def test_a_generator_that_the_reranker_cannot_hear_is_refused(score_use):
    with pytest.raises(ConfigError, match="no gradient in the scores"):
        trainer(DNR, prm(score_use=score_use))


def test_a_phase_two_that_never_begins_is_refused():
    with pytest.raises(ConfigError, match="lambda_e = 3 of 3 epochs"):
        TrainingConfig(epochs=3, lambda_e=3, generator="scores")


def test_nothing_to_train_is_refused():
    with pytest.raises(ConfigError, match="no parameters"):
        trainer(DIRECT, build("score", LISTS))
