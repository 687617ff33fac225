"""A book of two chapters, on which the builder is tried out."""

from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
PARAMETERS = """
size = 1  # of the line
rate = 0.1  # per step
name = 'a'  # of nothing
flag = True  # or not
limit = None  # of all
dataset = 'auto'  # that is read
"""
OPENING = """# One

:::{admonition} After this chapter you can
- draw a line, and with `dnr book --chapter one -p size 5` a longer one.
:::
"""
CLOSING = """## Summary

**Further reading.** None.

:::{exercise}
:label: exercise-CHAPTER

Draw a line.
:::
"""
TOC = """
format: jb-book
root: book/index
options:
  numbered: true
chapters:
  - file: book/one
  - file: book/two
  - file: book/bibliography
"""


def notebook(*code: str, parameters: str | None = PARAMETERS, prose: str = "", name: str = "one"):
    """A chapter of these cells, as it must be stored."""
    opening = OPENING.replace("One", name.title()).replace("one", name)
    texts = [opening + prose, CLOSING.replace("CHAPTER", name)]
    first, last = map(nbformat.v4.new_markdown_cell, texts)
    cells = [first, *map(nbformat.v4.new_code_cell, code), last]
    if parameters is not None:
        tags = {"tags": ["parameters"]}
        cells.insert(1, nbformat.v4.new_code_cell(parameters, metadata=tags))
    for number, cell in enumerate(cells):
        cell.id = f"{name}-{number}"
    return nbformat.v4.new_notebook(cells=cells)


def write_book(root: Path, profile: str = "one: {size: 4}", index: str = "# Book\n", **chapters):
    """A book of these chapters (by default of one that does nothing); returns its root."""
    chapters = chapters or {"one": notebook()}
    (root / "book/profiles").mkdir(parents=True)
    (root / "book/_static").mkdir()
    toc = [line for line in TOC.splitlines() if line != "  - file: book/two" or "two" in chapters]
    (root / "_toc.yml").write_text("\n".join(toc))
    (root / "_config.yml").write_text((ROOT / "_config.yml").read_text())
    (root / "book/profiles/quick.yml").write_text(profile)
    (root / "book/index.md").write_text(index)
    (root / "book/bibliography.md").write_text("# Works\n```{bibliography}\n```\n")
    (root / "book/references.bib").write_text((ROOT / "book/references.bib").read_text())
    (root / "book/_static/favicon.svg").write_text("<svg/>")
    for name, chapter in chapters.items():
        nbformat.write(chapter, root / f"book/{name}.ipynb")
    return root
