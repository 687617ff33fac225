import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score
from torchmetrics.functional import retrieval as reference

from dnrlib import metrics
from dnrlib.errors import ConfigError

K = 6
AT_K = {
    "hit_ratio": metrics.hit_ratio,
    "precision": metrics.precision,
    "recall": metrics.recall,
    "f1": metrics.f1,
    "ndcg": metrics.ndcg,
    "map": metrics.average_precision,
    "map_hits": lambda ranked, k: metrics.average_precision(ranked, k, "hits"),
}
ALL = AT_K | {"auc": lambda ranked, k: metrics.auc(ranked)}


def lists(count=40, n=20, share=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(count, n, generator=generator)
    labels = torch.rand(count, n, generator=generator) < share
    return scores, labels


def bits(*rows):
    return torch.tensor([[character == "1" for character in row] for row in rows])


def assert_close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6, equal_nan=True, check_dtype=False)


def all_orders(labels):
    return labels[torch.tensor(list(itertools.permutations(range(len(labels)))))]


ranked_lists = (
    st.integers(1, 12)
    .flatmap(
        lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=5)
    )
    .map(torch.tensor)
)


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("hit_ratio", reference.retrieval_hit_rate),
        ("precision", reference.retrieval_precision),
        ("recall", reference.retrieval_recall),
        ("ndcg", reference.retrieval_normalized_dcg),
        ("map_hits", reference.retrieval_average_precision),
    ],
)
@pytest.mark.parametrize(
    ("n", "k", "share"),
    [(20, 6, 0.2), (20, 1, 0.2), (4, 6, 0.5), (1, 1, 1.0), (1, 6, 1.0), (9, 9, 1.0)],
)
def test_agrees_with_torchmetrics(name, theirs, n, k, share):
    scores, labels = lists(n=n, share=share)
    expected = torch.stack([theirs(s, t, top_k=k) for s, t in zip(scores, labels, strict=True)])
    expected[~labels.any(1)] = torch.nan
    assert_close(AT_K[name](metrics.rank(scores, labels), k), expected)


@pytest.mark.parametrize("k", [1, 6, 20, 30])
def test_ndcg_agrees_with_scikit_learn(k):
    scores, labels = lists()
    labels[:, 0] = True
    expected = [
        ndcg_score(t[None].numpy(), s[None].numpy(), k=k)
        for s, t in zip(scores, labels, strict=True)
    ]
    assert_close(metrics.ndcg(metrics.rank(scores, labels), k), torch.tensor(expected))


def test_both_average_precisions_agree_with_scikit_learn_on_the_whole_list():
    scores, labels = lists()
    labels[:, 0] = True
    expected = torch.tensor(
        [average_precision_score(t, s) for s, t in zip(scores, labels, strict=True)]
    )
    ranked = metrics.rank(scores, labels)
    assert_close(AT_K["map"](ranked, 20), expected)
    assert_close(AT_K["map_hits"](ranked, 20), expected)


def test_aucs_agree_with_scikit_learn():
    scores, labels = lists()
    labels[:, 0], labels[:, 1] = True, False
    shown = labels.roll(1, 1) | labels
    order = metrics.ranking(scores)
    ranked, shown_ranked = labels.gather(1, order), shown.gather(1, order)
    rows = list(zip(scores, labels, shown, strict=True))
    assert_close(metrics.auc(ranked), torch.tensor([roc_auc_score(t, s) for s, t, _ in rows]))
    assert_close(
        metrics.auc_shown(ranked, shown_ranked),
        torch.tensor([roc_auc_score(t[m], s[m]) for s, t, m in rows]),
    )
    assert_close(
        metrics.auc_shown_vs_rest(shown_ranked),
        torch.tensor([roc_auc_score(m, s) for s, _, m in rows]),
    )


@pytest.mark.parametrize("decimals", [7, 1, 0])
def test_pooled_auc_agrees_with_scikit_learn_also_on_ties(decimals):
    scores, labels = lists()
    scores = scores.round(decimals=decimals)
    expected = roc_auc_score(labels.flatten(), scores.flatten())
    assert metrics.pooled_auc(scores, labels) == pytest.approx(expected, abs=1e-12)


def test_pooled_auc_is_not_the_mean_of_the_aucs():
    labels = bits("1110", "0001")
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.95], [0.4, 0.3, 0.2, 0.1]])
    assert metrics.auc(metrics.rank(scores, labels)).tolist() == [0, 0]
    assert metrics.pooled_auc(scores, labels) == pytest.approx(9 / 16)


@pytest.mark.parametrize("labels", [torch.zeros(2, 3).bool(), torch.ones(2, 3).bool()])
def test_pooled_auc_is_undefined_without_both_classes(labels):
    assert math.isnan(metrics.pooled_auc(torch.rand(2, 3), labels))


def test_values_by_hand():
    ranked = bits("0100100001")
    at = {name: metric(ranked, K).item() for name, metric in ALL.items()}
    ideal = 1 + 1 / math.log2(3) + 1 / 2
    assert at == pytest.approx(
        {
            "hit_ratio": 1,
            "precision": 2 / 6,
            "recall": 2 / 3,
            "f1": 4 / 9,
            "ndcg": (1 / math.log2(3) + 1 / math.log2(6)) / ideal,
            "map": (1 / 2 + 2 / 5) / 3,
            "map_hits": (1 / 2 + 2 / 5) / 2,
            "auc": (6 + 4 + 0) / 21,
        }
    )


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    ranked = bits("1010010", "0000001", "1111111")
    p, r = metrics.precision(ranked, 4), metrics.recall(ranked, 4)
    assert_close(metrics.f1(ranked, 4), (2 * p * r / (p + r)).nan_to_num())


def test_ideal_order_is_cut_at_k():
    ranked = bits("1111111100")
    assert metrics.ndcg(ranked, 3).item() == metrics.average_precision(ranked, 3).item() == 1


def test_denominators_of_average_precision():
    ranked = bits("1000000011", "0000000001")
    assert metrics.average_precision(ranked, K, "positives").tolist() == pytest.approx([1 / 3, 0])
    assert metrics.average_precision(ranked, K, "hits").tolist() == [1, 0]
    with pytest.raises(ConfigError, match="denominator"):
        metrics.average_precision(ranked, K, "recall")


def test_precision_counts_missing_places_as_misses():
    assert metrics.precision(bits("111"), 6).item() == 0.5


@pytest.mark.parametrize("name", ALL)
def test_no_positive_is_undefined(name):
    assert ALL[name](bits("0000", "0100"), 2).isnan().tolist() == [True, False]


@pytest.mark.parametrize("name", ["hit_ratio", "precision", "recall", "ndcg", "map", "map_hits"])
def test_all_positive_is_perfect(name):
    assert ALL[name](bits("111111"), K).item() == 1


def test_aucs_are_undefined_without_a_negative():
    ranked, shown = bits("111", "110"), bits("111", "110")
    assert metrics.auc(ranked).isnan().tolist() == [True, False]
    assert metrics.auc_shown(ranked, shown).isnan().tolist() == [True, True]
    assert metrics.auc_shown_vs_rest(shown).isnan().tolist() == [True, False]


@pytest.mark.parametrize("name", ALL)
def test_empty_batch(name):
    scores, labels = lists(count=0)
    assert ALL[name](metrics.rank(scores, labels), K).shape == (0,)


@pytest.mark.parametrize("name", AT_K)
@pytest.mark.parametrize("k", [0, -1])
def test_k_must_be_positive(name, k):
    with pytest.raises(ConfigError, match="k must be"):
        AT_K[name](bits("10"), k)


@given(ranked_lists, st.integers(1, 15))
def test_metrics_lie_in_the_unit_interval_and_negatives_at_the_end_change_nothing(ranked, k):
    longer = torch.nn.functional.pad(ranked, (0, 3))
    for name, metric in ALL.items():
        values = metric(ranked, k)
        assert values.isnan().logical_or((values >= 0) & (values <= 1)).all(), name
        if name != "auc":
            assert_close(metric(longer, k), values)


@given(ranked_lists, st.integers(1, 15))
def test_hit_ratio_is_never_below_ndcg(ranked, k):
    defined = ranked.any(1)
    assert (metrics.hit_ratio(ranked, k) >= metrics.ndcg(ranked, k))[defined].all()


@given(ranked_lists, st.integers(1, 15))
def test_an_ideal_order_has_ndcg_of_exactly_one(ranked, k):
    best = ranked[ranked.any(1)].sort(1, descending=True).values
    assert (metrics.ndcg(best, k) == 1).all()


@given(st.permutations(range(20)), st.integers(0, 2**31))
@settings(max_examples=50)
def test_order_of_candidates_does_not_matter_to_an_equivariant_scorer(permutation, seed):
    scores, labels = lists()
    before = metrics.rank(scores, labels)
    after = metrics.rank(scores[:, permutation], labels[:, permutation], seed)
    assert (before == after).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_ranking_sorts_by_score(dtype):
    scores = torch.randn(30, 50, generator=torch.Generator().manual_seed(1)).to(dtype)
    ranked = scores.gather(1, metrics.ranking(scores))
    assert (ranked.diff(dim=1) <= 0).all()
    assert (metrics.ranking(scores).sort(1).values == torch.arange(50)).all()


def test_ranking_depends_on_the_seed_only_among_ties():
    tied, distinct = torch.zeros(8, 10), lists(8, 10)[0]
    assert (metrics.ranking(tied, 1) == metrics.ranking(tied, 1)).all()
    assert (metrics.ranking(tied, 1) != metrics.ranking(tied, 2)).any()
    assert (metrics.ranking(distinct, 1) == metrics.ranking(distinct, 2)).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_scores_must_be_finite(bad):
    scores = torch.zeros(3, 4)
    scores[1, 2] = bad
    with pytest.raises(ConfigError, match="list 1, candidate 2"):
        metrics.ranking(scores)


def test_every_order_of_ties_is_equally_likely():
    order = metrics.ranking(torch.zeros(60_000, 3))
    codes, counts = (order @ torch.tensor([9, 3, 1])).unique(return_counts=True)
    assert len(codes) == 6
    deviation = (counts - 10_000) / math.sqrt(60_000 * 1 / 6 * 5 / 6)
    assert deviation.abs().max() < 4


@pytest.mark.parametrize("name", ALL)
def test_keeping_the_input_order_scores_like_random(name):
    labels = bits("1110000")
    expected = ALL[name](all_orders(labels[0]), 3).mean().item()
    ranked = metrics.rank(torch.zeros(20_000, 7), labels.expand(20_000, -1))
    values = ALL[name](ranked, 3)
    assert values.mean().item() == pytest.approx(expected, abs=4 * values.std().item() / 141)


def test_collisions_in_half_precision_do_not_favour_the_first_index():
    scores = torch.sigmoid(torch.linspace(8, 9, 8)).bfloat16().expand(20_000, 8)
    assert (scores == scores[0, 0]).all()
    first = metrics.ranking(scores)[:, 0].bincount(minlength=8) / 20_000
    assert (first - 1 / 8).abs().max() < 4 * math.sqrt(1 / 8 * 7 / 8 / 20_000)


def test_ties_average_to_what_scikit_learn_computes():
    scores, labels = torch.tensor([2.0, 1, 1, 1, 0, 0]), bits("001101")
    expected = ndcg_score(labels.numpy(), scores[None].numpy(), k=3)
    ranked = metrics.rank(scores.expand(20_000, -1), labels.expand(20_000, -1))
    assert metrics.ndcg(ranked, 3).mean().item() == pytest.approx(expected, abs=0.01)
    expected = roc_auc_score(labels[0], scores)
    assert metrics.auc(ranked).mean().item() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize(("row", "k"), [("1000000", 3), ("1110000", 3), ("1111111", 3), ("110", 5)])
def test_expected_ndcg_of_a_random_order(row, k):
    labels = bits(row)
    mean = metrics.ndcg(all_orders(labels[0]), k).mean()
    assert_close(metrics.expected_random_ndcg(labels, k), mean[None])


def test_expected_ndcg_without_a_positive_is_undefined():
    assert metrics.expected_random_ndcg(bits("000"), 2).isnan().all()


def test_shown_or_not_shortcut_is_visible():
    """A scorer that knows only what was shown looks good unless the two AUCs stand apart."""
    generator = torch.Generator().manual_seed(0)
    shown = torch.zeros(2000, 50).bool()
    shown[:, :6] = True
    labels = shown & (torch.rand(2000, 50, generator=generator) < 0.6)
    order = metrics.ranking(shown.float())
    summary = metrics.summarise(labels.gather(1, order), shown.gather(1, order))
    assert summary["auc"] > 0.95
    assert summary["auc_shown_vs_rest"] == 1
    assert summary["auc_shown"] == pytest.approx(0.5, abs=0.03)


def test_summary_is_the_mean_over_defined_lists():
    ranked = bits("10000000", "00000000", "11111111", "00000001")
    summary = metrics.summarise(ranked, torch.ones(4, 8).bool())
    assert summary["hit_ratio@6"] == pytest.approx(2 / 3)
    assert summary["hit_ratio@6:defined"] == 3 / 4
    assert summary["auc"] == summary["auc_shown"] == 1 / 2
    assert summary["auc:defined"] == 1 / 2
    assert math.isnan(summary["auc_shown_vs_rest"])
    assert summary["auc_shown_vs_rest:defined"] == 0


def test_summary_weighs_each_list_alike_whatever_the_batches():
    scores, labels = lists(count=33)
    ranked = metrics.rank(scores, labels)
    names = set(metrics.per_list(ranked, ranked))
    batches = [metrics.per_list(part, part) for part in ranked.split(32)]
    summary = metrics.summarise(ranked, ranked)
    for name in names:
        joined = torch.cat([batch[name] for batch in batches]).nanmean().item()
        assert summary[name] == pytest.approx(joined, nan_ok=True)
    of_means = np.mean([batch["ndcg@6"].nanmean() for batch in batches])
    assert summary["ndcg@6"] != pytest.approx(of_means)


def test_summary_of_no_list_is_undefined():
    ranked = torch.zeros(0, 5).bool()
    assert all(math.isnan(value) for value in metrics.summarise(ranked, ranked).values())


@given(ranked_lists)
def test_pack_is_undone_by_unpack(ranked):
    text = metrics.pack(ranked)
    assert json.dumps(text) == f'"{text}"'
    assert (metrics.unpack(text, *ranked.shape) == ranked).all()


def test_pack_of_no_list():
    assert metrics.unpack(metrics.pack(torch.zeros(0, 5).bool()), 0, 5).shape == (0, 5)


def test_pack_is_compact():
    chances = torch.exp(-torch.arange(50) / 12).expand(6022, 50)
    places = chances.multinomial(5, generator=torch.Generator().manual_seed(0))
    ranked = torch.zeros(6022, 50).bool().scatter(1, places, True)
    assert len(metrics.pack(ranked)) < 20_500


@pytest.mark.parametrize(("lists", "n"), [(5, 20), (40, 50), (0, 0)])
def test_unpack_rejects_another_shape(lists, n):
    with pytest.raises(ConfigError, match="lists x"):
        metrics.unpack(metrics.pack(torch.zeros(40, 20).bool()), lists, n)


@pytest.mark.parametrize("text", ["", "not base85 \x7f", "abcde", "é"])
def test_unpack_rejects_damaged_text(text):
    with pytest.raises(ConfigError, match="packed ranking"):
        metrics.unpack(text, 1, 1)


def test_unpack_notices_a_changed_character():
    text = metrics.pack(lists()[1])
    middle = len(text) // 2
    damaged = text[:middle] + ("a" if text[middle] != "a" else "b") + text[middle + 1 :]
    with pytest.raises(ConfigError, match="packed ranking"):
        metrics.unpack(damaged, 40, 20)
