"""Find a data set by its name: on this machine, else from its publisher."""

from __future__ import annotations

import os
from pathlib import Path

from dnrlib.data import movielens
from dnrlib.data.download import download as fetch
from dnrlib.data.interactions import Source
from dnrlib.data.simulated import SimulatedWorld
from dnrlib.errors import ConfigError, DataError

DATASETS = (*movielens.PUBLICATIONS, "simulated")


def load(dataset: str, folder: Path | str | None = None, download: bool = True) -> Source:
    """The interactions of a data set.

    Args:
        dataset: ``ml-1m``, ``ml-100k`` or ``simulated`` (a default ``SimulatedWorld``).
        folder: where to look, and to download to. By default $DNR_DATA_DIR is looked into, then
            data/raw of the project around the current directory, where downloads go.
        download: whether to download what is not found.

    Raises:
        ConfigError: no data set has that name, or $DNR_DATA_DIR does not exist.
        DataError: the data are neither found nor downloaded, or they are malformed.
    """
    if dataset == "simulated":
        return SimulatedWorld().source()
    if dataset not in movielens.PUBLICATIONS:
        raise ConfigError(f"dataset is {dataset!r}, but must be one of {', '.join(DATASETS)}")
    publication = movielens.PUBLICATIONS[dataset]
    return movielens.read(publication, _obtain(publication, folder, download))


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
        _obtain(movielens.ML_1M, folder, download)
    except DataError:
        reason = "ml-1m is not on this machine and was not downloaded"
        return "simulated", f"The data set is simulated: {reason}."
    return "ml-1m", "The data set is ml-1m."


def _obtain(publication: movielens.Publication, folder: Path | str | None, download: bool) -> Path:
    """Path of the zip or folder, downloaded if need be."""
    folders = [Path(folder)] if folder else _default_folders()
    if path := movielens.find(publication, folders):
        return path
    target = folders[-1] / f"{publication.name}.zip"
    if not download:
        raise DataError(
            target,
            f"is missing. Allow the download, or put the file from {publication.url} there, "
            "or set DNR_DATA_DIR to the folder that holds it, or use DATASET=simulated.",
        )
    return fetch(publication.url, target, publication.md5)


def _default_folders() -> list[Path]:
    here = Path.cwd()
    project = next((p for p in (here, *here.parents) if (p / "pyproject.toml").exists()), here)
    raw = project / "data" / "raw"
    if not (variable := os.environ.get("DNR_DATA_DIR")):
        return [raw]
    if not (named := Path(variable).expanduser()).is_dir():
        raise ConfigError(f"DNR_DATA_DIR is {variable!r}, but there is no such folder")
    return [named, raw]
