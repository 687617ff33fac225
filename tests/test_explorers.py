"""What explorers compute in the page is what dnrlib computes, and the controls move it."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import rel_entr

from dnrlib import explorers, studies
from dnrlib.distances import NAMES, Sample, distances
from dnrlib.errors import ConfigError
from dnrlib.explorers import list_data, noise_data, protocol_data, show
from dnrlib.metrics import ndcg, pooled_auc, rank
from dnrlib.noise import BetaNoise, GaussianNoise, MLPNoise

SCRIPT = Path(explorers.__file__).with_name("explorers.js")
NOISES = {"Gaussian": GaussianNoise, "Beta": BetaNoise}
SETTINGS = [("Beta", 0.4), ("Beta", 0.7), ("Beta", 1.0), ("Gaussian", 0.15), ("Gaussian", 0.6)]


@pytest.fixture(scope="module")
def real():
    """Scores that know something of the feedback, of 4,000 lists of 25."""
    torch.manual_seed(0)
    labels = torch.rand(4000, 25) < 0.2
    return (torch.randn(4000, 25) - 1 + labels).sigmoid(), labels


@pytest.fixture(scope="module")
def in_script(browser):
    """Gives the value of a JavaScript function of data, with the explorers at hand."""
    page = browser.new_page()
    page.add_script_tag(path=SCRIPT)
    yield page.evaluate
    page.close()


@pytest.fixture(scope="module")
def numbers(in_script):
    """Gives what the explorer of noise computes."""

    def of(data, noise, lambda_c, lambda_m=0.5):
        call = "([data, ...setting]) => dnrExplorers.noiseNumbers(data, ...setting)"
        return in_script(call, [data, noise, lambda_c, lambda_m])

    return of


def by_sampling(real, noise):
    """AUC and distances of a drawn sample of synthetic scores."""
    scores, labels = real
    made, z = noise(labels).detach(), labels.float()
    kept = {"pooled": None, "z = 0": ~labels.numpy(), "z = 1": labels.numpy()}
    return pooled_auc(made, labels), {
        part: distances(*(Sample((x - z).numpy(), mask) for x in (scores, made)))
        for part, mask in kept.items()
    }


@pytest.mark.parametrize(("name", "lambda_c"), SETTINGS)
def test_the_page_has_the_auc_and_the_distances_of_the_library(numbers, real, name, lambda_c):
    found = numbers(noise_data(*real, {}, 0.4, 0.5), name, lambda_c)
    auc, apart = by_sampling(real, NOISES[name](lambda_c))
    assert found["aucs"]["real"] == pytest.approx(pooled_auc(*real), abs=1e-3)
    assert found["aucs"]["synthetic"] == pytest.approx(auc, abs=5e-3)
    for part, values in apart.items():
        assert found["distances"][part] == pytest.approx(values, abs=0.012), part
    assert set(found["distances"]["pooled"]) == set(NAMES)


def test_the_page_has_a_generator_as_it_is(numbers, real):
    torch.manual_seed(1)
    generator = MLPNoise("scores", 1.0)
    found = numbers(noise_data(*real, {"generator": generator}, 0.4, 0.5), "generator", 0.4)
    auc, apart = by_sampling(real, generator)
    assert found["aucs"]["synthetic"] == pytest.approx(auc, abs=1e-2)
    for part, values in apart.items():
        assert found["distances"][part] == pytest.approx(values, abs=0.02), part


def test_without_noise_the_synthetic_score_is_the_feedback(numbers, real):
    found = numbers(noise_data(*real, {}, 0.4, 0.5), "Beta", 0.0)
    assert found["aucs"]["synthetic"] == pytest.approx(1)
    scores, labels = real
    away = (scores - labels.float()).abs().mean().item()
    assert found["distances"]["pooled"]["Wasserstein"] == pytest.approx(away, abs=5e-3)


@pytest.mark.equation("eq-noise-belief")
@pytest.mark.parametrize("lambda_m", [0.0, 0.3, 1.0])
def test_the_line_is_the_function_of_the_score_with_the_least_loss(numbers, real, lambda_m):
    scores, labels = real
    data = noise_data(*real, {}, 0.6, lambda_m)
    found = numbers(data, "Beta", 0.6, lambda_m)
    made = BetaNoise(0.6)(labels.repeat(10, 1))  # more of them: they are exact in the page
    for bar in (10, 14, 20, 26):
        weights = []
        for z in (False, True):
            weight = 0.0
            for x, label, share in ((scores, labels, 1), (made, labels.repeat(10, 1), lambda_m)):
                inside = (x > bar / 40) & (x <= (bar + 1) / 40) & (label == z)
                weight += share * inside.double().mean().item()
            weights.append(weight)
        loss = lambda q, no=weights[0], yes=weights[1]: -yes * np.log(q) - no * np.log(1 - q)  # noqa: E731
        best = minimize_scalar(loss, bounds=(1e-6, 1 - 1e-6), method="bounded").x
        assert found["after"][bar] == pytest.approx(best, abs=0.01), bar


def test_the_price_is_zero_for_synthetic_scores_like_the_real_ones_and_else_positive(numbers, real):
    data = noise_data(*real, {}, 0.4, 0.5)
    data["generators"]["the same"] = data["real"]
    assert numbers(data, "the same", 0.4, 1.0)["excess"] == pytest.approx(0, abs=1e-12)
    assert numbers(data, "Beta", 0.4, 0.0)["excess"] == pytest.approx(0, abs=1e-12)
    prices = [numbers(data, "Beta", 0.4, weight)["excess"] for weight in (0.2, 0.6, 1.0)]
    assert 0 < prices[0] < prices[1] < prices[2]


def test_the_price_is_the_divergence_of_the_beliefs(numbers, real):
    found = numbers(noise_data(*real, {}, 0.6, 1.0), "Beta", 0.6, 1.0)
    scores, _ = real
    bars = np.histogram(scores, np.linspace(0, 1, 41))[0] / scores.numel()
    inside = bars > 0
    p, q = (np.array(found[key], float)[inside] for key in ("before", "after"))
    price = bars[inside] @ (rel_entr(p, q) + rel_entr(1 - p, 1 - q))
    assert found["excess"] == pytest.approx(price, rel=0.02)


def test_the_page_orders_and_measures_a_list_as_the_library_does(in_script):
    torch.manual_seed(2)
    labels, values = torch.rand(5, 12) < 0.3, torch.rand(5, 12)
    labels[:, 0] = True
    data = list_data(labels, {"the score": ("score x", values)}, k=4)
    ranked = "lists.map(({liked, orders}) => orders[0].map((candidate) => liked[candidate]))"
    call = f"({{lists, k}}) => {ranked}.map((one) => dnrExplorers.ndcg(one, k))"
    found = in_script(call, data)
    assert found == pytest.approx(ndcg(rank(values, labels), 4).tolist())


def test_lists_are_rounded_and_without_identifiers():
    torch.manual_seed(3)
    data = list_data(torch.rand(2, 5) < 0.5, {"one": ("x", torch.rand(2, 5))})
    assert all(set(one) == {"liked", "values", "orders"} for one in data["lists"])
    for value in np.ravel([one["values"] for one in data["lists"]]):
        assert value == round(value, 2)


def test_the_protocols_are_those_of_the_study():
    study = studies.load_study()
    titles = {"score": "the score", "concat": "concat", "DNR-B": "DNR-B", "never": "never run"}
    data = protocol_data(study, titles)
    cell = data["cells"]["retrieved crossfit"]
    assert set(cell) == {"score", "concat", "DNR-B"}
    gain = study.gain(("retrieved", "crossfit"), "DNR-B")
    assert cell["DNR-B"]["gain"] == pytest.approx([gain.mean, gain.low, gain.high], abs=5.1e-4)
    assert "gain" not in cell["score"]
    assert "gain" not in cell["concat"]
    [scale] = [measure for measure in data["measures"] if measure["name"] == "gain"]
    assert scale["low"] <= cell["DNR-B"]["gain"][1] < cell["DNR-B"]["gain"][2] <= scale["high"]


@pytest.fixture
def shown(tmp_path, real):
    """An explorer of each kind: its page."""
    scores, labels = (part[:12] for part in real)
    views = {"by score": ("score x", scores), "by feedback": ("z", labels.float())}
    rows = {name: {"ndcg@6": [0.4, 0.3, 0.5], "gain": [0.1, -0.1, 0.2], "auc_shown": [0.6],
                   "auc_shown_vs_rest": [0.7]} for name in ("score", "DNR-B")}  # fmt: skip
    measures = [{"name": name, "title": title, "low": -1, "high": 1, "zero": 0}
                for name, title in explorers.MEASURES.items()]  # fmt: skip
    protocols = {
        "title": "Choose", "protocols": ["first", "second"], "schemes": ["one"], "scheme": "one",
        "methods": [{"name": name, "title": f"the {name}", "colour": "#000000"} for name in rows],
        "measures": measures, "cells": {"first one": rows, "second one": {"score": rows["score"]}},
    }  # fmt: skip
    kinds = {
        "noise": noise_data(scores, labels, {"generator": MLPNoise("scores", 1.0)}, 0.4, 0.5),
        "list": list_data(labels, views),
        "protocols": protocols,
    }
    return {kind: show(kind, data, plt.figure(), f"an-{kind}", "What it shows.", "A caption.",
                       tmp_path / "figures") for kind, data in kinds.items()}  # fmt: skip


def test_an_explorer_is_a_figure_with_its_picture(shown, tmp_path):
    for kind, display in shown.items():
        assert (tmp_path / f"figures/an-{kind}.svg").exists()
        assert f":name: fig-an-{kind}" in display.myst
        assert "A caption." in display.myst
        assert '<img alt="What it shows."' in display.html
        for text in (display.myst, display.html):
            assert len(text.encode()) < 150_000
            assert "http" not in text.replace("http://www.w3.org/", "")


def test_data_cannot_end_the_script(tmp_path):
    data = {"title": "</script><b>"}
    text = show("list", data, plt.figure(), "a", "What.", "A caption.", tmp_path).html
    assert text.count("</script>") == 2
    assert "<\\/script><b>" in text


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="kind = 'map': must be one of noise, list, protocols"):
        show("map", {}, plt.figure(), "a", "What.", "A caption.", tmp_path)


# In a browser -----------------------------------------------------------------------------


@pytest.fixture
def tab(browser, shown, tmp_path):
    """Opens the page of an explorer, without a network."""
    contexts = []

    def opened(kind, **settings):
        contexts.append(browser.new_context(viewport={"width": 375, "height": 900}, **settings))
        contexts[-1].set_offline(True)
        page = tmp_path / f"{kind}.html"
        page.write_text(f"<!DOCTYPE html><title>a page</title>{shown[kind].html}", "utf-8")
        tab = contexts[-1].new_page()
        tab.on("pageerror", lambda error: pytest.fail(str(error)))
        tab.goto(page.as_uri())
        return tab

    yield opened
    for context in contexts:
        context.close()


def told(tab):
    return tab.locator(".summary").inner_text()


def cells(tab):
    """The rows of the table as text."""
    texts = "(rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent))"
    return tab.locator("tbody tr").evaluate_all(texts)


def test_moving_lambda_c_changes_the_numbers_to_those_of_the_formulas(tab, real):
    page, data = tab("noise"), noise_data(*(part[:12] for part in real), {}, 0.4, 0.5)
    assert page.get_by_label("share of noise").input_value() == "0.4"
    before = cells(page)
    page.get_by_label("share of noise").fill("0.8")
    expected = page.evaluate(
        "(data) => dnrExplorers.noiseNumbers(data, 'Beta', 0.8, 0.5).distances", data
    )
    assert cells(page) != before
    assert cells(page) == [
        [part, *(f"{expected[part][name]:.3f}" for name in NAMES)]
        for part in ("pooled", "z = 0", "z = 1")
    ]
    assert "λc = 0.80" in told(page)


def test_the_keyboard_moves_a_lambda_and_a_generator_has_none(tab):
    page = tab("noise")
    slider = page.get_by_label("weight of x′")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.input_value() == "0.6"
    assert "λm = 0.6" in told(page)
    page.get_by_role("combobox", name="noise").select_option("generator")
    assert page.get_by_label("share of noise").is_disabled()
    assert "x′ from the generator" in told(page)


def test_an_order_and_the_next_list_are_shown_with_their_ndcg(tab, real):
    scores, labels = (part[:12] for part in real)
    expected = ndcg(rank(scores, labels), 6)
    page = tab("list", reduced_motion="reduce")
    assert cells(page)[0][2] == f"{expected[0]:.3f}"
    assert cells(page)[0][3] == f"{expected.nanmean():.3f}"
    page.get_by_role("button", name="Next list").click()
    assert cells(page)[0][2] == f"{expected[1]:.3f}"
    assert told(page).startswith("List 2, by score")
    page.get_by_label("by feedback").check()
    assert told(page).endswith("NDCG@6 1.000.")
    places = "(all) => all.map((one) => new DOMMatrix(getComputedStyle(one).transform).e)"
    moved = np.argsort(page.locator(".candidate").evaluate_all(places))
    liked = int(labels[1].sum())
    assert set(moved[:liked]) == set(np.flatnonzero(labels[1]))


def test_candidates_move_unless_motion_is_unwelcome(tab):
    duration = "(one) => getComputedStyle(one).transitionDuration"
    for wish, expected in (("no-preference", "0.9s"), ("reduce", "0s")):
        page = tab("list", reduced_motion=wish)
        assert page.locator(".candidate").first.evaluate(duration) == expected


def test_a_protocol_changes_the_table(tab):
    page = tab("protocols")
    assert [row[0] for row in cells(page)] == ["the score", "the DNR-B"]
    assert "DNR-B minus concat: +0.100 [−0.100,\u00a0+0.200]" in told(page)
    page.get_by_label("measure").select_option("AUC among the shown")
    assert "0.600" in page.locator("tbody").inner_text()
    page.get_by_label("candidates").select_option("second")
    assert [row[0] for row in cells(page)] == ["the score"]
    assert "second" in told(page)


@pytest.mark.parametrize("kind", explorers.KINDS)
def test_paper_and_readers_without_scripts_have_the_picture(tab, kind):
    page = tab(kind)
    assert page.locator(".explorer").is_visible()
    assert not page.locator("img").is_visible()
    page.emulate_media(media="print")
    assert not page.locator(".explorer").is_visible()
    assert page.locator("img").is_visible()
    assert tab(kind, java_script_enabled=False).locator("img").is_visible()


@pytest.mark.parametrize("kind", explorers.KINDS)
def test_nothing_is_wider_than_a_phone(tab, kind):
    page = tab(kind)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
