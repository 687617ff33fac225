"""Candidate lists with several kinds of feedback."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxtyping import Bool
from torch import Tensor

from dnrlib.errors import DnrError
from dnrlib.lists import CandidateLists


@dataclass(frozen=True)
class BehaviourLists(CandidateLists):
    """`CandidateLists` that know of each candidate what kinds of feedback it got.

    Args:
        behaviours: the feedback z_1 … z_b, in the order of ``meta["behaviours"]``, their names.
            The first is ``labels``; only a shown item can have any.
    """

    behaviours: Bool[Tensor, "lists n b"] = field(kw_only=True)

    @property
    def names(self) -> list[str]:
        """What the kinds of feedback are called."""
        return self.meta["behaviours"]

    @property
    def plain(self) -> CandidateLists:
        """The same lists with the first kind alone."""
        return CandidateLists(**super()._tensors(), meta=self.meta)

    def _tensors(self) -> dict[str, Tensor]:
        return super()._tensors() | {"behaviours": self.behaviours}

    def validate(self) -> BehaviourLists:
        """Return the lists unchanged, or raise DnrError with what is at fault."""
        self.plain.validate()
        shape = (*self.labels.shape, len(self.names))
        if tuple(self.behaviours.shape) != shape:
            raise DnrError(f"behaviours is of shape {tuple(self.behaviours.shape)}, not {shape}")
        for message, wrong in {
            f"{self.names[0]} is not the label": self.behaviours[:, :, 0] != self.labels,
            "a candidate that was not shown has feedback": self.behaviours.any(2) & ~self.shown,
        }.items():
            if len(rows := wrong.any(dim=1).nonzero()):
                raise DnrError(f"list {int(rows[0])} ({len(rows)} in all): {message}")
        return self


def behaviours_of(lists: CandidateLists, count: int = 1) -> Bool[Tensor, "lists n b"]:
    """The feedback of each kind.

    Lists that know of one kind have it ``count`` times, so that made-up ones will do to measure
    how fast a reranker trains.
    """
    if isinstance(lists, BehaviourLists):
        return lists.behaviours
    return lists.labels[:, :, None].expand(-1, -1, count)
