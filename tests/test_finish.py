"""The last changes to rendered pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from dnrlib.book.finish import finish


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "_static/scripts").mkdir(parents=True)
    return tmp_path


def finished(site: Path, page: str, name: str = "page.html") -> str:
    (site / name).write_text(page, "utf-8")
    finish(site)
    return (site / name).read_text("utf-8")


def styled(site: Path, sheet: str, page: str = '<p class="used">text</p>') -> str:
    (site / "_static/a.css").write_text(sheet, "utf-8")
    finished(site, page)
    return (site / "_static/a.css").read_text("utf-8")


@pytest.mark.parametrize("name", ["scripts/fontawesome", "searchtools", "language_data"])
def test_scripts_that_no_page_uses_are_not_loaded(site, name):
    page = f'<a></a>\n  <script defer src="_static/{name}.js?digest=1"></script><b></b>'
    assert finished(site, page) == "<a></a><b></b>"


def test_the_search_index_is_loaded_by_the_search_alone(site):
    script = '<script src="../searchindex.js"></script>'
    assert finished(site, script) == ""
    assert finished(site, script, "search.html") == script


def test_the_search_loads_its_icons_once(site):
    script = '<script defer src="_static/scripts/fontawesome.js?digest=1"></script>'
    assert finished(site, script, "search.html") == ""


def test_mathjax_is_loaded_in_parts(site):
    page = '<script src="../_static/mathjax/tex-chtml.js"></script>'
    assert finished(site, page) == '<script src="../_static/mathjax/startup.js"></script>'


def test_an_entry_of_the_bibliography_is_one_of_a_list(site):
    page = '<div role="list"><div role="doc-biblioentry">'
    assert finished(site, page) == '<div role="list"><div role="listitem">'


def test_other_scripts_stay(site):
    script = '<script src="_static/searching.js"></script>'
    assert finished(site, script) == script


def test_what_folds_the_contents_and_what_leads_to_a_symbol_has_a_name(site):
    page = '<a href="b.html">3. Models</a><details><summary><i></i></summary></details>'
    assert '<summary aria-label="Pages under 3. Models"><i>' in finished(site, page)
    link = '<a class="reference" href="notation.html#symbol-x-prime"><span></span></a>'
    named = '<a class="reference" href="notation.html#symbol-x-prime" aria-label="symbol x prime">'
    assert finished(site, link) == f"{named}<span></span></a>"
    assert finished(site, f"{named}</a>") == f"{named}</a>"


@pytest.mark.parametrize(
    ("sheet", "left"),
    [
        (".used{a:b}.unused{c:d}", ".used{a:b}"),
        (".used,.unused p{a:b}", ".used{a:b}"),
        ("p.used .unused{a:b}", ""),
        ("p,#id,[a=b]{a:b}", "p,#id,[a=b]{a:b}"),
        (".used:not(.unused){a:b}", ".used:not(.unused){a:b}"),
        (":is(.used,.unused) p{a:b}", ":is(.used,.unused) p{a:b}"),
        ("@media print{.unused{a:b}.used{a:b}}", "@media print{.used{a:b}}"),
        ("@font-face{src:url(a.woff)}", "@font-face{src:url(a.woff)}"),
        ('@charset "UTF-8";/*! A.B */.unused{a:b}', '@charset "UTF-8";/*! A.B */'),
        ("@keyframes k{0%{a:b}to{a:c}}", "@keyframes k{0%{a:b}to{a:c}}"),
        (".bs-tooltip-top{a:b}", ".bs-tooltip-top{a:b}"),
    ],
)
def test_rules_go_that_need_a_class_that_nothing_names(site, sheet, left):
    assert styled(site, sheet) == left


def test_a_class_that_only_a_script_names_is_used(site):
    (site / "_static/a.js").write_text("box.classList.add('open')", "utf-8")
    assert styled(site, ".open{a:b}") == ".open{a:b}"
