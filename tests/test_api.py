import ast
import inspect
import json
import re
from html import unescape
from pathlib import Path

import pytest
import yaml
from docutils.utils import new_document
from sphinx.addnodes import desc_annotation
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring
from test_project import ROOT

from dnrlib import losses, theory, training
from dnrlib.book.api import (
    alias_of,
    all_modules,
    as_rst,
    definition,
    documented,
    expanded,
    home,
    modules_of,
    names_of,
    signature,
)
from dnrlib.book.notebooks import chapters
from dnrlib.book.site import check_site, render
from dnrlib.book.sphinx_api import _tidy
from dnrlib.book.uses import linked, uses, without_lists
from dnrlib.cli import app
from dnrlib.data import kuairand
from dnrlib.exercises.core import Exercise
from dnrlib.experiments import RunConfig
from dnrlib.metrics import ndcg
from dnrlib.rerankers import RERANKERS
from dnrlib.statistics import holm

PAGES = sorted((ROOT / "book/api").glob("*.md"))
# the package itself has no names but a version; `dnr` has a page of its own
NO_REFERENCE = {"dnrlib", "dnrlib.cli"}
# part of the identity of recorded runs, and so left as they are
NO_SHAPE = {
    "dnrlib.rerankers.base.initial_rank",
    "dnrlib.rerankers.copr.COPR.draw",
    "dnrlib.rerankers.egrerank.most_likely",
    "dnrlib.rerankers.egrerank.sampled",
    "dnrlib.rerankers.hetcomp.HetComp.gaps",
    "dnrlib.rerankers.inputs.initial_order",
    "dnrlib.rerankers.pier.PIER.choose",
    "dnrlib.rerankers.pier.PIER.encode",
    "dnrlib.rerankers.pier.PIER.score",
    "dnrlib.rerankers.pier.PIER.see",
    "dnrlib.rerankers.several.scored",
    "dnrlib.training.Trainer.one_pass",
    "dnrlib.training.Trainer.step",
    "dnrlib.training.Trainer.update_generator",
    "dnrlib.training.Trainer.update_reranker",
    "dnrlib.variants.behaviours.BehaviourTrainer.one_pass",
}
NO_CONSTANT = {
    "dnrlib.divergences.ESTIMATORS",
    "dnrlib.rerankers.RERANKERS",
    "dnrlib.rerankers.base.SCORE_USES",
}
# tensors of any shape, or as many as there are losses, parameters or inputs
ANY_SHAPE = {
    "dnrlib.export.serving_inputs",
    "dnrlib.log.digest",
    "dnrlib.stacked.Stack.step",
    "dnrlib.training.OneDevice.all_reduce",
    "dnrlib.training.turn_gradient",
    "dnrlib.variants.bound.Bound.one_pass",
}


def pages_of_names() -> list[str]:
    return [module for page in PAGES for module in modules_of(page.read_text("utf-8"))]


def public(module: str) -> list[tuple[str, ast.stmt]]:
    """Full name and definition of each public function and class, and of each public method."""
    found = []
    for one in statements(module):
        found.append((f"{module}.{one.name}", one))
        members = one.body if isinstance(one, ast.ClassDef) else []
        found += [
            (f"{module}.{one.name}.{method.name}", method)
            for method in members
            if isinstance(method, ast.FunctionDef) and method.name[0] != "_"
        ]
    return found


def statements(module: str) -> list[ast.FunctionDef | ast.ClassDef]:
    tree = ast.parse(Path(inspect.getfile(__import__(module, fromlist=["_"]))).read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [one for one in tree.body if isinstance(one, kinds) and one.name[0] != "_"]


def answers(module: str) -> bool:
    """Whether a module holds the answers to exercises, which a reference would give away."""
    return module.startswith("dnrlib.exercises.") and definition(module, "EXERCISES") is not None


EVERYTHING = [entry for module in all_modules() for entry in public(module)]


def test_every_module_is_on_one_page():
    expected = [name for name in all_modules() if name not in NO_REFERENCE and not answers(name)]
    assert sorted(pages_of_names()) == sorted(expected)


def test_every_public_name_has_a_docstring():
    assert [name for name, one in EVERYTHING if not ast.get_docstring(one)] == []


def arguments(one: ast.FunctionDef) -> list[ast.arg]:
    found = one.args
    extra = [arg for arg in (found.vararg, found.kwarg) if arg]
    named = [*found.posonlyargs, *found.args, *found.kwonlyargs, *extra]
    return [arg for arg in named if arg.arg not in ("self", "cls")]


def signature_names(one: ast.stmt) -> set[str]:
    if isinstance(one, ast.FunctionDef):
        return {arg.arg for arg in arguments(one)}
    made = [item for item in one.body if names_of(item) == ["__init__"]]
    if made:
        return signature_names(made[0])
    return {item.target.id for item in one.body if isinstance(item, ast.AnnAssign)}


def described(docstring: str) -> set[str]:
    text = str(GoogleDocstring(as_rst(docstring), Config(napoleon_use_param=True)))
    fields = re.findall(r"^:param (.*?):(?: |$)", text, re.MULTILINE)
    return {name.strip("\\* ") for names in fields for name in names.split(",")}


def test_described_arguments_are_in_the_signature():
    assert described("One.\n\nArgs:\n    a: of it.\n    b,\n        c: of both.") == {
        "a",
        "b",
        "c",
    }
    wrong = {
        name: described(ast.get_docstring(one) or "") - signature_names(one)
        for name, one in EVERYTHING
    }
    assert {name: extra for name, extra in wrong.items() if extra} == {}


BARE = re.compile(r"\b(?:torch\.)?Tensor\b|\bnp\.ndarray\b")
SHAPED = re.compile(r"\b[A-Z]\w+\[(?:torch\.|np\.)?(?:Tensor|ndarray), '[^']*'\]")


def without_shape(one: ast.stmt) -> bool:
    if not isinstance(one, ast.FunctionDef):
        return False
    hints = [arg.annotation for arg in arguments(one)] + [one.returns]
    return any(hint and BARE.search(SHAPED.sub("", ast.unparse(hint))) for hint in hints)


def test_tensors_have_shapes():
    assert without_shape(ast.parse("def f(x: Float[Tensor, 'n'] | Tensor): pass").body[0])
    assert not without_shape(ast.parse("def f(x: Float[Tensor, 'n'] | None): pass").body[0])
    assert {name for name, one in EVERYTHING if without_shape(one)} == NO_SHAPE | ANY_SHAPE


def test_types_are_given():
    functions = [(name, one) for name, one in EVERYTHING if isinstance(one, ast.FunctionDef)]
    missing = [
        name
        for name, one in functions
        if one.returns is None or any(arg.annotation is None for arg in arguments(one))
    ]
    assert missing == []


def test_constants_that_chapters_use_are_explained():
    used = {name for path in chapters(ROOT).values() for name in uses(ROOT / path).values()}
    found = set()
    for name in used - set(all_modules()):
        module, _, last = name.rpartition(".")
        is_constant = isinstance(definition(module, last), (ast.Assign, ast.AnnAssign))
        if is_constant and last not in documented(module):
            found.add(name)
    assert found == NO_CONSTANT


def test_signatures_are_those_of_the_source():
    assert signature(theory.World.of_request) == ("(u: int)", "dnrlib.theory.World")
    assert "prior: Float[Tensor, 'u'], " in signature(theory.World)[0]
    assert "lambda_c: float=0.4" in signature(training.TrainingConfig)[0].replace(" = ", "=")
    assert signature(ndcg)[1].startswith("Float[")
    assert signature(3) is None
    assert signature(Path.exists) is None


def test_defaults_are_what_a_caller_sees():
    run, exercise = signature(RunConfig)[0], signature(Exercise)[0]
    assert "training: dnrlib.training.TrainingConfig = dnrlib.training.TrainingConfig()" in run
    assert "options: dict[str, Any] = {'score_use': 'concat'}" in run
    assert "mistakes: Mapping[str, Callable[..., Any]] = dict(), " in exercise


def test_aliases_are_what_they_stand_for():
    # documented, and so a link
    assert signature(theory.World.p_z.fget)[1] == "dnrlib.theory.Law"
    assert alias_of("dnrlib.theory.Law") == "Float[Tensor, 'z']"
    assert alias_of("dnrlib.theory.World") is None
    # not documented
    assert "Scalar" not in documented("dnrlib.losses")
    assert signature(losses.bernoulli)[1] == "Float[Tensor, '']"


def test_fields_and_type_variables_keep_their_names():
    # the module imports a function of that name
    assert "folder: str, md5: str, " in signature(kuairand.Publication)[0]
    assert signature(holm) == ("(p_values: Mapping[Name, float])", "dict[Name, float]")


def test_names_lead_to_where_they_are_defined():
    assert home("dnrlib.exercises.check") == "dnrlib.exercises.check"
    assert home("dnrlib.rerankers.PRM") == "dnrlib.rerankers.prm.PRM"
    assert home("dnrlib.data.DATASETS") == "dnrlib.data.sources.DATASETS"
    assert home("dnrlib.measurements.DATASETS.keys") == "dnrlib.data.sources.DATASETS.keys"
    assert home("dnrlib.figures") == "dnrlib.figures"
    assert home("dnrlib.figures.nothing") is None
    assert home("numpy.mean") is None


def test_pages_of_rerankers_lead_to_their_classes():
    for name, kind in RERANKERS.items():
        page = ROOT / f"book/reranker-{name}.md"
        role = f"{{py:class}}`~{kind.__module__}.{kind.__qualname__}`"
        assert not page.exists() or role in page.read_text("utf-8")


def test_docstrings_become_rst():
    assert as_rst("of {eq}`eq-x`, p(x|z)") == r"of :eq:`eq-x`, p(x\|z)"
    assert as_rst("    places: K.\n    bits: of K.") == "    places: \\K.\n    bits: of K."
    assert as_rst("as ``{eq}`eq-x``` and ``a|b``") == "as ``{eq}`eq-x``` and ``a|b``"


def test_no_folder_of_the_build_is_shown():
    doctree = new_document("api")
    doctree += desc_annotation("", f" = PosixPath('{ROOT}')")
    doctree += desc_annotation("", " = PosixPath('book/api')")
    _tidy(Sphinx.__new__(Sphinx), doctree)
    assert doctree.astext().strip() == "= PosixPath('book/api')"


def test_a_page_names_modules_and_commands():
    text = "# A\n\n% modules: losses, data.*, data.steps, rerankers.base\n"
    found = modules_of(text)
    assert found[0] == "dnrlib.losses"
    assert found[-2:] == ["dnrlib.data.steps", "dnrlib.rerankers.base"]
    assert found.count("dnrlib.data.steps") == 1
    assert "dnrlib.data.amazon" in found
    assert expanded(text).count(".. automodule:: ") == len(found)


def test_every_command_is_in_the_reference():
    text = (ROOT / "book/api/command-line.md").read_text("utf-8")
    headings = re.findall(r"^#+ `dnr (.*)`$", expanded(text), re.MULTILINE)
    names = [c.name or c.callback.__name__.replace("_", "-") for c in app.registered_commands]
    assert set(names) <= set(headings)
    assert "data prepare" in headings
    assert "`--lambda-e" in expanded(text)
    assert "…" not in expanded(text)


CELLS = """from dnrlib import theory
from dnrlib.theory import kl as divergence

divergence(a, b)
theory.World.nothing
law.theory.kl(divergence=theory.kl)"""


@pytest.fixture
def notebook(tmp_path):
    def write(*cells: tuple[str, str]) -> Path:
        content = [
            {"cell_type": kind, "metadata": {}, "source": source, "id": f"c{number}"}
            | ({"outputs": [], "execution_count": None} if kind == "code" else {})
            for number, (kind, source) in enumerate(cells)
        ]
        kernel = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
        language = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
        whole = {"cells": content, "metadata": kernel | language}
        path = tmp_path / "book/one.ipynb"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({**whole, "nbformat": 4, "nbformat_minor": 5}), "utf-8")
        return path

    return write


def test_names_that_a_page_uses(notebook):
    solution = "Text.\n\n```python\nfrom dnrlib.metrics import ndcg\n```\n"
    found = uses(
        notebook(("code", CELLS), ("code", "%magic is passed over"), ("markdown", solution))
    )
    assert found["divergence"] == "dnrlib.theory.kl"
    assert found["theory.kl"] == "dnrlib.theory.kl"
    assert found["ndcg"] == "dnrlib.metrics.ndcg"
    assert "law.theory" not in found


def test_names_in_code_are_links_and_others_are_not():
    name, dot = '<span class="n">{}</span>'.format, '<span class="o">.</span>'
    a, b, x = map(name, "abx")
    untouched = f'{x}{dot}{a} {a}<span class="o">=</span>1'
    html = f'<p>{a}</p><div class="highlight"><pre>{a}{dot}{b} {untouched} {a}</pre></div>'
    assert linked(html, {"a": "A", "a.b": "AB"}) == (
        f'<p>{a}</p><div class="highlight"><pre><a class="api" href="AB">{a}{dot}{b}</a> '
        f'{untouched} <a class="api" href="A">{a}</a></pre></div>'
    )
    assert linked(html, {}) == html


def test_signatures_over_lines_are_no_lists():
    one, two = '<em class="sig-param">a</em>,', '<em class="sig-param">b</em>,'
    html = f'<dl class="py"><dt>f(\n<dl>\n<dd>{one}</dd>\n<dd>{two}</dd>\n</dl>\n)</dt></dl>'
    line = '<span class="sig-line">{}</span>'.format
    expected = f'<dl class="py"><dt>f(\n\n{line(one)}\n{line(two)}\n\n)</dt></dl>'
    assert without_lists(html) == expected


def test_reference_and_chapters_lead_to_each_other(tmp_path, notebook):
    notebook(("markdown", "# One\n\n`theory.kl` and `dnrlib.theory`"), ("code", CELLS))
    (tmp_path / "book/api").mkdir()
    (tmp_path / "book/api/theory.md").write_text(
        "# Theory\n\n% modules: theory, errors, evidence, engines\n"
    )
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/one\nchapters:\n  - file: book/api/theory\n"
    )
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    del config["bibtex_bibfiles"], config["html"]
    settings = config["sphinx"]["config"]
    ours = ("dnrlib", "sphinxcontrib", "sphinx-mathjax")
    kept = [name for name in settings["extensions"] if not name.startswith(ours)]
    config["sphinx"]["config"] = {"extensions": [*kept, "dnrlib.book.sphinx_api"]}
    (tmp_path / "_config.yml").write_text(yaml.safe_dump(config))
    site = render(tmp_path, Path("book/one.ipynb"))
    page = (site / "book/one.html").read_text("utf-8")
    assert page.count('<a class="api" href="api/theory.html#dnrlib.theory.kl">') == 3
    assert 'href="api/theory.html#module-dnrlib.theory"' in page
    entry = (site / "book/api/theory.html").read_text("utf-8").split('id="dnrlib.theory.kl"')[1]
    assert '<a class="reference internal" href="../one.html">' in entry.split('id="dnrlib.')[0]
    assert "Float[Tensor, " in re.sub("<.*?>", "", entry)
    said = re.sub("<.*?>", "", (site / "book/api/theory.html").read_text("utf-8"))
    assert re.search(r"LOOK\s*.*= \{…\}", said)
    assert re.search(r"ENGINES\s*.*= \{…\}", said)
    assert "<function" not in unescape(said)
    assert "PROTOCOL = 'shown+sampled'" in unescape(said)
    assert "Alias for field number" not in said
    assert said.count("The same as") > said.count("alias of") == 0
    assert [fault for fault in check_site(site) if "api/" in fault] == []
