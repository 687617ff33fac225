"""Records of runs that nobody did."""

import torch
from worlds import make_lists

from dnrlib.experiments import UNTRAINED, run_code, run_config
from dnrlib.identity import plain
from dnrlib.metrics import ranking, summarise
from dnrlib.records import Record, ranked_record


def make_record(seed=0, method="concat", quality=0.3, lists=None, date="2020-01-01", **settings):
    """The record of a run that ranks by noise of the seed plus `quality` times the label."""
    lists = make_lists() if lists is None else lists
    test = lists.of_split("test")
    noise = torch.rand(test.items.shape, generator=torch.Generator().manual_seed(seed))
    order = ranking(noise + quality * test.labels)
    labels, shown = test.labels.gather(1, order), test.shown.gather(1, order)
    config = run_config({"method": method, "seed": seed, **settings})
    means = summarise(labels, shown)
    return Record(
        run=f"{method}.{seed}.{date}",
        method=method,
        config=plain(config),
        code=run_code("prm", "conditional"),
        data={
            "fingerprint": lists.fingerprint,
            "test": len(test),
            "candidates": lists.items.shape[1],
        },
        metrics={"validation": dict(means), "test": means},
        **ranked_record(labels, shown),
        curves=[],
        best_epoch=0 if method in UNTRAINED else 1,
        cost={},
        made={"date": date},
    )
