"""What must hold for every reranker that is trained, whatever its paper.

What only one of them promises is in its own file, `test_rerankers_NAME.py`.
"""

from dataclasses import replace
from functools import cache
from inspect import signature
from pathlib import Path

import pytest
import torch
from worlds import field_of, make_lists, with_made_up_words

from dnrlib.checks import CHECKS
from dnrlib.errors import ConfigError
from dnrlib.experiments import FIXED
from dnrlib.metrics import ndcg, rank
from dnrlib.rerankers import RERANKERS, SCORE_USES, OwnLoss, build
from dnrlib.trainers import OwnLossTrainer, trainer_for
from dnrlib.training import TrainingConfig, score_lists

BOOK = Path(__file__).parents[1] / "book"
LISTS = make_lists(signal=0.5)
WORDED = with_made_up_words(LISTS)
"""What has words about items to read wants them; the others do not notice."""
BATCH = LISTS[:9]
SMALL = {"dim": 16, "heads": 2, "feed_forward": 24}
TRAINED = [name for name in RERANKERS if name not in FIXED]
NUMBERS = ("concat", "add", "weight")
"""The uses of the score that have a gradient."""

# What a paper has that makes its model an exception.
READS_THE_ORDER_OF_SCORES: set[str] = {"dlcm"}
"""The scores' order is the order of the input, whatever else is made of them."""
NEVER_LEARNS = {"setrank": "none reaches head.bias"}
"""Its loss stays the same when all logits of a list move together, as the last bias moves them:
what gradient there is, is rounding."""
SEE_NO_OTHER = {"sasrec", "caser", "gru4rec", "diffurec"}
"""The history scores each candidate by itself."""
KNOW_THEIR_PLACE = {"prm-placed": "logits move with the candidates"}
"""It is there to show what a place tells."""
VARIANTS = {"prm-disturbed", "prm-placed", "prm-behaviours", "prm-text"}
"""PRM with one thing changed: no paper's model, so that it has no page and no picture."""
LEARNS_SLOWLY: dict[str, dict[str, float]] = {
    "setrank": {"epochs": 40},  # fewer: its blocks are many
    "mir": {"epochs": 30},  # fewer: its perceptron is large even here
    "hetcomp": {"epochs": 80},  # in the first half its teachers learn
    "egrerank": {"epochs": 90},  # in the first third only its evaluator learns
    "pier": {"epochs": 40},  # fewer: each of its steps hashes 720 orders
}
"""Settings of training with which 64 lists are learnt by heart, where the common ones do not do."""


def small(name, seed=0, dropout=0.0, **options):
    """A small model; a size that it does not have is left out."""
    torch.manual_seed(seed)
    known = signature(RERANKERS[name]).parameters
    sizes = SMALL | {"dropout": dropout}
    sizes = {key: value for key, value in sizes.items() if key in known}
    return build(name, WORDED, **sizes | options).eval()


def logits_of(model, batch, scores=None):
    with torch.no_grad():
        return model(batch, batch.scores if scores is None else scores)


every_reranker = pytest.mark.parametrize("name", TRAINED)
every_use = pytest.mark.parametrize("score_use", SCORE_USES)


@every_reranker
@every_use
def test_it_passes_the_checks_that_a_reader_has(name, score_use):
    """All of `dnrlib.checks` but the last, for which some need other settings (`by_heart`)."""
    model = small(name, score_use=score_use)
    found = [check(model, LISTS) for check in CHECKS[:-1]]
    failed = {one.name for one in found if not one.passed and one.fault != NEVER_LEARNS.get(name)}
    expected = {"other scores give other logits"} if score_use == "none" else set()
    if score_use not in NUMBERS:
        expected.add("the gradient reaches the scores")
    expected |= {KNOW_THEIR_PLACE[name]} if name in KNOW_THEIR_PLACE else set()
    assert failed == expected


@every_reranker
@pytest.mark.parametrize("score_use", ["none", *NUMBERS])
def test_candidates_see_each_other_where_the_paper_has_it(name, score_use):
    model = small(name, score_use=score_use)
    items, scores = BATCH.items.clone(), BATCH.scores.clone()
    items[:, 0] = items[:, 0] % LISTS.meta["items"] + 1
    scores[:, 0] = 1 - scores[:, 0]
    other = logits_of(model, field_of(BATCH, items=items), scores)
    moved = other != logits_of(model, BATCH)
    assert moved[:, 0].any()
    assert moved[:, 1:].any() == (name not in SEE_NO_OTHER)


@every_reranker
@every_use
def test_only_the_scores_that_are_given_are_read_and_only_if_wanted(name, score_use):
    model = small(name, score_use=score_use)
    logits = logits_of(model, BATCH)
    other = field_of(BATCH, scores=1 - BATCH.scores)
    assert torch.equal(logits, logits_of(model, other, BATCH.scores))
    moved = not torch.equal(logits, logits_of(model, other))
    assert moved == (score_use != "none")
    if score_use == "rank" or name in READS_THE_ORDER_OF_SCORES:
        assert torch.equal(logits, logits_of(model, BATCH, BATCH.scores / 2)) == (
            score_use in ("none", "rank")
        )


@every_reranker
def test_padding_in_the_history_has_no_effect(name):
    model = small(name, score_use="concat")
    batch = LISTS[(LISTS.history == 0).any(dim=1)]
    logits = logits_of(model, batch)
    tables = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    for table in tables:
        if table.num_embeddings == LISTS.meta["items"] + 1:
            table.weight.data[0] = 9.0
    assert torch.equal(logits_of(model, batch), logits)


def stages(model, epochs=4):
    """The model at the beginning of each epoch, as its trainer would have it."""
    for epoch in range(1, epochs + 1):
        if isinstance(model, OwnLoss):
            model.begin_epoch(epoch, epochs, LISTS)
        yield epoch


@cache
def by_heart(name):
    lists = LISTS[:64]
    model = small(name, score_use="none")
    settings = {"epochs": 60, "batch_size": 16, "learning_rate": 1e-2, "weight_decay": 0.0}
    config = TrainingConfig(**settings | LEARNS_SLOWLY.get(name, {}))
    trainer_for(type(model))(model, lists, lists, config).run()
    return float(ndcg(rank(score_lists(model, lists), lists.labels), 6).mean())


@every_reranker
def test_64_lists_are_learnt_by_heart(name):
    assert by_heart(name) > 0.95


DNR = TrainingConfig(
    epochs=2, lambda_e=1, batch_size=16, noise="beta", generator="scores", learning_rate=1e-3
)


def trained(name, epochs=None, path=None, seed=0):
    model = small(name, seed, dropout=0.1, score_use="concat")
    parts = LISTS.of_split("train"), LISTS.of_split("validation")
    made = trainer_for(type(model))(model, *parts, DNR)
    if epochs is None:
        made.run(path)
    else:  # killed after so many epochs
        whole, made.finished = made.finished, lambda: len(made.curves) >= epochs
        made.run(path)
        made.finished = whole
    return made


@every_reranker
def test_denoising_training_goes_around_it_and_moves_the_generator(name):
    made = trained(name)
    rows = [row.losses for row in made.curves]
    assert set(rows[0]) == {"L_direct", "L_z"}
    assert set(rows[1]) == {"L_direct", "L_z", "L_adv", "L_x"}
    torch.manual_seed(0)
    fresh = type(made.generator)("scores", DNR.lambda_c)
    pairs = zip(fresh.parameters(), made.generator.parameters(), strict=True)
    assert all(not torch.equal(before, after) for before, after in pairs)


@every_reranker
def test_a_training_that_was_killed_ends_with_the_same_bits(name, tmp_path):
    whole = trained(name)
    trained(name, epochs=1, path=tmp_path / "checkpoint.pt")
    resumed = trained(name, path=tmp_path / "checkpoint.pt", seed=9)
    states = whole.reranker.state_dict(), resumed.reranker.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert [row.losses for row in whole.curves] == [row.losses for row in resumed.curves]


@every_reranker
def test_its_weights_make_the_same_reranker_again(name):
    model = small(name, score_use="concat")
    for _ in stages(model):
        pass
    again = small(name, seed=1, score_use="concat")
    again.load_state_dict(model.state_dict())
    assert torch.equal(logits_of(again, BATCH), logits_of(model, BATCH))


@every_reranker
def test_a_rank_trains_no_generator_and_wrong_options_are_refused(name):
    parts = LISTS.of_split("train"), LISTS.of_split("validation")
    model = small(name, score_use="rank")
    with pytest.raises(ConfigError, match="no gradient in the scores"):
        trainer_for(type(model))(model, *parts, DNR)
    with pytest.raises(ConfigError, match="'multiply' is unknown"):
        small(name, score_use="multiply")
    with pytest.raises(ConfigError, match=r"dim = 0"):
        build(name, LISTS, dim=0)


@pytest.mark.parametrize("name", [name for name in TRAINED if name not in VARIANTS])
def test_it_has_a_page_and_a_picture(name):
    assert (BOOK / "flows" / f"{name}.yml").is_file()
    page = BOOK / f"reranker-{name}.md"
    text = (page if page.exists() else BOOK / "neighbours.ipynb").read_text("utf-8")
    assert f"flow-{name}.svg" in text or f'\\"{name}\\",' in text


OWN = [name for name in TRAINED if issubclass(RERANKERS[name], OwnLoss)]


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"likelihood": "softmax"}, "likelihood = 'softmax'"),
        ({"estimator": "exact"}, "estimator = 'exact'"),
    ],
)
def test_settings_that_an_own_loss_has_no_use_for_are_refused(name, change, message):
    parts = LISTS.of_split("train"), LISTS.of_split("validation")
    model = small(name, score_use="concat")
    with pytest.raises(ConfigError, match=message):
        OwnLossTrainer(model, *parts, replace(DNR, **change))
