"""Training speed of public code, on the same lists and in the same run as ours.

None of it is part of this repository: ``benchmarks/README.md`` says how to get it. Each reference
is a function of the lists, the batch size and the dropout; it gives a function that trains on all
lists once, in random order, and returns lists per second. All have d = 128, 2 layers, 4 heads and
feed-forward 128, and Adam or AdamW with learning rate 1e-3.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import seconds
from dnrlib.lists import CandidateLists

DIM, LAYERS, HEADS, FEED_FORWARD = 128, 2, 4, 128

Epoch = Callable[[], float]
Reference = Callable[[CandidateLists, int, float], Epoch]


def encoder(dropout: float = 0.0) -> nn.TransformerEncoder:
    """PyTorch's own encoder of PRM's size."""
    layer = nn.TransformerEncoderLayer(DIM, HEADS, FEED_FORWARD, dropout, batch_first=True)
    return nn.TransformerEncoder(layer, LAYERS)


class Bare(nn.Module):
    """Item embedding, PyTorch's encoder, linear head: no user, no history, no scores."""

    def __init__(self, items: int, dropout: float):
        super().__init__()
        self.item = nn.Embedding(items + 1, DIM)
        self.encoder = encoder(dropout)
        self.head = nn.Linear(DIM, 1)

    def forward(self, items: Tensor) -> Tensor:
        """Logits."""
        return self.head(self.encoder(self.item(items)))[..., 0]


def torch_encoder(lists: CandidateLists, batch_size: int, dropout: float) -> Epoch:
    """The least that any transformer has to do, written with PyTorch's own modules.

    Timed: gathering a batch's items and labels from tensors, embedding, encoder, linear head,
    binary cross entropy, backward, AdamW as its defaults are.
    """
    model = Bare(lists.meta["items"], dropout)
    loss = nn.BCEWithLogitsLoss()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    labels = lists.labels.float()

    def step(index: Tensor) -> None:
        optimiser.zero_grad()
        loss(model(lists.items[index]), labels[index]).backward()
        optimiser.step()

    return _epoch(len(lists), batch_size, step)


def allrank(lists: CandidateLists, batch_size: int, dropout: float) -> Epoch:
    """allRank's model, with the learnt position of the initial rank that makes it PRM.

    Timed: gathering a batch's item vectors (allRank is fed with features and learns no embedding:
    here d fixed numbers for each item), its model (linear input layer, encoder, linear output with
    a sigmoid), binary cross entropy, backward, Adam, and reading the loss, as its `loss_batch`
    does. Not timed: its data set and loader. The loop and the loss are written here with the same
    steps, since importing allRank's own needs torchvision, gcsfs and tensorboard.
    """
    with _importable("ALLRANK_DIR"):
        make_model = importlib.import_module("allrank.models.model").make_model
        config = importlib.import_module("allrank.config")
    n = lists.items.shape[1]
    position = config.PositionalEncoding(strategy="learned", max_indices=n)
    model = make_model(
        fc_model={"sizes": [DIM], "input_norm": False, "activation": None, "dropout": dropout},
        transformer=config.TransformerConfig(
            N=LAYERS, d_ff=FEED_FORWARD, h=HEADS, positional_encoding=position, dropout=dropout
        ),
        post_model={"d_output": 1, "output_activation": "Sigmoid"},
        n_features=DIM,
    ).train()
    loss = nn.BCELoss(reduction="none")
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    features = torch.randn(lists.meta["items"] + 1, DIM)
    labels = lists.labels.float()
    ranks = lists.scores.argsort(dim=1, descending=True).argsort(dim=1)

    def step(index: Tensor) -> None:
        target = labels[index]
        predicted = model(features[lists.items[index]], target == -1, ranks[index])
        batch_loss = loss(predicted, target).sum(dim=1).mean()
        batch_loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        batch_loss.item()

    return _epoch(len(lists), batch_size, step)


def rechorus(lists: CandidateLists, batch_size: int, dropout: float) -> Epoch:
    """ReChorus' PRM from end to end: one epoch of its `ImpressionRunner.fit`.

    Timed: its data set (a dictionary for each list), collation into batches, the frozen base
    ranker that gives the initial rank and the personal vectors, PRM, its BPR loss over all pairs,
    backward, Adam. The data loader works in the training process (``num_workers`` 0, as in the
    project's scripts for rerankers). Of labelled lists its format keeps up to as many positives as
    the richest list has, padded, and the first of the rest, so that a list has n entries. Changed
    from outside: no progress bar; the base ranker is not read from a file but left untrained; and
    `numpy.object`, which it uses and which NumPy removed, is given back while it runs.
    """
    with _importable("RECHORUS_DIR"):
        parts = SimpleNamespace(
            prm=importlib.import_module("models.reranker.PRM").PRMGeneral,
            ranker=importlib.import_module("models.general.BPRMF").BPRMFImpression,
            runner=importlib.import_module("helpers.ImpressionRunner"),
        )
    parts.runner.tqdm = lambda batches, **_: batches
    table = _impressions(lists)
    most = max(table["pos_num"])
    args = _rechorus_arguments(parts, batch_size, dropout, most, lists.items.shape[1] - most)
    corpus = SimpleNamespace(
        n_users=lists.meta["users"],
        n_items=lists.meta["items"] + 1,
        data_df={"train": SimpleNamespace(to_dict=lambda _: table)},
    )
    model = _with_untrained_ranker(parts)(args, corpus)
    data = model.Dataset(model, corpus, "train")
    runner = parts.runner.ImpressionRunner(args)

    def epoch() -> float:
        with _numpy_object():
            return len(lists) / seconds(lambda: runner.fit(data))

    return epoch


def _rechorus_arguments(
    parts: SimpleNamespace, batch_size: int, dropout: float, positives: int, rest: int
) -> argparse.Namespace:
    """ReChorus' own defaults but for the sizes."""
    parser = argparse.ArgumentParser()
    parts.prm.parse_model_args(parts.runner.ImpressionRunner.parse_runner_args(parser))
    args = parser.parse_args([])
    sizes = {"emb_size": DIM, "num_hidden_unit": DIM, "n_blocks": LAYERS, "num_heads": HEADS}
    maxima = {"train_max_pos_item": positives, "train_max_neg_item": rest}
    run = {"batch_size": batch_size, "dropout": dropout, "num_workers": 0}
    rest_of_main = {"train": 1, "log_file": "", "device": torch.device("cpu")}
    vars(args).update(sizes | maxima | run | rest_of_main)
    return args


def _with_untrained_ranker(parts: SimpleNamespace) -> type:
    """Its PRM, with a matrix factorisation as base ranker that is not loaded from a file."""

    def load_ranker(self: Any, args: argparse.Namespace, corpus: Any) -> None:
        self.ranker = parts.ranker(args, corpus).requires_grad_(False)
        self.ranker_emb_size = args.emb_size

    return type("PRM", (parts.prm,), {"load_ranker": load_ranker})


def _impressions(lists: CandidateLists) -> dict[str, list]:
    """ReChorus' table: one row a list, positives apart from the rest."""
    table: dict[str, list] = {name: [] for name in ("user_id", "pos_items", "neg_items")}
    columns = (lists.users, lists.items, lists.labels)
    for user, items, labels in zip(*columns, strict=True):
        table["user_id"].append(int(user))
        table["pos_items"].append(items[labels].tolist())
        table["neg_items"].append(items[~labels].tolist())
    table["pos_num"] = [len(row) for row in table["pos_items"]]
    table["neg_num"] = [len(row) for row in table["neg_items"]]
    return table


def _epoch(count: int, batch_size: int, step: Callable[[Tensor], None]) -> Epoch:
    """All lists once in random order; lists per second."""

    def work() -> None:
        for index in torch.randperm(count).split(batch_size):
            step(index)

    return lambda: count / seconds(work)


@contextmanager
def _importable(variable: str) -> Iterator[None]:
    """Import from a checkout, or from where pip put the package."""
    folder = os.environ[variable]
    source = os.path.join(folder, "src")
    sys.path.insert(0, source if os.path.isdir(source) else folder)
    try:
        yield
    finally:
        del sys.path[0]


@contextmanager
def _numpy_object() -> Iterator[None]:
    numpy: Any = importlib.import_module("numpy")
    numpy.object = object
    try:
        yield
    finally:
        del numpy.object


REFERENCES: dict[str, Reference] = {
    "torch.nn.TransformerEncoder": torch_encoder,
    "allRank": allrank,
    "ReChorus PRM": rechorus,
}
NEEDS = {"allRank": "ALLRANK_DIR", "ReChorus PRM": "RECHORUS_DIR"}


def available() -> dict[str, Reference]:
    """The references that can be run here."""
    return {n: f for n, f in REFERENCES.items() if n not in NEEDS or os.environ.get(NEEDS[n])}


def missing() -> list[str]:
    """A line for each other: which variable makes it run."""
    return [
        f"{name}: not measured; set {variable} (see benchmarks/README.md)"
        for name, variable in NEEDS.items()
        if not os.environ.get(variable)
    ]
