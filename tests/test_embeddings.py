"""Representations are what they are called, and the numbers that judge them have known answers."""

from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist, pdist, squareform
from torch import nn
from worlds import field_of, make_lists

from dnrlib import embeddings
from dnrlib import prepare as preparing
from dnrlib.data import SimulatedWorld, sources
from dnrlib.errors import ConfigError
from dnrlib.exercises.embeddings import silhouette_of
from dnrlib.experiments import compute, run_config
from dnrlib.metrics import auc, rank
from dnrlib.prepare import DataConfig, prepare
from dnrlib.rerankers import build
from dnrlib.retriever import RetrieverConfig
from dnrlib.training import score_lists

DATA = DataConfig(
    dataset="simulated", candidates=20, history=5, factorisation=RetrieverConfig(dim=4, epochs=1)
)


@pytest.fixture
def small_world(monkeypatch, tmp_path):
    world = partial(SimulatedWorld, users=150, items=160)
    monkeypatch.setattr(sources, "SimulatedWorld", world)
    monkeypatch.setattr(preparing, "SimulatedWorld", world)
    monkeypatch.setattr(preparing, "CACHE", tmp_path)


def blobs(distance, lists=60, n=20, dim=8, seed=0):
    """A quarter of each list is liked, and lies so far from the rest along every feature."""
    generator = torch.Generator().manual_seed(seed)
    liked = torch.rand(lists, n, generator=generator).argsort(dim=1) < n // 4
    noise = torch.randn(lists, n, dim, generator=generator)
    return noise + distance * liked[..., None], liked


def flat(x, liked):
    return x.flatten(0, 1).numpy(), liked.flatten().numpy()


# Representations ---------------------------------------------------------------------------


@pytest.mark.equation("eq-emb-product")
@pytest.mark.parametrize("scheme", ["earlier", "in-sample", "crossfit"])
def test_the_products_and_the_bias_are_the_logit_of_the_score(small_world, scheme):
    config = replace(DATA, retriever=scheme)
    test = prepare(config).of_split("test")
    retriever = embeddings.retriever_of(config)
    product = embeddings.retriever_products(retriever, test)
    assert product.shape == (len(test), 20, 4)
    bias = retriever.bias(test.items.long())[..., 0]
    torch.testing.assert_close((product.sum(2) + bias).sigmoid(), test.scores)
    items = embeddings.item_vectors(retriever, test)
    torch.testing.assert_close(product, retriever.user(test.users.long())[:, None] * items)


def test_lists_that_another_retriever_scored_are_refused(small_world):
    config = replace(DATA, retriever="crossfit")
    with pytest.raises(ConfigError, match="another retriever scored these lists"):
        embeddings.retriever_products(
            embeddings.retriever_of(config), prepare(config).of_split("train")
        )
    with pytest.raises(ConfigError, match="noisy-truth"):
        embeddings.retriever_of(replace(DATA, retriever="noisy-truth"))


@pytest.mark.equation("eq-emb-head")
def test_the_head_of_what_was_caught_gives_the_logits():
    lists = make_lists()
    reranker = build("prm", lists, dim=8, heads=2, dropout=0.5, score_use="concat").train()
    caught = embeddings.last_layer(reranker, lists)
    logits = score_lists(reranker, lists)
    torch.testing.assert_close(reranker.head(caught)[..., 0], logits)
    assert reranker.training
    assert not reranker.head._forward_pre_hooks


def test_a_reranker_without_a_fitting_head_is_refused():
    lists = make_lists()
    with pytest.raises(ConfigError, match="RetrieverScore has no module `head`"):
        embeddings.last_layer(build("score", lists), lists)

    class OneVectorForAll(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3, 12)

        def forward(self, batch, scores):
            return self.head(scores[:, :3])

    with pytest.raises(ConfigError, match="not a vector a candidate"):
        embeddings.last_layer(OneVectorForAll(), lists)


def test_popularity_counts_what_was_shown_in_training_lists_only():
    lists = make_lists()
    training, test = lists.of_split("train"), lists.of_split("test")
    found = embeddings.popularity(training, test)
    counts = [[int((training.items[training.shown] == i).sum()) for i in row] for row in test.items]
    torch.testing.assert_close(found[..., 0], torch.tensor(counts).float().log1p())
    other = field_of(test, shown=~test.shown, labels=test.shown)
    assert torch.equal(found, embeddings.popularity(training, other))


def test_a_random_projection_about_keeps_the_distances():
    lists = make_lists(lists=8, items=1500)
    projected = embeddings.random_projection(lists, 2000).flatten(0, 1).numpy()
    hot = torch.zeros(8, 12, 2 * 1501)
    hot.scatter_(2, lists.items.long()[..., None], 1)
    past = torch.zeros(8, 1501).scatter_(1, lists.history.long(), 1)
    past[:, 0] = 0
    hot[..., 1501:] = past[:, None]
    truth = pdist(hot.flatten(0, 1).numpy())
    np.testing.assert_allclose(pdist(projected)[truth > 0], truth[truth > 0], rtol=0.12)


def test_centring_takes_away_what_a_list_has_in_common():
    x, _ = blobs(1.0)
    moved = x + 100 * torch.randn(len(x), 1, x.shape[2])
    torch.testing.assert_close(embeddings.centred(moved), embeddings.centred(x), atol=1e-3, rtol=0)


# Numbers -----------------------------------------------------------------------------------


def test_separate_blobs_cluster():
    x, liked = blobs(200.0)
    assert embeddings.silhouette(*flat(x, liked)) > 0.97
    assert embeddings.neighbour_purity(*flat(x, liked)) == 1
    probe = embeddings.linear_probe(x, liked)
    assert probe == embeddings.Probe(auc=1.0, error=0.0, pooled=1.0, lists=30)


def test_noise_does_not_cluster():
    x, liked = blobs(0.0, lists=150)
    assert abs(embeddings.silhouette(*flat(x, liked))) < 0.01
    assert embeddings.neighbour_purity(*flat(x, liked)) == pytest.approx(0.25, abs=0.03)
    probes = [embeddings.linear_probe(x, liked, seed=seed) for seed in range(5)]
    assert np.mean([probe.auc for probe in probes]) == pytest.approx(0.5, abs=0.03)
    # an AUC of 5 against 15 at random has variance (5 + 15 + 1) / (12 * 5 * 15), here of 75 lists
    assert probes[0].error == pytest.approx((21 / 900 / 75) ** 0.5, rel=0.25)


@pytest.mark.equation("eq-emb-silhouette")
def test_the_silhouette_is_the_mean_of_both_kinds():
    """Mean distances to the own kind, without oneself, and to the other; no standardising here."""
    x, liked = flat(*blobs(1.0, lists=10))
    x = embeddings.standardised(x)
    distance = squareform(pdist(x))
    size = np.where(liked, liked.sum(), (~liked).sum())
    own = (distance * (liked[:, None] == liked)).sum(1) / (size - 1)
    other = np.where(liked, distance[:, ~liked].mean(1), distance[:, liked].mean(1))
    each = np.array([float(silhouette_of(*pair)) for pair in zip(own, other, strict=True)])
    expected = (each[liked].mean() + each[~liked].mean()) / 2
    assert embeddings.silhouette(x, liked) == pytest.approx(expected, abs=1e-6)


def test_purity_is_that_of_brute_force():
    x, liked = flat(*blobs(1.0, lists=10))
    distance = cdist(embeddings.standardised(x), embeddings.standardised(x))
    np.fill_diagonal(distance, np.inf)
    near = distance.argsort(1)[:, :3]
    expected = np.mean([liked[row].mean() for row in near[liked]])
    assert embeddings.neighbour_purity(x, liked, k=3) == pytest.approx(expected)


def test_one_kind_of_candidates_is_refused():
    x, liked = blobs(0.0, lists=10)
    points, _ = flat(x, liked)
    for measured in (embeddings.silhouette, embeddings.neighbour_purity):
        with pytest.raises(ConfigError, match="one kind"):
            measured(points, np.zeros(len(points), bool))
    with pytest.raises(ConfigError, match="one kind"):
        embeddings.linear_probe(x, torch.zeros_like(liked))
    with pytest.raises(ConfigError, match="k = 10"):
        embeddings.neighbour_purity(points[:8], np.arange(8) < 4)


def test_a_list_is_never_in_both_halves():
    """Features that name the list tell a probe which lists have many positives, if it saw them.

    The pooled AUC of a probe trained on all the same lists shows that they do.
    """
    from sklearn.linear_model import LogisticRegression

    generator = torch.Generator().manual_seed(0)
    rate = torch.rand(200, 1, generator=generator)
    labels = torch.rand(200, 10, generator=generator) < rate
    x = torch.eye(200)[:, None].expand(200, 10, 200)
    points, liked = flat(x, labels)
    leaking = LogisticRegression().fit(points[::2], liked[::2]).decision_function(points[1::2])
    leak = rank(torch.from_numpy(leaking)[None], torch.from_numpy(liked[1::2])[None])
    assert auc(leak).item() > 0.7
    probe = embeddings.linear_probe(x, labels)
    assert probe.pooled == pytest.approx(0.5, abs=0.01)
    first, second = embeddings.halves(201)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(201))


def test_a_probe_among_the_shown_does_not_look_at_the_rest():
    x, liked = blobs(1.0)
    shown = liked | (torch.rand(liked.shape, generator=torch.Generator().manual_seed(1)) < 0.3)
    probe = embeddings.linear_probe(x, liked, shown)
    other = torch.where(shown[..., None], x, 50 * torch.randn_like(x))
    again = embeddings.linear_probe(other, liked, shown)
    assert probe.auc == pytest.approx(again.auc, abs=1e-6)
    assert probe.pooled == pytest.approx(again.pooled, abs=1e-6)
    assert probe.lists <= 30


def test_a_map_keeps_neighbours_and_is_the_same_again():
    x, liked = flat(*blobs(30.0, lists=6, n=20))
    plane = embeddings.umap_map(x, seed=1, neighbours=5)
    np.testing.assert_array_equal(plane, embeddings.umap_map(x, seed=1, neighbours=5))
    assert torch.get_num_threads() == 1
    assert embeddings.neighbour_purity(plane, liked, k=3) == 1
    shuffled = np.random.default_rng(0).permutation(plane)
    good, bad = (embeddings.trustworthiness(x, points) for points in (plane, shuffled))
    assert good > 0.7 > 0.6 > bad


# Errors ------------------------------------------------------------------------------------


def test_the_spread_of_known_errors():
    labels = torch.tensor([[True, False, False, False]])
    found = embeddings.spread(torch.tensor([[0.95, 0.05, 0.5, 0.3]]), labels)
    errors = np.array([-0.05, 0.05, 0.5, 0.3])
    assert found["sd"] == pytest.approx(errors.std(), abs=1e-6)
    assert found["rms"] == pytest.approx((errors**2).mean() ** 0.5, abs=1e-6)
    assert found["near"] == 0.5
    zero = embeddings.spread(torch.zeros(1, 4), labels)
    assert zero["near"] == 0.75
    assert zero["rms"] == pytest.approx(0.5)


@pytest.mark.equation("eq-emb-brier")
def test_the_mean_square_of_errors_splits_into_calibration_and_refinement():
    generator = torch.Generator().manual_seed(0)
    forecast = torch.randint(5, (40, 50), generator=generator) / 4
    labels = torch.rand(40, 50, generator=generator) < 0.2 + 0.5 * forecast
    share = torch.zeros(40, 50, dtype=torch.float64)
    for value in forecast.unique():
        share[forecast == value] = labels[forecast == value].double().mean()
    calibration = (forecast.double() - share).square().mean()
    refinement = (share * (1 - share)).mean()
    rms = embeddings.spread(forecast, labels)["rms"]
    assert rms**2 == pytest.approx(float(calibration + refinement), abs=1e-9)
    # Isotonic regression on the same lists takes away the first part, if the shares increase.
    assert (share[forecast == 0].mean() < share[forecast == 1].mean()).item()
    mapped = embeddings.recalibrated(forecast, forecast, labels)
    torch.testing.assert_close(mapped, share)
    assert embeddings.spread(mapped, labels)["rms"] ** 2 == pytest.approx(float(refinement))


def test_recalibrating_keeps_the_order_and_narrows_the_errors():
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(300, 20, generator=generator) / 4
    labels = torch.rand(300, 20, generator=generator) < truth
    stretched = truth.sqrt()
    mapped = embeddings.recalibrated(stretched[150:], stretched[:150], labels[:150])
    order = stretched[150:].flatten().argsort()
    assert (mapped.flatten()[order].diff() >= 0).all()
    narrow = embeddings.spread(mapped, labels[150:])
    wide = embeddings.spread(stretched[150:], labels[150:])
    constant = embeddings.spread(torch.full((150, 20), 0.125), labels[150:])
    assert narrow["rms"] < constant["rms"] < wide["rms"]


def test_no_prediction_looks_at_the_labels_of_the_test_lists():
    lists = make_lists(signal=1.0)
    reranker = build("prm", lists, dim=8, heads=2, score_use="concat")
    validation, test = lists.of_split("validation"), lists.of_split("test")
    found = embeddings.predictions(reranker, validation, test)
    again = embeddings.predictions(reranker, validation, field_of(test, labels=~test.labels))
    assert all(torch.equal(values, again[name]) for name, values in found.items())
    torch.testing.assert_close(found["reranker"], score_lists(reranker, test).sigmoid())
    assert found["share of liked"].unique().item() == validation.labels.double().mean().item()


def test_a_sample_is_the_same_again_and_takes_each_candidate_once():
    lists = make_lists()
    places = embeddings.sample(lists, 100, seed=3)
    assert torch.equal(places, embeddings.sample(lists, 100, seed=3))
    assert len(places.unique()) == 100
    assert places.max() < lists.items.numel() == len(embeddings.sample(lists, 10**6))


# A run -------------------------------------------------------------------------------------


def test_every_number_of_a_run(small_world, monkeypatch):
    monkeypatch.setattr(embeddings, "LISTS", 40)
    monkeypatch.setattr(embeddings, "SAMPLE", 300)
    training = {"epochs": 2, "lambda_e": 1}
    options = {"dim": 8, "heads": 2}
    config = run_config(
        {"method": "DNR-B", "data": asdict(DATA), "options": options, "training": training}
    )
    lists = prepare(config.data)
    record, weights = compute(config, lists)
    reranker = build("prm", lists, **config.options)
    reranker.load_state_dict(weights["reranker"])
    rows = embeddings.measure(record, lists, reranker)
    assert rows == embeddings.measure(record, lists, reranker, None)
    clusters = {row["representation"]: row for row in rows if "representation" in row}
    errors = {row["prediction"]: row for row in rows if "prediction" in row}
    assert {name: row["dim"] for name, row in clusters.items()} == {
        "p ⊙ q": 4, "q": 4, "last layer": 8, "untrained last layer": 8, "random projection": 8,
        "popularity": 1, "score": 1, "prediction": 1,
    }  # fmt: skip
    assert all(row["lists"] == 40 for row in rows)
    assert clusters["score"]["liked"] == errors["zero"]["liked"]
    assert errors["zero"]["near"] == pytest.approx(1 - errors["zero"]["liked"])
    assert errors["share of liked"]["rms"] <= errors["zero"]["rms"]
    # The untrained one is the run's own beginning.
    torch.manual_seed(config.seed)
    beginning = build("prm", lists, **config.options).state_dict()
    for name, tensor in embeddings.untrained(record, lists).state_dict().items():
        assert torch.equal(tensor, beginning[name])
