import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from worlds import field_of, make_lists

from dnrlib.errors import DataError, DnrError
from dnrlib.lists import TENSORS, CandidateLists
from dnrlib.log import digest

LISTS = make_lists()


def with_entry(name, row, value):
    """The lists with one row of a field set to a value."""
    tensor = getattr(LISTS, name).clone()
    tensor[row] = value
    return field_of(LISTS, **{name: tensor})


def same(a, b):
    return a.meta == b.meta and all(
        getattr(a, name).dtype == getattr(b, name).dtype
        and torch.equal(getattr(a, name), getattr(b, name))
        for name in TENSORS
    )


def test_good_lists_pass():
    assert LISTS.validate() is LISTS


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("users", -1, "users must lie in 0 … 19"),
        ("users", 20, "users must lie in 0 … 19"),
        ("items", torch.arange(12), "items must lie in 1 … 40"),
        ("items", torch.arange(30, 42), "items must lie in 1 … 40"),
        ("items", torch.tensor([5, 1, 2, 3, 4, 6, 7, 5, 8, 9, 10, 11]), "stands twice"),
        ("history", torch.tensor([0, 0, 0, 1, 41]), "history must lie in 0 … 40"),
        ("history", torch.tensor([0, 0, 0, 1, -1]), "history must lie in 0 … 40"),
        ("history", 0, "no history"),
        ("scores", 1.001, r"scores must lie in \[0, 1\]"),
        ("scores", -0.001, r"scores must lie in \[0, 1\]"),
        ("scores", float("nan"), r"scores must lie in \[0, 1\]"),
        ("labels", True, "not shown has a positive"),
        ("labels", False, "no positive"),
        ("split", 3, "split must be 0, 1 or 2"),
        ("split", -1, "split must be 0, 1 or 2"),
    ],
)
def test_validation_names_the_fault_and_the_list(name, value, message):
    with pytest.raises(DnrError, match=rf"list 7 \(1 in all\): .*{message}"):
        with_entry(name, 7, value).validate()


def test_validation_counts_the_lists_at_fault():
    with pytest.raises(DnrError, match=r"list 3 \(2 in all\)"):
        with_entry("scores", torch.tensor([90, 3]), 2.0).validate()


@pytest.mark.parametrize("missing", ["users", "items"])
def test_validation_needs_the_sizes(missing):
    meta = {name: value for name, value in LISTS.meta.items() if name != missing}
    with pytest.raises(DnrError, match=f"`{missing}`"):
        replace(LISTS, meta=meta).validate()


def test_no_lists_are_valid():
    assert len(LISTS[:0].validate()) == 0


@pytest.mark.parametrize(
    "index",
    [
        slice(10, 20),
        torch.tensor([5, 3, 3]),
        torch.arange(120) % 2 == 0,
        torch.tensor([], dtype=int),
    ],
    ids=["slice", "numbers", "mask", "none"],
)
def test_indexing_selects_the_same_rows_of_every_field(index):
    chosen = LISTS[index]
    assert len(chosen) == len(torch.arange(120)[index])
    assert chosen.meta == LISTS.meta
    assert all(torch.equal(getattr(chosen, name), getattr(LISTS, name)[index]) for name in TENSORS)


def test_splits_part_the_lists():
    numbers = [LISTS.of_split(name).list.tolist() for name in ("train", "validation", "test")]
    assert sorted(sum(numbers, [])) == list(range(120))
    assert set(LISTS.of_split("test").split.tolist()) == {2}
    assert set(LISTS.of_split("validation").split.tolist()) == {1}


@pytest.mark.parametrize("name", TENSORS)
def test_fingerprint_sees_every_tensor(name):
    tensor = getattr(LISTS, name).clone()
    tensor[-1] = ~tensor[-1] if tensor.dtype == torch.bool else tensor[-1] + 1
    assert field_of(LISTS, **{name: tensor}).fingerprint != LISTS.fingerprint


def test_fingerprint_sees_meta_but_not_its_order():
    reordered = dict(reversed(LISTS.meta.items()))
    assert replace(LISTS, meta=reordered).fingerprint == LISTS.fingerprint
    assert replace(LISTS, meta=LISTS.meta | {"n": 1}).fingerprint != LISTS.fingerprint


def test_lists_survive_the_disk(tmp_path):
    path = tmp_path / "new" / "lists.safetensors"
    LISTS.save(path)
    again = CandidateLists.load(path)
    assert same(again, LISTS)
    assert again.fingerprint == LISTS.fingerprint
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    chosen = LISTS[torch.arange(119, 0, -2)]
    chosen.save(path)
    assert same(CandidateLists.load(path), chosen)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "lists.safetensors"
    LISTS.save(path)

    def fail(tensors, partial, metadata):
        partial.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("dnrlib.lists.save_file", fail)
    with pytest.raises(OSError, match="No space"):
        LISTS[:5].save(path)
    assert same(CandidateLists.load(path), LISTS)
    assert list(tmp_path.iterdir()) == [path]


def truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def cut_in_the_header(path):
    path.write_bytes(path.read_bytes()[:20])


def empty(path):
    path.write_bytes(b"")


def text(path):
    path.write_text("users,items\n1,2\n")


def without_a_tensor(path):
    save_file({"users": LISTS.users}, path, metadata={"meta": json.dumps(LISTS.meta)})


def without_meta(path):
    save_file({name: getattr(LISTS, name) for name in TENSORS}, path)


def with_bad_meta(path):
    save_file({name: getattr(LISTS, name) for name in TENSORS}, path, metadata={"meta": "{"})


def with_a_list_for_meta(path):
    save_file({name: getattr(LISTS, name) for name in TENSORS}, path, metadata={"meta": "[]"})


def with_bad_scores(path):
    with_entry("scores", 7, 2.0).save(path)


@pytest.mark.parametrize(
    "spoil",
    [
        truncated,
        cut_in_the_header,
        empty,
        text,
        without_a_tensor,
        without_meta,
        with_bad_meta,
        with_a_list_for_meta,
        with_bad_scores,
    ],
)
def test_a_file_that_is_not_good_lists_is_a_data_error(spoil, tmp_path):
    path = tmp_path / "lists.safetensors"
    LISTS.save(path)
    spoil(path)
    with pytest.raises(DataError, match=r"lists\.safetensors"):
        CandidateLists.load(path)


def test_a_missing_file_says_how_to_make_it(tmp_path):
    with pytest.raises(DataError, match="dnr data prepare"):
        CandidateLists.load(tmp_path / "lists.safetensors")


# Features ----------------------------------------------------------------------------------

DESCRIBED = field_of(LISTS, features=torch.arange(120 * 12 * 2).view(120, 12, 2) / 1000)


def test_lists_without_features_keep_the_fingerprint_that_records_have():
    tensors = (getattr(LISTS, name) for name in TENSORS)
    assert LISTS.fingerprint == digest(tensors, json.dumps(LISTS.meta, sort_keys=True))


def test_fingerprint_sees_the_features():
    changed = DESCRIBED.features.clone()
    changed[7, 3, 1] += 1
    found = {LISTS.fingerprint, DESCRIBED.fingerprint}
    assert len(found | {field_of(LISTS, features=changed).fingerprint}) == 3


def test_features_go_with_their_lists(tmp_path):
    index = torch.tensor([5, 3, 3])
    assert torch.equal(DESCRIBED[index].features, DESCRIBED.features[index])
    both = CandidateLists.concatenate([DESCRIBED[:5], DESCRIBED[5:]], LISTS.meta)
    assert torch.equal(both.features, DESCRIBED.features)
    assert DESCRIBED.to("meta").features.device.type == "meta"
    assert replace(DESCRIBED, scores=1 - LISTS.scores).features is DESCRIBED.features
    path = tmp_path / "lists.safetensors"
    DESCRIBED.save(path)
    again = CandidateLists.load(path)
    assert torch.equal(again.features, DESCRIBED.features)
    assert again.fingerprint == DESCRIBED.fingerprint
    assert LISTS[index].features is None


def test_parts_with_and_without_features_do_not_join():
    with pytest.raises(DnrError, match="some of the parts have features"):
        CandidateLists.concatenate([DESCRIBED[:5], LISTS[5:]], LISTS.meta)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_must_be_finite(value):
    changed = DESCRIBED.features.clone()
    changed[7, 3, 1] = value
    with pytest.raises(DnrError, match=r"list 7 \(1 in all\): features must be finite"):
        field_of(LISTS, features=changed).validate()


def test_a_logged_list_may_be_the_first_of_its_user():
    logged = replace(with_entry("history", 7, 0), meta=LISTS.meta | {"protocol": "logged"})
    assert logged.validate() is logged
