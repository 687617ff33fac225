from dataclasses import replace

import pytest
import torch
from test_training import (
    CONFIGS,
    DIRECT,
    DNR,
    EXACT,
    TRAIN,
    VALIDATION,
    Linear,
    Spoiled,
    prm,
    weights,
)
from torch import nn
from worlds import field_of

from dnrlib.errors import ConfigError, TrainingError
from dnrlib.stacked import Stack
from dnrlib.training import Trainer, validation_ndcg

SEEDS = (0, 1, 2)


def trainers(config, make=lambda seed: prm(dropout=0.0, seed=seed)):
    return [Trainer(make(seed), TRAIN, VALIDATION, config, seed) for seed in SEEDS]


def test_a_stack_ends_as_each_seed_does_alone():
    """Without dropout and noise there is nothing that could differ but rounding."""
    config = replace(DIRECT, epochs=3, clip=0.05)
    alone, together = trainers(config), trainers(config)
    for one in alone:
        one.run()
    Stack(together).run()
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(
            weights(other.reranker), weights(one.reranker), rtol=1e-2, atol=1e-3
        )
        for a, b in zip(one.curves, other.curves, strict=True):
            assert b.losses == pytest.approx(a.losses, rel=1e-4)
            assert b.validation == pytest.approx(a.validation, abs=1e-3)
    assert len({w.sum().item() for w in (weights(t.reranker) for t in together)}) == len(SEEDS)


@pytest.mark.parametrize("kind", ["direct", "heuristic", "DNR"])
def test_every_kind_of_training_can_be_stacked(kind):
    config = CONFIGS[kind]
    together = trainers(config, lambda seed: prm(seed=seed))
    generated = [weights(t.generator) for t in together if t.generator]
    Stack(together).run()
    alone = Trainer(prm(), TRAIN, VALIDATION, config, 0)
    alone.run()
    for trainer in together:
        assert [set(row.losses) for row in trainer.curves] == [set(r.losses) for r in alone.curves]
        assert [row.phase for row in trainer.curves] == [row.phase for row in alone.curves]
        best = max(row.validation for row in trainer.curves)
        assert validation_ndcg(trainer.reranker, VALIDATION) == pytest.approx(best, abs=1e-6)
        last, own = trainer.curves[-1].losses["L_direct"], alone.curves[-1].losses["L_direct"]
        assert last == pytest.approx(own, rel=0.3)
    for before, trainer in zip(generated, together, strict=False):
        assert not torch.equal(weights(trainer.generator), before)


class Priced(Linear):
    """A weight for each of two features besides."""

    def __init__(self):
        super().__init__()
        self.prices = nn.Parameter(torch.zeros(2))

    def forward(self, batch, scores):
        return super().forward(batch, scores) + batch.features @ self.prices


def described(lists):
    """The first feature tells the label, the second nothing."""
    nothing = torch.rand(lists.scores.shape, generator=torch.Generator().manual_seed(1))
    return field_of(lists, features=torch.stack([lists.labels.float(), nothing], dim=2))


@pytest.mark.parametrize("kind", ["direct", "heuristic", "DNR"])
def test_features_come_along(kind):
    train, validation = described(TRAIN), described(VALIDATION)
    config = replace(CONFIGS[kind], learning_rate=0.1)
    alone, together = (
        [Trainer(Priced(), train, validation, config, seed) for seed in SEEDS] for _ in range(2)
    )
    Stack(together).run()
    for one, other in zip(alone, together, strict=True):
        assert other.curves[-1].validation > 0.95
        if kind == "direct":
            one.run()
            torch.testing.assert_close(weights(other.reranker), weights(one.reranker))


def test_beta_noise_is_drawn_for_each_seed_by_itself():
    stack = Stack(trainers(replace(DNR, generator="none"), lambda seed: prm(dropout=0.0, seed=0)))
    losses = stack.step([TRAIN[:16]] * len(SEEDS), phase=1)
    assert len(set(losses["L_direct"].tolist())) == 1
    assert len(set(losses["L_z"].tolist())) == len(SEEDS)


def test_a_loss_that_is_not_finite_names_the_seed():
    with pytest.raises(TrainingError, match="epoch 1, seed 0: L_direct is nan"):
        Stack(trainers(DIRECT, lambda seed: Spoiled(1, float("nan")))).run()


def test_what_cannot_be_stacked_is_refused():
    with pytest.raises(ConfigError, match="at least one"):
        Stack([])
    with pytest.raises(ConfigError, match="'exact'"):
        Stack(trainers(EXACT))
    for other in (trainers(DNR)[0], trainers(DIRECT, lambda seed: Linear())[0]):
        with pytest.raises(ConfigError, match="differ in their seeds alone"):
            Stack([*trainers(DIRECT), other])
