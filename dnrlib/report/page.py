"""A report as one HTML file that needs nothing else."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from dnrlib import figures
from dnrlib.book.typography import typeset
from dnrlib.experiments import provenance
from dnrlib.files import replacing
from dnrlib.report import pictures
from dnrlib.report.answer import RULE
from dnrlib.report.found import Found
from dnrlib.report.pictures import Picture, Rows, label
from dnrlib.report.runs import DENOISING, REFERENCE

STYLE = Path(__file__).with_name("page.css")
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What the page may load: nothing but what it holds."""
LIMITS = (
    "The log is of what another policy showed. A candidate that nobody saw counts as not liked, "
    "though perhaps it would have been: a method that finds such candidates looks worse here than "
    "it is, and one that learns what used to be shown looks better.",
    "Clicks depend on the place where a candidate stood. The lists here do not know places, so "
    "that what was shown high looks liked for itself.",
    "A difference in NDCG@6 on logged lists is no difference in what users do. Only an experiment "
    "in service (an A/B test) measures that.",
    "The test lists are the latest of this file. Another week, another market or another "
    "retriever can give another answer: the intervals speak of other lists like these and of "
    "other seeds, of nothing else.",
    "The models know users and items by their numbers. Features of the file are read, but the "
    "rerankers of this package do not use them; your own reranker may, and its answer may differ.",
    "A method was trained with one budget and the best of a few learning rates. A longer search "
    "could help any of them, the score as a plain feature as well.",
)


def write(found: Found, out: Path) -> Path:
    """Write the page; the file appears only when all is written."""
    page = page_of(found)
    with replacing(out) as partial:
        partial.write_text(page, "utf-8")
    return out


def page_of(found: Found) -> str:
    """The page as text."""
    sections = dict(_sections(found))
    name = html.escape(Path(found.asked.file).name)
    links = "".join(
        f'<li><a href="#{key}">{title}</a></li>' for key, (title, _) in sections.items()
    )
    body = "".join(
        f'<section id="{key}"><h2>{title}</h2>{content}</section>'
        for key, (title, content) in sections.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Does denoising help? {name}</title><style>{STYLE.read_text('utf-8')}</style>"
        f"</head><body><main><h1>Does denoising help on {name}?</h1>{_answer(found)}"
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>{body}</main></body></html>\n'
    )


def _answer(found: Found) -> str:
    answer = found.answer
    over = found.over_score
    worth = (
        f"The reranker with the score as a plain feature has {over.mean:+.3f} "
        f"({over.low:+.3f} to {over.high:+.3f}) NDCG@6 against the score alone."
    )
    size = found.planned.works[REFERENCE][0].sizes
    about = (
        f"{found.asked.reranker}, {size.train:,} training lists, {found.asked.epochs} epochs, "
        f"{found.asked.seeds} seeds a method. Smallest difference that matters: "
        f"{found.asked.effect:g}."
    )
    return (
        f'<div class="answer"><strong>{_text(answer.headline)}</strong>{_text(answer.sentence)} '
        f"{_text(worth)}</div>{''.join(map(_alarm, answer.besides))}"
        f'{_figure(pictures.answer_figure(found))}<p class="quiet">{_text(about)}</p>'
    )


def _sections(found: Found) -> Iterator[tuple[str, tuple[str, str]]]:
    yield "rule", ("The rule of the answer", _paragraph(RULE))
    yield "file", ("How the file was understood", _file(found))
    yield "score", ("What the score alone is worth", _score(found))
    yield "methods", ("The methods compared", _methods(found))
    yield "robustness", ("When scores are disturbed", _robustness(found))
    yield "cost", ("What it costs", _cost(found))
    yield "map", ("Where these lists stand on the map", _map(found))
    yield "again", ("How to do it again", _again(found))
    yield "limits", ("What this cannot say", _list(LIMITS))


# Sections ----------------------------------------------------------------------------------


def _file(found: Found) -> str:
    rows = _table(pictures.file_rows(found), "What was read, and what became of it.")
    seen = found.understood.warnings
    said = f"<h3>What is odd about it</h3>{_list(seen)}" if seen else _paragraph("Nothing odd.")
    return rows + said


def _score(found: Found) -> str:
    orders = _table(
        pictures.score_rows(found),
        "The test lists in orders that need no training; the oracle knows the labels and is the "
        "bound of every order.",
    )
    splits = _table(
        pictures.splits_rows(found),
        "AUC of the score, mean over lists with 95 % interval (over users, where they are known), "
        "and how it falls after training.",
    )
    return (
        _paragraph(f"{found.alone.looks_like()}.") + orders + splits
        + _figure(pictures.time_figure(found)) + _figure(pictures.calibration_figure(found))
    )  # fmt: skip


def _methods(found: Found) -> str:
    rates = ", ".join(f"{rate:g}" for rate in found.asked.learning_rates)
    how = (
        f"Every method has the same budget: {found.asked.epochs} epochs, {found.asked.seeds} "
        f"seeds, the best epoch by validation, and that of the learning rates {rates} which has "
        "the best validation NDCG@6 with the first seed. Test lists choose nothing."
    )
    out = _list(f"{label(name)} is left out: {why}" for name, why in found.planned.left_out.items())
    compared = _table(
        pictures.method_rows(found),
        "NDCG@6 on the test lists, and the paired difference from the score as a plain feature "
        "(concat) with 95 % interval. p: no difference, p within: a difference of the smallest "
        "effect that matters or more; both adjusted over the methods. Lists needed: test lists "
        "with which the smallest effect that matters would be found with a probability of 80 %.",
    )
    return (
        _paragraph(how) + out + compared
        + _table(pictures.metric_rows(found), "All metrics, mean over test lists and seeds.")
        + _table(pictures.tuning_rows(found), "Validation NDCG@6 with the first seed, by rate.")
    )  # fmt: skip


def _robustness(found: Found) -> str:
    if found.robustness is None:
        return _paragraph("Not measured: the weights of some runs are not on this machine.")
    rows = _table(
        pictures.robustness_rows(found),
        "By how much less than the score as a feature each method drops when scores are "
        "disturbed, with 95 % interval, not adjusted: above zero, it is more robust.",
    )
    return _figure(pictures.robustness_figure(found)) + rows


def _cost(found: Found) -> str:
    same = [found.serving[name].same_graph for name in DENOISING if name in found.serving]
    told = (
        "Served, each denoising method is the same sequence of operations as the score as a plain "
        "feature: it costs nothing more, and the times below differ by chance."
        if same and all(same)
        else "Whether the methods are served by the same operations could not be told for all."
    )
    return _paragraph(told) + _table(
        pictures.cost_rows(found),
        "Medians over the runs, on this machine. All training lists: predicted for one run. Time "
        "a list: of training, against the score as a feature. Training MiB: weights, gradients, "
        "moments and what a step saves. Serving: one list a request.",
    )


def _map(found: Found) -> str:
    text = (
        "In a world so small that every loss is a sum, the chapter *When denoising helps* of the "
        "book maps where invented scores pay: with a score that points the right way, few pairs "
        "to learn from, and training scores that look better than those in service. These are the "
        "coordinates of the lists, and what that world says of Beta noise. It knows no lists and "
        "no transformer: a hint, no result."
    )
    return _paragraph(text.replace("*", "")) + _table(
        pictures.map_rows(found), "Coordinates, and the gain in AUC that the map reads from them."
    )


def _again(found: Found) -> str:
    made = provenance()
    facts = {
        "lists": found.lists.fingerprint,
        "file": found.lists.meta["log"],
        "code of the runs": found.asked.config(REFERENCE).code,
        "reranker": found.asked.reranker,
        "seeds": ", ".join(map(str, range(found.asked.seeds))),
        "commit here": made["commit"],
        "versions": ", ".join(f"{name} {number}" for name, number in made["versions"].items()),
        "machine": made["machine"],
        "made": made["date"],
        "runs": f"{sum(map(len, found.runs.of.values()))} and those of the other learning rates",
    }
    return (
        f"<pre>{html.escape(found.asked.command)}</pre>"
        + _paragraph(
            "Each run below has a record. dnr reproduce --run NAME does it once more and compares "
            "the two; dnr evaluate NAME scores its test lists again with its weights."
        )
        + _table([{"what": name, "here": text} for name, text in facts.items()], "Provenance.")
        + _table(pictures.run_rows(found), "The runs behind the figures, and their test NDCG@6.")
    )


# Pieces ------------------------------------------------------------------------------------


def _text(text: str) -> str:
    return html.escape(typeset(text))


def _paragraph(text: str) -> str:
    return f"<p>{_text(text)}</p>"


def _list(texts: Iterable[str]) -> str:
    items = "".join(f"<li>{_text(text)}</li>" for text in texts)
    return f"<ul>{items}</ul>" if items else ""


def _alarm(text: str) -> str:
    return f'<div class="alarm"><b>Before you believe it.</b> {_text(text)}</div>'


def _figure(picture: Picture | None) -> str:
    if picture is None:
        return ""
    with tempfile.TemporaryDirectory() as folder:
        return figures.save(*picture, folder=folder).html


def _table(rows: Rows, caption: str) -> str:
    """A table that scrolls within the page; cells of one with two columns break instead."""
    head = "".join(f'<th scope="col">{_text(title)}</th>' for title in rows[0])
    body = "".join(f"<tr>{_row([str(value) for value in row.values()])}</tr>" for row in rows)
    kind = "scroll" if len(rows[0]) > 2 else "scroll words"
    return (
        f'<div class="{kind}" role="region" tabindex="0" aria-label="{_text(caption)}"><table>'
        f"<caption>{_text(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _row(cells: list[str]) -> str:
    first, *others = map(_text, cells)
    return f'<th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in others)
