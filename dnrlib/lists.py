"""Candidate lists: the one bundle of tensors that training, evaluation and serving share."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dnrlib.errors import DataError, DnrError
from dnrlib.files import replacing
from dnrlib.log import SPLITS, digest

TENSORS = ("users", "history", "items", "scores", "labels", "shown", "split", "list")
"""The tensors that all lists have; ``features`` may come to them."""
LOGGED = "logged"
"""The protocol of lists that a reader's own cascade made: see `dnrlib.logged`."""


@dataclass(frozen=True)
class CandidateLists:
    """Lists of n candidates with the retriever's scores x and the feedback z; also the batch type.

    Args:
        users: 0 … users - 1.
        history: the user's items before the list, left-padded with 0, latest last. Only in lists
            of the protocol ``logged`` may there be none.
        items: the candidates, 1 … items, each at most once in a list.
        scores: the retriever's scores x in [0, 1].
        labels: the feedback z; only a shown item can have a positive label.
        shown: whether the candidate was shown to the user.
        split: 0 train, 1 validation, 2 test.
        list: the number of the list in its log, for pairing lists between protocols.
        meta: ``users`` and ``items`` (sizes), and how the lists were made.
        features: what else is known of each candidate, or None. The rerankers of this package do
            not read it; one of your own may.
    """

    users: Int[Tensor, " lists"]
    history: Int[Tensor, "lists history"]
    items: Int[Tensor, "lists n"]
    scores: Float[Tensor, "lists n"]
    labels: Bool[Tensor, "lists n"]
    shown: Bool[Tensor, "lists n"]
    split: Int[Tensor, " lists"]
    list: Int[Tensor, " lists"]
    meta: dict[str, Any] = field(default_factory=dict)
    features: Float[Tensor, "lists n f"] | None = None

    def __len__(self) -> int:
        return len(self.users)

    def _tensors(self) -> dict[str, Tensor]:
        """Every tensor by its name."""
        names = TENSORS if self.features is None else (*TENSORS, "features")
        return {name: getattr(self, name) for name in names}

    def _map(self, function: Callable[[Tensor], Tensor]) -> CandidateLists:
        mapped: dict[str, Any] = {n: function(tensor) for n, tensor in self._tensors().items()}
        return replace(self, **mapped)

    def __getitem__(self, index: Tensor | slice) -> CandidateLists:
        """The lists at an index, a mask or a slice."""
        return self._map(lambda tensor: tensor[index])

    @classmethod
    def concatenate(cls, parts: Sequence[CandidateLists], meta: dict[str, Any]) -> CandidateLists:
        """The lists of all parts, one after the other.

        Raises:
            DnrError: some parts have features and others have none.
        """
        if len({part.features is None for part in parts}) > 1:
            raise DnrError("some of the parts have features and others have none")
        joined: dict[str, Any] = {
            name: torch.cat([getattr(part, name) for part in parts]) for name in parts[0]._tensors()
        }
        return cls(**joined, meta=meta)

    def to(self, device: torch.device | str) -> CandidateLists:
        """The same lists on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def of_split(self, name: str) -> CandidateLists:
        """The lists of split ``train``, ``validation`` or ``test``."""
        return self[self.split == SPLITS.index(name)]

    @property
    def fingerprint(self) -> str:
        """Hash of every tensor and of ``meta``."""
        return digest(self._tensors().values(), json.dumps(self.meta, sort_keys=True))

    def validate(self) -> CandidateLists:
        """Return the lists unchanged, or raise DnrError with the tensor or first list at fault."""
        self._check_shapes()
        users, items = self.meta.get("users"), self.meta.get("items")
        if not isinstance(users, int) or not isinstance(items, int):
            raise DnrError("meta must give the number of `users` and of `items`")
        ordered = self.items.sort(dim=1).values
        no_history = ~(self.history > 0).any(dim=1) & (self.meta.get("protocol") != LOGGED)
        features = self.scores[:, :0] if self.features is None else self.features.flatten(1)
        for message, wrong in {
            f"users must lie in 0 … {users - 1}": (self.users < 0) | (self.users >= users),
            f"items must lie in 1 … {items}": (self.items < 1) | (self.items > items),
            "a candidate stands twice in the list": ordered[:, 1:] == ordered[:, :-1],
            f"history must lie in 0 … {items}": (self.history < 0) | (self.history > items),
            "scores must lie in [0, 1]": ~((self.scores >= 0) & (self.scores <= 1)),
            "a candidate that was not shown has a positive label": self.labels & ~self.shown,
            "the list has no positive label": ~self.labels.any(dim=1),
            "the user has no history before the list": no_history,
            "features must be finite": ~features.isfinite(),
            "split must be 0, 1 or 2": (self.split < 0) | (self.split > 2),
        }.items():
            rows = (wrong.any(dim=1) if wrong.dim() > 1 else wrong).nonzero()
            if len(rows):
                raise DnrError(f"list {int(rows[0])} ({len(rows)} in all): {message}")
        return self

    def _check_shapes(self) -> None:
        count, n = self.items.shape
        for name, tensor in self._tensors().items():
            shape = {
                "history": (count, self.history.shape[-1]),
                "features": (count, n, tensor.shape[-1]),
            }.get(name, (count, n) if name in ("items", "scores", "labels", "shown") else (count,))
            kinds = {"labels": "bool", "shown": "bool", "scores": "float", "features": "float"}
            kind = kinds.get(name, "int")
            if tuple(tensor.shape) != shape or kind not in str(tensor.dtype):
                raise DnrError(
                    f"{name} is {tensor.dtype} of shape {tuple(tensor.shape)}, but must be {kind} "
                    f"of shape {shape}"
                )

    def save(self, path: Path | str) -> None:
        """Write a safetensors file; an existing file is replaced only when all is written."""
        tensors = {n: tensor.cpu().clone().contiguous() for n, tensor in self._tensors().items()}
        with replacing(Path(path)) as partial:
            save_file(tensors, partial, metadata={"meta": json.dumps(self.meta)})

    @classmethod
    def load(cls, path: Path | str) -> CandidateLists:
        """Read and validate what `save` wrote.

        Raises:
            DataError: the file is missing, not safetensors, lacks a tensor, or holds bad lists.
        """
        if not Path(path).is_file():
            raise DataError(path, "no such file: make it with `dnr data prepare`")
        try:
            with safe_open(path, framework="pt") as file:
                names = (*TENSORS, *({"features"} & set(file.keys())))
                tensors = {name: file.get_tensor(name) for name in names}
                meta = json.loads((file.metadata() or {})["meta"])
            return cls(**tensors, meta=meta).validate()
        except (SafetensorError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise DataError(path, f"not a file of candidate lists ({error})") from error
        except DnrError as error:
            raise DataError(path, str(error)) from error
