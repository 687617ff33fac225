"""Symbols are found in formulas, explained by the notation, and linked to it."""

from pathlib import Path

import nbformat
import pytest
from made_up_book import CLOSING, OPENING, notebook

from dnrlib.book import BookError, build
from dnrlib.book.execution import Execution
from dnrlib.book.formulas import formulas, symbols_of
from dnrlib.book.provenance import add_provenance
from dnrlib.book.symbols import (
    NOTATION,
    add_symbols,
    check_symbols,
    faults,
    read_notation,
    rows_of,
    with_anchors,
)

ROOT = Path(__file__).parents[1]
NOW = "2025-11-23T00:31:49+00:00"
TABLE = r"""# Notation

| symbol | meaning | in code |
|:--|:--|:--|
| $x_u$, $x$ | the scores; and more | `x` |
| $x' = z + e$ | *synthetic* scores | `y` |
| $z$ | feedback: of $u$ | – |
| $\hat z$ | its prediction, {eq}`eq-one` | – |
| $L_\text{direct}$ | what is $1:2$ | – |
| $L_1$ | $a; b$ | – |
| $l_1$ | another | – |
| $p_{x \mid z}, p_{z \mid x}$ | two laws \| three | – |
| $q_\theta(z \mid x, u)$ | the reranker | – |
| $\lambda_c$ | share | – |
| – | no symbol | `shown` |

| `scheme` | of $y$ | – |
"""
ROWS = read_notation(TABLE)


def names(formula: str) -> list[str]:
    return [symbol.name for symbol in symbols_of(formula)]


@pytest.mark.parametrize(
    "forms",
    [
        (r"L_{\text{direct}}", r"L_\text{direct}", r"L _ \mathrm{direct}", r"{L}_{direct}"),
        (r"p_{x \mid z}", r"p_{x|z}", r"p_{ x \vert z }"),
        (r"\hat z", r"\hat{z}", r"\widehat{z}", r"\hat{ z }"),
        ("x'", r"x^{\prime}", r"x^\prime"),
        (r"\lambda_c", r"\lambda_{c}", r"{\lambda_c}"),
        (r"\varepsilon", r"\epsilon"),
        ("x_{u,i}", "x_{u, i}", "x_{u,\\,i}"),
        (r"\mathcal F", r"\mathcal{F}"),
        (r"\mathrm{KL}", r"\operatorname{KL}"),
        ("x'_1", "x_1'"),
    ],
)
def test_a_symbol_has_one_name_however_it_is_written(forms):
    found = [names(form) for form in forms]
    assert found == [found[0]] * len(forms)
    assert len(found[0]) == 1


@pytest.mark.parametrize(
    ("formula", "found"),
    [
        (r"\mathbb E_{x \sim p_x} \log q_\theta(z \mid x)", ["x", "p_x", "q_\\theta", "z", "x"]),
        (r"\sum_{i=1}^n \frac{x_i}{2} \le \max_\phi 3", ["i", "n", "x_i", "\\phi"]),
        (r"\text{shown and} \begin{aligned} a &= b \\ c \end{aligned}", ["a", "b", "c"]),
        (r"e^{-\lambda t}", ["e^-\\lambdat", "\\lambda", "t"]),
        (r"\sqrt{2\pi} + \pi", ["\\pi"]),
        (r"\tilde{x + y} \in \{0, 1\}^n", ["x", "y", "n"]),
        (r"V_d, V_z", ["V_d", "V_z"]),
        (r"\big\| \mathbb{R} \mathrm{d} t", ["t"]),
    ],
)
def test_the_symbols_of_a_formula_are_found(formula, found):
    assert names(formula) == found


def test_formulas_of_a_page_are_found_and_code_is_not():
    text = (
        "# On $a$\n\n$$ b $$ (eq-b)\n\n$$\nc\n$$\n\n```python\n$d$\n```\n\n`$e$`\n\n"
        ":::{prf:theorem} Of $f$\n:label: thm-x\n\n$g$\n\n$$ h $$ (eq-h)\n:::\n\n"
        "```{math}\ni\n```\n\n\\begin{align}\nj\n\\end{align}\n\n% $k$\n\n| $l$ |\n|--|\n| $m$ |\n"
    )
    found = [formula.strip() for formula in formulas(text)]
    assert found[:-3] == ["a", "b", "c", "f", "g", "h", "i"]
    assert "j" in found[-3]
    assert found[-2:] == ["l", "m"]


def test_rows_of_the_notation_are_read():
    assert {name: row.meaning for name, row in ROWS.items()} == {
        "x_u": "the scores",
        "x": "the scores",
        "x'": "*synthetic* scores",
        "z": "feedback",
        "\\hatz": "its prediction",
        "L_direct": "what is $1:2$",
        "L_1": "$a; b$",
        "l_1": "another",
        "p_x|z": r"two laws \| three",
        "p_z|x": r"two laws \| three",
        "q_\\theta": "the reranker",
        "\\lambda_c": "share",
    }
    anchors = [row.anchor for row in dict.fromkeys(ROWS.values())]
    assert anchors[:4] == ["symbol-x-u", "symbol-x-prime", "symbol-z", "symbol-hat-z"]
    assert len(set(anchors)) == len(anchors)
    assert all(anchor == anchor.lower() for anchor in anchors)


def test_two_rows_for_one_symbol_are_refused():
    with pytest.raises(BookError, match=r"notation\.md: two rows explain \$L_\{1\}\$"):
        read_notation(TABLE + "| $L_{1}$ | again |\n")


def test_each_row_gets_an_anchor_and_nothing_else_changes():
    text = with_anchors(TABLE)
    assert "| [$x_u$, $x$]{#symbol-x-u} | the scores; and more |" in text
    assert text.count("{#symbol-") == len(set(ROWS.values()))
    assert "| – | no symbol |" in text
    plain = text
    for row in ROWS.values():
        plain = plain.replace(f"[{row.symbols}]{{#{row.anchor}}}", row.symbols)
    assert plain == TABLE


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"$q_\theta(z \mid x)$ and $x_{u,i}$", [r"$q_\theta(z \mid x, u)$", "$z$", "$x_u$, $x$"]),
        (r"$\hat z_{u,i} x'_i \hat L_1^2$", [r"$\hat z$", "$x' = z + e$", "$L_1$"]),
        (
            r"$p_{z|x}$ $q_{\theta_t}$",
            [r"$p_{x \mid z}, p_{z \mid x}$", r"$q_\theta(z \mid x, u)$"],
        ),
        ("$p_u + l + L_2 = 4$", []),
        ("% local symbols: $z$, $x$\n\n$z = x_i + x'$", ["$x' = z + e$"]),
    ],
)
def test_rows_of_a_page_come_in_the_order_of_first_use(text, found):
    assert [row.symbols for row in rows_of(text, ROWS)] == found


@pytest.mark.parametrize(
    "text",
    [
        r"$x_i$ $h + g_\text{two}$ $p_i, p_m$ $q_{j,1}$ $p(z)$ $\mathbb E$ $\mathcal N$ $2\pi$",
        r"$\log_2 \min_i \nabla \partial \mathrm{NDCG}@K \operatorname{Var}(x) \ell_i$",
        r"$\lambda_{c,i}$, $\hat\lambda_c$, $\lambda_c^2$, $q_{\theta'}$, $q_\theta^{(t)}$",
        "% local symbols: $\\mu_z$, $\\sigma$\n\n$\\mu_z + \\sigma_0^2 + \\sigma(t)$",
    ],
)
def test_what_readers_know_or_the_page_declares_needs_no_row(text):
    assert faults(text, ROWS) == []


@pytest.mark.parametrize(
    "symbol", [r"\mu_z", r"L_\text{new}", r"p_\phi", "q_z", r"\lambda_m", r"\mathcal L", r"\Delta"]
)
def test_a_symbol_that_nobody_explains_is_a_fault(symbol):
    [fault] = faults(rf"$${symbol} + {symbol} = 1$$", ROWS)
    assert fault == (
        f"${symbol}$: not explained; write rows in book/notation.md or, for what only this page "
        f"has, a line `% local symbols: ${symbol}$`"
    )


def test_the_faults_of_a_page_are_told_at_once():
    [fault] = faults(r"$\rho^2 + \hat\rho < L_{new} + \rho$", ROWS)
    assert fault.startswith(r"$\rho$, $L_{new}$: not explained")
    assert fault.endswith(r"`% local symbols: $\rho$, $L_{new}$`")


def test_a_declared_symbol_must_be_used():
    text = "% local symbols: $h$, $V_d$\n\n$h_i$"
    assert faults(text, ROWS) == ["$V_d$ is declared as a local symbol, but not used"]


def chapter(*cells: str):
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(cell) for cell in cells])


@pytest.fixture
def root(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / NOTATION).write_text(TABLE)
    return tmp_path


def test_the_box_stands_behind_the_opening(root):
    opening = ":::{admonition} After this chapter you can\n- read $z$\n:::"
    for cells in ([f"# One\n\n{opening}", "## Two"], [f"# One\n\n{opening}\n\n## Two\n\n$x$"]):
        notebook = chapter(*cells)
        add_symbols(notebook, root)
        text = "\n\n".join(cell.source for cell in notebook.cells)
        before, box = text.split(":::{admonition} Symbols of this page\n:class: note dropdown")
        assert before == f"# One\n\n{opening}\n\n"
        assert "| [$z$](#symbol-z) | feedback |" in box
        assert box.index(":::") < box.index("## Two")


def test_without_symbols_or_notation_there_is_no_box(root):
    notebook = chapter("# One\n\n$y$")
    add_symbols(notebook, root)
    assert notebook.cells[0].source == "# One\n\n$y$"
    (root / NOTATION).unlink()
    notebook = chapter(r"# One $z + \mu$")
    add_symbols(notebook, root)
    assert notebook.cells[0].source == r"# One $z + \mu$"


TOC = "format: jb-book\nroot: book/index\nchapters:\n  - file: book/one\n  - file: book/notation\n"


def small_book(root: Path, formula: str) -> Path:
    one = nbformat.v4.new_markdown_cell(
        f"{OPENING.replace('size', 'seed')}\n$$ {formula} $$ (eq-one)\n\n## Two\n\n"
        f"{{cite}}`mao2025dnr`\n\n{CLOSING}"
    )
    parameters = nbformat.v4.new_code_cell("seed = 0  # none", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[one, parameters]), root / "book/one.ipynb")
    (root / "book/profiles").mkdir()
    (root / "book/profiles/quick.yml").write_text("one: {seed: 1}")
    (root / "book/index.md").write_text("# Book\n\n```{bibliography}\n```\n")
    (root / "book/references.bib").write_text((ROOT / "book/references.bib").read_text())
    (root / "book/_static").mkdir()
    (root / "book/_static/favicon.svg").write_text("<svg/>")
    (root / "_toc.yml").write_text(TOC)
    (root / "_config.yml").write_text((ROOT / "_config.yml").read_text())
    return root


@pytest.mark.slow
def test_a_page_of_the_site_leads_to_the_rows_of_its_symbols(root):
    site = build(root=small_book(root, r"L_1 = \hat z - l_1")).parent / "book"
    page, notation = ((site / name).read_text() for name in ("one.html", "notation.html"))
    for anchor in ("symbol-big-l-1", "symbol-hat-z", "symbol-l-1"):
        assert f'href="notation.html#{anchor}"' in page
        assert f'id="{anchor}"' in notation
    assert page.index("Symbols of this page") < page.index('id="two"')


def test_an_unexplained_symbol_fails_the_build_before_anything_is_executed(root):
    with pytest.raises(BookError, match=r"not explained:\n  book/one\.ipynb: \$\\mu_z\$: not"):
        build(root=small_book(root, r"\mu_z"))
    assert not (root / "_build").exists()


def test_the_symbols_of_the_book_are_explained():
    assert check_symbols(ROOT) == []


@pytest.mark.parametrize(
    ("parameters", "command"),
    [
        ({}, "dnr book --chapter data-and-protocols --profile ci"),
        ({"schemes": ["in-sample", "earlier"]}, "--profile ci`"),
        ({"schemes": ["earlier"], "dataset": "simulated", "k": 3}, "-p dataset simulated -p k 3`"),
        ({"schemes": ["earlier"]}, """--profile ci -p schemes '["earlier"]'`"""),
    ],
)
def test_a_page_says_how_to_make_its_figures_again(parameters, command):
    page = notebook()
    execution = Execution("data-and-protocols", "ci", parameters, 1.0, None, NOW, "abc", "one", {})
    add_provenance(page, ROOT, execution)
    [line] = [line for line in page.cells[-1].source.splitlines() if "Figures of this page" in line]
    assert line.startswith("- **Figures of this page:** `dnr book --chapter data-and-protocols")
    assert command in line
