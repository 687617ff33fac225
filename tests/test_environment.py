"""What a result says about where it comes from."""

import subprocess

from dnrlib.environment import commit


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def test_a_commit_is_named_and_changes_are_said_but_not_those_of_records(tmp_path):
    assert commit(tmp_path) == "unknown"
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("a = 1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    name = git(tmp_path, "rev-parse", "HEAD")[:12]
    for folder in ("results", "measurements"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "some.json").write_text("{}")
        assert commit(tmp_path) == name
    (tmp_path / "code.py").write_text("a = 2")
    assert commit(tmp_path) == f"{name} with local changes"
