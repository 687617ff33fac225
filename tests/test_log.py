from dataclasses import replace

import pytest
import torch
from worlds import make_log

from dnrlib.errors import DnrError
from dnrlib.log import ExposureLog, digest

LOG = make_log()
TENSORS = ("user", "item", "label", "list", "start", "split")


def by_hand():
    """Two users, lists of two: 0 dropped rows 2-3 and a loose row 6; user 1 has nothing else."""
    return ExposureLog(
        user=torch.tensor([0, 0, 0, 0, 0, 0, 0, 2, 2]),
        item=torch.tensor([5, 4, 3, 2, 1, 6, 7, 7, 1]),
        label=torch.tensor([1, 0, 0, 0, 1, 1, 0, 1, 1]).bool(),
        list=torch.tensor([0, 0, -1, -1, 1, 1, -1, 2, 2]),
        start=torch.tensor([0, 4, 7]),
        split=torch.tensor([1, 2, 2], dtype=torch.int8),
        users=3,
        items=7,
        list_length=2,
        name="by hand",
    )


def test_bounds_and_owners_of_a_log_written_by_hand():
    log = by_hand()
    assert len(log) == 3
    assert log.user_start.tolist() == [0, 7, 7, 9]  # user 1 has no rows
    assert log.list_user.tolist() == [0, 0, 2]
    assert log.rows().tolist() == [[0, 1], [4, 5], [7, 8]]


def test_history_of_a_log_written_by_hand():
    lists = torch.tensor([2, 1, 0])
    assert by_hand().history(lists, 3).tolist() == [[0, 0, 0], [4, 3, 2], [0, 0, 0]]
    assert by_hand().history(lists, 5).tolist() == [[0] * 5, [0, 5, 4, 3, 2], [0] * 5]


@pytest.mark.parametrize("length", [1, 4, 100])
def test_history_is_what_the_user_did_last_before_the_list(length):
    rows = list(zip(LOG.user.tolist(), LOG.item.tolist(), strict=True))
    for number, start in enumerate(LOG.start.tolist()):
        before = [item for user, item in rows[:start] if user == rows[start][0]][-length:]
        expected = [0] * (length - len(before)) + before
        assert LOG.history(torch.tensor([number]), length)[0].tolist() == expected


def test_history_does_not_change_with_the_list_or_what_comes_after():
    number = 4
    later = torch.arange(len(LOG.item)) >= LOG.start[number]
    other = replace(LOG, item=torch.where(later, LOG.items, LOG.item))
    lists = torch.arange(number + 1)
    assert torch.equal(other.history(lists, 50), LOG.history(lists, 50))
    assert not torch.equal(
        other.history(torch.arange(len(LOG)), 50), LOG.history(torch.arange(len(LOG)), 50)
    )


def test_rows_belong_to_their_list():
    assert torch.equal(LOG.list[LOG.rows()], torch.arange(len(LOG))[:, None].expand(-1, 6))


@pytest.mark.parametrize("name", TENSORS)
def test_fingerprint_sees_every_tensor(name):
    tensor = getattr(LOG, name).clone()
    assert replace(LOG, **{name: tensor}).fingerprint == LOG.fingerprint
    last = tensor[-1]
    tensor[-1] = ~last if tensor.dtype == torch.bool else last + (-1 if name == "item" else 1)
    assert replace(LOG, **{name: tensor}).fingerprint != LOG.fingerprint


@pytest.mark.parametrize("change", [{"name": "b"}, {"note": "truncated"}, {"items": 61}])
def test_fingerprint_sees_name_note_and_catalogue(change):
    assert replace(LOG, **change).fingerprint != LOG.fingerprint


def test_digest_sees_type_and_shape():
    tensor = torch.arange(6)
    digests = {digest([t]) for t in (tensor, tensor.view(2, 3), tensor.view(3, 2), tensor.int())}
    assert len(digests) == 4
    assert digest([tensor.view(2, 3).T]) == digest([tensor.view(2, 3).T.contiguous()])
    assert all(len(text) == 16 for text in digests)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user": LOG.user.flip(0)}, "not sorted by user"),
        ({"item": LOG.item - 1}, "1 … 60"),
        ({"items": 59}, "1 … 59"),
    ],
)
def test_a_log_that_cannot_be_right_is_refused(change, message):
    with pytest.raises(DnrError, match=message):
        replace(LOG, **change)
