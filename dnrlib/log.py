"""The exposure log: what was shown to whom, in which order, and what they liked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dnrlib.errors import DnrError

TRAIN, VALIDATION, TEST = 0, 1, 2
SPLITS = ("train", "validation", "test")
"""In the order of time, within each user."""


def digest(tensors: Iterable[Tensor], *texts: str) -> str:
    """First 16 hexadecimal digits of the SHA-256 of tensors (dtype, shape, bytes) and texts."""
    sha = hashlib.sha256()
    for tensor in tensors:
        array = tensor.detach().cpu().contiguous()
        sha.update(f"{array.dtype}{tuple(array.shape)}".encode())
        sha.update(array.numpy().tobytes())
    sha.update("\0".join(texts).encode())
    return sha.hexdigest()[:16]


@dataclass(frozen=True)
class ExposureLog:
    """All interactions that survived filtering, in (user, time) order, cut into shown lists.

    A list is ``list_length`` consecutive rows of one user; lists are numbered in (user, time)
    order. Rows outside a kept list stay in the log with ``list = -1``: they are history. A user
    meets an item at most once.

    Args:
        user: 0 … users - 1, non-decreasing.
        item: 1 … items; 0 is padding and never occurs here.
        label: the binary feedback z.
        list: the number of the list that a row belongs to, or -1.
        start: first row of each list.
        split: 0 train, 1 validation, 2 test, for each list.
        users, items: how many there are.
        list_length: rows in a list.
        name: the data set.
        note: how the source differs from the publisher's file (of simulated data, the world's
            settings), or "".
    """

    user: Int[Tensor, " rows"]
    item: Int[Tensor, " rows"]
    label: Bool[Tensor, " rows"]
    list: Int[Tensor, " rows"]
    start: Int[Tensor, " lists"]
    split: Int[Tensor, " lists"]
    users: int
    items: int
    list_length: int
    name: str
    note: str = ""

    def __post_init__(self) -> None:
        if (self.user.diff() < 0).any():
            raise DnrError("the log's rows are not sorted by user: sort by user, then time")
        if len(self.item) and (self.item.min() < 1 or self.item.max() > self.items):
            raise DnrError(f"the log's items must lie in 1 … {self.items} (0 is padding)")

    def __len__(self) -> int:
        """Number of kept lists."""
        return len(self.start)

    @property
    def fingerprint(self) -> str:
        """Hash of every tensor, of the sizes, the name and the note."""
        tensors = (self.user, self.item, self.label, self.list, self.start, self.split)
        sizes = f"{self.users} users, {self.items} items, lists of {self.list_length}"
        return digest(tensors, sizes, self.name, self.note)

    @property
    def user_start(self) -> Int[Tensor, " users_plus_1"]:
        """First row of each user, with the number of rows at the end."""
        return torch.searchsorted(self.user, torch.arange(self.users + 1))

    @property
    def list_user(self) -> Int[Tensor, " lists"]:
        """The user of each list."""
        return self.user[self.start]

    def rows(self, lists: Int[Tensor, " some"] | None = None) -> Int[Tensor, "lists length"]:
        """The rows of the given lists, by default of all."""
        start = self.start if lists is None else self.start[lists]
        return start[:, None] + torch.arange(self.list_length)

    def history(self, lists: Int[Tensor, " some"], length: int) -> Int[Tensor, "some length"]:
        """The user's last ``length`` items before each list, left-padded with 0, latest last."""
        rows = self.start[lists, None] + torch.arange(-length, 0)
        # only for these lists: work in the size of the log would make all of them quadratic
        first = torch.searchsorted(self.user, self.user[self.start[lists]])[:, None]
        return torch.where(rows >= first, self.item[rows.clamp(min=0)], 0)
