"""The files around the library agree with each other."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CONDA_NAMES = {"torch": "pytorch"}


def declared() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(line) for line in sum(extras, PROJECT["dependencies"])]


def constraints() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def test_conda_environment_has_the_ranges_of_pyproject():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]
    pip = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    lines = [line for line in [*listed, *pip] if isinstance(line, str)]
    found = {(r.name.lower(), r.specifier) for r in map(Requirement, set(lines) - {"pip", "-e ."})}
    wanted = {(CONDA_NAMES.get(r.name, r.name.lower()), r.specifier) for r in declared()}
    assert found == wanted | {
        ("python", Requirement("python" + PROJECT["requires-python"]).specifier)
    }


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_constraints_pin_every_dependency_once_and_within_its_range(python):
    here = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    pins = [r for r in constraints() if r.marker is None or r.marker.evaluate(here)]
    versions = {canonicalize_name(r.name): next(iter(r.specifier)).version for r in pins}
    assert len(versions) == len(pins)
    for requirement in declared():
        assert Version(versions[canonicalize_name(requirement.name)]) in requirement.specifier


def test_constraints_name_no_place():
    assert not re.search(r"://|^-|file:|@", (ROOT / "constraints.txt").read_text("utf-8"), re.M)


def test_core_needs_neither_polars_nor_the_book_nor_the_command_line():
    core = (
        "lists log protocols retriever rerankers noise losses training metrics statistics errors "
        "theory divergences"
    )
    others = {"polars", "yaml", "typer", "rich", "matplotlib", "IPython"}
    program = (
        "import importlib, sys\n"
        f"for name in {core.split()}: importlib.import_module('dnrlib.' + name)\n"
        f"print(*sorted({others} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    package = re.search(r'__version__ = "(.+)"', (ROOT / "dnrlib/__init__.py").read_text("utf-8"))
    assert package[1] == PROJECT["version"] == citation["version"]
