"""Another way of training is a part of what a run is, and only of its own runs."""

from dataclasses import replace

import pytest
import torch
from worlds import make_lists

from dnrlib import experiments
from dnrlib.enrich import ENRICHED
from dnrlib.errors import ConfigError
from dnrlib.experiments import compute, lists_key, lists_of, run_code, run_config, run_name
from dnrlib.identity import hash_of, plain
from dnrlib.parallel import Hardware
from dnrlib.rerankers.own_loss import OwnLoss
from dnrlib.rerankers.prm import PRM
from dnrlib.trainers import OwnLossTrainer, trainer_for
from dnrlib.training import Trainer
from dnrlib.variants import VARIANTS, hears_label_alone, trainer_of, untrained_generator

SMALL = {
    "options": {"dim": 8, "layers": 1, "feed_forward": 8},
    "training": {"epochs": 1, "batch_size": 16},
}


class Still(Trainer):
    """Leaves the reranker as it is."""

    __module__ = "dnrlib.trainers"  # for the hash of its code, which knows the package alone

    def step(self, batch, phase, weight=1.0):
        return {"L_direct": torch.zeros(())}


class Own(OwnLoss):
    """A reranker that only a trainer of own losses can train."""


@pytest.fixture
def still(monkeypatch):
    monkeypatch.setitem(VARIANTS, "still", Still)
    return run_config(SMALL | {"trainer": "still"})


def test_the_papers_training_needs_no_name():
    assert trainer_of(PRM) is trainer_for(PRM) is Trainer
    assert trainer_of(Own) is OwnLossTrainer


def test_every_variant_is_a_trainer():
    for variant in VARIANTS.values():
        assert issubclass(variant, Trainer)


def test_an_unknown_variant_is_an_error_that_names_the_known_ones(still):
    with pytest.raises(ConfigError, match="'stil' is unknown: choose one of .*still"):
        trainer_of(PRM, "stil")


def test_a_variant_cannot_train_a_loss_that_it_does_not_know(still):
    with pytest.raises(ConfigError, match="Own has a loss of its own"):
        trainer_of(Own, "still")


def test_the_variant_is_what_trains(still):
    lists = make_lists()
    usual, _ = compute(replace(still, trainer=""), lists)
    one, weights = compute(still, lists)
    torch.manual_seed(still.seed)
    untrained = experiments.build("prm", lists, **still.options).state_dict()
    for name, tensor in weights["reranker"].items():
        assert torch.equal(tensor, untrained[name])
    assert usual.curves[0]["losses"] != one.curves[0]["losses"]


def test_the_variant_trains_on_other_hardware_too(still):
    lists = make_lists()
    record, _ = compute(still, lists, hardware=Hardware(precision="bf16-mixed"))
    assert record.curves[0]["losses"] == {"L_direct": 0.0}


def test_a_variant_is_a_run_of_its_own_and_the_papers_runs_keep_their_names(still):
    lists = make_lists()
    usual = replace(still, trainer="")
    assert run_name(still, lists) != run_name(usual, lists)
    assert "trainer" not in plain(usual)
    assert plain(still)["trainer"] == "still"
    assert run_code("prm", "conditional") == usual.code != still.code


@pytest.mark.parametrize("variant", ["", *VARIANTS])
def test_a_generator_of_the_label_alone_takes_labels(variant):
    made = untrained_generator({"generator": "scores", "lambda_c": 0.4}, variant)
    labels = torch.tensor([[True, False]])
    if hears_label_alone(variant):
        assert made(labels).shape == labels.shape
    else:
        with pytest.raises((ConfigError, TypeError)):  # by its shape
            made(labels)


def test_what_is_not_trained_has_no_trainer():
    assert run_config({"method": "score", "trainer": "still"}).trainer == ""


def test_a_reranker_gets_the_lists_that_it_wants(monkeypatch):
    lists = make_lists()
    monkeypatch.setattr(experiments, "prepare", lambda data, say: lists)
    config = run_config(SMALL)
    assert lists_of(config) is lists
    before = lists_key(config)

    def more(given, data):
        return replace(given, meta={**given.meta, "of": data.dataset})

    for name in ("prm", "prm-text"):
        monkeypatch.setitem(ENRICHED, name, more)
    assert lists_of(config).meta == {**lists.meta, "of": "ml-1m"}
    assert lists_key(config) != before == hash_of(config.data)
    others = {"seed": 3, "options": {"dim": 4}, "reranker": "prm-text"}
    assert lists_key(replace(config, **others)) == lists_key(config)
    assert lists_key(replace(config, reranker="prm-behaviours")) != lists_key(config)
