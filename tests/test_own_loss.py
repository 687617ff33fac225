"""A loss of a reranker's own, and the trainer that goes round it."""

from dataclasses import replace

import pytest
import torch
from test_parallel import Team
from test_training import CONFIGS, DIRECT, DNR, EXACT, TRAIN, VALIDATION, prm, untimed, weights
from torch import nn

from dnrlib.errors import ConfigError
from dnrlib.experiments import run_code
from dnrlib.identity import code_hash, files_of
from dnrlib.losses import bernoulli
from dnrlib.parallel import Hardware, train
from dnrlib.rerankers import PRM, RERANKERS, OwnLoss, Reranker
from dnrlib.stacked import Stack
from dnrlib.trainers import OwnLossTrainer, trainer_for
from dnrlib.training import Trainer, score_lists


class Likelihood(PRM, OwnLoss):
    """PRM, whose own loss is the likelihood that it is trained by anyway."""

    def loss(self, batch, scores):
        return bernoulli(self(batch, scores), batch.labels)


def likelihood(dropout=0.1, seed=0):
    torch.manual_seed(seed)
    sizes = {"dim": 8, "heads": 2, "feed_forward": 8, "layers": 1}
    n, history = TRAIN.items.shape[1], TRAIN.history.shape[1]
    counts = TRAIN.meta["users"], TRAIN.meta["items"]
    return Likelihood(*counts, n, history, score_use="concat", dropout=dropout, **sizes)


class Line(OwnLoss):
    """logit = w x + b by a loss that is none of the book's; it keeps what it was told."""

    def __init__(self, stages=False):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(-0.2))
        self.stages, self.told, self.seen = stages, [], []

    def begin_epoch(self, epoch, epochs, lists):
        self.told.append((epoch, epochs, lists.fingerprint, self.training))

    def score(self, state, scores):
        return self.w * scores + self.b

    def loss(self, batch, scores):
        self.seen.append((batch, scores))
        late = not self.stages or self.told[-1][0] > 1
        logits = self(batch, scores) if late else self(batch, scores).detach() + self.w
        return (logits - batch.labels.float()).square().mean()


def own(config=DIRECT, reranker=None, **options):
    return OwnLossTrainer(reranker or Line(), TRAIN, VALIDATION, config, **options)


# The same loss, the same training


@pytest.mark.equation("eq-own-two-losses", "eq-own-loss")
def test_direct_training_by_the_likelihood_as_its_own_loss_has_the_same_bits():
    plain, same = Trainer(prm(), TRAIN, VALIDATION, DIRECT), own(DIRECT, likelihood())
    assert torch.equal(weights(plain.reranker), weights(same.reranker))
    assert untimed(plain.run()) == untimed(same.run())
    assert torch.equal(weights(plain.reranker), weights(same.reranker))


@pytest.mark.parametrize("kind", ["heuristic", "DNR"])
@pytest.mark.equation("eq-own-two-losses")
def test_denoising_training_by_the_likelihood_as_its_own_loss_is_the_same(kind):
    """Real and synthetic scores go through it apart: other dropout, and other rounding."""
    plain = Trainer(prm(dropout=0.0), TRAIN, VALIDATION, CONFIGS[kind])
    same = own(CONFIGS[kind], likelihood(dropout=0.0))
    for a, b in zip(plain.run(), same.run(), strict=True):
        assert b.losses == pytest.approx(a.losses, rel=1e-4)
        assert b.validation == pytest.approx(a.validation, abs=1e-3)
    close = {"rtol": 1e-2, "atol": 1e-3}
    torch.testing.assert_close(weights(same.reranker), weights(plain.reranker), **close)
    if plain.generator:
        torch.testing.assert_close(weights(same.generator), weights(plain.generator), **close)


@pytest.mark.equation("eq-own-two-losses")
def test_real_and_synthetic_scores_reach_the_loss_in_the_batch_and_beside_it():
    made = own(DNR)
    batch = TRAIN[:16]
    made.reranker.seen.clear()
    losses = made.step(batch, phase=2)
    direct, synthetic = made.reranker.seen
    for given, scores in (direct, synthetic):
        assert torch.equal(given.scores, scores)
    m = len(synthetic[0])
    assert m + len(direct[0]) == len(batch)
    assert torch.equal(synthetic[0].labels, batch.labels[:m])
    assert torch.equal(direct[0].labels, batch.labels[m:])
    assert torch.equal(direct[1], batch.scores[m:])
    assert not torch.isclose(synthetic[1], batch.scores[:m]).any()
    for name, (given, scores) in {"L_direct": direct, "L_z": synthetic}.items():
        by_hand = (0.5 * scores - 0.2 - given.labels.float()).square().mean()
        torch.testing.assert_close(losses[name], by_hand)
    torch.testing.assert_close(losses["L_adv"], -losses["L_z"])


def test_the_generator_ascends_on_the_loss():
    config = replace(DNR, regulariser_weight=0.0, clip=1e9)
    made = own(config)
    parameters = list(made.generator.parameters())
    made.generator_optimiser = torch.optim.SGD(parameters, lr=1.0)
    before = [p.detach().clone() for p in parameters]
    made.reranker.seen.clear()
    torch.manual_seed(3)
    made.step(TRAIN[:16], phase=2)
    m = len(made.reranker.seen[1][0])
    again = own(config)
    again.generator.load_state_dict(
        dict(zip(made.generator.state_dict(), before, strict=True)), strict=False
    )
    torch.manual_seed(3)
    labels = TRAIN[:m].labels
    loss = (0.5 * again.generator(labels) - 0.2 - labels.float()).square().mean()
    gradients = torch.autograd.grad(loss, list(again.generator.parameters()))
    for parameter, old, gradient in zip(parameters, before, gradients, strict=True):
        torch.testing.assert_close(parameter.detach(), old + gradient)


# Epochs and stages


def test_it_is_told_of_each_epoch_before_it():
    made = own(DIRECT)
    made.run()
    epochs = DIRECT.epochs
    assert [told[:3] for told in made.reranker.told] == [
        (epoch, epochs, TRAIN.fingerprint) for epoch in range(1, epochs + 1)
    ]


def test_the_first_loss_comes_after_the_first_epoch_is_told():
    order = []

    class Ordered(Line):
        def begin_epoch(self, epoch, epochs, lists):
            order.append(epoch)

        def loss(self, batch, scores):
            order.append("loss")
            return super().loss(batch, scores)

    own(replace(DIRECT, epochs=2), Ordered()).run()
    steps = (len(order) - 2) // 2
    assert order == [1, *["loss"] * steps, 2, *["loss"] * steps]


def test_after_a_resume_it_is_told_of_the_epochs_that_are_left(tmp_path):
    path = tmp_path / "checkpoint.pt"
    killed = own(DIRECT)
    killed.finished = lambda: len(killed.curves) >= 2
    killed.run(path)
    resumed = own(DIRECT)
    resumed.run(path)
    assert [told[0] for told in killed.reranker.told] == [1, 2]
    assert [told[:2] for told in resumed.reranker.told] == [(3, 4), (4, 4)]
    whole = own(DIRECT)
    whole.run()
    assert torch.equal(weights(whole.reranker), weights(resumed.reranker))


@pytest.mark.parametrize("devices", [1, 2])
def test_a_parameter_that_a_stage_leaves_out_is_not_moved(devices):
    """Neither by a gradient nor by weight decay, nor by what the optimiser remembers."""
    made = own(replace(DIRECT, weight_decay=0.5), Line(stages=True), fabric=Team(0, devices))
    start = made.reranker.b.item()
    made.epoch(1, lambda progress: None)
    assert made.reranker.b.item() == start
    assert made.reranker.w.item() != 0.5
    made.epoch(2, lambda progress: None)
    assert made.reranker.b.item() != start


# What is refused


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(DIRECT, likelihood="softmax"), "likelihood = 'softmax': Line is trained by a"),
        (EXACT, "estimator = 'exact': only 'mixed' is there for Line's own loss"),
    ],
)
def test_settings_without_a_use_are_refused(config, message):
    with pytest.raises(ConfigError, match=message):
        own(config)


def test_the_exact_estimator_of_direct_training_is_the_mixed_one():
    exact, mixed = (own(replace(DIRECT, estimator=name)) for name in ("exact", "mixed"))
    assert untimed(exact.run()) == untimed(mixed.run())


def test_a_reranker_without_a_loss_of_its_own_is_refused():
    with pytest.raises(ConfigError, match="PRM has no loss of its own: use Trainer"):
        own(DIRECT, prm())
    with pytest.raises(NotImplementedError):
        OwnLoss().loss(TRAIN, TRAIN.scores)


class Deaf(Line):
    def loss(self, batch, scores):
        return super().loss(batch, scores.detach())


class Dumb(Line):
    def loss(self, batch, scores):
        return super().loss(batch, scores).detach()


@pytest.mark.parametrize("reranker", [Deaf(), Dumb()])
def test_a_generator_needs_a_loss_that_has_a_gradient_in_the_scores(reranker):
    with pytest.raises(ConfigError, match="the reranker's loss has no gradient in the scores"):
        own(DNR, reranker)


def test_a_loss_of_its_own_cannot_be_stacked():
    with pytest.raises(ConfigError, match="loss of its own cannot be stacked"):
        Stack([own(DIRECT, likelihood(), seed=seed) for seed in (0, 1)])


# Which trainer


def test_the_class_decides_which_trainer():
    assert trainer_for(Line) is OwnLossTrainer
    assert {trainer_for(kind) for kind in (PRM, Reranker, nn.Linear)} == {Trainer}


@pytest.fixture
def registered(monkeypatch):
    """An own-loss reranker of the registry, as if it stood in a file of the package."""
    monkeypatch.setattr(Line, "__module__", "dnrlib.rerankers.slates")
    monkeypatch.setitem(RERANKERS, "line", Line)
    return "line"


def test_the_trainer_of_an_own_loss_is_part_of_its_runs_alone(registered):
    regulariser = "dnrlib.losses"
    with_own = files_of(OwnLossTrainer.__module__, "dnrlib.rerankers.slates", regulariser)
    assert {"trainers.py", "rerankers/own_loss.py", "training.py"} <= set(with_own)
    plain = files_of(Trainer.__module__, PRM.__module__, regulariser)
    assert {"trainers.py", "rerankers/own_loss.py"}.isdisjoint(plain)
    assert run_code(registered, "conditional") == code_hash(with_own)
    assert run_code("prm", "conditional") == code_hash(plain)


@pytest.mark.parametrize(
    ("make", "kind"), [(likelihood, OwnLossTrainer), (prm, Trainer)], ids=["own", "plain"]
)
@pytest.mark.parametrize("hardware", [Hardware(), Hardware(precision="bf16-mixed")])
def test_on_any_hardware_the_right_trainer_is_made(make, kind, hardware):
    made = train(make(), TRAIN, VALIDATION, replace(DNR, epochs=3), 0, hardware)
    assert type(made) is kind
    assert [row.phase for row in made.curves] == [1, 1, 2]


def test_two_processes_train_by_the_own_loss_as_one_does():
    config = replace(DIRECT, batch_size=15, epochs=2)
    one, two = (
        train(likelihood(dropout=0.0), TRAIN, VALIDATION, config, 0, Hardware(devices=devices))
        for devices in (1, 2)
    )
    assert type(one) is type(two) is OwnLossTrainer
    for a, b in zip(one.curves, two.curves, strict=True):
        assert b.losses == pytest.approx(a.losses, rel=1e-4)
    torch.testing.assert_close(
        score_lists(two.reranker, VALIDATION),
        score_lists(one.reranker, VALIDATION),
        rtol=1e-2,
        atol=1e-2,
    )
