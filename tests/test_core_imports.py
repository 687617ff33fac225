import subprocess
import sys

CORE = """
import sys

sys.modules |= dict.fromkeys({blocked})  # None: not to be imported
sys.path.insert(0, {tests!r})
import torch
import dnrlib
{body}
"""
BLOCKED = ("polars", "rich", "typer", "yaml", "matplotlib", "seaborn", "sklearn", "papermill")


def run_core(body):
    """Run a program where only the core's dependencies can be imported, without type checks."""
    code = CORE.format(blocked=BLOCKED, tests=__file__.rpartition("/")[0], body=body)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_the_core_works_without_the_rest():
    done = run_core("""
from worlds import make_lists, make_log
from dnrlib import lists, losses, metrics, noise, records, statistics
from dnrlib.protocols import candidate_lists
from dnrlib.rerankers import build
from dnrlib.retriever import RetrieverConfig, fit, plan
from dnrlib.training import Trainer, TrainingConfig

log = make_log(users=20, items=80)
made = plan(log, "in-sample")
models = [fit(log, row, RetrieverConfig(dim=4, epochs=1), seed=0) for row in made.trained_on]
bundle = candidate_lists(log, models, made, "shown+sampled", n=10)
torch.manual_seed(0)
reranker = build("prm", bundle, dim=8, heads=2, score_use="concat")
config = TrainingConfig(epochs=1, lambda_e=0, noise="beta", generator="epsilon")
curves = Trainer(reranker, bundle.of_split("train"), bundle.of_split("validation"), config).run()
assert 0 <= curves[0].validation <= 1
""")
    assert done.returncode == 0, done.stderr


def test_a_blocked_package_would_be_noticed():
    done = run_core("import dnrlib.data.steps")
    assert "import of polars halted" in done.stderr


def test_a_file_with_fields_that_do_not_fit_together_is_a_data_error():
    """The type checks of the tests would see this first, hence a program of its own."""
    done = run_core("""
import tempfile
from pathlib import Path
from worlds import field_of, make_lists
from dnrlib.errors import DataError
from dnrlib.lists import CandidateLists

good = make_lists()
for bad in (dict(scores=good.scores[:, :5]), dict(users=good.users[:5]),
            dict(shown=good.shown.int()), dict(items=good.items.float())):
    path = Path(tempfile.mkdtemp()) / "lists.safetensors"
    field_of(good, **bad).save(path)
    try:
        CandidateLists.load(path)
    except DataError:
        continue
    raise SystemExit(f"accepted {list(bad)}")
""")
    assert done.returncode == 0, done.stderr
