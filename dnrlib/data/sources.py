"""Find a data set by its name: on this machine, else from its publisher."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import Any

from dnrlib.data import amazon, kuairand, movielens
from dnrlib.data.download import download as fetch
from dnrlib.data.interactions import Source
from dnrlib.data.simulated import SimulatedWorld
from dnrlib.errors import ConfigError, DataError

PUBLISHERS = {
    name: module for module in (movielens, kuairand, amazon) for name in module.PUBLICATIONS
}
DATASETS = (*PUBLISHERS, "simulated")


def load(
    dataset: str, folder: Path | str | None = None, download: bool = True, feedback: str = ""
) -> Source:
    """The interactions of a data set.

    Args:
        dataset: one of ``DATASETS``; ``simulated`` is a default ``SimulatedWorld``.
        folder: where to look, and to download to. By default $DNR_DATA_DIR is looked into, then
            data/raw of the project around the current directory, where downloads go.
        download: whether to download what is not found, if its publisher states an MD5.
        feedback: of KuaiRand, the column that says what is positive, one of `kuairand.FEEDBACK`;
            "" is the first of these, and the only feedback of the other data sets.

    Raises:
        ConfigError: no data set has that name or that feedback, or $DNR_DATA_DIR does not exist.
        DataError: the data are neither found nor downloaded, or they are malformed.
    """
    if dataset not in DATASETS:
        raise ConfigError(f"dataset is {dataset!r}, but must be one of {', '.join(DATASETS)}")
    publisher = PUBLISHERS.get(dataset)
    if publisher is kuairand:
        kuairand.check_feedback(feedback or kuairand.FEEDBACK[0])
    elif feedback:
        raise ConfigError(f"feedback is {feedback!r}, but {dataset} has one kind: leave it empty")
    if publisher is None:
        return SimulatedWorld().source()
    publication = publisher.PUBLICATIONS[dataset]
    path = _obtain(publisher, publication, folder, download)
    return publisher.read(publication, path, *([feedback] if feedback else []))


def resolve(
    dataset: str = "auto", folder: Path | str | None = None, download: bool = True
) -> tuple[str, str]:
    """The data set that ``auto`` stands for, and a sentence that says so.

    ``auto`` is ``ml-1m`` if it is at hand or can be downloaded, else ``simulated``. Any other name
    stands for itself. Arguments and errors as for ``load``.
    """
    if dataset != "auto":
        return dataset, f"The data set is {dataset}."
    try:
        _obtain(movielens, movielens.ML_1M, folder, download)
    except DataError:
        reason = "ml-1m is not on this machine and was not downloaded"
        return "simulated", f"The data set is simulated: {reason}."
    return "ml-1m", "The data set is ml-1m."


def _obtain(
    publisher: ModuleType, publication: Any, folder: Path | str | None, download: bool
) -> Path:
    """Path of the publication's file or folder, downloaded if need be."""
    folders = [Path(folder)] if folder else _default_folders()
    if path := publisher.find(publication, folders):
        return path
    target = folders[-1] / publication.archive
    if download and publication.md5:
        return fetch(publication.url, target, publication.md5)
    raise DataError(
        target,
        f"is missing. {'Allow the download, or put' if publication.md5 else 'Put'} the file from "
        f"{publication.url} there, or set DNR_DATA_DIR to the folder that holds it, or use "
        "DATASET=simulated.",
    )


def _default_folders() -> list[Path]:
    here = Path.cwd()
    project = next((p for p in (here, *here.parents) if (p / "pyproject.toml").exists()), here)
    raw = project / "data" / "raw"
    if not (variable := os.environ.get("DNR_DATA_DIR")):
        return [raw]
    if not (named := Path(variable).expanduser()).is_dir():
        raise ConfigError(f"DNR_DATA_DIR is {variable!r}, but there is no such folder")
    return [named, raw]
