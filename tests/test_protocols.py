from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare
from worlds import make_log

from dnrlib import protocols
from dnrlib.errors import ConfigError, DnrError
from dnrlib.lists import TENSORS
from dnrlib.log import TRAIN, ExposureLog
from dnrlib.metrics import expected_random_ndcg, ndcg
from dnrlib.protocols import PROTOCOLS, candidate_lists, excluded_items, sample_items
from dnrlib.retriever import SCHEMES, Plan, plan

LOG = make_log(users=20, items=90)
N = 14


class Table:
    """A retriever whose logits are given."""

    def __init__(self, users, items, seed):
        generator = torch.Generator().manual_seed(seed)
        self.table = torch.randn(users, items + 1, generator=generator)

    def logits(self, users):
        return self.table[users]


def tables(log, made):
    return [Table(log.users, log.items, seed) for seed in range(len(made.trained_on))]


def make(protocol, scheme="crossfit", log=LOG, n=N, seed=0, **options):
    made = plan(log, scheme)
    return made, candidate_lists(log, tables(log, made), made, protocol, n=n, seed=seed, **options)


def facts(log, number):
    """User, first row and shown items with labels of a list, in plain Python."""
    first = int(log.start[number])
    rows = range(first, first + log.list_length)
    shown = {int(log.item[row]): bool(log.label[row]) for row in rows}
    return int(log.user[first]), first, shown


def brute_force_excluded(log, number, trained_on):
    """Before the list, or in another list of this user that the retriever was trained on."""
    user, first, _ = facts(log, number)
    excluded = set()
    for row in range(len(log.user)):
        if int(log.user[row]) != user or int(log.list[row]) == number:
            continue
        in_training = int(log.list[row]) >= 0 and bool(trained_on[int(log.list[row])])
        if row < first or in_training:
            excluded.add(int(log.item[row]))
    return excluded


@pytest.mark.parametrize("scheme", [*SCHEMES, "everything"])
def test_excluded_items_by_brute_force(scheme):
    trained_on = torch.ones(len(LOG), dtype=torch.bool)
    if scheme != "everything":
        trained_on = plan(LOG, scheme).trained_on[0]
    lists = torch.arange(len(LOG))
    for number, row in enumerate(excluded_items(LOG, lists, trained_on).tolist()):
        assert set(row) - {0} == brute_force_excluded(LOG, number, trained_on)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_candidates_are_what_the_protocol_says(protocol, scheme):
    made, bundle = make(protocol, scheme)
    retrievers = tables(LOG, made)
    kept = set(bundle.list.tolist())
    for number in range(len(LOG)):
        user, first, shown = facts(LOG, number)
        model = int(made.scorer[number])
        if model < 0 or first == 0 or int(LOG.user[first - 1]) != user:
            assert number not in kept
            continue
        logits = retrievers[model].table[user]
        excluded = brute_force_excluded(LOG, number, made.trained_on[model])
        allowed = [item for item in range(1, LOG.items + 1) if item not in excluded]
        allowed.sort(key=lambda item: -float(logits[item]))
        retrieved = set(allowed[:N])
        if protocol == "retrieved" and not any(shown.get(item) for item in retrieved):
            assert number not in kept
            continue
        row = bundle[bundle.list == number]
        items = row.items[0].tolist()
        others = [item for item in allowed if item not in shown]
        if protocol == "retrieved":
            assert set(items) == retrieved
        else:
            assert set(shown) <= set(items)
            assert set(items) - set(shown) <= set(others)
        if protocol == "shown+retrieved":
            assert set(items) == set(shown) | set(others[: N - LOG.list_length])
        assert len(set(items)) == N
        assert row.shown[0].tolist() == [item in shown for item in items]
        assert row.labels[0].tolist() == [shown.get(item, False) for item in items]
        assert row.users[0] == user
        assert row.split[0] == LOG.split[number]
        assert torch.equal(row.history[0], LOG.history(torch.tensor([number]), 20)[0].int())
        torch.testing.assert_close(row.scores[0], logits[items].sigmoid())


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_meta_says_how_the_lists_were_made_and_what_was_left_out(protocol):
    made, bundle = make(protocol, "earlier")
    meta = bundle.meta
    assert meta["protocol"] == protocol
    assert meta["dataset"] == "made-up"
    assert meta["log"] == LOG.fingerprint
    assert (meta["users"], meta["items"]) == (LOG.users, LOG.items)
    scored = made.scorer >= 0
    first_of_user = LOG.start == LOG.user_start[LOG.list_user]
    assert meta["without_history"] == int((scored & first_of_user).sum())
    assert len(bundle) + meta["without_history"] + meta["without_positive"] == int(scored.sum())
    assert (meta["without_positive"] > 0) == (protocol == "retrieved")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_lists_come_in_the_log_s_order(protocol):
    _, bundle = make(protocol)
    assert (bundle.list.diff() > 0).all()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_place_of_a_shown_item_is_uniform(protocol):
    places = sum(make(protocol, seed=seed)[1].shown.sum(dim=0) for seed in range(30))
    assert places.sum() > 1000
    assert chisquare(places.numpy()).pvalue > 0.001


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_keeping_the_input_order_scores_like_random(protocol):
    labels = torch.cat([make(protocol, seed=seed)[1].labels for seed in range(20)])
    gain = ndcg(labels, 6) - expected_random_ndcg(labels, 6)
    assert gain.mean().abs() < 3.5 * gain.std() / len(gain) ** 0.5


def test_the_order_says_nothing_of_the_score():
    _, bundle = make("retrieved", "in-sample")
    rank = bundle.scores.argsort(dim=1, descending=True).argsort(dim=1).double()
    columns = torch.stack([rank.flatten(), torch.arange(N).repeat(len(rank)).double()])
    assert torch.corrcoef(columns)[0, 1].abs() < 3 / rank.numel() ** 0.5


def test_sampling_is_uniform_over_what_is_not_excluded():
    excluded = torch.tensor([[3, 0, 7, 3]]).expand(4000, -1)
    drawn = sample_items(12, 4, excluded, torch.Generator().manual_seed(0))
    counts = drawn.flatten().bincount(minlength=13)
    assert counts[[0, 3, 7]].tolist() == [0, 0, 0]
    allowed = counts[[1, 2, 4, 5, 6, 8, 9, 10, 11, 12]]
    assert chisquare(allowed.numpy()).pvalue > 0.001
    assert all(len(set(row)) == 4 for row in drawn.tolist())


def test_sampling_can_draw_all_that_is_left():
    drawn = sample_items(6, 4, torch.tensor([[2, 5]]), torch.Generator().manual_seed(0))
    assert sorted(drawn[0].tolist()) == [1, 3, 4, 6]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_candidates_depend_on_the_seed_alone(protocol):
    torch.manual_seed(1)
    first, before = make(protocol, seed=3)[1], torch.get_rng_state()
    torch.manual_seed(2)
    again = make(protocol, seed=3)[1]
    assert all(torch.equal(getattr(first, name), getattr(again, name)) for name in TENSORS)
    assert not torch.equal(make(protocol, seed=4)[1].items, first.items)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_score_orders_the_shown_last_when_the_others_are_retrieved():
    """The pitfall of `shown+retrieved`: a score that knows nothing tells who was shown."""
    _, bundle = make("shown+retrieved", "in-sample")
    assert bundle.scores[bundle.shown].mean() < bundle.scores[~bundle.shown].mean() - 0.2


def test_history_length_is_a_choice():
    _, bundle = make("shown+sampled", history=3)
    assert bundle.history.shape == (len(bundle), 3)


def test_chunks_do_not_matter(monkeypatch):
    whole = make("shown+retrieved")[1]
    monkeypatch.setattr("dnrlib.protocols.CHUNK", 7)
    parts = make("shown+retrieved")[1]
    assert torch.equal(whole.list, parts.list)
    assert torch.equal(whole.items.sort(dim=1).values, parts.items.sort(dim=1).values)
    assert torch.equal(whole.labels.sum(dim=1), parts.labels.sum(dim=1))


def test_an_unknown_protocol_is_refused():
    with pytest.raises(ConfigError, match="'shown' is unknown.*shown\\+retrieved"):
        make("shown")


@pytest.mark.parametrize("n", [0, 6])
def test_no_more_candidates_than_shown_items_is_refused(n):
    with pytest.raises(ConfigError, match="more than the 6 shown"):
        make("shown+sampled", n=n)


def test_a_catalogue_smaller_than_the_list_is_refused():
    with pytest.raises(DnrError, match="catalogue has 90 items"):
        make("shown+sampled", n=91)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_user_who_has_had_most_of_the_catalogue_is_named(protocol):
    with pytest.raises(DnrError, match=r"user \d+ has only \d+ items left"):
        make(protocol, n=88)


def first_lists_only():
    """Two users with one list each and nothing before it."""
    return ExposureLog(
        user=torch.tensor([0, 0, 1, 1]),
        item=torch.tensor([1, 2, 3, 4]),
        label=torch.tensor([True, False, True, True]),
        list=torch.tensor([0, 0, 1, 1]),
        start=torch.tensor([0, 2]),
        split=torch.tensor([TRAIN, TRAIN], dtype=torch.int8),
        users=2,
        items=9,
        list_length=2,
        name="first lists",
    )


def test_users_without_history_are_refused():
    with pytest.raises(DnrError, match="no history"):
        make("shown+sampled", "in-sample", log=first_lists_only(), n=4)


def test_a_retriever_that_finds_no_positive_at_all_is_refused():
    made = plan(LOG, "in-sample")
    table = torch.zeros(LOG.users, LOG.items + 1)
    for user in range(LOG.users):
        table[user, LOG.item[LOG.user == user]] = -9
    retriever = Table(LOG.users, LOG.items, 0)
    retriever.table = table
    with pytest.raises(DnrError, match="positive"):
        candidate_lists(LOG, [retriever], made, "retrieved", n=N)


def test_a_plan_needs_all_of_its_retrievers():
    made = plan(LOG, "crossfit")
    with pytest.raises((DnrError, ValueError)):
        candidate_lists(LOG, tables(LOG, made)[:-1], made, "shown+sampled", n=N)


def test_a_list_that_no_model_scores_is_left_out():
    made = plan(LOG, "in-sample")
    scorer = made.scorer.clone()
    scorer[::2] = -1
    bundle = candidate_lists(
        LOG, tables(LOG, made), Plan(scorer, made.trained_on), "shown+sampled", n=N
    )
    assert (bundle.list % 2 == 1).all()


@pytest.mark.parametrize("protocol", ["shown+retrieved", "shown+sampled"])
def test_feedback_of_other_lists_does_not_reach_a_list(protocol):
    before = make(protocol, "in-sample")[1]
    number = int(before.list[7])
    other = replace(LOG, label=torch.where(LOG.list == number, LOG.label, True))
    after = make(protocol, "in-sample", log=other)[1]
    for name in TENSORS:
        assert torch.equal(getattr(before, name)[7], getattr(after, name)[7])


def test_large_catalogues_are_sampled_uniformly_without_the_excluded(monkeypatch):
    monkeypatch.setattr(protocols, "LARGE", 0)
    generator = torch.Generator().manual_seed(0)
    excluded = torch.tensor([[3, 7, 0]]).expand(6000, 3)
    drawn = sample_items(12, 4, excluded, generator)
    assert all(len(set(row)) == 4 for row in drawn.tolist())
    for column in (drawn[:, 0], drawn[:, 3], drawn.flatten()):
        counts = column.bincount(minlength=13)
        assert counts[[0, 3, 7]].sum() == 0
        assert chisquare(counts[[1, 2, 4, 5, 6, 8, 9, 10, 11, 12]]).pvalue > 1e-3


def test_draws_that_are_too_few_are_made_up_for(monkeypatch):
    """Of 400 items 4 are free: the 24 draws will rarely hold all of them."""
    monkeypatch.setattr(protocols, "LARGE", 0)
    excluded = torch.arange(5, 401).expand(50, 396)
    drawn = sample_items(400, 4, excluded, torch.Generator().manual_seed(0))
    assert drawn.sort(dim=1).values.tolist() == [[1, 2, 3, 4]] * 50


def test_large_catalogues_are_scored_a_few_lists_at_a_time(monkeypatch):
    before = make("retrieved", "in-sample")[1]
    monkeypatch.setattr(protocols, "CELLS", 3 * (LOG.items + 1))
    after = make("retrieved", "in-sample")[1]
    assert torch.equal(before.items.sort(dim=1).values, after.items.sort(dim=1).values)
    assert torch.equal(before.list, after.list)


def test_a_part_may_be_left_without_a_list():
    made = plan(LOG, "in-sample")
    table = torch.zeros(LOG.users, LOG.items + 1)
    table[LOG.user, LOG.item] = -9
    retriever = Table(LOG.users, LOG.items, 0)
    retriever.table = table
    bundle = candidate_lists(LOG, [retriever], made, "retrieved", n=N, part=True)
    nothing = Plan(torch.full_like(made.scorer, -1), made.trained_on)
    unscored = candidate_lists(LOG, [retriever], nothing, "shown+sampled", n=N, part=True)
    assert len(bundle) == len(unscored) == 0
    assert bundle.meta["without_positive"] > 0
