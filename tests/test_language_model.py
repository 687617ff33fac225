"""A language model of random weights scores candidates as its probabilities say, without a net."""

import socket
import sys

import pytest
import torch
from worlds import make_lists, with_made_up_words

from dnrlib.errors import ConfigError, DataError
from dnrlib.language_model import (
    CausalScorer,
    measured_flops,
    parameters,
    request_flops,
    save_random_model,
)
from dnrlib.rerankers import build
from dnrlib.semantics import with_feature
from dnrlib.training import score_lists

pytest.importorskip("transformers")

TEXTS = [f"Film {'no. ' * (i % 3)}{i}. {('Drama', 'War')[i % 2]}" for i in range(1, 41)]
LISTS = make_lists()[:5]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A saved model, in a process that can open no connection."""
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*_):
            raise OSError("the network is off")

        patch.setattr(socket.socket, "connect", refuse)
        path = tmp_path_factory.mktemp("model")
        save_random_model(path, TEXTS, dim=32)
        yield path


@pytest.fixture(scope="module")
def scorer(folder):
    return CausalScorer.load(folder, TEXTS, titles=2)


def by_hand(scorer, prompt, title):
    """Token by token, each from a pass over exactly what stands before it."""
    encode = scorer.tokenizer.encode
    told = [0, *encode(prompt)]
    asked = encode(f" {title}")
    total = 0.0
    for token in asked:
        logits = scorer.model(input_ids=torch.tensor([told])).logits[0, -1]
        total += float(logits.log_softmax(dim=0)[token])
        told.append(token)
    return total / len(asked)


@pytest.mark.equation("eq-semantics-lm")
def test_a_score_is_the_mean_log_probability_of_the_title_after_the_prompt(scorer):
    logits = scorer(LISTS, LISTS.scores)
    assert logits.shape == LISTS.scores.shape
    assert (logits < 0).all()
    for row in (0, 4):
        past = [TEXTS[i - 1] for i in LISTS.history[row].tolist() if i][-2:]
        prompt = f"Films that somebody has watched, the latest last: {'; '.join(past)}. "
        prompt += "The next film is:"
        assert scorer.prompts(LISTS.history)[row] == prompt
        for place in (0, 7, 11):
            wanted = by_hand(scorer, prompt, TEXTS[int(LISTS.items[row, place]) - 1])
            assert float(logits[row, place]) == pytest.approx(wanted, abs=1e-4)


def test_neither_the_batch_nor_the_scores_matter(folder, scorer):
    logits = score_lists(scorer, LISTS)
    alone = CausalScorer.load(folder, TEXTS, titles=2, batch_size=1)
    torch.testing.assert_close(score_lists(alone, LISTS), logits, atol=1e-4, rtol=0)
    assert torch.equal(scorer(LISTS, 1 - LISTS.scores), scorer(LISTS, LISTS.scores))
    torch.testing.assert_close(score_lists(scorer, LISTS[3:4]), logits[3:4], atol=1e-4, rtol=0)


def test_a_prompt_that_is_too_long_loses_its_beginning(scorer):
    model = scorer.model.config
    length, model.max_position_embeddings = model.max_position_embeddings, 40
    try:
        for told, title in scorer.sequences(LISTS):
            assert len(told) + len(title) == 40
            assert scorer.tokenizer.decode(told).endswith("The next film is:")
        model.max_position_embeddings = 8
        with pytest.raises(ConfigError, match=r"has \d+ tokens, but the model reads 8"):
            scorer(LISTS, LISTS.scores)
    finally:
        model.max_position_embeddings = length


def test_the_same_seed_is_the_same_model(folder, scorer, tmp_path):
    save_random_model(tmp_path, TEXTS, dim=32)
    again = CausalScorer.load(tmp_path, TEXTS, titles=2)
    assert torch.equal(score_lists(again, LISTS[:1]), score_lists(scorer, LISTS[:1]))


def test_the_weights_are_frozen_and_its_score_can_be_a_feature(scorer):
    assert not any(parameter.requires_grad for parameter in scorer.parameters())
    lists = with_feature(with_made_up_words(LISTS), score_lists(scorer, LISTS))
    model = build("prm-text", lists, features=1, dim=16, heads=2, feed_forward=8)
    model(lists, lists.scores).sum().backward()
    assert model.describe.weight.grad.any()


def test_a_folder_without_a_model_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        CausalScorer.load(tmp_path / "nowhere", TEXTS)
    with pytest.raises(DataError, match="holds no causal language model"):
        CausalScorer.load(tmp_path, TEXTS)


@pytest.mark.parametrize("load", [CausalScorer.load, save_random_model])
def test_without_the_package_it_is_said_what_to_install(load, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'dnrlib\[llm\]'"):
        load(tmp_path, TEXTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "What next?"}, r"must say where the titles go, as \{history\}"),
        ({"titles": 0}, "titles = 0"),
        ({"batch_size": 0}, "batch_size = 0"),
    ],
)
def test_wrong_settings_are_refused(folder, options, message):
    with pytest.raises(ConfigError, match=message):
        CausalScorer.load(folder, TEXTS, **options)


# Cost -------------------------------------------------------------------------------------


@pytest.mark.equation("eq-semantics-flops")
def test_operations_of_a_model_are_two_a_parameter_and_token(scorer):
    """As PyTorch counts them, but for attention, which grows with the square of the length."""
    sequences = list(scorer.sequences(LISTS))
    lengths = [len(prompt) + len(title) for prompt, title in sequences]
    positions = scorer.model.transformer.wpe.weight.numel()  # are looked up, not multiplied
    size = parameters(scorer.model) - positions
    found = measured_flops(CausalScorer(scorer.model, scorer.tokenizer, TEXTS, titles=2), LISTS)
    wanted = request_flops(size, 0, sum(lengths) / len(LISTS) / 12, candidates=12)
    assert wanted < found < 1.5 * wanted


@pytest.mark.equation("eq-semantics-flops")
def test_a_shared_prompt_is_read_once():
    assert request_flops(10, prompt=7, title=3, candidates=5) == 2 * 10 * (7 + 5 * 3)
    assert request_flops(10, 7, 3, 5, shared=False) == 2 * 10 * 5 * (7 + 3)


def test_operations_of_a_linear_layer_are_counted():
    class Line(torch.nn.Module):
        """12 scores to 12 logits: 2 · 12 · 12 operations a list."""

        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(12, 12)

        def forward(self, batch, scores):
            return self.layer(scores)

    model = Line().train()
    assert measured_flops(model, LISTS) == 2 * 12 * 12
    assert model.training
