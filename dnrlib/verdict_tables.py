"""The verdicts as HTML: a table that a page can sort and search by itself, and the runs behind it.

Nothing is loaded. Without JavaScript it is a plain table.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

from dnrlib.claims import Rules, load_rules
from dnrlib.evidence import Origin
from dnrlib.figures import PALETTE
from dnrlib.verdicts import VERDICTS, Verdict, redo

MARKS = dict(zip(VERDICTS, "✓◐○✗–", strict=True))
"""Beside the word, so that no verdict is told by its colour alone."""
COLOURS = dict(
    zip(VERDICTS, (PALETTE[2], PALETTE[5], PALETTE[4], PALETTE[1], "#999999"), strict=True)
)
"""Verdict -> colour."""


@dataclass(frozen=True)
class Html:
    """What a cell returns: HTML for page and notebook, and a text for everything else."""

    html: str
    text: str

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.text}


class Cell(NamedTuple):
    """One cell of a sortable table."""

    html: str
    key: str
    """What it is sorted by: numbers as numbers, the rest as text, nothing last."""


def sortable(
    titles: Sequence[str], rows: Mapping[str, Sequence[Cell]], name: str, label: str
) -> Html:
    """A table that is sorted by its titles and searched by words.

    Args:
        titles: of the columns.
        rows: anchor -> cells; `#anchor` leads to the row.
        name: the anchor of the whole.
        label: what the table is, for those who cannot see it.
    """
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    body = "".join(f'<tr id="{escape(id)}">{_cells(row)}</tr>' for id, row in rows.items())
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    search = (
        '<p class="dnr-search"><label>Search <input type="search" '
        'placeholder="words, as in: main contradicted"></label> <span role="status"></span></p>'
    )
    box = (
        f'<div class="dnr-scroll" role="region" tabindex="0" aria-label="{escape(label)}">'
        f"{table}</div>"
    )
    script = SCRIPT.replace("NAME", name)
    html = f'<style>{STYLE}</style><div id="{name}" class="dnr-sortable">{search}{box}</div>'
    return Html(f"{html}<script>{script}</script>", f"{label}: {len(rows)} rows")


def _cells(row: Iterable[Cell]) -> str:
    return "".join(f'<td data-key="{escape(cell.key)}">{cell.html}</td>' for cell in row)


def badge(verdict: str) -> str:
    """A verdict with its mark."""
    colour = COLOURS[verdict]
    return (
        f'<span class="dnr-verdict" style="border-color:{colour}">'
        f'<span aria-hidden="true">{MARKS[verdict]}</span> {verdict}</span>'
    )


def verdict_table(verdicts: Mapping[str, Verdict]) -> Html:
    """Every claim with the paper's value, ours, the verdict and a link to its runs."""
    titles = ("claim", "verdict", "paper", "ours", "runs", "kind", "in the paper")
    rows = {f"claim-{id}": _row(id, place, one) for place, (id, one) in enumerate(verdicts.items())}
    return sortable(titles, rows, "claims-table", "Claims of the paper and their verdicts")


def _row(id: str, place: int, one: Verdict) -> list[Cell]:
    claim, mean = one.claim, one.estimate.mean if one.estimate else ""
    statement = (
        f"{escape(claim.statement)}<br><small>{escape(claim.dataset)} {escape(claim.metric)}"
    )
    link = f'<a href="#runs-{id}">{_many(len(one.runs))}</a>'
    return [
        Cell(f"{statement} · <code>{id}</code></small>", str(place)),
        Cell(badge(one.verdict), str(VERDICTS.index(one.verdict))),
        Cell(escape(one.paper), claim.value),
        Cell(escape(one.ours), str(mean)),
        Cell(link, str(len(one.runs))),
        Cell(escape(claim.kind), claim.kind),
        Cell(escape(claim.source), claim.source),
    ]


def _many(runs: int) -> str:
    return "why" if not runs else f"{runs} run{'s' * (runs > 1)}"


def verdict_details(verdicts: Mapping[str, Verdict], rules: Rules | None = None) -> Html:
    """Of each claim why it has its verdict, and the runs; folded."""
    rules = rules or load_rules()
    parts = "".join(_details(id, one, rules) for id, one in verdicts.items())
    html = f'<style>{STYLE}</style><div class="dnr-details">{parts}</div>'
    return Html(html, f"the runs of {len(verdicts)} claims")


def _details(id: str, one: Verdict, rules: Rules) -> str:
    facts = {
        "claim": one.claim.statement,
        "paper": f"{one.paper} ({one.claim.source})",
        "ours": one.ours,
        "because": one.reason,
        f"rule, {one.claim.rule}": rules.rules[one.claim.rule],
        **_statistics(one),
        **_provenance(one),
    }
    # the anchor is inside, so that a link to it opens what is folded
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{_marked(v)}</dd>" for k, v in facts.items() if v)
    return (
        f"<details><summary>{badge(one.verdict)} <code>{id}</code></summary>"
        f'<dl id="runs-{id}">{listed}</dl>{_runs(one.origins)}'
        f'<p><a href="#claim-{id}">back to the table</a></p></details>'
    )


def _marked(text: str) -> str:
    """HTML of a text with code between backticks."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _statistics(one: Verdict) -> dict[str, str]:
    found = one.estimate
    if found is None:
        return {}
    facts = {"standard error": f"{found.error:.3g}, with {found.freedom:.1f} degrees of freedom"}
    if one.p is None:
        return facts
    awaited = f", {one.awaited} of them not recorded yet and counted as 1" if one.awaited else ""
    return facts | {
        "adjusted p-value": f"{one.p:.3g}, among {one.family} of this kind{awaited}",
        "effect size": f"{found.size:+.2f} standard deviations of a list's difference",
    }


def _provenance(one: Verdict) -> dict[str, str]:
    if not one.origins:
        return {}
    before = f"{one.before_rule} of {len(one.runs)}"
    if one.before_rule is None:
        before = "not known, as git's history is not here"
    dates = sorted(date[:10] for date in one.made("date"))
    return {
        "made": " to ".join(dict.fromkeys([dates[0], dates[-1]])),
        "older than the rule or the claim's row": before,
        "test lists": f"{one.lists:,}" if one.lists else "",
        "data": ", ".join(one.fingerprints),
        "data differ": "; ".join(one.notes),
        "commits": ", ".join(one.made("commit")),
        "machines": ", ".join(one.made("machine")),
        "again": "; ".join(redo(one)),
    }


def _runs(origins: Sequence[Origin]) -> str:
    if not origins:
        return ""
    sources = Counter(origin.source for origin in origins)
    names = {
        source: "".join(
            f"<li><code>{escape(origin.name)}</code></li>"
            for origin in origins
            if origin.source == source
        )
        for source in sources
    }
    return "".join(f"<p>{source}</p><ul>{items}</ul>" for source, items in names.items())


STYLE = """
.dnr-scroll { overflow: auto; max-height: 80vh; border: 1px solid var(--pst-color-border, #ccc); }
.dnr-scroll:focus-visible { outline: 2px solid var(--pst-color-primary, #06c); }
.dnr-sortable table { margin: 0; border-collapse: collapse; font-size: 0.85rem; min-width: 52rem; }
.dnr-sortable th, .dnr-sortable td { padding: 0.3rem 0.5rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--pst-color-border, #ccc); color: var(--pst-color-text-base, #222); }
.dnr-sortable td:first-child { min-width: 15rem; }
.dnr-sortable td:nth-child(4) { min-width: 9rem; }
@media (max-width: 480px) { .dnr-sortable td:first-child { min-width: 9rem; } }
.dnr-sortable th { position: sticky; top: 0; background: var(--pst-color-surface, #eee); }
.dnr-sortable tr:target > td { background: var(--pst-color-target, #ffd); }
.dnr-sortable th button { all: unset; cursor: pointer; font-weight: 600; white-space: nowrap; }
.dnr-sortable th button:focus-visible { outline: 2px solid var(--pst-color-primary, #06c); }
.dnr-sortable th[aria-sort=ascending] button::after { content: " ▲"; }
.dnr-sortable th[aria-sort=descending] button::after { content: " ▼"; }
.dnr-sortable th[aria-sort=none] button::after { content: " ⇅"; opacity: 0.5; }
.dnr-search { display: none; }
html[data-theme=dark] .bd-content div.cell_output .text_html:not(:has(table.dataframe)):has(
  .dnr-sortable, .dnr-details) { background: none; color: inherit; padding: 0; }
.dnr-live .dnr-search { display: block; }
.dnr-search input { max-width: 100%; width: 18rem; padding: 0.2rem 0.4rem; font: inherit;
  color: var(--pst-color-text-base, #222); background: var(--pst-color-background, #fff);
  border: 1px solid var(--pst-color-border, #888); }
.dnr-verdict { white-space: nowrap; border-left: 0.4rem solid; padding-left: 0.4rem;
  color: var(--pst-color-text-base, #222); }
.dnr-details details { border-bottom: 1px solid var(--pst-color-border, #ccc); padding: 0.3rem 0; }
.dnr-details summary { cursor: pointer; overflow-wrap: anywhere; }
.dnr-details dt { float: none; font-weight: 600; }
.dnr-details dd, .dnr-details li { overflow-wrap: anywhere; }
"""

SCRIPT = """
(() => {
  const box = document.getElementById("NAME");
  const table = box.querySelector("table");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const search = box.querySelector("input");
  const status = box.querySelector("[role=status]");

  const show = () => {
    // what is typed has a hyphen where the page has a minus
    const plain = text => text.toLowerCase().replaceAll("\u2212", "-");
    const words = plain(search.value).split(/\\s+/).filter(Boolean);
    const fits = row => words.every(word => plain(row.textContent).includes(word));
    rows.forEach(row => { row.style.display = fits(row) ? "" : "none"; });
    status.textContent = `${rows.filter(fits).length} of ${rows.length} rows`;
  };

  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  };

  const sort = at => {
    const down = heads[at].getAttribute("aria-sort") === "ascending";
    heads.forEach((head, i) => head.setAttribute(
      "aria-sort", i !== at ? "none" : down ? "descending" : "ascending"));
    const key = row => row.cells[at].dataset.key;
    rows.sort((a, b) => {
      const order = compare(key(a), key(b));
      return down && key(a) !== "" && key(b) !== "" ? -order : order;
    });
    body.append(...rows);
  };

  heads.forEach((head, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    button.addEventListener("click", () => sort(at));
    head.replaceChildren(button);
    head.setAttribute("aria-sort", "none");
  });
  search.addEventListener("input", show);
  window.addEventListener("hashchange", () => {
    if (location.hash.startsWith("#claim-")) { search.value = ""; show(); }
  });
  box.classList.add("dnr-live");
  show();
})();
"""
