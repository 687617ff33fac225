"""What simulated users do: the known truth, and models fitted on logs whose truth is known."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from test_kuairand import EARLY, LATE, line, log, make_folder

from dnrlib.data import SimulatedWorld, load, stages
from dnrlib.errors import ConfigError, DataError
from dnrlib.simulation import exposures as reading
from dnrlib.simulation.exposures import CHECK, CHOOSE, FIT, Behaviour, Exposures
from dnrlib.simulation.responses import (
    KNOWN_DEPTH,
    KNOWN_SECONDS,
    KNOWN_SLOPE,
    KNOWN_SPREAD,
    ResponseModel,
    check,
    fit,
    kept,
    known_truth,
)

WORLD = SimulatedWorld(users=9, items=80, lists=2, seed=3)
TWO = (Behaviour("realshow", "first"), Behaviour("like", "second", given=0))


@pytest.fixture(scope="module")
def known():
    return known_truth(WORLD, torch.arange(WORLD.users), torch.arange(WORLD.items))


@pytest.fixture
def everything():
    """Every user with every item."""
    return torch.arange(WORLD.users), torch.arange(1, WORLD.items + 1).repeat(WORLD.users, 1)


def test_the_known_truth_is_the_worlds(known, everything):
    np.testing.assert_allclose(known.liking(*everything), WORLD.logits, atol=1e-5)
    probabilities = known.probabilities(*everything)
    np.testing.assert_allclose(probabilities[..., 0], WORLD.probability, atol=1e-5)
    like = WORLD.probability / (1 + np.exp(-WORLD.logits - KNOWN_DEPTH[1]))
    np.testing.assert_allclose(probabilities[..., 1], like, atol=1e-5)


def test_the_known_truth_follows_the_numbers_of_the_log():
    users, items = torch.tensor([4, 2]), torch.tensor([7, 70, 11])
    part = known_truth(WORLD, users, items)
    liking = part.liking(torch.arange(2), torch.arange(1, 4).repeat(2, 1))
    np.testing.assert_allclose(liking, WORLD.logits[users][:, items], atol=1e-5)


def drawn(model, user, item, count=40_000, seed=0):
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(count, 1, model.outcomes, generator=generator)
    users, items = torch.full((count,), user), torch.full((count, 1), item)
    effects = torch.zeros(count, model.outcomes)
    happened, seconds = model.draw(users, items, effects, uniform)
    return happened[:, 0], None if seconds is None else seconds[:, 0]


def test_draws_happen_as_often_as_the_probabilities_say(known):
    happened, seconds = drawn(known, 1, 5)
    expected = known.probabilities(torch.tensor([1]), torch.tensor([[5]]))[0, 0]
    tolerance = 5 * (expected * (1 - expected) / len(happened)).sqrt() + 1e-4
    assert ((happened.float().mean(0) - expected).abs() < tolerance).all()
    assert not (happened[:, 1:] & ~happened[:, :1]).any()  # none without the one it depends on
    watched = seconds[happened[:, 0]].log()
    mean = np.log(KNOWN_SECONDS) + KNOWN_SLOPE * WORLD.logits[1, 4]
    assert watched.mean() == pytest.approx(mean, abs=5 * KNOWN_SPREAD / len(watched) ** 0.5)
    assert not seconds[~happened[:, 0]].any()


def test_an_effect_moves_the_logit(known):
    users, items = torch.tensor([1]), torch.tensor([[5]])
    logit, shift = float(known.liking(users, items)), 0.7
    edge = 1 / (1 + np.exp(-(logit + shift)))
    effects = torch.zeros(1, known.outcomes)
    effects[0, 0] = shift
    for u, expected in ((edge - 1e-3, True), (edge + 1e-3, False)):
        uniform = torch.full((1, 1, known.outcomes), u, dtype=torch.float32)
        assert bool(known.draw(users, items, effects, uniform)[0][0, 0, 0]) is expected


# Fitting ----------------------------------------------------------------------------------


def made_up(users=60, items=40, rows=12_000, seed=0, taste=1.5):
    """Exposures by a known model with effects, one shared affinity, and watch time."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    truth = ResponseModel(
        TWO,
        constant=torch.tensor([[0.0, 0.3], [-4.0, -1.0], [0.0, 2.5]]),
        user=0.5 * normal(users, 3),
        item=0.5 * normal(items + 1, 3),
        weight=torch.tensor([1.0, 0.5, 0.2]),
        user_factors=taste**0.5 * normal(users, 1),
        item_factors=taste**0.5 * normal(items + 1, 1),
        residuals=torch.linspace(-1, 1, 101),
    )
    user = torch.randint(users, (rows,), generator=generator)
    item = torch.randint(1, items + 1, (rows,), generator=generator)
    uniform = torch.rand(rows, 1, 3, generator=generator)
    happened, seconds = truth.draw(user, item[:, None], torch.zeros(rows, 3), uniform)
    part = torch.arange(rows) * 3 // rows
    seconds = seconds[:, 0].where(happened[:, 0, 0], torch.tensor(1.0))
    return truth, Exposures(TWO, user, item, happened[:, 0], seconds, part)


@pytest.fixture(scope="module")
def fitted():
    truth, seen = made_up()
    return truth, seen, fit(seen, 60, 40, ridges=(1.0,), factor_ridges=(1.0,))


def test_a_fit_finds_the_truth(fitted):
    truth, _, model = fitted
    assert model.chosen["factors"] == 1.0  # there is an affinity, and it was found
    users, items = torch.arange(60), torch.arange(1, 41).repeat(60, 1)
    for number in range(2):
        pair = [one.probabilities(users, items)[..., number].flatten() for one in (truth, model)]
        assert float(torch.corrcoef(torch.stack(pair))[0, 1]) > 0.9
        assert float((pair[0] - pair[1]).mean()) == pytest.approx(0, abs=0.02)
    logs = [one.sums(users, items)[..., -1].flatten() for one in (truth, model)]
    assert float(torch.corrcoef(torch.stack(logs))[0, 1]) > 0.9
    assert float(model.residuals.std()) == pytest.approx(float(truth.residuals.std()), rel=0.1)


def test_checks_are_made_on_later_exposures(fitted):
    _, seen, model = fitted
    later = seen[seen.part == CHECK]
    for number, (name, found) in enumerate(model.checks.items()):
        assert name == TWO[number].name
        assert (found.rows, sum(found.count)) == (len(later.user), len(later.user))
        assert found.rate == pytest.approx(float(later.happened[:, number].float().mean()))
        assert found.auc > 0.65
        assert found.log_loss < found.log_loss_constant
        assert found.ece < 0.04
    assert model.time_check.r2 > 0.2
    assert sum(model.time_check.count) == int(later.happened[:, 0].sum())


def test_what_comes_later_chooses_nothing(fitted):
    _, seen, model = fitted
    later = seen.part == CHECK
    other = replace(seen, happened=seen.happened ^ later[:, None])
    again = fit(other, 60, 40, ridges=(1.0,), factor_ridges=(1.0,))
    assert again.checks != model.checks
    torch.testing.assert_close(again.user, model.user)
    torch.testing.assert_close(again.item_factors, model.item_factors)


def test_with_a_strong_ridge_the_rates_are_left():
    _, seen = made_up()
    model = fit(seen, 60, 40, ridges=(1e7,), factor_ridges=())
    earlier = seen[seen.part != CHECK].happened.float()
    found = model.probabilities(torch.tensor([0]), torch.tensor([[3]]))[0, 0]
    torch.testing.assert_close(found, earlier.mean(dim=0), atol=2e-3, rtol=0)


def test_without_an_affinity_none_is_chosen():
    _, seen = made_up(taste=0.0)
    assert fit(seen, 60, 40, ridges=(3.0,), factor_ridges=(0.1,)).chosen["factors"] == np.inf


def test_a_model_is_kept(fitted, tmp_path):
    *_, model = fitted
    path = tmp_path / "model.safetensors"
    first = kept(path, lambda: model)
    second = kept(path, lambda: pytest.fail("it is there already"))
    for again in (first, second):
        assert (again.checks, again.time_check) == (model.checks, model.time_check)
        assert (again.behaviours, again.chosen) == (model.behaviours, model.chosen)
        torch.testing.assert_close(again.item, model.item)


def test_a_check_by_hand():
    predicted = np.repeat([0.2, 0.6], 50)
    fifth = np.arange(50) % 5 == 0
    happened = np.concatenate([fifth, ~fifth])  # 0.2 of the first half, 0.8 of the second
    found = check(predicted, happened, 0.5, 0.7)
    assert found.ece == pytest.approx(0.1)  # 0 in one half, 0.2 in the other
    # of pairs (positive, negative): 40 · 40 right, 10 · 40 + 40 · 10 level, 10 · 10 wrong
    assert found.auc == pytest.approx((1600 + 0.5 * 800) / (50 * 50))
    assert found.predicted == pytest.approx([0.2] * 5 + [0.6] * 5)


# Reading ----------------------------------------------------------------------------------

FRAME = pl.DataFrame({"user": [0, 0], "item": [1, 2], "raw_user": [7, 7], "raw_item": [10, 30]})


def test_kuairands_columns_are_read(tmp_path, monkeypatch):
    logs = {
        EARLY: log(
            line(7, 30, 2_900, play_time_ms=2_999, is_click=1),
            line(7, 10, 2_100, play_time_ms=3_000, long_view=1, is_forward=1),
        ),
        LATE: log(
            line(7, 30, 9_000, play_time_ms=50_000),  # shown before
            line(8, 30, 9_500, play_time_ms=50_000),  # of no user of the log
            line(7, 10, 1, play_time_ms=50_000, is_rand=1),  # put in at random
        ),
    }
    make_folder(tmp_path, logs)
    monkeypatch.setenv("DNR_DATA_DIR", str(tmp_path))
    found = reading.exposures("kuairand-pure", FRAME)
    assert found.item.tolist() == [1, 2]  # in the order of time
    assert found.seconds.tolist() == pytest.approx([3.0, 2.999])
    names = [one.name for one in found.behaviours]
    rows = [[n for n, yes in zip(names, row, strict=True) if yes] for row in found.happened]
    assert rows == [["realshow", "long_view", "share"], ["click"]]


def test_a_faulty_line_of_kuairand_is_named(tmp_path, monkeypatch):
    make_folder(tmp_path, {LATE: log(line(), line(play_time_ms=-1))})
    monkeypatch.setenv("DNR_DATA_DIR", str(tmp_path))
    with pytest.raises(DataError, match=r"line 3.*play_time_ms is negative") as error:
        reading.exposures("kuairand-pure", FRAME)
    assert LATE in str(error.value)


def test_ratings_stand_for_behaviours():
    ratings = [2, 3, 4, 5, 1, 1, 1, 1, 1, 5]
    columns = {"user": [0] * 10, "item": [*range(1, 11)], "rating": ratings}
    found = reading.of_movielens(pl.DataFrame(columns))
    assert found.happened[:4].int().tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert found.part.tolist() == [FIT] * 7 + [CHOOSE] * 2 + [CHECK]
    assert found.seconds is None


def test_the_parts_are_cut_in_each_users_own_time():
    frame = pl.DataFrame({"user": [0] * 10 + [1] * 20, "item": [1] * 30, "rating": [3] * 30})
    part = reading.of_movielens(frame).part
    assert [int((part[:10] == one).sum()) for one in (FIT, CHOOSE, CHECK)] == [7, 2, 1]
    assert [int((part[10:] == one).sum()) for one in (FIT, CHOOSE, CHECK)] == [14, 3, 3]


def test_a_data_set_without_responses_is_refused():
    frame = list(stages(load("simulated")))[-1][1]
    with pytest.raises(ConfigError, match="no responses can be fitted"):
        reading.exposures("amazon-books-2023", frame)
