"""Where the book's sources are published, and the buttons that need to know it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dnrlib.book.launch import COLAB
from dnrlib.book.notebooks import read_yaml
from dnrlib.errors import ConfigError

FORGES = ("github.com", "gitlab.com")
"""What the theme has edit and issue buttons for."""
BINDER = "https://mybinder.org"

_NONE = (
    "No buttons for edit, issue and launch: no public repository is known (repository: url in "
    "_config.yml, or the git remote origin)"
)
_ADDRESS = re.compile(
    r"(?:(?:https?|ssh|git)://(?:[^@/]*@)?|[^@/:]+@)"
    rf"(?P<forge>{'|'.join(map(re.escape, FORGES))})(?::\d+)?[:/]"
    r"(?P<path>[\w.-]+(?:/[\w.-]+)+)/?"
)


@dataclass(frozen=True)
class Repository:
    """Where the book is published.

    Args:
        url: `https://FORGE/OWNER/NAME`.
        branch: of the sources.
        site_branch: of the rendered site, whose notebooks Colab opens.
    """

    url: str
    branch: str = "main"
    site_branch: str = "gh-pages"

    @property
    def on_github(self) -> bool:
        """Whether Colab can open its notebooks."""
        return self.url.startswith("https://github.com/")


def public_address(address: str) -> str | None:
    """The page of a repository in a public forge, without user, password and `.git`.

    Args:
        address: as git knows it: https, ssh, or `git@FORGE:OWNER/NAME.git`.

    Returns:
        None for any other address, such as a folder or a host that is not known to be public.
    """
    match = _ADDRESS.fullmatch(address.strip())
    return f"https://{match['forge']}/{match['path'].removesuffix('.git')}" if match else None


def find_repository(config: Mapping[str, Any], root: Path) -> Repository | None:
    """The repository that `_config.yml` names, else that of the git remote `origin`, if public.

    Raises:
        ConfigError: `_config.yml` names one that is in no public forge.
    """
    given = config.get("repository") or {}
    address = given.get("url") or _origin(root)
    url = public_address(address)
    if given.get("url") and url is None:
        raise ConfigError(
            f"_config.yml: repository: url = {address!r} is no address in a public forge "
            f"({', '.join(FORGES)}); correct it, or leave it out and set the git remote origin"
        )
    branches = {name: given[name] for name in ("branch", "site_branch") if given.get(name)}
    return Repository(url, **branches) if url else None


def _origin(root: Path) -> str:
    command = ["git", "-C", str(root), "config", "--get", "remote.origin.url"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except OSError:  # no git
        return ""


def write_config(root: Path, target: Path) -> None:
    """Write `_config.yml`, completed by `with_repository`, to where Jupyter Book reads it."""
    config = read_yaml(root / "_config.yml")
    target.write_text(yaml.safe_dump(with_repository(config, root), sort_keys=False), "utf-8")


def with_repository(config: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """The configuration of Jupyter Book with the buttons that the repository's address allows.

    Edit, issue and Binder for a public forge, Colab for GitHub; without an address none of them.
    Says which in one line.
    """
    completed = deepcopy(dict(config))
    completed.pop("repository", None)
    repository = find_repository(config, root)
    if repository is None:
        print(_NONE, flush=True)
        return completed
    print(f"Buttons for edit, issue and launch lead to {repository.url}", flush=True)
    sphinx = completed.setdefault("sphinx", {}).setdefault("config", {})
    sphinx |= {"dnr_repository": repository.url, "dnr_site_branch": repository.site_branch}
    sphinx.setdefault("html_theme_options", {}).update(_theme_options(repository))
    return completed


def _theme_options(repository: Repository) -> dict[str, Any]:
    launch = {"binderhub_url": BINDER, "notebook_interface": "jupyterlab"}
    return {
        "repository_url": repository.url,
        "repository_branch": repository.branch,
        "path_to_docs": "",
        "use_repository_button": True,
        "use_edit_page_button": True,
        "use_issues_button": True,
        "launch_buttons": launch | ({"colab_url": COLAB} if repository.on_github else {}),
    }
