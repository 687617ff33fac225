"""What a retriever, a reranker and trivial baselines know of a candidate, and whether it clusters.

A representation is a tensor [lists, n, d]: a vector for each candidate of each list. scikit-learn
and umap-learn are imported where they are used, since they belong to the book.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dnrlib import metrics, prepare
from dnrlib.data import load, stages
from dnrlib.data.steps import to_log
from dnrlib.errors import ConfigError
from dnrlib.identity import from_dict
from dnrlib.lists import CandidateLists
from dnrlib.log import TEST
from dnrlib.prepare import DataConfig, trained_retrievers
from dnrlib.records import Record
from dnrlib.rerankers import build
from dnrlib.retriever import MatrixFactorisation, plan
from dnrlib.training import score_lists

LISTS = 1000
"""Test lists on which a recorded run is measured."""
SAMPLE = 3000
"""Candidates of those lists for what needs all distances."""
NEIGHBOURS = 10
NARROW = 0.1
"""An error that is no larger than this counts as near zero."""


# Representations ---------------------------------------------------------------------------


def retriever_of(config: DataConfig, cache: Path | None = None) -> MatrixFactorisation:
    """The matrix factorisation that scored the validation and test lists of a configuration.

    Each of the schemes ``earlier``, ``in-sample`` and ``crossfit`` has one such model; under
    ``crossfit`` other models scored the training lists. It is read from the cache of `prepare`,
    or trained again as there.

    Raises:
        ConfigError: ``noisy-truth``, which scores without vectors.
    """
    if config.retriever == "noisy-truth":
        raise ConfigError(
            "retriever = 'noisy-truth' has no vectors: choose earlier, in-sample or crossfit"
        )
    source = load(config.dataset, feedback=config.feedback)
    *_, (_, frame) = stages(source, config.core or None, config.positive, config.list_length)
    log = to_log(frame, source.name, source.note, config.list_length)
    scoring = plan(log, config.retriever, config.folds, config.seed)
    scorer = int(scoring.scorer[log.split == TEST][0])
    return trained_retrievers(log, scoring, config, cache or prepare.CACHE)[scorer]


@torch.no_grad()
def retriever_products(
    retriever: MatrixFactorisation, lists: CandidateLists
) -> Float[Tensor, "lists n dim"]:
    """p_u ⊙ q_i of each candidate: its sum and the item's bias are the logit of the score.

    Raises:
        ConfigError: the scores of the lists are not this retriever's.
    """
    product = retriever.user(lists.users.long())[:, None] * retriever.item(lists.items.long())
    logits = product.sum(dim=2) + retriever.bias(lists.items.long())[..., 0]
    if not torch.allclose(logits.sigmoid(), lists.scores, rtol=0, atol=1e-4):
        raise ConfigError("another retriever scored these lists: take validation or test lists")
    return product


def item_vectors(
    retriever: MatrixFactorisation, lists: CandidateLists
) -> Float[Tensor, "lists n dim"]:
    """q_i of each candidate, the same for every user."""
    return retriever.item.weight[lists.items.long()]


def last_layer(reranker: nn.Module, lists: CandidateLists) -> Float[Tensor, "lists n dim"]:
    """What the reranker's last layer ``head`` receives when it serves: real scores, no dropout.

    Raises:
        ConfigError: the reranker has no module ``head``, or it is not called once a batch.
    """
    head = getattr(reranker, "head", None)
    if not isinstance(head, nn.Module):
        raise ConfigError(
            f"{type(reranker).__name__} has no module `head`: name its last layer so, that what "
            "it receives can be seen"
        )
    received: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, inputs: received.append(inputs[0]))
    try:
        score_lists(reranker, lists)
    finally:
        handle.remove()
    caught = torch.cat(received)
    if caught.shape[:-1] != lists.items.shape:
        raise ConfigError(f"`head` received {tuple(caught.shape)}: not a vector a candidate")
    return caught.float()


def untrained(record: Record, lists: CandidateLists) -> nn.Module:
    """The reranker as it was before the first step of a run, with the same initial weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(record.seed)
        return build(record.config["reranker"], lists, **record.config["options"])


def random_projection(
    lists: CandidateLists, dim: int, seed: int = 0
) -> Float[Tensor, "lists n {dim}"]:
    """A fixed Gaussian projection of what a reranker starts from without the score.

    That is the item as a one-hot vector, and the history as a multi-hot one behind it. By the
    lemma of Johnson and Lindenstrauss such a projection about keeps the distances.
    """
    from scipy.sparse import csr_array
    from sklearn.random_projection import GaussianRandomProjection

    width = lists.meta["items"] + 1
    count, n = lists.items.shape
    history = lists.history.long()[:, None].expand(count, n, -1)
    columns = torch.cat([lists.items.long()[..., None], width + history], dim=2).flatten(0, 1)
    values = torch.cat([torch.ones(count, n, 1), history > 0], dim=2).flatten(0, 1)
    ends = np.arange(len(columns) + 1) * columns.shape[1]
    hot = csr_array(
        (values.flatten().numpy(), columns.flatten().numpy(), ends), (len(columns), 2 * width)
    )
    projected = GaussianRandomProjection(dim, random_state=seed).fit_transform(hot)
    return torch.from_numpy(projected).float().view(count, n, dim)


def popularity(training: CandidateLists, lists: CandidateLists) -> Float[Tensor, "lists n 1"]:
    """log(1 + how often the item was shown in the training lists) of each candidate."""
    counts = torch.bincount(
        training.items[training.shown].long(), minlength=training.meta["items"] + 1
    )
    return counts.float().log1p()[lists.items.long()][..., None]


def representations(
    record: Record, lists: CandidateLists, reranker: nn.Module, part: CandidateLists
) -> dict[str, Float[Tensor, "lists n _"]]:
    """Name -> representation of the candidates of ``part``.

    Args:
        record: of the run.
        lists: all lists of the run; popularity is counted in its training lists.
        reranker: the trained one.
        part: validation or test lists.

    Raises:
        ConfigError: as `retriever_of`, `retriever_products` and `last_layer` do.
    """
    retriever = retriever_of(from_dict(DataConfig, record.config["data"]))
    last = last_layer(reranker, part)
    return {
        "p ⊙ q": retriever_products(retriever, part),
        "q": item_vectors(retriever, part),
        "last layer": last,
        "untrained last layer": last_layer(untrained(record, lists), part),
        "random projection": random_projection(part, last.shape[2]),
        "popularity": popularity(lists.of_split("train"), part),
        "score": part.scores[..., None],
        "prediction": score_lists(reranker, part).sigmoid()[..., None],
    }


def centred(x: Float[Tensor, "lists n d"]) -> Float[Tensor, "lists n d"]:
    """Each list moved so that its mean is zero: what is common to a list (its user) is gone."""
    return x - x.mean(dim=1, keepdim=True)


# Do they cluster? --------------------------------------------------------------------------


def sample(lists: CandidateLists, size: int, seed: int = 0) -> Int[Tensor, " candidates"]:
    """Places of at most ``size`` candidates in the flattened lists, drawn from all alike."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(lists.items.numel(), generator=generator)[:size]


def standardised(x: Float[np.ndarray, "candidates d"]) -> Float[np.ndarray, "candidates d"]:
    """Each feature with mean 0 and standard deviation 1; a constant one is 0."""
    from sklearn.preprocessing import StandardScaler

    return StandardScaler().fit_transform(x)


def silhouette(
    x: Float[np.ndarray, "candidates d"], liked: Bool[np.ndarray, " candidates"]
) -> float:
    """Mean silhouette in [-1, 1] of the liked and of the others, each kind counting one half.

    The usual mean over all candidates would be that of the others, who are far more. Features
    are standardised, distances Euclidean (Rousseeuw 1987; for the mean, Pavlopoulos et al. 2024).

    Raises:
        ConfigError: all candidates are of one kind.
    """
    from sklearn.metrics import silhouette_samples

    _need_both(liked)
    values = silhouette_samples(standardised(x), liked)
    return float(values[liked].mean() + values[~liked].mean()) / 2


def neighbour_purity(
    x: Float[np.ndarray, "candidates d"],
    liked: Bool[np.ndarray, " candidates"],
    k: int = NEIGHBOURS,
) -> float:
    """Share of liked candidates among the k nearest neighbours of a liked one, in [0, 1].

    By chance it is the share of liked candidates. Features are standardised.

    Raises:
        ConfigError: all candidates are of one kind, or there are no more than k.
    """
    from sklearn.neighbors import NearestNeighbors

    _need_both(liked)
    if len(x) <= k:
        raise ConfigError(f"k = {k}: needs more than {len(x)} candidates")
    points = standardised(x)
    # Without points of its own the search leaves out the point that it starts from.
    near = NearestNeighbors(n_neighbors=k).fit(points).kneighbors(return_distance=False)
    return float(liked[near[liked]].mean())


def _need_both(labels: Bool[np.ndarray, " candidates"]) -> None:
    if labels.all() or not labels.any():
        raise ConfigError("all candidates are of one kind: take more of them")


@dataclass(frozen=True)
class Probe:
    """AUC of a linear probe on lists that it was not trained on."""

    auc: float
    """Mean of the lists' AUCs."""
    error: float
    """Standard error of that mean over the lists; not defined (NaN) for one list."""
    pooled: float
    """Of all candidates in one pool, which also rewards telling lists apart."""
    lists: int
    """On how many lists it was measured."""


def halves(lists: int, seed: int = 0) -> tuple[Int[Tensor, " first"], Int[Tensor, " second"]]:
    """A random half of the lists, and the other half."""
    order = torch.randperm(lists, generator=torch.Generator().manual_seed(seed))
    return order[: lists // 2], order[lists // 2 :]


def linear_probe(
    x: Float[Tensor, "lists n d"],
    labels: Bool[Tensor, "lists n"],
    among: Bool[Tensor, "lists n"] | None = None,
    seed: int = 0,
) -> Probe:
    """How well a logistic regression tells labels from representations (Alain and Bengio 2016).

    It is trained on one half of the lists and measured on the other: were a list in both, the
    probe could know its candidates by what they have in common.

    Args:
        among: the candidates that count, in training as in measuring; by default all.
        seed: of the halves.

    Raises:
        ConfigError: the candidates of a half are all of one kind.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    among = torch.ones_like(labels) if among is None else among
    first, second = halves(len(x), seed)
    for half in (first, second):
        _need_both(labels[half][among[half]].numpy())
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(x[first][among[first]].numpy(), labels[first][among[first]].numpy())
    logits = model.decision_function(x[second].flatten(0, 1).numpy())
    scores = torch.from_numpy(logits).view(labels[second].shape)
    order = metrics.ranking(scores)
    per_list = metrics.auc_shown(labels[second].gather(1, order), among[second].gather(1, order))
    defined, pool = per_list[~per_list.isnan()], among[second]
    return Probe(
        auc=float(defined.mean()),
        error=float(defined.std() / len(defined) ** 0.5),
        pooled=metrics.pooled_auc(scores[pool][None], labels[second][pool][None]),
        lists=len(defined),
    )


def umap_map(
    x: Float[np.ndarray, "candidates d"],
    seed: int,
    neighbours: int = 15,
    min_dist: float = 0.1,
) -> Float[np.ndarray, "candidates 2"]:
    """A map in the plane by UMAP (McInnes et al. 2018) of standardised features.

    The settings are the library's own defaults, with Euclidean distances. The same seed gives
    the same map on one machine only.
    """
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of optional packages and of spectral start values
        from umap import UMAP

        plane = UMAP(
            n_neighbors=neighbours,
            min_dist=min_dist,
            metric="euclidean",
            random_state=seed,
            n_jobs=1,
        ).fit_transform(standardised(x))
    torch.set_num_threads(threads)  # Numba, on the same OpenMP, has set it to all cores
    return plane


def trustworthiness(
    x: Float[np.ndarray, "candidates d"], plane: Float[np.ndarray, "candidates 2"]
) -> float:
    """In [0, 1]: how far neighbours on the map are neighbours in truth (Venna and Kaski 2001)."""
    from sklearn.manifold import trustworthiness as measured

    return float(measured(standardised(x), plane, n_neighbors=NEIGHBOURS))


# Errors of predictions ---------------------------------------------------------------------


def spread(
    predictions: Float[Tensor, "lists n"], labels: Bool[Tensor, "lists n"]
) -> dict[str, float]:
    """How narrow the error ẑ - z is around zero.

    ``sd``: its standard deviation; ``rms``: the root of its mean square, so that a bias counts
    (the root of Brier's score); ``near``: the share of errors of at most `NARROW`.
    """
    errors = predictions.double() - labels.double()
    return {
        "sd": float(errors.std(correction=0)),
        "rms": float(errors.square().mean().sqrt()),
        "near": float((errors.abs() <= NARROW).double().mean()),
    }


def recalibrated(
    predictions: Float[Tensor, "lists n"],
    known: Float[Tensor, "some n"],
    labels: Bool[Tensor, "some n"],
) -> Float[Tensor, "lists n"]:
    """Predictions after the non-decreasing map that fits other lists best (isotonic regression).

    No pair changes its order, though some may tie.

    Args:
        predictions: to be mapped.
        known, labels: predictions and labels of the lists on which the map is fitted.
    """
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(out_of_bounds="clip").fit(
        known.flatten().double().numpy(), labels.flatten().double().numpy()
    )
    mapped = fitted.predict(predictions.flatten().double().numpy())
    return torch.from_numpy(mapped).view(predictions.shape)


def predictions(
    reranker: nn.Module, validation: CandidateLists, test: CandidateLists
) -> dict[str, Float[Tensor, "lists n"]]:
    """Name -> prediction of the test lists' feedback.

    The reranker's and the retriever's, each as it is and recalibrated on the validation lists;
    and two that order nothing: the validation lists' share of liked candidates, and zero.
    """
    reranked, known = (score_lists(reranker, part).sigmoid() for part in (test, validation))
    share = validation.labels.double().mean()
    return {
        "reranker": reranked,
        "reranker, recalibrated": recalibrated(reranked, known, validation.labels),
        "score": test.scores,
        "score, recalibrated": recalibrated(test.scores, validation.scores, validation.labels),
        "share of liked": share.expand(test.labels.shape),
        "zero": torch.zeros(test.labels.shape),
    }


# Recorded runs -----------------------------------------------------------------------------


def cluster_numbers(
    x: Float[Tensor, "lists n d"], lists: CandidateLists, seed: int = 0
) -> dict[str, float]:
    """Every number of one representation of the lists' candidates."""
    places = sample(lists, SAMPLE, seed)
    liked = lists.labels.flatten()[places].numpy()
    points, within = (form.flatten(0, 1)[places].numpy() for form in (x, centred(x)))
    probe = linear_probe(x, lists.labels, seed=seed)
    among_shown = linear_probe(x, lists.labels, lists.shown, seed)
    return {
        "silhouette": silhouette(points, liked),
        "silhouette_within_lists": silhouette(within, liked),
        "neighbour_purity": neighbour_purity(points, liked),
        "probe_auc": probe.auc,
        "probe_auc_pooled": probe.pooled,
        "probe_auc_shown_vs_rest": linear_probe(x, lists.shown, seed=seed).auc,
        "probe_auc_among_shown": among_shown.auc,
        "probe_auc_among_shown_error": among_shown.error,
    }


def measure(
    record: Record, lists: CandidateLists, reranker: nn.Module, generator: nn.Module | None = None
) -> list[dict[str, Any]]:
    """One row for each representation, then one for each prediction, of a trained run.

    Both are of the same test lists, at most `LISTS`, drawn with seed 0 whatever the run's seed;
    a row of the first kind has ``representation`` and the fields of `cluster_numbers`, one of
    the second ``prediction`` and those of `spread`. ``liked`` is the share of liked candidates.

    Args:
        lists: all lists of the run.
        generator: not looked at: it has no part in serving.

    Raises:
        ConfigError: as `representations` does.
    """
    test = lists.of_split("test")
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    part = test[order[:LISTS].sort().values]
    same = {"lists": len(part), "liked": float(part.labels.double().mean())}
    return [
        {"representation": name, "dim": x.shape[2], **same, **cluster_numbers(x, part)}
        for name, x in representations(record, lists, reranker, part).items()
    ] + [
        {"prediction": name, **same, **spread(values, part.labels)}
        for name, values in predictions(reranker, lists.of_split("validation"), part).items()
    ]
