"""What helps in reading: the order of pages, previews, downloads, buttons, the PDF."""

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

from dnrlib.book import launch
from dnrlib.book.browser import open_browser
from dnrlib.book.launch import colab_address, complete_downloads, start_cell
from dnrlib.book.notebooks import BookError, pages
from dnrlib.book.previews import preview, write_previews
from dnrlib.book.repository import Repository, find_repository, public_address, with_repository
from dnrlib.errors import ConfigError

ROOT = Path(__file__).parents[1]
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text("utf-8"))
LOOKED_UP = "book/notation"
"""The first page behind the story."""
NEXT = re.compile(r"\*\*Next\.\*\* \[[^\]]+\]\((?P<page>[\w-]+)\): \S.*[.?!]")


def texts(page: Path) -> list[str]:
    """The markdown of a page, cell by cell."""
    if page.suffix == ".md":
        return [(ROOT / page).read_text("utf-8")]
    cells = nbformat.read(ROOT / page, as_version=4).cells
    return [cell.source for cell in cells if cell.cell_type == "markdown"]


# the order of the pages


def test_every_page_of_the_book_is_in_the_contents():
    files = {path for kind in ("*.md", "*.ipynb") for path in (ROOT / "book").glob(kind)}
    assert files <= {ROOT / page for page in pages(ROOT)}


def test_the_last_line_of_each_page_leads_to_the_next_one():
    names = [page.with_suffix("").as_posix() for page in pages(ROOT)]
    story = pages(ROOT)[1 : names.index(LOOKED_UP) + 1]
    assert len(story) > 30
    for page, following in pairwise(story):
        last = texts(page)[-1].rstrip().splitlines()[-1]
        match = NEXT.fullmatch(last)
        assert match, f"{page} must end with: **Next.** [Title]({following.stem}): a sentence."
        assert match["page"] == following.stem, f"{page}: next comes {following.stem}"


def test_a_term_is_linked_once_a_page():
    for page in pages(ROOT):
        if page.stem != "glossary":
            terms = re.findall(r"\{term\}`(?:[^`<]*<)?([^`>]+)>?`", "\n".join(texts(page)))
            assert len(terms) == len(set(terms)), f"{page}: {terms}"


def test_no_term_is_explained_twice():
    lines = (ROOT / "book/glossary.md").read_text("utf-8")
    blocks = re.findall(r"```\{glossary\}\n(.*?)```", lines, re.DOTALL)
    terms = [line for block in blocks for line in block.splitlines() if re.match(r"\S", line)]
    assert len(terms) > 30
    assert len(terms) == len(set(terms))


# previews

ARTICLE = r"""
<article class="bd-article"><section id="one"><h1>One<a class="headerlink" href="#one">#</a></h1>
<p>It <a href="two.html#eq">begins</a>.</p><p>More.</p>
<div class="math" id="eq"><span class="eqno">(1)</span>\[x\]</div>
<figure id="fig"><img src="../_images/a.svg" alt="A"><figcaption>A line.</figcaption></figure>
<table id="tab"><caption>Small</caption><tbody>ROWS</tbody></table>
<div class="proof theorem admonition" id="thm"><p>Holds.</p>
<div class="dropdown admonition">Proof.</div></div>
<dl class="glossary"><dt id="term-slate">slate</dt><dd><p>An order.</p></dd></dl>
<dl><dt class="sig" id="f">f(x)</dt><dd><p>Makes y.</p><p>At length.</p></dd></dl>
<div class="citation" id="id3"><span class="label">[X]</span><p>A work.</p></div>
<table><tr><td><span id="symbol-x">x</span></td><td>a score</td><td>n</td></tr>
</table><span id="mark"></span><section id="sub"><h2>Sub</h2><p>First.</p></section></section>
</article>""".replace("ROWS", "".join(f"<tr><td>{row}</td></tr>" for row in range(20)))


@pytest.mark.parametrize(
    ("anchor", "shown"),
    [
        ("", "One It begins ."),
        ("one", "One It begins ."),
        ("eq", r"\[x\]"),
        ("fig", "A line."),
        ("thm", "Holds."),
        ("term-slate", "slate An order."),
        ("f", "f(x) Makes y."),
        ("id3", "A work."),
        ("symbol-x", "x a score"),
        ("mark", "Sub First."),
        ("sub", "Sub First."),
        ("nowhere", ""),
    ],
)
def test_a_preview_says_what_a_link_leads_to(anchor, shown):
    article = BeautifulSoup(ARTICLE, "html.parser")
    target = article.find(id=anchor) if anchor else article.find("h1")
    found = preview(target, "book/one.html")
    assert " ".join(BeautifulSoup(found, "html.parser").get_text(" ").split()) == shown
    assert " id=" not in found
    assert "<a" not in found


def test_a_preview_is_short_and_its_image_is_found_from_the_root():
    article = BeautifulSoup(ARTICLE, "html.parser")
    assert preview(article.find(id="tab")).count("<tr>") == 8
    assert 'data-src="_images/a.svg"' in preview(article.find(id="fig"), "book/one.html")


def test_previews_are_written_of_what_links_lead_to_and_of_nothing_else(tmp_path):
    (tmp_path / "book").mkdir()
    huge = f"<p id='huge'>{'x' * 20_000}</p>"
    (tmp_path / "book/one.html").write_text(f"{ARTICLE.removesuffix('</article>')}{huge}</article>")
    addresses = ("one.html#eq", "one.html#huge", "one.html", "x.html", "https://a.org/one.html#eq")
    links = " ".join(f'<a href="{address}">x</a>' for address in addresses)
    (tmp_path / "book/two.html").write_text(f"<article>{links}</article>")
    write_previews(tmp_path)
    written = (tmp_path / "_static/previews/book/one.js").read_text()
    assert written.startswith('addPreviews("book/one", {"": ')
    assert written.count('": "') == 2
    assert 'class=\\"math\\"' in written


@pytest.mark.usefixtures("chromium")
def test_a_preview_comes_by_pointer_and_by_keyboard_and_goes_by_escape(tmp_path):
    static = tmp_path / "_static"
    static.mkdir()
    (static / "previews.js").write_text((ROOT / "book/_static/previews.js").read_text("utf-8"))
    scripts = '<script src="_static/previews.js"></script>'
    html = f'<html data-content_root="./">{scripts}<article class="bd-article">'
    (tmp_path / "one.html").write_text(f'{html}<a href="two.html#eq">(1)</a><p>far</p></article>')
    (tmp_path / "two.html").write_text(f'{html}<div class="math" id="eq">x = y</div></article>')
    write_previews(tmp_path)
    with open_browser() as browser:
        tab = browser.new_page()
        said = []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.goto((tmp_path / "one.html").as_uri())
        tab.hover("a")
        tab.wait_for_selector(".preview:has-text('x = y')")
        assert tab.get_attribute("a", "aria-describedby") == tab.get_attribute(".preview", "id")
        tab.hover("p")
        tab.wait_for_selector(".preview", state="detached")
        tab.keyboard.press("Tab")
        tab.wait_for_selector("[role=tooltip]")
        tab.keyboard.press("Escape")
        tab.wait_for_selector(".preview", state="detached")
        assert tab.get_attribute("a", "aria-describedby") is None
        assert said == []


# the repository


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("https://github.com/who/what", "https://github.com/who/what"),
        ("https://github.com/who/what.git/", "https://github.com/who/what"),
        ("https://user:secret@github.com/who/what.git", "https://github.com/who/what"),
        ("git@github.com:who/what.git", "https://github.com/who/what"),
        ("ssh://git@gitlab.com:22/group/sub/wh.at", "https://gitlab.com/group/sub/wh.at"),
        ("/srv/git/what.git", None),
        ("https://forge.intern/who/what", None),
        ("https://github.com.evil.org/who/what", None),
        ("https://github.com/who", None),
        ("", None),
    ],
)
def test_the_public_address_of_a_repository(address, public):
    assert public_address(address) == public


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)


def test_the_configuration_comes_before_the_remote(tmp_path):
    git(tmp_path, "init")
    assert find_repository({}, tmp_path) is None
    git(tmp_path, "remote", "add", "origin", "git@github.com:who/what.git")
    assert find_repository({}, tmp_path) == Repository("https://github.com/who/what", "main")
    given = {"repository": {"url": "https://gitlab.com/a/b", "branch": "dev"}}
    assert find_repository(given, tmp_path) == Repository("https://gitlab.com/a/b", "dev")
    with pytest.raises(ConfigError, match="repository: url = '/srv/b' is no address in a public"):
        find_repository({"repository": {"url": "/srv/b"}}, tmp_path)


def theme(config: dict, root: Path) -> dict:
    return with_repository(config, root)["sphinx"]["config"]["html_theme_options"]


def test_buttons_need_an_address(tmp_path, capsys):
    git(tmp_path, "init")
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    assert not any("button" in option for option in theme(config, tmp_path))
    assert capsys.readouterr().out.startswith("No buttons for edit, issue and launch: no public")
    for forge, colab in {"github": True, "gitlab": False}.items():
        config["repository"] = {"url": f"https://{forge}.com/who/what"}
        options = theme(config, tmp_path)
        assert options["use_edit_page_button"]
        assert options["use_issues_button"]
        assert options["repository_url"] == f"https://{forge}.com/who/what"
        assert ("colab_url" in options["launch_buttons"]) == colab
        assert options["search_bar_text"] == "Search the book"
        assert capsys.readouterr().out.count("\n") == 1
    assert "repository" in config
    assert "repository" not in with_repository(config, tmp_path)


# notebooks that are taken away


def run_start(folder: Path, source: str, installed: bool = True) -> str:
    """Run the start cell in a process of its own, without a network; what it would have run."""
    program = (
        "import importlib.util, os, pathlib, subprocess\n"
        f"importlib.util.find_spec = lambda name: {installed}\n"
        "def run(command, check):\n"
        "    print(*command)\n"
        "    if command[0] == 'git': pathlib.Path(command[-1]).mkdir()\n"
        "subprocess.run = run\n"
        f"{start_cell(source).source}\n"
        "print(os.getcwd())"
    )
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout


def test_a_notebook_within_the_book_only_goes_to_its_root(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "_toc.yml").touch()
    assert run_start(tmp_path / "book", "https://a.org/b") == f"{tmp_path.resolve()}\n"
    assert run_start(tmp_path, "") == f"{tmp_path.resolve()}\n"


def test_a_notebook_elsewhere_fetches_and_installs_the_book(tmp_path):
    book = tmp_path.resolve() / "dnr-book"
    clone, note, install, folder = run_start(tmp_path, "https://a.org/b", False).splitlines()
    assert clone == f"git clone --quiet --depth 1 https://a.org/b {book}"
    assert "Installing" in note
    assert install.endswith("-m pip install --quiet .[book]")
    assert folder == str(book)


def test_without_a_known_repository_a_notebook_elsewhere_stops(tmp_path):
    assert run_start(tmp_path, "") == ""


def test_downloads_get_the_start_cell_once(tmp_path):
    path = tmp_path / "_sources/book/one.ipynb"
    path.parent.mkdir(parents=True)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])
    nbformat.write(notebook, path)
    for _ in range(2):
        complete_downloads(tmp_path, "https://github.com/who/what")
    cells = nbformat.read(path, as_version=4).cells
    assert [cell.id == launch.IDENTIFIER for cell in cells] == [True, False]
    compile(cells[0].source, "start", "exec")


def test_colab_opens_the_notebook_of_the_site():
    found = colab_address("https://github.com/who/what", "gh-pages", "book/one")
    what = "github/who/what/blob/gh-pages/_sources/book/one.ipynb"
    assert found == f"https://colab.research.google.com/{what}"


def test_binder_installs_the_pinned_versions():
    script = ROOT / "binder/postBuild"
    assert script.stat().st_mode & 0o100
    assert "-c constraints.txt" in script.read_text("utf-8")
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert (ROOT / "binder/runtime.txt").read_text("utf-8").strip() == "python-3.11"


# the PDF

PAGE = """<html><head><style>.toggle-hidden {{ display: none }}</style></head>
<body><article class="bd-article"><section id="{name}"><h1>{name}</h1>
<p><a href="{other}.html#there">To the other</a> <a href="#there">here</a>
<a href="../search.html">search</a> <a href="https://example.org/">away</a></p>
<p class="toggle-hidden">The solution of {name}.</p>
<section id="there" style="break-before: page"><h2>Where {name} ends</h2></section>
</section></article></body></html>"""


@pytest.fixture
def site(tmp_path):
    """A tiny site of two pages, each of two sheets."""
    (tmp_path / "_build/html/book").mkdir(parents=True)
    (tmp_path / "book").mkdir()
    (tmp_path / "_config.yml").write_text("title: A <small> book\nauthor: us\n")
    chapters = "chapters: [{file: book/b}]"
    (tmp_path / "_toc.yml").write_text(f"root: book/a\nparts:\n- caption: Rest\n  {chapters}\n")
    for name, other in ("ab", "ba"):
        (tmp_path / f"book/{name}.md").touch()
        page = PAGE.format(name=name, other=other)
        (tmp_path / f"_build/html/book/{name}.html").write_text(page)
    return tmp_path


def destinations(pdf, page: int) -> list:
    """Page of each link within the file, and address of each other one."""
    links = [reference.get_object() for reference in pdf.pages[page]["/Annots"]]
    return [
        pdf.get_page_number(link["/Dest"][0].get_object())
        if "/Dest" in link
        else link.get("/A", {}).get("/URI")
        for link in links
    ]


@pytest.mark.usefixtures("chromium")
def test_the_pdf_has_every_page_with_numbers_outline_and_links(site):
    from pypdf import PdfReader

    from dnrlib.book.print import print_book

    pdf = PdfReader(print_book(site))
    text = [page.extract_text() for page in pdf.pages]
    assert len(text) == 5
    assert "A <small> book" in text[0]
    assert [re.search(r"\d+\s*$", page).group().strip() for page in text[1:]] == list("2345")
    assert "The solution of a." in text[1]
    first, section, part, [second, _] = [pdf.outline[0], *pdf.outline[1:]]
    assert (first.title, section[0].title, part.title) == ("a", "Where a ends", "Rest")
    assert second.title == "b"
    assert [pdf.get_destination_page_number(one) for one in (first, section[0], second)] == [
        1,
        2,
        3,
    ]
    assert destinations(pdf, 1) == [4, 2, None, "https://example.org/"]
    assert destinations(pdf, 3) == [2, 4, None, "https://example.org/"]
    assert quote(str(site)) not in (site / "_build/dnr-book.pdf").read_bytes().decode("latin-1")


@pytest.mark.usefixtures("chromium")
def test_the_pdf_needs_a_site(site):
    from dnrlib.book.print import print_book

    (site / "_build/html/book/b.html").unlink()
    with pytest.raises(
        BookError, match=r"there is no _build/html/book/b\.html: run make book first"
    ):
        print_book(site)
