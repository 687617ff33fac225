"""Small made-up logs and candidate lists, in plain torch."""

import torch

from dnrlib.lists import CandidateLists
from dnrlib.log import TEST, TRAIN, VALIDATION, ExposureLog
from dnrlib.rerankers.text import WordedLists


def preference(users, items):
    """Users and items come in two kinds; a user likes the items of their own kind."""
    return users[:, None] % 2 == torch.arange(items + 1) % 2


def make_log(users=30, items=60, length=6, seed=0, noise=0.1):
    """Two to seven lists a user, some rows after the last, and a list without a positive."""
    generator = torch.Generator().manual_seed(seed)
    likes = preference(torch.arange(users), items)
    rows, start, split = [], [], []
    for user in range(users):
        count = int(torch.randint(2 * length, 8 * length, (1,), generator=generator))
        item = torch.randperm(items, generator=generator)[:count] + 1
        label = likes[user, item] ^ (torch.rand(count, generator=generator) < noise)
        number = torch.full((count,), -1)
        kept = []
        for first in range(0, count - length + 1, length):
            here = slice(first, first + length)
            if first == length:  # a dropped list in the middle of the history
                label[here] = False
            if label[here].any():
                number[here] = len(start)
                start.append(sum(map(len, (row[0] for row in rows))) + first)
                kept.append(TRAIN)
        kept[-2:] = [VALIDATION, TEST][-len(kept) :]
        split += kept
        rows.append((item, label, number, torch.full((count,), user)))
    item, label, number, user = (torch.cat(column) for column in zip(*rows, strict=True))
    return ExposureLog(
        user=user,
        item=item,
        label=label,
        list=number,
        start=torch.tensor(start),
        split=torch.tensor(split, dtype=torch.int8),
        users=users,
        items=items,
        list_length=length,
        name="made-up",
    )


def make_lists(lists=120, n=12, shown=4, history=5, users=20, items=40, seed=0, signal=0.0):
    """Lists of random candidates, of which some were shown and of those about half were liked.

    `signal` moves the scores of the liked candidates up, out of a uniform background.
    """
    generator = torch.Generator().manual_seed(seed)

    def random(*size):
        return torch.rand(*size, generator=generator)

    item = random(lists, items).argsort(dim=1) + 1
    was_shown = random(lists, n).argsort(dim=1) < shown
    liked = was_shown & (random(lists, n) < 0.5)
    liked |= was_shown & (liked.sum(dim=1, keepdim=True) == 0)
    past = item[:, n : n + history].clone()
    past[torch.arange(history) < torch.randint(history, (lists, 1), generator=generator)] = 0
    return CandidateLists(
        users=torch.randint(users, (lists,), generator=generator).int(),
        history=past.int(),
        items=item[:, :n].int(),
        scores=((random(lists, n) + signal * liked) / (1 + signal)).clamp(max=1),
        labels=liked,
        shown=was_shown,
        split=(torch.arange(lists) % 5 - 2).clamp(min=0).to(torch.int8),
        list=torch.arange(lists).int(),
        meta={"users": users, "items": items, "protocol": "made-up"},
    )


def with_made_up_words(lists, size=256, seed=0):
    """The same lists with a random vector for each item's text, for what reads words."""
    random = torch.Generator().manual_seed(seed)
    words = torch.randn(lists.meta["items"] + 1, size, generator=random)
    words[0] = 0
    return WordedLists(**vars(lists), words=words)


def field_of(lists, **changed):
    """The same lists with some fields changed."""
    return CandidateLists(**{**vars(lists), **changed})
