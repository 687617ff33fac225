"""One small record for each finished run; every table and verdict is computed from these."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from jaxtyping import Bool, Float
from torch import Tensor

from dnrlib.errors import DataError
from dnrlib.files import replacing
from dnrlib.metrics import pack, per_list, summarise, unpack

Metric = TypeVar("Metric")
RESULTS = Path("results")
ROUNDING = 1e-6
"""A mean over lists is the same number if it differs by no more than this."""


@dataclass(frozen=True)
class Record:
    """What a finished run was and what came out.

    The test metrics can be checked against the ranking of the test lists (`contradictions`). Those
    on validation lists and ``auc_pooled`` cannot: to check them, do the run again.

    Args:
        run: its name, with the hash of its identity at the end.
        method: the method's name in tables.
        config: the configuration, as nested dictionaries.
        code: hash of the code that matters.
        data: fingerprint, sizes and notes of the candidate lists.
        metrics: split -> metric -> mean over its lists.
        ranked_labels, ranked_shown: of the test lists in ranked order, packed; every per-list
            metric follows from them.
        curves: one row an epoch.
        best_epoch: by validation NDCG@6, its phase is in ``curves``; 0 if nothing was trained.
        cost: seconds, lists per second, peak memory in MiB, parameters, the hardware, and what
            was predicted (`dnrlib.costs`).
        made: date, commit, machine, versions.
        behaviours: of a run on `dnrlib.behaviours.BehaviourLists`, kind of feedback -> its own
            ``ranked_labels`` and ``ranked_shown``, in the order that the reranker has for it.
    """

    run: str
    method: str
    config: dict[str, Any]
    code: str
    data: dict[str, Any]
    metrics: dict[str, dict[str, float]]
    ranked_labels: str
    ranked_shown: str
    curves: list[dict[str, Any]]
    best_epoch: int
    cost: dict[str, float | str | bool]
    made: dict[str, Any]
    behaviours: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """The seed of training."""
        return self.config["seed"]

    @property
    def protocol(self) -> str:
        """The candidate protocol."""
        return self.config["data"]["protocol"]

    def ranked(
        self, behaviour: str = ""
    ) -> tuple[Bool[Tensor, "lists n"], Bool[Tensor, "lists n"]]:
        """Labels and shown mask of the test lists, best-ranked candidate first.

        Args:
            behaviour: the kind of feedback, in ``behaviours``; "" is what all records have.
        """
        return _unpacked(*self._packed(behaviour))

    def _packed(self, behaviour: str) -> tuple[str, str, int, int]:
        both = self.behaviours[behaviour] if behaviour else vars(self)
        ranked = both["ranked_labels"], both["ranked_shown"]
        return *ranked, self.data["test"], self.data["candidates"]

    def per_list(self, k: int = 6) -> dict[str, Float[Tensor, " lists"]]:
        """Every metric of every test list; runs on the same lists pair up row by row.

        Those of a kind of feedback are named as `of_behaviour` does.
        """
        found = dict(_per_list(*self._packed(""), k))
        for name in self.behaviours:
            found |= of_behaviour(name, _per_list(*self._packed(name), k))
        return found

    def contradictions(self) -> dict[str, tuple[float, float]]:
        """Test metric -> what the record says (NaN: nothing) and what its own ranking gives.

        Only where the two are not the same number, so that of a sound record it is empty.
        """
        said = self.metrics["test"]
        found = summarise(*self.ranked())
        for name in self.behaviours:
            found |= of_behaviour(name, summarise(*self.ranked(name)))
        pairs = {name: (said.get(name, math.nan), mean) for name, mean in found.items()}
        return {name: pair for name, pair in pairs.items() if not _same(*pair)}

    def save(self, folder: Path | None = None) -> Path:
        """Write ``folder``/``run``.json; the file appears only when all is written."""
        path = (folder or RESULTS) / f"{self.run}.json"
        content = asdict(self)
        if not self.behaviours:
            del content["behaviours"]
        with replacing(path) as partial:
            partial.write_text(json.dumps(_plain(content), indent=1) + "\n", "utf-8")
        return path

    @classmethod
    def load(cls, path: Path | str) -> Record:
        """Read what `save` wrote; a metric that is null is NaN again.

        Raises:
            DataError: the file is missing or is not a record.
        """
        try:
            record = cls(**json.loads(Path(path).read_text("utf-8")))
            for means in record.metrics.values():
                means |= {name: math.nan for name, mean in means.items() if mean is None}
            return record
        except OSError as error:
            raise DataError(path, f"cannot be read ({error.strerror})") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise DataError(path, f"not a record ({error})") from error


def ranked_record(
    labels: Bool[Tensor, "lists n"], shown: Bool[Tensor, "lists n"]
) -> dict[str, str]:
    """The two packed fields of a record."""
    return {"ranked_labels": pack(labels), "ranked_shown": pack(shown)}


def _unpacked(
    labels: str, shown: str, lists: int, n: int
) -> tuple[Bool[Tensor, "lists n"], Bool[Tensor, "lists n"]]:
    return unpack(labels, lists, n), unpack(shown, lists, n)


@lru_cache(maxsize=256)
def _per_list(
    labels: str, shown: str, lists: int, n: int, k: int
) -> dict[str, Float[Tensor, " lists"]]:
    """Kept, as a page asks for one metric after the other; not to be changed by who gets it."""
    return per_list(*_unpacked(labels, shown, lists, n), k)


def of_behaviour(name: str, metrics: Mapping[str, Metric]) -> dict[str, Metric]:
    """Metrics of a kind of feedback by their names in records, such as ``is_like/ndcg@6``."""
    return {f"{name}/{metric}": value for metric, value in metrics.items()}


def load_records(folder: Path | None = None) -> Iterator[Record]:
    """All records below a folder, in the order of their names."""
    for path in sorted((folder or RESULTS).rglob("*.json")):
        yield Record.load(path)


def _same(a: float, b: float) -> bool:
    """Whether both are undefined or the same number."""
    return (math.isnan(a) and math.isnan(b)) or abs(a - b) <= ROUNDING


def _plain(value: Any) -> Any:
    """The same with NaN as null, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
