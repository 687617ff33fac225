"""The two-phase training of DNR, around any reranker; direct training is its special case."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dnrlib.errors import ConfigError, DataError, TrainingError
from dnrlib.files import replacing
from dnrlib.lists import CandidateLists
from dnrlib.losses import LIKELIHOODS, REGULARISERS
from dnrlib.metrics import ndcg, ranking
from dnrlib.noise import BetaNoise, GaussianNoise, MLPNoise, Noise
from dnrlib.rerankers.base import Reranker

CHECK_EVERY = 50
_ADVICE = (
    "a checkpoint of the last good epoch, if any, is kept. Lower the learning rate, or raise "
    "regulariser_weight if L_adv ran away"
)


@dataclass(frozen=True)
class TrainingConfig:
    """How a reranker is trained. ``noise = generator = "none"`` is direct training.

    DNR-G and DNR-B have Gaussian and Beta noise in phase one and a generator in phase two;
    heuristic noise only ("w/ G", "w/ B") has no generator. The paper's ablations set
    ``adversarial_weight`` or ``regulariser_weight`` to 0.
    """

    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    clip: float = 5.0
    """Largest norm of the gradient."""
    estimator: str = "mixed"
    """Of L_direct + λ_m L_z. ``mixed``: one pass, in which some lists of a batch carry synthetic
    scores and the others real ones (`Trainer.update_both`). ``exact``: every list carries both,
    and the generator is updated after the reranker, by a pass of its own."""
    likelihood: str = "bernoulli"
    """``bernoulli`` or ``softmax``: see `dnrlib.losses`."""
    noise: str = "none"
    """Heuristic noise: ``none``, ``gaussian`` or ``beta``."""
    beta: tuple[float, float] = (0.5, 0.5)
    generator: str = "none"
    """Phase two: ``none``, ``scores`` or ``epsilon``: see `dnrlib.noise.MLPNoise`."""
    lambda_c: float = 0.4
    lambda_m: float = 0.5
    lambda_e: int = 5
    """Epochs of phase one."""
    adversarial_weight: float = 1.0
    regulariser_weight: float = 1.0
    regulariser: str = "conditional"
    """``conditional`` or ``pooled``: see `dnrlib.losses`; others are in `dnrlib.divergences`."""
    generator_learning_rate: float = 1e-3
    patience: int = 0
    """Stop after so many epochs without a better validation NDCG@6; 0 never stops. With a
    generator the count starts in phase two."""

    def __post_init__(self) -> None:
        choices = {
            "estimator": ("mixed", "exact"),
            "likelihood": tuple(LIKELIHOODS),
            "noise": ("none", "gaussian", "beta"),
            "generator": ("none", "scores", "epsilon"),
            "regulariser": tuple(REGULARISERS),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                value = getattr(self, name)
                raise ConfigError(f"{name} = {value!r}: choose one of {', '.join(allowed)}")
        for name in ("epochs", "batch_size", "learning_rate", "clip", "generator_learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} = {getattr(self, name)}: must be positive")
        weights = ("lambda_m", "adversarial_weight", "regulariser_weight")
        for name in ("weight_decay", "lambda_e", "patience", *weights):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} = {getattr(self, name)}: must not be negative")
        if self.generator != "none" and self.estimator == "mixed" and not self.lambda_m:
            raise ConfigError(
                "lambda_m = 0: no list would carry generated scores, from which the generator "
                "learns. Raise lambda_m, or use estimator = 'exact' or generator = 'none'"
            )
        if self.generator != "none" and self.epochs <= self.lambda_e:
            raise ConfigError(
                f"lambda_e = {self.lambda_e} of {self.epochs} epochs: phase two, and with it the "
                "generator, would never begin. Lower lambda_e or use generator = 'none'"
            )

    def phase(self, epoch: int) -> int:
        """1 while the noise is heuristic, 2 once the generator is trained; epochs count from 1."""
        return 1 if self.generator == "none" or epoch <= self.lambda_e else 2


@dataclass(frozen=True)
class Progress:
    """Where training stands: sent every few steps and, with ``validation``, after each epoch."""

    epoch: int
    epochs: int
    phase: int
    step: int
    steps: int
    losses: dict[str, float]
    lists_per_second: float
    seconds_left: float
    validation: float | None = None
    """NDCG@6 on the validation lists."""
    best: float | None = None


@dataclass(frozen=True)
class Epoch:
    """One row of a run's curves."""

    epoch: int
    phase: int
    losses: dict[str, float]
    validation: float
    seconds: float
    lists_per_second: float


class _Plain(Reranker):
    """A module that knows only ``forward(batch, scores)``."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def score(self, state: Any, scores: Tensor) -> Tensor:
        return self.module(state, scores)


@torch.inference_mode()
def score_lists(
    reranker: nn.Module, lists: CandidateLists, batch_size: int = 512
) -> Float[Tensor, "lists n"]:
    """The reranker's logits on the retriever's real scores, as it would serve them."""
    was_training = reranker.training
    reranker.eval()
    parts = [lists[i : i + batch_size] for i in range(0, len(lists), batch_size)]
    logits = [reranker(part, part.scores).float() for part in parts]
    reranker.train(was_training)
    return torch.cat(logits)


def validation_ndcg(
    reranker: nn.Module, lists: CandidateLists, k: int = 6, fabric: Any = None
) -> float:
    """Mean NDCG@k of the reranker's order; each device of ``fabric`` ranks a part of the lists."""
    fabric = fabric or OneDevice()
    part = lists[fabric.global_rank :: fabric.world_size]
    with fabric.autocast():
        logits = score_lists(reranker, part)
    values = ndcg(part.labels.gather(1, ranking(logits)), k)
    total = torch.stack([values.nansum(), values.isfinite().sum().to(values.dtype)])
    total = fabric.all_reduce(total, reduce_op="sum")
    return float(total[0] / total[1])


def synthetic_lists(lists: int, lambda_m: float) -> int:
    """How many of a batch's lists carry synthetic scores when each list carries one kind.

    With a share s of them, the estimate of L_direct + λ_m L_z has a gradient of variance
    V_direct / (1 - s) + λ_m² V_z / s over the number of lists, where V is the variance of one
    list's gradient. It is least at s = λ_m √V_z / (√V_direct + λ_m √V_z) (Neyman's allocation),
    which for equal variances is λ_m / (1 + λ_m). Any s leaves the estimate unbiased.
    """
    return min(max(round(lists * lambda_m / (1 + lambda_m)), 1), lists - 1)


def turn_gradient(x: Tensor, factor: float) -> Tensor:
    """x itself, whose gradient is multiplied by -``factor`` on its way back."""
    return x.detach() - factor * (x - x.detach())


class OneDevice:
    """What the trainer uses of ``lightning.fabric.Fabric``, for one device and full precision."""

    global_rank = 0
    world_size = 1
    is_global_zero = True
    autocast = staticmethod(nullcontext)

    def all_reduce(self, data: Tensor, reduce_op: str) -> Tensor:
        """The sum or the mean over one device."""
        return data

    def barrier(self) -> None:
        """Nobody to wait for."""


class Trainer:
    """Trains a reranker in place on the training lists; validation picks the best epoch.

    Every epoch draws from its own random stream, so that a run which was killed and resumed from
    its checkpoint ends, on the same machine, with the same bits as one that was not.

    Args:
        reranker: a `Reranker`, or any module whose ``forward(batch, scores)`` gives logits.
        train, validation: the lists; both on the reranker's device.
        config: see `TrainingConfig`.
        seed: of initial generator weights, batches, dropout and noise.
        fabric: a launched ``Fabric`` for several devices or low precision; see
            `dnrlib.parallel`. All its processes make the same trainer.

    Raises:
        ConfigError: no training or no validation lists, nothing to train, a batch too small to
            be shared, or a generator for a reranker whose logits have no gradient in the scores.
    """

    def __init__(
        self,
        reranker: nn.Module,
        train: CandidateLists,
        validation: CandidateLists,
        config: TrainingConfig,
        seed: int = 0,
        fabric: Any = None,
    ):
        if not len(train) or not len(validation):
            raise ConfigError("training needs at least one training and one validation list")
        self.reranker = reranker if isinstance(reranker, Reranker) else _Plain(reranker)
        self.lists, self.validation, self.config, self.seed = train, validation, config, seed
        self.negative_log_likelihood = LIKELIHOODS[config.likelihood]
        self.regulariser = REGULARISERS[config.regulariser]
        device = train.scores.device
        self.fabric = fabric or OneDevice()
        self.heuristic = _heuristic(config).to(device) if config.noise != "none" else None
        self.generator: Noise | None = None
        parameters = list(self.reranker.parameters())
        if not parameters:
            raise ConfigError("the reranker has no parameters: there is nothing to train")
        self.optimiser = torch.optim.AdamW(
            parameters, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        if config.generator != "none":
            self._check_generator_is_heard()
            torch.manual_seed(seed)
            self.generator = MLPNoise(config.generator, config.lambda_c).to(device)
            self.generator_optimiser = torch.optim.Adam(
                self.generator.parameters(), lr=config.generator_learning_rate, fused=True
            )
        self.steps = math.ceil(len(train) / config.batch_size)
        least = 2 * self.fabric.world_size
        if len(train) // self.steps < least:
            raise ConfigError(
                f"batch_size = {config.batch_size} with {len(train)} training lists: a batch needs "
                f"{least} lists at least, two a device"
            )
        # On a GPU a look at the losses is a wait for the device: once an epoch is enough.
        self.check_every = self.steps if device.type == "cuda" else CHECK_EVERY
        self.curves: list[Epoch] = []
        self.best: dict[str, Tensor] = {}

    def _check_generator_is_heard(self) -> None:
        """The scores must reach the logits by a path that has a gradient."""
        batch = self.lists[:2]
        scores = batch.scores.clone().requires_grad_()
        logits = self.reranker(batch, scores)
        gradient = None
        if logits.requires_grad:
            (gradient,) = torch.autograd.grad(logits.sum(), scores, allow_unused=True)
        if gradient is None:
            raise ConfigError(
                f"generator = {self.config.generator!r}: the reranker's logits have no gradient in "
                "the scores, so that L_adv cannot train it. Use score_use = concat, add or weight, "
                "or generator = 'none'"
            )

    # One step -----------------------------------------------------------------------------

    def step(self, batch: CandidateLists, phase: int, weight: float = 1.0) -> dict[str, Tensor]:
        """One update of θ and, in phase two, one of φ; returns the losses that were used.

        Args:
            weight: of this batch in the mean of the gradients over all devices.
        """
        noise = self.generator if phase == 2 else self.heuristic
        if noise is None or self.config.estimator == "mixed":
            losses, objective = self.one_pass(batch, noise)
            learning = [self.optimiser, *([self.generator_optimiser] if phase == 2 else [])]
            self._descend(weight * objective, *learning)
            return losses
        losses = self.update_reranker(batch, noise, weight)
        if phase == 2:
            losses |= self.update_generator(batch, weight)
        return losses

    def one_pass(
        self, batch: CandidateLists, noise: Noise | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The losses, and an objective whose gradient is that of θ and, if it is trained, of φ.

        Some lists carry synthetic scores, the others the real ones: see `synthetic_lists`. Both
        means are over random lists, so that L_direct + λ_m L_z is estimated without bias. φ takes
        its gradient from the same pass, turned round on its way from the reranker to the
        generator (Ganin et al., 2016).
        """
        config = self.config
        if noise is None or not config.lambda_m:
            logits = self._logits(batch, batch.scores)
            direct = self.negative_log_likelihood(logits, batch.labels)
            return {"L_direct": direct}, direct
        m = synthetic_lists(len(batch), config.lambda_m)
        labels = batch.labels[:m]
        synthetic = noise(labels)
        heard = turn_gradient(synthetic, config.adversarial_weight / config.lambda_m)
        logits = self._logits(batch, torch.cat([heard, batch.scores[m:]]))
        losses = {
            "L_direct": self.negative_log_likelihood(logits[m:], batch.labels[m:]),
            "L_z": self.negative_log_likelihood(logits[:m], labels),
        }
        objective = losses["L_direct"] + config.lambda_m * losses["L_z"]
        if noise is self.generator:
            losses |= {
                "L_adv": -losses["L_z"],
                "L_x": self.regulariser(synthetic, labels, batch.scores),
            }
            objective = objective + config.regulariser_weight * losses["L_x"]
        return losses, objective

    def _logits(self, batch: CandidateLists, scores: Tensor) -> Tensor:
        with self.fabric.autocast():
            return self.reranker(batch, scores).float()

    def update_reranker(
        self, batch: CandidateLists, noise: Noise, weight: float = 1.0
    ) -> dict[str, Tensor]:
        """θ descends on L_direct + λ_m L_z, each over all lists."""
        with torch.no_grad():
            synthetic = noise(batch.labels)
        with self.fabric.autocast():
            state = self.reranker.encode(batch)
            real, denoised = (
                self.reranker.score(state, scores).float() for scores in (batch.scores, synthetic)
            )
        losses = {
            "L_direct": self.negative_log_likelihood(real, batch.labels),
            "L_z": self.negative_log_likelihood(denoised, batch.labels),
        }
        objective = losses["L_direct"] + self.config.lambda_m * losses["L_z"]
        self._descend(weight * objective, self.optimiser)
        return losses

    def update_generator(self, batch: CandidateLists, weight: float = 1.0) -> dict[str, Tensor]:
        """φ descends on log q_θ(z | x') + KL( p_φ(x' | z) ‖ p_x ), with θ (and dropout) as is."""
        assert self.generator is not None
        with torch.no_grad(), self.fabric.autocast():
            state = self.reranker.encode(batch)
        synthetic = self.generator(batch.labels)
        with self.fabric.autocast():
            logits = self.reranker.score(state, synthetic).float()
        adversarial = -self.negative_log_likelihood(logits, batch.labels)
        regulariser = self.regulariser(synthetic, batch.labels, batch.scores)
        objective = (
            self.config.adversarial_weight * adversarial
            + self.config.regulariser_weight * regulariser
        )
        self._descend(weight * objective, self.generator_optimiser)
        return {"L_adv": adversarial, "L_x": regulariser}

    def _descend(self, objective: Tensor, *optimisers: torch.optim.Optimizer) -> None:
        """A step of each optimiser along its own clipped gradient."""
        groups = [
            [p for group in optimiser.param_groups for p in group["params"]]
            for optimiser in optimisers
        ]
        for optimiser in optimisers:
            optimiser.zero_grad()
        objective.backward(inputs=[p for parameters in groups for p in parameters])
        for optimiser, parameters in zip(optimisers, groups, strict=True):
            self._average_gradients(parameters)
            nn.utils.clip_grad_norm_(parameters, self.config.clip, foreach=True)
            optimiser.step()

    def _average_gradients(self, parameters: list[Tensor]) -> None:
        """Over all devices, in one message; a parameter without gradient counts as zero."""
        if self.fabric.world_size == 1:
            return
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        mean = self.fabric.all_reduce(torch.cat([g.flatten() for g in gradients]), reduce_op="mean")
        for parameter, part in zip(
            parameters, mean.split([p.numel() for p in parameters]), strict=True
        ):
            parameter.grad = part.view_as(parameter)

    # One epoch ----------------------------------------------------------------------------

    def batches(self, epoch: int) -> Iterator[tuple[CandidateLists, float]]:
        """All training lists once, in random order: this device's part of each batch.

        With it comes the part's weight: its number of lists over the mean of all devices.
        """
        device, fabric = self.lists.scores.device, self.fabric
        generator = torch.Generator().manual_seed(_mix(self.seed, epoch))
        order = torch.randperm(len(self.lists), generator=generator).to(device)
        for batch in order.tensor_split(self.steps):
            part = batch.tensor_split(fabric.world_size)[fabric.global_rank]
            yield self.lists[part], len(part) * fabric.world_size / len(batch)

    def epoch(self, number: int, on_progress: Callable[[Progress], None]) -> Epoch:
        """Train for one epoch and validate.

        Raises:
            TrainingError: a loss or a weight is NaN or infinite.
        """
        torch.manual_seed(_mix(self.seed, number, 1 + self.fabric.global_rank))
        self.reranker.train()
        phase = self.config.phase(number)
        rows: list[Tensor] = []
        means: list[Tensor] = []
        began = time.perf_counter()
        for step, (batch, weight) in enumerate(self.batches(number), start=1):
            losses = self.step(batch, phase, weight)
            rows.append(weight * torch.stack([loss.detach() for loss in losses.values()]))
            if step % self.check_every == 0 or step == self.steps:
                means += self._checked(list(losses), rows, number, step)
                rows = []
                values = dict(zip(losses, torch.stack(means).mean(dim=0).tolist(), strict=True))
                seconds = time.perf_counter() - began
                progress = self._progress(number, step, values, seconds)
                on_progress(progress)
        for module in filter(None, (self.reranker, self.generator)):
            _check_weights(module, number, self.steps)
        validation = validation_ndcg(self.reranker, self.validation, fabric=self.fabric)
        return Epoch(number, phase, progress.losses, validation, seconds, progress.lists_per_second)

    def _checked(self, terms: list[str], rows: list[Tensor], epoch: int, step: int) -> list[Tensor]:
        """The losses of the steps since the last check, over all devices, if they are finite.

        One transfer from the device for all of them. Every device sees the same, so that all
        stop where one has to.
        """
        block = self.fabric.all_reduce(torch.stack(rows), reduce_op="mean")
        bad = (~block.isfinite()).cpu()
        if bad.any():
            row, term = bad.nonzero()[0].tolist()
            raise TrainingError(
                f"epoch {epoch}, step {step - len(rows) + row + 1}: {terms[term]} is "
                f"{float(block[row, term])}; {_ADVICE}"
            )
        return list(block)

    def _progress(
        self, epoch: int, step: int, losses: dict[str, float], seconds: float
    ) -> Progress:
        done = len(self.lists) * step / self.steps
        return Progress(
            epoch=epoch,
            epochs=self.config.epochs,
            phase=self.config.phase(epoch),
            step=step,
            steps=self.steps,
            losses=losses,
            lists_per_second=done / seconds,
            seconds_left=(self.steps * (self.config.epochs - epoch + 1) - step) * seconds / step,
            best=max((row.validation for row in self.curves), default=None),
        )

    # A run --------------------------------------------------------------------------------

    def run(
        self,
        checkpoint: Path | None = None,
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> list[Epoch]:
        """Train to the end, from the checkpoint where there is one; load the best weights.

        Raises:
            TrainingError: a loss is NaN or infinite; the last good checkpoint is kept.
            DataError: the checkpoint is of another configuration or cannot be read.
        """
        if checkpoint and checkpoint.exists():
            self.load(checkpoint)
        while not self.finished():
            row = self.epoch(len(self.curves) + 1, on_progress)
            if not self.curves or row.validation > max(e.validation for e in self.curves):
                state = self.reranker.state_dict()
                self.best = {name: tensor.clone() for name, tensor in state.items()}
            self.curves.append(row)
            if checkpoint:
                if self.fabric.is_global_zero:
                    self.save(checkpoint)
                self.fabric.barrier()
            progress = self._progress(row.epoch, self.steps, row.losses, row.seconds)
            on_progress(replace(progress, validation=row.validation))
        self.reranker.load_state_dict(self.best)
        return self.curves

    def finished(self) -> bool:
        """Whether all epochs are done or patience has run out."""
        done = len(self.curves)
        if done >= self.config.epochs:
            return True
        if not self.config.patience or not done:
            return False
        since = max(self.best_epoch, self.config.lambda_e if self.generator else 0)
        return done - since >= self.config.patience

    @property
    def best_epoch(self) -> int:
        """The epoch with the best validation NDCG@6, the earliest of equals."""
        return max(self.curves, key=lambda row: (row.validation, -row.epoch)).epoch

    # Checkpoints --------------------------------------------------------------------------

    def _modules(self) -> dict[str, Any]:
        modules: dict[str, Any] = {"reranker": self.reranker, "optimiser": self.optimiser}
        if self.generator:
            modules |= {
                "generator": self.generator,
                "generator_optimiser": self.generator_optimiser,
            }
        return modules

    def _identity(self) -> list[str]:
        texts = [repr(self.reranker), repr(self.config), str(self.seed)]
        return [*texts, self.lists.fingerprint, self.validation.fingerprint]

    def save(self, path: Path) -> None:
        """Write everything that the next epoch needs; replaces the file only when all is there."""
        state = {name: module.state_dict() for name, module in self._modules().items()}
        curves = [asdict(row) for row in self.curves]
        extra = {"best": self.best, "curves": curves, "identity": self._identity()}
        with replacing(path) as partial:
            torch.save({**state, **extra}, partial)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            DataError: it cannot be read, or is of other data or another configuration.
        """
        try:
            state = torch.load(path, map_location=self.lists.scores.device, weights_only=True)
            identity = state["identity"]
        except Exception as error:
            raise DataError(path, f"not a checkpoint ({error}); delete it to start over") from error
        if identity != self._identity():
            raise DataError(path, "the checkpoint is of another run; delete it to start over")
        for name, module in self._modules().items():
            module.load_state_dict(state[name])
        self.best = state["best"]
        self.curves = [Epoch(**row) for row in state["curves"]]


def _heuristic(config: TrainingConfig) -> Noise:
    if config.noise == "gaussian":
        return GaussianNoise(config.lambda_c)
    return BetaNoise(config.lambda_c, *config.beta)


def _mix(seed: int, epoch: int, stream: int = 0) -> int:
    """A seed of its own for each epoch of each run: for its order, and for each device."""
    return (seed * 1_000_003 + epoch + stream * 998_244_353) % 2**63


def _check_weights(module: nn.Module, epoch: int, step: int) -> None:
    """The last step's update is in no loss yet."""
    finite = torch.stack([weight.isfinite().all() for weight in module.parameters()])
    if not finite.all():
        raise TrainingError(f"epoch {epoch}, step {step}: a weight is not finite; {_ADVICE}")
