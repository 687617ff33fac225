"""KuaiRand (Gao et al. 2022): what the recommender of Kuaishou showed, and what people did with it.

Only the standard logs are read. In the random logs videos were put in at random in place of the
recommender's choice: no retriever stands behind them. KuaiRand-1K has all that 1,000 users were
shown. KuaiRand-Pure keeps the 7,583 videos of the random logs and drops what was shown between
them, so what is consecutive in its log was not always consecutive on the screen.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

import polars as pl

from dnrlib.data.download import md5
from dnrlib.data.interactions import Source, first_of_each_pair
from dnrlib.data.tables import opened, read_header, read_rows
from dnrlib.errors import ConfigError, DataError

FEEDBACK = (
    "is_click",
    "long_view",
    "is_like",
    "is_follow",
    "is_comment",
    "is_forward",
    "is_profile_enter",
)
"""Columns that can say what is positive, the first by default; is_hate is none of them."""


@dataclass(frozen=True)
class Publication:
    """A version of KuaiRand, with its publisher's names.

    Args:
        folder: what the archive unpacks to.
        md5: of the archive, as published.
        impressions: rows of both standard logs, as published.
        core: k of the k-core. Usual are 5 and 10. In KuaiRand-Pure from 25 April to 8 May, 23,773
            lists of 6 have a click; of these k = 5 keeps 97 %, k = 10 keeps 67 %, k = 20 none.
    """

    name: str
    folder: str
    md5: str
    impressions: int
    core: int = 5

    @property
    def archive(self) -> str:
        """The file's name in a folder of data."""
        return f"{self.folder}.tar.gz"

    @property
    def url(self) -> str:
        """Where the archive is published."""
        return f"https://zenodo.org/records/10439422/files/{self.archive}"

    @property
    def logs(self) -> tuple[str, str]:
        """Names of the standard logs, the earlier first."""
        version = self.name.removeprefix("kuairand-")
        return (
            f"log_standard_4_08_to_4_21_{version}.csv",
            f"log_standard_4_22_to_5_08_{version}.csv",
        )


PURE = Publication(
    name="kuairand-pure",
    folder="KuaiRand-Pure",
    md5="0820331067a3784d9691136f772b35a7",
    impressions=1_436_609,
)
ONE_K = Publication(
    name="kuairand-1k",
    folder="KuaiRand-1K",
    md5="6b0b9c8222d67fcd4c676218edca3f1f",
    impressions=11_713_045,
)
PUBLICATIONS = {publication.name: publication for publication in (PURE, ONE_K)}


def find(publication: Publication, folders: Iterable[Path]) -> Path | None:
    """The first archive, or unpacked folder with a log, in ``folders``; None if there is none."""
    for folder in folders:
        if (archive := folder / publication.archive).exists():
            return archive
        if _files(publication, folder / publication.folder):
            return folder / publication.folder
    return None


def check_feedback(feedback: str) -> None:
    """Raise ConfigError if ``feedback`` is no column that can say what is positive."""
    if feedback not in FEEDBACK:
        raise ConfigError(f"feedback is {feedback!r}, but must be one of {', '.join(FEEDBACK)}")


def read(publication: Publication, path: Path, feedback: str = FEEDBACK[0]) -> Source:
    """Read an archive, or an unpacked folder, in which a log may be gzipped or missing.

    Rows of random exposure are left out, and of the exposures of a video to a user all but the
    first; the note counts them.

    Args:
        feedback: the column that becomes the rating: 1 is positive, 0 is not.

    Raises:
        ConfigError: there is no such feedback.
        DataError: naming file and line, if anything is not as published.
    """
    check_feedback(feedback)
    logs = _from_folder if path.is_dir() else _from_archive
    frames = logs(publication, path, feedback)
    if not frames:
        raise DataError(
            path, f"has neither {' nor '.join(publication.logs)}: {_remedy(publication)}"
        )
    whole = pl.concat(frames.values())
    chosen = whole.filter(pl.col("is_rand") == 0)
    frame, later = first_of_each_pair(chosen, per_second=1000)
    left_out = {
        "impressions of random exposure": whole.height - chosen.height,
        "later impressions of a video to the same user": later,
    }
    remarks = [
        f"positive: {feedback}",
        *_origin(publication, path, {log: frame.height for log, frame in frames.items()}),
        *(f"{rows:,} {what} left out" for what, rows in left_out.items() if rows),
    ]
    return Source(
        name=publication.name,
        frame=frame,
        note="; ".join(remarks),
        core=publication.core,
        positive=1.0,
    )


def parse_log(file: BufferedIOBase, where: str, feedback: str, remedy: str) -> pl.DataFrame:
    """Lines of a log to user, item, rating, time (milliseconds) and is_rand.

    Args:
        where: the file's name, for errors.
        remedy: what to do about a faulty file, for errors.

    Raises:
        DataError: naming the first line with a wrong number of columns, something that is no
            whole number, a negative id, or a feedback or is_rand that is not 0 or 1; a header
            that lacks a column; or an empty file.
    """
    binary = (feedback, "is_rand")
    columns = ("user_id", "video_id", "time_ms", *binary, "tab")  # a line that was cut has no tab
    rules = [
        (pl.min_horizontal("user_id", "video_id") < 0, "an id is negative"),
        *((~pl.col(name).is_in([0, 1]), f"{name} is not 0 or 1") for name in binary),
    ]
    names = read_header(file, where, columns, remedy)
    types = dict.fromkeys(columns, int)
    frame = read_rows(file, where, names, types, rules, remedy, first_line=2)
    return frame.select("is_rand", user="user_id", item="video_id", rating=feedback, time="time_ms")


def _files(publication: Publication, folder: Path) -> list[Path]:
    """The logs that lie in an unpacked folder, plain or else gzipped."""
    versions = [
        [folder / "data" / f"{log}{ending}" for ending in ("", ".gz")] for log in publication.logs
    ]
    found = (next((path for path in paths if path.exists()), None) for paths in versions)
    return [path for path in found if path]


def _from_folder(publication: Publication, folder: Path, feedback: str) -> dict[str, pl.DataFrame]:
    frames = {}
    for path in _files(publication, folder):
        with opened(path) as file:
            frames[path.name] = parse_log(file, str(path), feedback, _remedy(publication))
    return frames


def _from_archive(publication: Publication, path: Path, feedback: str) -> dict[str, pl.DataFrame]:
    wanted = {f"{publication.folder}/data/{log}": log for log in publication.logs}
    frames: dict[str, pl.DataFrame] = {}
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                log, file = wanted.get(member.name), archive.extractfile(member)
                if log and isinstance(file, BufferedIOBase):
                    where = f"{path} ({member.name})"
                    frames[log] = parse_log(file, where, feedback, _remedy(publication))
                if len(frames) == len(wanted):
                    break  # features of videos follow, four times as large as the logs
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(path, f"cannot be unpacked ({error}): replace or delete it") from error
    return {log: frames[log] for log in publication.logs if log in frames}


def _remedy(publication: Publication) -> str:
    return f"take the file from {publication.url}"


def _origin(publication: Publication, path: Path, rows: dict[str, int]) -> list[str]:
    """Remarks on what was read, and on what it lacks of what is published."""
    remarks = []
    if path.is_dir():
        files = _files(publication, path)
        remarks += [f"{file.name}: {rows[file.name]:,} rows, MD5 {md5(file)}" for file in files]
    elif (actual := md5(path)) != publication.md5:
        remarks.append(f"{path.name} has MD5 {actual}, not the publisher's {publication.md5}")
    found = {name.removesuffix(".gz") for name in rows}
    remarks += [f"{log} is missing" for log in publication.logs if log not in found]
    if (total := sum(rows.values())) < publication.impressions:
        remarks.insert(0, f"a part: {total:,} of {publication.impressions:,} impressions")
    return remarks
