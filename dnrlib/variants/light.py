"""Generators that cost next to nothing: four learned numbers, or scores that are there already."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Beta
from torch.nn import functional as F

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.noise import Noise
from dnrlib.training import Trainer, TrainingConfig

FLOOR = 0.1
"""Least a and b of a learned Beta law: below, its samples are 0 or 1 as far as float32 can tell."""
UNIFORM = math.log(math.expm1(1 - FLOOR))
"""Of which `concentration` makes 1, so that a = b = 1 is the uniform law."""


def concentration(raw: Float[Tensor, "*_"]) -> Float[Tensor, "*_"]:
    """a or b of a Beta law, above ``FLOOR``, from any number."""
    return FLOOR + F.softplus(raw)


class LearnedBeta(Noise):
    """x' given z ~ Beta(a_z, b_z): two numbers for each label, uniform before they are trained.

    A sample is differentiated by implicit reparametrisation (Figurnov et al., 2018). Adam moves a
    number by about its learning rate in each step, and these four have no others to help them: they
    want a rate some thirty times that of a perceptron.
    """

    def __init__(self) -> None:
        super().__init__(1.0)
        self.raw = nn.Parameter(torch.full((2, 2), UNIFORM))  # label, (a, b)

    def law(self, z: Float[Tensor, "lists n"]) -> Beta:
        """p_φ(x' | z) of each candidate."""
        a, b = concentration(self.raw)[z.long()].unbind(-1)
        return Beta(a, b, validate_args=False)

    def epsilon(self, z: Float[Tensor, "lists n"]) -> Float[Tensor, "lists n"]:
        """A differentiable sample in [0, 1]."""
        return self.law(z).rsample()


class LightBeta(Trainer):
    """DNR whose generator is a `LearnedBeta`; phases, L_adv and L_x are those of `Trainer`.

    Args, raises: as `Trainer`; ``generator`` must be "scores", as it is x' that is made.
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
        if config.generator != "scores":
            raise ConfigError(
                f"generator = {config.generator!r}: {type(self).__name__} has a generator of its "
                "own that makes scores; use generator = 'scores'"
            )
        super().__init__(reranker, train, validation, config, seed, fabric)
        self.generator = self.untrained().to(train.scores.device)
        self.generator_optimiser = torch.optim.Adam(
            self.generator.parameters(), lr=config.generator_learning_rate, fused=True
        )

    @staticmethod
    def untrained() -> Noise:
        """The generator before it is trained."""
        return LearnedBeta()


class EmpiricalNoise(Noise):
    """x' drawn, with replacement, from the scores of all given candidates with the same label.

    That is p_{x|z} of a single candidate, up to sampling. What goes along with a score besides its
    label is left out: the user, the item, and the other scores of the list.

    Raises:
        ConfigError: one of the labels does not occur.
    """

    liked: Tensor
    others: Tensor

    def __init__(self, lists: CandidateLists):
        super().__init__(1.0)
        for name, kept in {"liked": lists.labels, "others": ~lists.labels}.items():
            if not kept.any():
                raise ConfigError("no score to draw from: the training lists have one label only")
            self.register_buffer(name, lists.scores[kept])

    def epsilon(self, z: Float[Tensor, "lists n"]) -> Float[Tensor, "lists n"]:
        """Real scores of other candidates."""
        liked, others = (
            pool[torch.randint(len(pool), z.shape, device=z.device)]
            for pool in (self.liked, self.others)
        )
        return torch.where(z > 0, liked, others)


class EmpiricalListNoise(Noise):
    """As `EmpiricalNoise`, but all scores of a list come from one other list, drawn at random.

    So what the scores of a list have in common stays, such as a user to whom the retriever is
    kind. Lists without either label are not drawn.

    Raises:
        ConfigError: no list has both labels.
    """

    scores: Tensor
    labels: Tensor

    def __init__(self, lists: CandidateLists):
        super().__init__(1.0)
        both = lists[lists.labels.any(dim=1) & ~lists.labels.all(dim=1)]
        if not len(both):
            raise ConfigError("no list to draw scores from: none of them has both labels")
        self.register_buffer("scores", both.scores)
        self.register_buffer("labels", both.labels)

    def epsilon(self, z: Float[Tensor, "lists n"]) -> Float[Tensor, "lists n"]:
        """Real scores of another list, with replacement within each label."""
        donor = torch.randint(len(self.scores), z.shape[:1], device=z.device)
        scores, labels = self.scores[donor], self.labels[donor]
        liked, others = (
            scores.gather(1, torch.multinomial(kept.float(), z.shape[1], replacement=True))
            for kept in (labels, ~labels)
        )
        return torch.where(z > 0, liked, others)


class Empirical(Trainer):
    """Training with real scores as noise, throughout and without a generator.

    ``noise`` must name a heuristic noise, in whose place it comes. The scores must have been made
    without the labels of their lists: else their noise is that of fitting, not that of prediction.
    Of a reader's own lists nobody but the reader knows.

    Args, raises: as `Trainer`; a ConfigError for ``in-sample`` scores, a generator or no noise.
    """

    kind: ClassVar[type[EmpiricalNoise | EmpiricalListNoise]] = EmpiricalNoise

    def __init__(
        self,
        reranker: nn.Module,
        train: CandidateLists,
        validation: CandidateLists,
        config: TrainingConfig,
        seed: int = 0,
        fabric: Any = None,
    ):
        if config.noise == "none" or config.generator != "none":
            raise ConfigError(
                f"noise = {config.noise!r}, generator = {config.generator!r}: real scores come in "
                "place of a heuristic noise; use noise = 'beta' and generator = 'none'"
            )
        if train.meta.get("retriever") == "in-sample":
            raise ConfigError(
                "retriever = 'in-sample': these scores know their labels, and their noise is not "
                "that of new lists; use retriever = 'earlier' or 'crossfit'"
            )
        super().__init__(reranker, train, validation, config, seed, fabric)
        self.heuristic = self.kind(train)


class EmpiricalLists(Empirical):
    """`Empirical` with `EmpiricalListNoise`."""

    kind = EmpiricalListNoise
