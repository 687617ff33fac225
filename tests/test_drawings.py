"""Schematic pictures have in them what they were asked to show."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.patches import FancyBboxPatch

from dnrlib.drawings import FLOW_COLOURS, cascade, flow, idea
from dnrlib.errors import ConfigError
from dnrlib.figures import PALETTE

BOXES = {
    "lists": {"at": [0, 0], "text": "a list", "kind": "input"},
    "scores": {"at": [1, 0], "text": "scores", "kind": "input"},
    "layer": {"at": [0.5, 1], "text": "a layer\nof two lines", "kind": "learned", "width": 1.6},
    "loss": {"at": [0.5, 2], "text": "a loss", "kind": "loss"},
    "logits": {"at": [1.5, 2], "text": "logits", "kind": "output"},
}
ARROWS = [["lists", "layer"], ["scores", "layer", "or x'"], ["layer", "loss"], ["loss", "logits"]]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def texts(ax):
    return [text.get_text() for text in ax.texts if text.get_text()]


def patches(ax):
    return [patch for patch in ax.patches if isinstance(patch, FancyBboxPatch)]


def arrows(ax):
    """From where to where, of each arrow."""
    found = [text for text in ax.texts if getattr(text, "arrow_patch", None) is not None]
    return [(tuple(text.xyann), tuple(text.xy)) for text in found]


def test_a_flow_has_each_box_at_its_place_with_its_text_and_colour():
    [ax] = flow(BOXES, ARROWS).axes
    assert len(patches(ax)) == len(BOXES)
    for box, patch in zip(BOXES.values(), patches(ax), strict=True):
        column, row = box["at"]
        [text] = [text for text in ax.texts if text.get_text() == box["text"]]
        assert text.get_position() == (column + 0.5, row)
        bounds = patch.get_bbox()
        assert (bounds.x0 + bounds.x1) / 2 == pytest.approx(column + 0.5)
        assert (bounds.y0 + bounds.y1) / 2 == pytest.approx(row)
        assert bounds.width == pytest.approx(0.92 * box.get("width", 1))
        assert patch.get_facecolor() == to_rgba(FLOW_COLOURS[box["kind"]])


def test_a_flow_has_each_arrow_from_edge_to_edge_and_its_words():
    [ax] = flow(BOXES, ARROWS).axes
    assert len(arrows(ax)) == len(ARROWS)
    assert texts(ax) == [box["text"] for box in BOXES.values()] + ["or x'"]
    for (begin, end, *_), (start, stop) in zip(ARROWS, arrows(ax), strict=True):
        (column, row), (to_column, to_row) = BOXES[begin]["at"], BOXES[end]["at"]
        if row == to_row:  # sideways
            assert start == pytest.approx((column + 0.96, row))
            assert stop == pytest.approx((to_column + 0.04, row))
        else:
            assert start == pytest.approx((column + 0.5, row + 0.28))
            assert stop == pytest.approx((to_column + 0.5, to_row - 0.28))


def test_an_arrow_may_go_up():
    [ax] = flow(BOXES, [["loss", "layer"]]).axes
    [(start, stop)] = arrows(ax)
    assert (start, stop) == (pytest.approx((1.0, 1.72)), pytest.approx((1.0, 1.28)))


def test_every_box_of_a_flow_is_inside_the_picture():
    [ax] = flow(BOXES, ARROWS).axes
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    assert bottom > top  # row 0 stands above row 1
    for patch in patches(ax):
        bounds = patch.get_bbox()
        assert left < bounds.x0 < bounds.x1 < right
        assert top < bounds.y0 < bounds.y1 < bottom


@pytest.mark.parametrize("arrow", [["lists", "nowhere"], ["nowhere", "lists"]])
def test_an_arrow_needs_two_boxes(arrow):
    with pytest.raises(ConfigError, match="there is no box 'nowhere'"):
        flow(BOXES, [arrow])


def test_an_unknown_kind_is_refused():
    wrong = BOXES | {"loss": BOXES["loss"] | {"kind": "gain"}}
    with pytest.raises(ConfigError, match="box loss: kind 'gain' is unknown: choose one of input"):
        flow(wrong, [])


def dots(ax):
    """Of the catalogue, of the candidates and of what is shown."""
    return [len(collection.get_offsets()) for collection in ax.collections]


@pytest.mark.parametrize(("candidates", "places"), [(50, 6), (12, 3)])
def test_a_cascade_narrows_to_the_candidates_and_to_the_places(candidates, places):
    [ax] = cascade(3000, candidates, places).axes
    assert dots(ax) == [350, candidates, places]
    shown = texts(ax)
    for words in ("3,000 items", f"n = {candidates}", f"K = {places}", f"orders {candidates}"):
        assert words in shown


def test_as_many_candidates_are_ringed_as_there_are_places():
    [ax] = cascade(3000, 50, 6).axes
    _, candidates, shown = ax.collections
    assert sum(edge[3] > 0 for edge in candidates.get_edgecolors()) == 6
    assert sum(edge[3] > 0 for edge in shown.get_edgecolors()) == 6


def lists_of(ax):
    """Of each list that is drawn: height, length and whether it is liked, of its bars."""
    found = []
    for others, liked in zip(ax.containers[::2], ax.containers[1::2], strict=True):
        assert {bar.get_facecolor() for bar in liked} == {to_rgba(PALETTE[0])}
        bars = [
            (bar.get_y() + bar.get_height() / 2, bar.get_width(), own)
            for own, container in ((False, others), (True, liked))
            for bar in container
        ]
        found.append(np.array(sorted(bars, reverse=True)))
    return found


@pytest.mark.parametrize(("candidates", "places"), [(50, 6), (20, 3)])
def test_the_idea_has_the_same_liked_candidates_in_each_list(candidates, places):
    [ax] = idea(3000, candidates, places).axes
    score, found, feedback, synthetic = lists_of(ax)
    for one in (score, found, feedback, synthetic):
        assert len(one) == candidates
        assert one[:, 2].sum() == places
    liked = score[:, 2].astype(bool)
    assert (feedback[:, 2].astype(bool) == liked).all()
    assert (synthetic[:, 2].astype(bool) == liked).all()
    assert len(set(feedback[liked, 1])) == len(set(feedback[~liked, 1])) == 1


def test_the_retriever_scatters_what_is_liked_and_the_reranker_puts_it_first():
    [ax] = idea(3000, 50, 6).axes
    score, found, *_ = lists_of(ax)
    assert (np.diff(score[:, 1]) <= 0).all()
    assert (np.diff(found[:, 1]) <= 0).all()
    assert score[:6, 2].sum() < 6
    assert found[:6, 2].all()
    [frame] = patches(ax)
    inside = [frame.get_bbox().y0 < y < frame.get_bbox().y1 for y in found[:, 0]]
    assert sum(inside[:6]) == sum(inside) == 6


def test_the_idea_says_what_is_what_within_the_picture():
    figure = idea(3043, 50, 6)
    [ax] = figure.axes
    shown = texts(ax)
    for words in ("3,043 items", "50 candidates", "6 are shown", "retriever", "reranker"):
        assert words in shown
    figure.canvas.draw()
    for text in ax.texts:
        if text.get_text():
            box = text.get_window_extent()
            assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1, text.get_text()
            assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1, text.get_text()
