"""Rerankers whose papers train them by something else than the likelihood of the feedback."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from dnrlib.lists import CandidateLists
from dnrlib.rerankers.base import Reranker


class OwnLoss(Reranker):
    """A reranker with a loss of its own, by which `dnrlib.trainers.OwnLossTrainer` trains it.

    The loss takes the place of -log q_θ(z | x): it is L_direct with the real scores and L_z with
    synthetic ones, so that denoising training goes around it as around any other.
    """

    def loss(self, batch: CandidateLists, scores: Float[Tensor, "lists n"]) -> Float[Tensor, ""]:
        """The loss of a batch for the scores to use, which may differ from ``batch.scores``."""
        raise NotImplementedError

    def begin_epoch(self, epoch: int, epochs: int, lists: CandidateLists) -> None:
        """Told before each epoch: its number from 1, how many there will be, the training lists.

        Here a model changes from one stage of its training to the next. What it keeps of this
        must be among its parameters and buffers, or follow from the arguments, as a training
        that was killed goes on from the last epoch's ``state_dict``.
        """
