"""The approximate index against the exact one."""

import sys

import pytest
import torch
from worlds import make_log

from dnrlib.errors import ConfigError
from dnrlib.protocols import candidate_lists
from dnrlib.retriever import ExactIndex, FaissIndex, MatrixFactorisation, plan

faiss = pytest.importorskip("faiss")
LOG = make_log(users=20, items=90)


def model(users=40, items=300, dim=8, clusters=20, seed=0):
    """Items that lie around a few centres, and users that do as well."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=generator)

    made = MatrixFactorisation(users, items, dim).requires_grad_(False)
    centres = normal(clusters, dim)
    for rows in (made.user.weight, made.item.weight):
        place = torch.randint(clusters, (len(rows),), generator=generator)
        rows.copy_(centres[place] + 0.5 * normal(len(rows), dim))
    made.bias.weight.copy_(normal(items + 1, 1))
    made.item.weight[0] = 9  # the padding must never be retrieved
    return made


def excluded_of(users, items, width, seed=0):
    return torch.randint(items + 1, (users, width), generator=torch.Generator().manual_seed(seed))


def recall(found, exact):
    return float((found[:, :, None] == exact[:, None]).any(dim=2).float().mean())


@pytest.mark.parametrize("width", [0, 1, 40])
@pytest.mark.parametrize(("cells", "probes"), [(1, 1), (6, 6), (6, 99)])
def test_searching_every_cell_is_exact(cells, probes, width):
    made, users = model(), torch.arange(40)
    excluded = excluded_of(40, 300, width)
    found = FaissIndex(made, cells, probes).top_n(users, 50, excluded)
    assert torch.equal(found, ExactIndex(made).top_n(users, 50, excluded))


def test_the_bias_counts():
    made = model()
    made.bias.weight[17] = 100.0
    index, none = FaissIndex(made), torch.zeros(40, 1, dtype=torch.long)
    assert (index.top_n(torch.arange(40), 5, none)[:, 0] == 17).all()


def test_too_few_in_the_searched_cells_are_made_up_for_by_an_exact_search():
    made, users = model(), torch.arange(40)
    excluded = excluded_of(40, 300, 100)
    found = FaissIndex(made, cells=60, probes=1).top_n(users, 80, excluded)
    assert torch.equal(found, ExactIndex(made).top_n(users, 80, excluded))


def test_what_is_found_is_n_different_items_in_order_and_none_excluded():
    made, users = model(users=100, items=3000), torch.arange(100)
    excluded = excluded_of(100, 3000, 300)
    index = FaissIndex(made, probes=4)
    found = index.top_n(users, 50, excluded)
    assert found.shape == (100, 50)
    assert (found >= 1).all()
    assert all(len(set(row)) == 50 for row in found.tolist())
    assert not (found[:, :, None] == excluded[:, None]).any()
    assert (index.logits(users, found).diff(dim=1) <= 1e-4).all()


@pytest.mark.parametrize(
    ("probes", "least"), [(1, 0.7), (16, 0.98), (64, 0.995)], ids=["one", "some", "usual"]
)
def test_recall_of_20_000_items(probes, least):
    """Bounds somewhat under what this seed gives; chance finds one in 400."""
    made, users = model(users=200, items=20_000, dim=16, clusters=200), torch.arange(200)
    excluded = excluded_of(200, 20_000, 50)
    found = FaissIndex(made, probes=probes).top_n(users, 50, excluded)
    reached = recall(found, ExactIndex(made).top_n(users, 50, excluded))
    assert reached >= least


def test_a_broken_index_would_fail_the_bound(monkeypatch):
    """Without the bias, or with items that are one off, the recall is far below."""
    made, users = model(users=200, items=20_000, dim=16, clusters=200), torch.arange(200)
    excluded = excluded_of(200, 20_000, 50)
    exact = ExactIndex(made).top_n(users, 50, excluded)
    index = FaissIndex(made)
    assert recall(index.top_n(users, 50, excluded) % 20_000 + 1, exact) < 0.5
    made.bias.weight.zero_()
    assert recall(FaissIndex(made).top_n(users, 50, excluded), exact) < 0.9


def test_the_same_seed_gives_the_same_index():
    made, none = model(users=50, items=3000), torch.zeros(50, 1, dtype=torch.long)
    one, two = (FaissIndex(made, probes=2, seed=3).top_n(torch.arange(50), 9, none) for _ in "ab")
    assert torch.equal(one, two)


def test_logits_are_the_retrievers():
    made, users = model(), torch.arange(40)
    items = torch.randint(1, 301, (40, 7))
    exact = ExactIndex(made).logits(users, items)
    torch.testing.assert_close(FaissIndex(made).logits(users, items), exact)


@pytest.mark.parametrize("protocol", ["shown+retrieved", "retrieved"])
def test_candidates_are_those_of_the_exact_index(protocol):
    made = plan(LOG, "in-sample")
    retriever = model(LOG.users, LOG.items)
    exact, approximate = (
        candidate_lists(LOG, [retriever], made, protocol, n=14, index=index)
        for index in (ExactIndex, FaissIndex)
    )
    assert torch.equal(exact.items, approximate.items)
    torch.testing.assert_close(exact.scores, approximate.scores)


def test_settings_that_cannot_be_are_refused():
    for settings in ({"cells": 0}, {"probes": 0}):
        with pytest.raises(ConfigError, match="must be at least 1"):
            FaissIndex(model(), **settings)


def test_missing_faiss_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"pip install 'dnrlib\[faiss\]'"):
        FaissIndex(model())
