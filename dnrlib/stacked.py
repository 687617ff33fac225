"""Several seeds of one configuration at once: their parameters lie stacked in one tensor each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from dnrlib.errors import ConfigError, TrainingError
from dnrlib.lists import TENSORS, CandidateLists
from dnrlib.noise import Noise
from dnrlib.training import Epoch, Trainer, validation_ndcg

Parameters = dict[str, nn.Parameter]


class Stack:
    """Takes each step of several trainers at once, as one step over stacked parameters.

    Each trainer keeps its own order of lists, curves and best epoch; noise and dropout are drawn
    for all together, so that a run differs from one done alone as one with other draws does. It
    pays where a single run leaves a device idle between small operations, as on a GPU. On a CPU
    a process for each seed is faster: benchmarks/ has the ratio.

    Args:
        trainers: on the same lists, and equal but for their seeds and weights.

    Raises:
        ConfigError: there is none, they differ otherwise, their estimator is ``exact``, or their
            reranker has a loss of its own.
    """

    def __init__(self, trainers: Sequence[Trainer]):
        if not trainers:
            raise ConfigError("a stack needs at least one trainer")
        first = trainers[0]
        for other in trainers:
            same_lists = other.lists is first.lists and other.validation is first.validation
            if not same_lists or (other.config, repr(other.reranker)) != (
                first.config,
                repr(first.reranker),
            ):
                raise ConfigError("the runs of a stack may differ in their seeds alone")
        if type(first) is not Trainer:
            raise ConfigError("a reranker with a loss of its own cannot be stacked")
        if first.config.estimator == "exact" and first.heuristic is not None:
            raise ConfigError("estimator = 'exact': only 'mixed' can be stacked")
        self.trainers, self.first = list(trainers), first
        self.parameters = {"reranker": _stacked([t.reranker for t in trainers])}
        self.optimisers = {"reranker": _of(first.optimiser, self.parameters["reranker"])}
        if first.generator is not None:
            self.parameters["generator"] = _stacked([t.generator for t in trainers if t.generator])
            self.optimisers["generator"] = _of(
                first.generator_optimiser, self.parameters["generator"]
            )
        self.objective = _Objective(first)

    def step(self, batches: Sequence[CandidateLists], phase: int) -> dict[str, Tensor]:
        """One update of every θ and, in phase two, of every φ; the losses, each [seeds]."""
        learning = list(self.parameters) if phase == 2 else ["reranker"]
        given = {f"{part}.{n}": p.detach() for part in learning
                 for n, p in self.parameters[part].items()}  # fmt: skip
        described = () if batches[0].features is None else ("features",)
        tensors = {
            name: torch.stack([getattr(b, name) for b in batches])
            for name in (*TENSORS, *described)
        }
        if phase == 1 and self.first.heuristic is not None:
            # Not every distribution can be drawn from under vmap.
            tensors["synthetic"] = self.first.heuristic(tensors["labels"].flatten(0, 1)).view_as(
                tensors["scores"]
            )

        def objective(given: dict[str, Tensor], batch: dict[str, Tensor]) -> Any:
            losses, value = functional_call(self.objective, given, (batch, phase))
            return value, losses

        mapped = vmap(grad_and_value(objective, has_aux=True), randomness="different")
        with _attention(tensors["scores"].device):
            gradients, (_, losses) = mapped(given, tensors)
        for part in learning:
            own = {name: gradients[f"{part}.{name}"] for name in self.parameters[part]}
            self._descend(part, own)
        return losses

    def _descend(self, part: str, gradients: dict[str, Tensor]) -> None:
        """A step along the gradients, those of each seed clipped by themselves."""
        squares = [
            gradient.reshape(len(gradient), -1).square().sum(dim=1)
            for gradient in gradients.values()
        ]
        norm = torch.stack(squares).sum(dim=0).sqrt()
        factor = (self.first.config.clip / (norm + 1e-6)).clamp(max=1)
        for name, parameter in self.parameters[part].items():
            shape = (-1, *[1] * (parameter.dim() - 1))
            parameter.grad = gradients[name] * factor.view(shape)
        self.optimisers[part].step()

    def epoch(self, number: int) -> list[Epoch]:
        """Train every seed for one epoch and validate.

        Raises:
            TrainingError: a loss of some seed is NaN or infinite.
        """
        for trainer in self.trainers:
            trainer.reranker.train()
        torch.manual_seed(self.first.seed + number)
        phase = self.first.config.phase(number)
        began = time.perf_counter()
        rows = [
            self.step([batch for batch, _ in parts], phase)
            for parts in zip(*(t.batches(number) for t in self.trainers), strict=True)
        ]
        means = {name: torch.stack([row[name] for row in rows]).mean(dim=0) for name in rows[0]}
        seconds = time.perf_counter() - began
        return [
            self._row(trainer, {name: float(m[seed]) for name, m in means.items()}, number, seconds)
            for seed, trainer in enumerate(self.trainers)
        ]

    def _row(
        self, trainer: Trainer, losses: dict[str, float], number: int, seconds: float
    ) -> Epoch:
        """A trainer's epoch; its share of the time is that of all."""
        for name, loss in losses.items():
            if not abs(loss) < float("inf"):
                raise TrainingError(f"epoch {number}, seed {trainer.seed}: {name} is {loss}")
        share = seconds / len(self.trainers)
        validation = validation_ndcg(trainer.reranker, trainer.validation)
        phase, speed = trainer.config.phase(number), len(trainer.lists) / share
        return Epoch(number, phase, losses, validation, share, speed)

    def run(self, on_epoch: Callable[[list[Epoch]], None] = lambda rows: None) -> None:
        """Train all to the end; each trainer then has its curves and its best weights.

        Patience is not looked at: all seeds go on as long as the last.
        """
        for number in range(1, self.first.config.epochs + 1):
            rows = self.epoch(number)
            for trainer, row in zip(self.trainers, rows, strict=True):
                if not trainer.curves or row.validation > max(e.validation for e in trainer.curves):
                    state = trainer.reranker.state_dict()
                    trainer.best = {name: tensor.clone() for name, tensor in state.items()}
                trainer.curves.append(row)
            on_epoch(rows)
        for trainer in self.trainers:
            trainer.reranker.load_state_dict(trainer.best)


class _Objective(nn.Module):
    """`Trainer.one_pass` as a module, so that its parameters can be replaced for a call."""

    def __init__(self, trainer: Trainer):
        super().__init__()
        self.reranker, self.generator = trainer.reranker, trainer.generator
        self._trainer = [trainer]  # in a list: not a part whose parameters count

    def forward(self, batch: dict[str, Tensor], phase: int) -> tuple[dict[str, Tensor], Tensor]:
        trainer = self._trainer[0]
        tensors = {name: tensor for name, tensor in batch.items() if name != "synthetic"}
        drawn = _Drawn(batch["synthetic"]) if "synthetic" in batch else None
        lists = CandidateLists(**tensors, meta=trainer.lists.meta)
        return trainer.one_pass(lists, trainer.generator if phase == 2 else drawn)


class _Drawn(Noise):
    """Synthetic scores that are there already; as many of them are taken as are asked for."""

    def __init__(self, scores: Tensor):
        super().__init__(0.0)
        self.scores = scores

    def forward(self, labels: Tensor) -> Tensor:
        return self.scores[: len(labels)]


def _attention(device: torch.device) -> AbstractContextManager[Any]:
    """The fused attention of CPUs has no rule for vmap; that of GPUs has."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def _stacked(modules: Sequence[nn.Module]) -> Parameters:
    """All modules' parameters, [modules, …]; from now on the modules' own are parts of these."""
    named = [dict(module.named_parameters()) for module in modules]
    stacked = {}
    for name in named[0]:
        stacked[name] = nn.Parameter(torch.stack([own[name].detach() for own in named]))
        for own, part in zip(named, stacked[name].data, strict=True):
            own[name].data = part
    return stacked


def _of(optimiser: torch.optim.Optimizer, parameters: Parameters) -> torch.optim.Optimizer:
    """An optimiser of the same kind and settings for other parameters."""
    settings = optimiser.param_groups[0]
    kind: Any = type(optimiser)
    return kind([settings | {"params": list(parameters.values())}])
