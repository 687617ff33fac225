"""Decks made from a small rendered site: what is taken, what is refused, what fits."""

import shutil
from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup

from dnrlib.book.browser import _overflowing
from dnrlib.book.notebooks import BookError, pages
from dnrlib.book.site import check_site
from dnrlib.book.slides import DECKS, overflowing, write_slides

ROOT = Path(__file__).parents[1]
ASSETS = ("deck.html", "deck.css", "deck.js")
PAGE = r"""<!DOCTYPE html><html><body>
<section id="one">
<h1><span class="section-number">1. </span>One page<a class="headerlink" href="#one">#</a></h1>
<section id="two-things"><h2>Two things</h2>
<p>First, <a href="other.html#x">elsewhere</a>.</p>
<p>Second.</p>
<figure id="fig-dots"><img alt="Dots" src="../_images/dots.svg">
<figcaption><p><span class="caption-text">Dots of <a href="#tab-n">the table</a>.</span>
<a class="headerlink" href="#fig-dots">#</a></p></figcaption></figure>
<table id="tab-n"><caption><span class="caption-text">Numbers.</span></caption>
<thead><tr><th>name</th><th>n</th><th>more</th></tr></thead>
<tbody>
<tr><td>a</td><td>7.25</td><td>x</td></tr>
<tr><td>b</td><td>8.5</td><td>y</td></tr>
</tbody></table>
<div class="math notranslate" id="equation-eq-sum"><span class="eqno">(1.1)</span>\[a &lt; b\]</div>
<div class="proof theorem admonition" id="thm-t">
<p class="admonition-title">Theorem 1</p><p>So it is.</p></div>
<div class="dropdown admonition"><p class="admonition-title">Proof</p><p>Because.</p></div>
<div class="exercise admonition" id="ex-e">
<p class="admonition-title">Exercise 1</p><p>Why?</p></div>
<div class="solution dropdown admonition" id="one-solution-1">
<p class="admonition-title">Solution to <a href="#ex-e">Exercise 1</a></p><p>Therefore.</p></div>
</section>
<section id="summary"><h2>Summary</h2><ul><li>All is well.</li></ul></section>
<section id="bare"><h2>Bare</h2><div>Nothing.</div></section>
</section></body></html>"""


@pytest.fixture
def site(tmp_path):
    """Two pages, a picture and the theme's folder."""
    site = tmp_path / "site"
    for folder in ("book", "_images", "_static/mathjax"):
        (site / folder).mkdir(parents=True)
    (site / "book/one.html").write_text(PAGE)
    (site / "book/other.html").write_text('<p id="x"><h1>Other</h1></p>')
    (site / "book/teaching.html").write_text("<h1>Teaching</h1>")
    (site / "_images/dots.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    return site


def write(site, *slides, **deck):
    """The written deck, as a tree."""
    folder = site.parent / DECKS
    folder.mkdir(parents=True, exist_ok=True)
    for name in ASSETS:
        shutil.copy(ROOT / DECKS / name, folder)
    content = {"title": "A deck", "slides": list(slides)} | deck
    (folder / "talk.yml").write_text(yaml.safe_dump(content), "utf-8")
    [path] = write_slides(site, site.parent)
    assert path == site / "lectures/talk.html"
    return BeautifulSoup(path.read_text("utf-8"), "html.parser")


def second(site, **slide):
    return write(site, slide).select("section.slide")[1]


def test_a_deck_has_a_title_its_slides_and_its_sources(site):
    deck = write(site, {"take": ["one#two-things"]}, {"title": "Own", "text": "*words*"})
    first, taken, own, last = deck.select("section.slide")
    assert first.h1.get_text() == "A deck"
    assert taken.h2.get_text() == "Two things"
    assert taken.select_one(".body").get_text() == "First, elsewhere."
    assert (own.h2.get_text(), own.em.get_text()) == ("Own", "words")
    assert last.a["href"] == "../book/one.html"
    assert last.a.get_text() == "One page"
    assert first["aria-label"] == "Slide 1 of 4: A deck"


def test_a_figure_keeps_its_picture_and_its_links_hold(site):
    slide = second(site, take=["one#fig-dots"])
    assert slide.img["src"] == "../_images/dots.svg"
    assert slide.img["alt"] == "Dots"
    assert slide.figcaption.a["href"] == "../book/one.html#tab-n"
    assert slide.select(".headerlink, figure[id]") == []
    assert check_site(site) == []


def test_links_to_other_pages_hold(site):
    assert second(site, take=["one#two-things"]).a["href"] == "../book/other.html#x"


def test_a_table_is_that_of_the_page_until_it_is_cut(site):
    whole = second(site, take=["one#tab-n"])
    assert whole.table.get_text(" ", strip=True) == "Numbers. name n more a 7.25 x b 8.5 y"
    cut = second(site, take=["one#tab-n"], rows=1, columns=["name", "n"])
    assert cut.table.get_text(" ", strip=True) == (
        "Numbers. (Here 1 of 2 rows and 2 of 3 columns.) name n a 7.25"
    )
    named = second(site, take=["one#tab-n"], rows=["b"])
    assert "(Here 1 of 2 rows.)" in named.caption.get_text()
    assert [row.td.get_text() for row in named.select("tbody tr")] == ["b"]


def test_an_equation_keeps_its_number_and_its_signs(site):
    slide = second(site, take=["one#eq-sum"])
    assert slide.select_one(".math").get_text() == r"(1.1)\[a < b\]"


def test_solutions_and_proofs_are_in_the_notes_or_on_the_slide(site):
    slide = second(site, take=["one#thm-t", "one#ex-e"], notes="Ask.")
    notes = slide.aside.get_text(" ", strip=True)
    assert "Because." in notes
    assert "Therefore." in notes
    assert notes.startswith("Ask.")
    assert "Because." not in slide.select_one(".body").get_text()
    shown = second(site, take=["one#thm-t"], proof=True)
    assert "Because." in shown.select_one(".body").get_text()


def test_a_summary_is_its_bullets(site):
    slide = second(site, take=["one#summary"])
    assert [one.get_text() for one in slide.select(".body li")] == ["All is well."]


def test_formulas_of_own_words_are_left_to_mathjax(site):
    slide = second(site, title=r"On $\lambda_c$", text=r"$a < b$")
    assert slide.h2.get_text() == r"On \(\lambda_c\)"
    assert slide.p.get_text() == r"\(a < b\)"


@pytest.mark.parametrize(
    ("slide", "message"),
    [
        ({"take": ["one#fig-none"]}, r"one#fig-none: the page one has no label 'fig-none'"),
        ({"take": ["none#fig-dots"]}, r"none#fig-dots: there is no page none"),
        ({"take": ["one"]}, r"one: the page one has no label ''"),
        ({"take": ["one#bare"]}, r"the section bare begins with nothing to show"),
        ({"figure": "one#fig-dots"}, r"'figure' is none of columns, notes"),
        ({"title": "Best", "text": "It has 0.71."}, r"the number 0.71 in its text"),
        ({"title": "Best: 71 %"}, r"the number 71 % in its title"),
        ({"text": "No title."}, r"it takes nothing, so it needs a title"),
        ({"take": ["one#tab-n"], "columns": ["m"]}, r"no column 'm'; there are name, n, more"),
        ({"take": ["one#tab-n"], "rows": ["c"]}, r"no row 'c'; there are a, b"),
        ("one#fig-dots", r"'one#fig-dots' should have some of"),
        ({"take": "one#fig-dots"}, r"take = 'one#fig-dots': must be a list"),
        ({"title": "A", "text": ["b"]}, r"text = \['b'\]: must be text"),
    ],
)
def test_a_fault_names_the_file_the_slide_and_the_label(site, slide, message):
    with pytest.raises(BookError, match=rf"talk\.yml, slide 3: {message}"):
        write(site, {"title": "Sound"}, slide)


@pytest.mark.parametrize(
    ("deck", "message"),
    [
        ({"slides": []}, r"talk\.yml: a deck has a title and slides"),
        ({"theme": "dark"}, r"talk\.yml: 'theme' is none of slides, subtitle, title"),
    ],
)
def test_what_is_no_deck_is_refused(site, deck, message):
    with pytest.raises(BookError, match=message):
        write(site, {"title": "Sound"}, **deck)


def test_without_decks_nothing_is_written(site):
    assert write_slides(site, site.parent) == []
    assert not (site / "lectures").exists()


def decks():
    return {
        path.stem: yaml.safe_load(path.read_text("utf-8")) for path in (ROOT / DECKS).glob("*.yml")
    }


@pytest.mark.parametrize("name", decks())
def test_a_lecture_takes_what_its_pages_have(name):
    """In the source; that the rendered label is there is checked when the site is built."""
    sources = {page.stem: (ROOT / page).read_text("utf-8") for page in pages(ROOT)}
    slides = decks()[name]["slides"]
    assert 13 <= len(slides) <= 26
    for label in [label for slide in slides for label in slide.get("take", [])]:
        page, _, anchor = label.partition("#")
        kind, _, rest = anchor.partition("-")
        wanted = rest if kind in ("fig", "tab") else anchor
        assert wanted in sources[page] or kind not in ("fig", "tab", "eq", "thm", "ex"), label


@pytest.mark.slow
def test_a_slide_that_does_not_fit_is_found(site, browser):
    write(
        site,
        {"title": "Fits", "text": "few words"},
        {"title": "Long", "text": "\n\n".join(["a paragraph"] * 40)},
        {"title": "Wide", "text": "`" + "x" * 400 + "`"},
    )
    assert overflowing(site / "lectures/talk.html", browser) == ["talk.html: Slide 3 of 5: Long"]
    [fault] = _overflowing(browser, site)
    assert fault == "lectures/talk.html: Slide 3 of 5: Long does not fit"


@pytest.mark.slow
def test_keys_lead_through_a_deck(site, browser):
    write(site, {"title": "Middle", "text": "x", "notes": "for the speaker"})
    page = browser.new_page()
    page.goto((site / "lectures/talk.html").as_uri() + "#slide-2")
    notes = page.locator("#slide-2 aside")
    assert not notes.is_visible()
    page.keyboard.press("s")
    assert notes.is_visible()
    page.keyboard.press("ArrowRight")
    assert page.url.endswith("#slide-3")
    page.keyboard.press("Home")
    assert page.locator("section.slide.current").get_attribute("id") == "slide-1"
    page.keyboard.press("o")
    page.locator("#slide-3").click()
    assert page.url.endswith("#slide-3")
    page.close()
