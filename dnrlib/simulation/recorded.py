"""Recorded online tests: online/NAME.yml says which, measurements/online-NAME.json what came."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dnrlib.errors import ConfigError, DataError
from dnrlib.experiments import provenance
from dnrlib.identity import code_hash, from_dict
from dnrlib.measurements import Measurement, load_measurement, measurement_path, write
from dnrlib.simulation.cascade import run_names, settings
from dnrlib.simulation.experiment import Moments
from dnrlib.simulation.experiment import moments as moments_of
from dnrlib.simulation.online import (
    CODE,
    Engine,
    OnlineConfig,
    Ready,
    Totals,
    carry_out,
    make_ready,
    world,
)

DEFINITIONS = Path("online")


@dataclass(frozen=True)
class Definition:
    """A test that is done with several seeds.

    Args:
        name: of its file, online/NAME.yml.
        configs: one for each seed.
    """

    name: str
    configs: list[OnlineConfig]

    @property
    def measure(self) -> str:
        """What it is called among the measurements."""
        return f"online-{self.name}"


def load_definition(name: str, folder: Path | None = None) -> Definition:
    """What online/NAME.yml says: settings of `OnlineConfig`, and ``seeds`` in place of the seed.

    Raises:
        DataError: there is no such file, or it is not a definition.
        ConfigError: it has an unknown parameter or value.
    """
    path = (folder or DEFINITIONS) / f"{name}.yml"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yml"))) or "none"
        raise DataError(path, f"no such test; there are: {known}")
    try:
        content = dict(yaml.safe_load(path.read_text("utf-8")))
        seeds = [int(seed) for seed in content.pop("seeds")]
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            path, f"not a test: needs settings and `seeds` (a list): {reason}"
        ) from error
    if not seeds or "seed" in content:
        raise DataError(path, "not a test: give `seeds`, one or more, and no `seed`")
    try:
        return Definition(name, [from_dict(OnlineConfig, content | {"seed": s}) for s in seeds])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def recorded(definition: Definition, folder: Path | None = None) -> list[dict[str, Any]]:
    """The runs that are recorded with the settings of a definition, in its order; maybe none.

    Raises:
        DataError: the file is not one of measurements.
    """
    runs = _written(definition, folder)
    wanted = map(_plain, definition.configs)
    return [run for config in wanted for run in runs if run["config"] == config]


def _written(definition: Definition, folder: Path | None) -> list[dict[str, Any]]:
    """All runs in the file, whatever their settings."""
    if not measurement_path("", definition.measure, folder).exists():
        return []
    return load_measurement("", definition.measure, folder).runs


def record(
    definition: Definition,
    say: Callable[[str], None] = lambda text: None,
    engine: Engine | None = None,
    cache: Path | None = None,
    runs: Path | None = None,
    folder: Path | None = None,
) -> Path:
    """Do the test with each seed and write measurements/online-NAME.json after each.

    A seed is not done again that is recorded with the same settings, data, rerankers and code.

    Args:
        engine, cache, runs: as in `dnrlib.simulation.online.run`.
        folder: where to write, by default measurements/.

    Raises:
        ConfigError, DataError, TrainingError: as `dnrlib.simulation.online.run` does.
    """
    old = _written(definition, folder)
    found: list[dict[str, Any]] = []
    for number, config in enumerate(definition.configs, start=1):
        named = f"[{number}/{len(definition.configs)}] {_name(config)}"
        known = [run for run in old if _same(run, config, cache, say)]
        if known:
            say(f"{named} is recorded already")
            found += known
            continue
        say(named)
        found.append(_done(config, say, engine, cache, runs))
        rest = [run for run in old if run["run"] not in {one["run"] for one in found}]
        write(Measurement("", definition.measure, found + rest, provenance()), folder)
    return measurement_path("", definition.measure, folder)


def _done(
    config: OnlineConfig,
    say: Callable[[str], None],
    engine: Engine | None,
    cache: Path | None,
    runs: Path | None,
) -> dict[str, Any]:
    test = make_ready(config, say, cache, runs)
    return _entry(test, carry_out(test, say, engine))


def _name(config: OnlineConfig) -> str:
    return f"{config.world}, seed {config.seed}"


def _plain(config: OnlineConfig) -> Any:
    """As JSON has it."""
    return json.loads(json.dumps(asdict(config)))


def _same(
    run: dict[str, Any], config: OnlineConfig, cache: Path | None, say: Callable[[str], None]
) -> bool:
    """Whether a recorded run is what would come of doing the test again."""
    if (run["config"], run["code"]) != (_plain(config), code_hash(CODE)):
        return False
    common = settings(config.world, config.data, config.training)
    names = run_names(tuple(config.arms), common, config.seed, cache, say)
    same_data = run["data"] == world(config.world, say, cache, config.data).fingerprint
    return same_data and {arm: one["run"] for arm, one in run["rerankers"].items()} == names


def _entry(test: Ready, totals: Totals) -> dict[str, Any]:
    return {
        "run": _name(test.config),
        "seed": test.config.seed,
        "config": asdict(test.config),
        "data": test.world.fingerprint,
        "code": code_hash(CODE),
        "rerankers": {
            arm: {"run": served.run, "ndcg@6": served.validation}
            for arm, served in test.served.items()
        },
        "checks": {name: asdict(one) for name, one in test.world.responses.checks.items()},
        "metrics": totals.metrics,
        "days": test.config.days,
        "rows": [row(totals, number) for number in range(len(totals.arms))],
    }


def row(totals: Totals, number: int) -> dict[str, Any]:
    """All that the usual estimates need of an arm, without any user's own totals.

    Returns:
        ``arm``, ``users``; ``names``, the metrics of the test and, with ``before:``, of the time
        before; their ``mean`` a user and ``covariance`` over users.

    Raises:
        ConfigError: the arm has fewer than two users.
    """
    mine = totals.arm == number
    found = moments_of({name: values[mine] for name, values in totals.columns.items()})
    return {
        "arm": totals.arms[number],
        "users": found.users,
        "names": [*found.names],
        "mean": _rounded(found.mean),
        "covariance": [_rounded(one) for one in found.covariance],
    }


def of_row(row: dict[str, Any]) -> Moments:
    """The moments of a recorded arm: `row`, turned round."""
    mean, covariance = np.array(row["mean"]), np.array(row["covariance"])
    return Moments(tuple(row["names"]), row["users"], mean, covariance)


def _rounded(values: np.ndarray) -> list[float]:
    """To eight digits, which is more than any estimate has."""
    return [float(f"{value:.8g}") for value in values]
