"""Numbers and names as they are printed."""

from __future__ import annotations

import pytest
from docutils import nodes
from hypothesis import given
from hypothesis import strategies as st

from dnrlib.book.typography import typeset, typeset_html, typeset_page


@pytest.mark.parametrize(
    ("written", "printed"),
    [
        ("-0.5", "−0.5"),
        ("+0.003 [-0.009, +0.008]", "+0.003 [−0.009, +0.008]"),
        ("from -.5 to -1", "from −.5 to −1"),
        ("51%, 95 % and [1, 2] %", "51\u202f%, 95\u202f% and [1, 2]\u202f%"),
        ("5-9, 2026-11-23, ml-1m, PRM-2, 1e-05, --1", "5-9, 2026-11-23, ml-1m, PRM-2, 1e-05, --1"),
        ("PRM's users' 'own' don't", "PRM’s users' 'own' don’t"),
        ("well-known - and DNR-B, 100%ile", "well-known - and DNR-B, 100%ile"),
    ],
)
def test_what_is_written_and_what_is_printed(written, printed):
    assert typeset(written) == printed


@given(st.floats(-1e6, 1e6), st.integers(0, 5))
def test_a_printed_number_is_still_the_same(value, digits):
    printed = typeset(f"{value:+.{digits}f}")
    assert "-" not in printed
    assert printed.replace("−", "-") == f"{value:+.{digits}f}"


@given(st.text(st.sampled_from("-−5.% a[(")))
def test_what_is_printed_is_not_changed_again(text):
    assert typeset(typeset(text)) == typeset(text)


def test_html_keeps_its_tags_keys_and_programs():
    page = '<td data-key="-5">-5</td><pre>x = -5</pre><script>a = " -5%"</script><b>5%</b>'
    assert typeset_html(page) == page.replace(">-5<", ">−5<").replace("<b>5%", "<b>5\u202f%")


def test_a_name_stays_on_one_line():
    name = '<span class="together">DNR-B</span>'
    assert typeset_html("<td>PRM + DNR-B</td>") == f"<td>PRM + {name}</td>"
    date = '<span class="together">2026-11-23</span>'
    assert typeset_html("<td>since 2026-11-23</td>") == f"<td>since {date}</td>"
    assert typeset_html("<code>DNR-B</code>") == "<code>DNR-B</code>"


def test_a_page_keeps_code_and_formulas():
    page = nodes.section()
    page += nodes.paragraph("", "noise-G has -1 of 5%")
    page += nodes.paragraph("", "", nodes.literal("", "-1"), nodes.math("", "-1"))
    page += nodes.literal_block("", "-1")
    page += nodes.raw("", "<b>-1</b>", format="html")
    typeset_page(page)
    prose, kept, block, html = page.children
    assert prose.astext() == "noise-G has −1 of 5\u202f%"
    assert prose.children[0].attributes["classes"] == ["together"]
    assert [kept.astext(), block.astext()] == ["-1-1", "-1"]
    assert html.astext() == "<b>−1</b>"
