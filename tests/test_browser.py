"""Each check of the site in a browser fails on a page that is made to fail it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dnrlib.book.browser import chromium, main, page_faults, site_faults
from dnrlib.errors import ConfigError

PAGE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>A page</title>
<meta name="viewport" content="width=device-width, initial-scale=1">{head}</head>
<body style="background: white; color: black"><main><h1>A page</h1>{body}</main></body></html>"""
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
WIDE = '<div style="width: 600px; height: 20px; text-align: right">wide</div>'

Faults = Callable[..., list[str]]


@pytest.fixture
def faults(browser, tmp_path: Path) -> Faults:
    def of(body: str, head: str = "", name: str = "page.html") -> list[str]:
        page = tmp_path / name
        page.write_text(PAGE.format(head=head, body=body), "utf-8")
        return page_faults(browser, page)

    return of


def test_a_good_page_has_no_fault(faults, tmp_path):
    (tmp_path / "a.css").write_text("p { color: navy }", "utf-8")
    body = f'<p>Text.</p><img src="{PIXEL}" alt="a dot"><pre>short</pre>'
    assert faults(body, '<link rel="stylesheet" href="a.css">') == []


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("console.error('broken')", "console error: broken"),
        ("console.warn('odd')", "console warning: odd"),
        ("throw new Error('thrown')", "script failed: thrown"),
    ],
)
def test_what_scripts_complain_of(faults, script, fault):
    assert faults(f"<script>{script}</script>") == [fault]


def test_a_note_on_the_console_is_no_fault(faults):
    assert faults("<script>console.log('hello')</script>") == []


@pytest.mark.parametrize(
    "body",
    [
        '<script src="https://cdn.example/a.js"></script>',
        '<script>fetch("https://cdn.example/a.js").catch(() => 0)</script>',
    ],
)
def test_nothing_comes_from_the_network(faults, body):
    assert faults(body) == ["asks the network for https://cdn.example/a.js"]


def test_a_file_that_is_not_there(faults, tmp_path):
    address = (tmp_path / "no.js").as_uri()
    assert faults('<script src="no.js"></script>') == [
        f"could not load {address}: net::ERR_FILE_NOT_FOUND"
    ]


def test_an_image_without_text_or_without_a_picture(faults):
    assert "image x.png did not load" in faults('<img src="x.png" alt="a figure">')
    bare = faults(f'<img src="{PIXEL}">')
    assert any(fault.endswith("has no alternative text") for fault in bare)
    assert any("(image-alt)" in fault for fault in bare)


def test_a_figure_that_is_loaded_late_is_looked_at(faults, tmp_path):
    late = '<div style="height: 20000px"></div><img loading="lazy" src="{}" alt="a figure">'
    picture = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>'
    (tmp_path / "a.svg").write_text(picture, "utf-8")
    assert faults(late.format("a.svg")) == []
    assert "image no.svg did not load" in faults(late.format("no.svg"))


def test_contrast_in_each_theme(faults):
    pale = faults('<p style="color: #bbb">pale</p>')
    assert [fault.split(":")[0] for fault in pale] == ["dark", "light"]
    style = "<style>[data-theme=dark] p { color: #ccc }</style>"
    (dark,) = faults("<p>pale by night</p>", style)
    assert dark.startswith("dark: ")
    assert "(color-contrast): p" in dark


def test_a_control_without_a_name(faults):
    (fault,) = faults("<button><i></i></button>")
    assert "(button-name): button" in fault


def test_a_page_that_scrolls_sideways(faults):
    assert faults(WIDE) == [
        "at 375 pixels: div is wider than the page",
        "at 375 pixels: the page scrolls sideways by 233 pixels",
    ]


def test_what_scrolls_by_itself_may_be_wide_if_the_keyboard_reaches_it(faults):
    box = '<div {} style="overflow-x: auto">' + WIDE + "</div>"
    assert faults(box.format('tabindex="0"')) == []
    (fault,) = faults(box.format(""))
    assert fault.startswith("at 375 pixels: ")
    assert "(scrollable-region-focusable): main > div" in fault


def test_what_is_cut_off_is_too_wide(faults):
    cut = f'<div style="overflow: hidden">{WIDE}</div>'
    assert faults(cut) == ["at 375 pixels: div is wider than the page"]


SLIDING = """<style>main { transition: margin 0.3s } p { overflow-x: auto }
@media (min-width: 1000px) { main { margin-left: 200px } }</style>"""
STATIC = Path("book/_static")


def test_nothing_moves_for_who_asked_for_less_motion(faults):
    first, *_ = faults("", SLIDING)
    assert first == "at 375 pixels: main moves though less motion was asked for"


def test_the_book_has_no_motion_for_who_asked_for_less(faults):
    style = (STATIC / "book.css").read_text("utf-8")
    assert faults("", f"{SLIDING}<style>{style}</style>") == []


@pytest.mark.parametrize("shape", ["padding-left: 3000px", "padding-top: 2000px"])
def test_the_keyboard_reaches_what_scrolls_either_way(faults, shape):
    script = (STATIC / "scrolling.js").read_text("utf-8")
    inner = f'<div style="{shape}">much</div>'
    box = f'<div class="dnr-scroll" style="overflow: auto; max-height: 300px">{inner}</div>'
    assert any("scrollable-region-focusable" in fault for fault in faults(box))
    assert faults(box, f"<script>{script}</script>") == []


def test_what_is_folded_is_looked_at(faults):
    folded = f"<details><summary>More</summary>{WIDE}</details>"
    assert "at 375 pixels: div is wider than the page" in faults(folded)


@pytest.mark.parametrize(
    ("math", "fault"),
    [
        (
            "<mjx-container><mjx-merror data-mjx-error='Missing }'>x</mjx-merror></mjx-container>",
            "equation not typeset: Missing }",
        ),
        (
            '<mjx-container><mjx-mtext style="color: red">\\no</mjx-mtext></mjx-container>',
            "equation not typeset: unknown command \\no",
        ),
        ('<span class="math">\\(x\\)</span>', "equation not typeset: \\(x\\)"),
    ],
)
def test_an_equation_that_is_not_typeset(faults, math, fault):
    dark_enough = "<style>mjx-mtext { background: black }</style>"
    assert faults(f"<p>{math}</p>", dark_enough) == [fault]


def test_an_equation_that_is_wider_than_the_page(faults):
    wide = f"<mjx-container style='display: inline-block'>{WIDE}</mjx-container>"
    assert "at 375 pixels: an equation is wider than the page: wide" in faults(wide)


def test_a_heavy_page(faults, tmp_path):
    (tmp_path / "big.js").write_text("//" + " " * 1_600_000, "utf-8")
    (fault,) = faults('<script src="big.js"></script>')
    assert fault.startswith("weighs 1.60 MB, more than 1.5 MB: big.js 1.60, page.html 0.00")


def test_pictures_have_no_weight(faults, tmp_path):
    picture = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">{}</svg>'
    (tmp_path / "a.svg").write_text(picture.format(" " * 2_000_000), "utf-8")
    assert faults('<img src="a.svg" alt="a figure">') == []


def test_the_search_index_is_for_the_search(faults, tmp_path):
    (tmp_path / "searchindex.js").write_text("", "utf-8")
    script = '<script src="searchindex.js"></script>'
    assert faults(script) == ["loads the search index"]
    assert faults(script, name="search.html") == []


def test_every_page_of_a_site_is_opened(browser, tmp_path):
    (tmp_path / "book").mkdir()
    good = PAGE.format(head="", body="")
    to_the_first = '<meta http-equiv="refresh" content="0; url=book/a.html">'
    (tmp_path / "index.html").write_text(PAGE.format(head=to_the_first, body=""), "utf-8")
    (tmp_path / "book/a.html").write_text(good, "utf-8")
    (tmp_path / "book/b.html").write_text(good.replace("<h1>", "<h1><button></button>"), "utf-8")
    (fault,) = site_faults(browser, tmp_path, (375,))
    assert fault.startswith("book/b.html: ")
    assert "(button-name)" in fault


def test_without_chromium_it_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("DNR_CHROMIUM", raising=False)
    with pytest.raises(ConfigError, match="apt-get install chromium"):
        chromium()
    monkeypatch.setenv("DNR_CHROMIUM", "/no/chromium")
    with pytest.raises(ConfigError, match=r"DNR_CHROMIUM=/no/chromium is no program"):
        chromium()


def test_without_a_site_it_says_what_to_do(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert "run make book first" in capsys.readouterr().err
