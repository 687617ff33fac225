"""The verdicts as HTML: whole, escaped, linked both ways, and readable without scripts."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from dnrlib.claims import Claim, Rules
from dnrlib.evidence import Origin
from dnrlib.statistics import Estimate
from dnrlib.verdict_tables import (
    COLOURS,
    MARKS,
    Cell,
    badge,
    sortable,
    verdict_details,
    verdict_table,
)
from dnrlib.verdicts import DIRECTION, UNTESTABLE, VERDICTS, Verdict

CLAIM = Claim(
    "gain", "main", "A < B & C", "ml-1m", "ndcg@6 difference", "4.82", "points", "a table",
    "difference", "full/a - full/b", "50 %",
)  # fmt: skip
MADE = {"date": "2020-01-02T03:04:05+00:00", "commit": "abc123", "machine": "some machine"}
RUNS = [
    Origin(f"run.{seed}", "experiments/full.yml", MADE, seed, "print", 2000, "a part: 3 of 9")
    for seed in (0, 1)
]
FOUND = {
    "gain": Verdict(
        CLAIM, DIRECTION, "4.82 points", "+1.00 [+0.50, +1.50] points", "above zero",
        Estimate(1.0, 0.5, 1.5, 2000, 0, 0.2, 4.5, 0.01, 0.3, 2), 0.02, 2, RUNS, 1,
    ),
    "other": Verdict(replace(CLAIM, id="other", rule="none"), UNTESTABLE, "–", "–", "no data"),
}  # fmt: skip
RULES = Rules(0.95, 0.05, 2000, {"difference": "First minus second.", "none": "Nothing."})


class Tags(HTMLParser):
    """Tags that were opened and closed, and the attributes and text between them."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.text = [], [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if "href" in given else []
        if tag not in ("br", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_table_and_the_runs_lead_to_each_other():
    table, details = Tags(verdict_table(FOUND).html), Tags(verdict_details(FOUND, RULES).html)
    assert table.links == ["#runs-gain", "#runs-other"]
    assert details.links == ["#claim-gain", "#claim-other"]
    for links, target in ((table.links, details), (details.links, table)):
        assert {link[1:] for link in links} <= set(target.ids)
    assert len(table.ids + details.ids) == len({*table.ids, *details.ids})


def test_a_row_says_all_without_a_script():
    table = verdict_table(FOUND).html.partition("<script>")[0]
    found = Tags(table)
    for words in ("A < B & C", "gain", "a table", "4.82 points", "+1.00 [+0.50", DIRECTION):
        assert words in found.text
    assert "2 runs" in found.text
    assert "why" in found.text


def test_rows_are_sorted_by_number_where_there_is_one():
    first, second = re.findall(r"<tr id=.*?</tr>", verdict_table(FOUND).html)
    keys = [re.findall(r'data-key="([^"]*)"', row) for row in (first, second)]
    assert keys[0] == ["0", str(VERDICTS.index(DIRECTION)), "4.82", "1.0", "2", "main", "a table"]
    assert keys[1][:5] == ["1", str(VERDICTS.index(UNTESTABLE)), "4.82", "", "0"]


def test_the_details_hold_what_makes_a_verdict():
    text = Tags(verdict_details(FOUND, RULES).html).text
    for words in (
        "above zero", "First minus second.", "0.2, with 4.5 degrees", "0.02, among 2",
        "+0.30 standard deviations", "1 of 2", "print", "a part: 3 of 9", "abc123", "some machine",
        "2,000", "run.0", "run.1", "dnr reproduce --experiment full", "2020-01-02",
    ):  # fmt: skip
        assert words in text
    waiting = replace(FOUND["gain"], family=3, awaited=1)
    told = Tags(verdict_details({"gain": waiting}, RULES).html).text
    assert "0.02, among 3 of this kind, 1 of them not recorded yet and counted as 1" in told
    assert "not recorded yet" not in text
    unknown = replace(FOUND["gain"], before_rule=None)
    assert "git's history is not here" in Tags(verdict_details({"gain": unknown}, RULES).html).text


def test_code_in_a_reason_is_shown_as_code():
    waiting = replace(FOUND["other"], reason="a < b: `dnr reproduce --experiment main`")
    html = verdict_details({"other": waiting}, RULES).html
    assert "a &lt; b: <code>dnr reproduce --experiment main</code>" in html


def test_nothing_is_loaded():
    html = verdict_table(FOUND).html + verdict_details(FOUND, RULES).html
    assert not re.search(r"src=|https?:|@import|url\(", html)


def test_a_verdict_is_told_by_mark_and_word():
    assert len(set(MARKS.values())) == len(set(COLOURS.values())) == len(VERDICTS)
    for verdict in VERDICTS:
        assert Tags(badge(verdict)).text == f"{MARKS[verdict]} {verdict}"


def test_text_is_escaped():
    html = sortable(["<i>"], {"a": [Cell("x", 'say "no"')]}, "name", "<label>").html
    assert "<i>" not in html
    assert "<label>" not in html.replace("<label>Search", "")
    assert 'data-key="say &quot;no&quot;"' in html
    assert 'getElementById("name")' in html


@pytest.mark.parametrize("make", [verdict_table, lambda found: verdict_details(found, RULES)])
def test_a_notebook_has_html_and_everything_else_a_text(make):
    bundle = make(FOUND)._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}
    assert "2" in bundle["text/plain"]
