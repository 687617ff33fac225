"""The same settings and the same code are the same run; anything else is another one."""

import json
from dataclasses import replace

import pytest

from dnrlib import identity
from dnrlib.errors import ConfigError
from dnrlib.experiments import FIXED, METHODS, RunConfig, run_config
from dnrlib.identity import code_hash, files_of, from_dict, hash_of, plain
from dnrlib.prepare import DataConfig

CODE = """
import math

@decorator
def mean(values, weight=1.0, *, scale=2):
    total = sum(values) * weight
    if not values:
        return None
    return f"{total / len(values):.3f}"
"""
LAID_OUT_OTHERWISE = '''"""About means."""
import math  # the library


@decorator
def mean(values, weight=1.0,
         *, scale=2):
    """The mean of
    the values."""
    total = (sum(values) * weight)

    if not values:
        return None  # nothing to say
    return f'{total / len(values):.3f}'
'''
CHANGES = [
    ("import math", "import maths"),
    ("@decorator\n", ""),
    ("weight=1.0", "weight=1"),
    ("weight=1.0, *, scale=2", "weight=1.0, scale=2"),
    ("scale=2", "scale=True"),
    ("* weight", "+ weight"),
    ("* weight", ""),
    ("not values", "values"),
    ("return None", "return"),
    ("return None", "pass"),
    ("return None", "return False"),
    ("return None", "return 0"),
    (".3f", ".4f"),
    ('f"{total', '"{total'),
    ("    if not values:\n        return None\n", ""),
]


@pytest.fixture
def hash_code(tmp_path, monkeypatch):
    """The hash of a package with this code."""
    monkeypatch.setattr(identity, "PACKAGE", tmp_path)

    def hash_of_code(code, name="losses.py"):
        for path in tmp_path.iterdir():
            path.unlink()
        (tmp_path / name).write_text(code, "utf-8")
        return code_hash.__wrapped__(("*.py",))

    return hash_of_code


def test_layout_comments_and_docstrings_do_not_change_the_hash(hash_code):
    assert hash_code(CODE) == hash_code(LAID_OUT_OTHERWISE)


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_any_change_of_the_code_changes_the_hash(hash_code, old, new):
    assert CODE.count(old) == 1
    assert hash_code(CODE) != hash_code(CODE.replace(old, new))


def test_a_renamed_and_an_added_file_change_the_hash(hash_code, tmp_path):
    before = hash_code(CODE)
    assert hash_code(CODE, "noise.py") != before
    (tmp_path / "losses.py").write_text("")
    assert code_hash.__wrapped__(("*.py",)) != before
    assert code_hash.__wrapped__(("losses.py",)) != before


def test_every_pattern_names_files():
    assert all(list(identity.PACKAGE.glob(pattern)) for pattern in identity.LISTS_CODE)


def test_a_run_is_made_by_its_own_reranker_and_what_training_imports():
    shared = {"losses.py", "metrics.py", "noise.py", "rerankers/base.py", "training.py"}
    assert set(files_of("dnrlib.training")) == shared
    assert set(files_of("dnrlib.training", "dnrlib.rerankers.prm")) == shared | {"rerankers/prm.py"}


def test_files_are_followed_through_imports(tmp_path, monkeypatch):
    package = tmp_path / "pack"
    (package / "models").mkdir(parents=True)
    texts = {
        "models/__init__.py": "from pack.models.one import One",
        "models/one.py": "from pack.models.two import Two\nimport math",
        "models/two.py": "from pack.errors import Wrong\nfrom pack import __version__",
        "errors.py": "",
    }
    for name, text in texts.items():
        (package / name).write_text(text)
    monkeypatch.setattr(identity, "PACKAGE", package)
    monkeypatch.setattr(identity, "PLUMBING", {"pack.errors"})
    assert files_of.__wrapped__("pack.models.one") == ("models/one.py", "models/two.py")
    assert files_of.__wrapped__("pack.models") == (
        "models/__init__.py",
        "models/one.py",
        "models/two.py",
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_configuration_survives_json(method):
    config = run_config(
        {
            "method": method,
            "data": {"noisy_truth": {"scale": 2}, "train_lists": 7},
            "training": {"beta": [2, 3.5], "epochs": 12},
            "options": {"dim": 16},
            "seed": 3,
        }
    )
    stored = json.loads(json.dumps(plain(config)))
    again = from_dict(RunConfig, stored)
    assert again == config
    assert hash_of(stored) == hash_of(again) == hash_of(config)
    assert config.training.beta == ((0.5, 0.5) if method in FIXED else (2.0, 3.5))


def test_whole_numbers_and_numerals_are_the_same_as_floats():
    configs = [run_config({"training": {"clip": clip}}) for clip in (5, 5.0, "5", "5e0")]
    assert len({hash_of(config) for config in configs}) == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nosuch": 1}, "unknown parameter nosuch: choose one of method, data"),
        ({"training": {"nosuch": 1}}, "unknown parameter training.nosuch: choose one of epochs"),
        ({"data": {"factorisation": {"x": 1}}}, "unknown parameter data.factorisation.x"),
        ({"training": {"lambda_c": "abc"}}, "training.lambda_c = 'abc': must be a number"),
        ({"training": {"lambda_c": True}}, "training.lambda_c = True: must be a number"),
        ({"training": {"lambda_c": None}}, "training.lambda_c = None: must be a number"),
        ({"training": {"epochs": 1.5}}, "training.epochs = 1.5: must be a whole number"),
        ({"training": {"epochs": True}}, "training.epochs = True: must be a whole number"),
        ({"training": {"noise": 3}}, "training.noise = 3: must be text"),
        ({"training": {"beta": 3}}, "training.beta = 3: must be a list of 2 values"),
        ({"training": {"beta": [1]}}, "training.beta = [1]: must be a list of 2 values"),
        ({"training": {"beta": [1, "a"]}}, "training.beta = 'a': must be a number"),
        ({"training": 3}, "training = 3: must be a group of settings"),
        ({"data": {"noisy_truth": "x"}}, "data.noisy_truth = 'x': must be a group of settings"),
        ({"options": 3}, "options = 3: must be a group of settings"),
        ({"seed": "a"}, "seed = 'a': must be a whole number"),
    ],
)
def test_what_does_not_fit_is_named(settings, message):
    with pytest.raises(ConfigError) as error:
        from_dict(RunConfig, settings)
    assert message in str(error.value)


def test_a_setting_that_came_later_makes_no_recorded_run_old():
    config = DataConfig()
    assert "calibration" not in plain(config)
    assert plain(RunConfig())["data"] == plain(config)
    other = replace(config, calibration="isotonic")
    assert plain(other) == plain(config) | {"calibration": "isotonic"}
    assert hash_of(other) != hash_of(config)
    assert from_dict(DataConfig, plain(other)) == other
