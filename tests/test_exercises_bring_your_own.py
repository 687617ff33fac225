"""The chapter's own modules, losses and slates do what its equations say; so do its exercises."""

import ast
import math
from pathlib import Path

import nbformat
import pytest
import torch
from test_rerankers import permuted
from torch import nn
from torch.nn import functional as F
from worlds import make_lists

from dnrlib.book.notebooks import code_cells
from dnrlib.checks import check_reranker
from dnrlib.exercises import check
from dnrlib.exercises.bring_your_own import EXERCISES
from dnrlib.losses import bernoulli
from dnrlib.rerankers import OwnLoss, Reranker, ScoreInput, build
from dnrlib.rerankers.slates import slate_logits
from dnrlib.training import Trainer, TrainingConfig

LISTS = make_lists(signal=0.5)[:64]
USERS, ITEMS, N, HISTORY, K = 20, 40, 12, 5, 6
NOTEBOOK = nbformat.read(Path(__file__).parents[1] / "book/bring-your-own.ipynb", as_version=4)


def defined(*names):
    """Classes and functions as the chapter has them, which may use one another."""
    own = {"nn": nn, "F": F, "torch": torch, "K": K, "n": N, "OwnLoss": OwnLoss}
    own |= {"Reranker": Reranker, "ScoreInput": ScoreInput, "slate_logits": slate_logits}
    for cell in code_cells(NOTEBOOK):
        for node in ast.parse(cell.source).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name in names:
                exec(ast.unparse(node), own)
    return [own[name] for name in names]


Mine, Split, pairwise, Pairwise, Diverse = defined(
    "Mine", "Split", "pairwise", "Pairwise", "Diverse"
)


def mine(kind=Mine, seed=0):
    torch.manual_seed(seed)
    return kind(ITEMS, 16)


# The chapter's modules


def test_the_reader_s_module_has_ten_lines():
    [cell] = [c for c in code_cells(NOTEBOOK) if c.source.startswith("class Mine(")]
    assert len([line for line in cell.source.splitlines() if line.strip()]) <= 10


@pytest.mark.equation("eq-own-contract")
def test_the_likelihood_reads_the_module_s_logits_as_log_odds():
    logits = mine()(LISTS, LISTS.scores)
    assert logits.shape == LISTS.scores.shape
    odds = torch.where(LISTS.labels, logits.sigmoid(), 1 - logits.sigmoid())
    torch.testing.assert_close(-odds.log().mean(), bernoulli(logits, LISTS.labels))


@pytest.mark.parametrize(
    "make", [mine, lambda: mine(Pairwise), lambda: Split(USERS, ITEMS, N, HISTORY, dim=16)]
)
def test_the_chapter_s_modules_pass_every_check(make):
    torch.manual_seed(0)
    faults = [str(one) for one in check_reranker(make(), LISTS) if not one.passed]
    assert faults == []


def test_split_with_the_score_added_is_the_module_in_one_piece():
    """The exercise: a map of [h ; x] has columns for h and one for x."""
    whole, split = mine(), Split(USERS, ITEMS, N, HISTORY, dim=16)
    first, _, last = whole.head
    split.item, split.head = whole.item, last
    split.match.weight.data, split.match.bias.data = first.weight.data[:, :-1], first.bias.data
    split.score_input.direction.data = first.weight.data[:, -1]
    torch.testing.assert_close(split(LISTS, LISTS.scores), whole(LISTS, LISTS.scores))


def test_the_split_spares_the_exact_form_a_pass_in_each_phase():
    def encodes(model, estimator, phase):
        config = TrainingConfig(
            epochs=2, lambda_e=1, noise="beta", generator="scores", estimator=estimator
        )
        calls = []
        model.item.register_forward_hook(lambda *_: calls.append(1))
        trainer = Trainer(model, LISTS, LISTS, config)
        calls.clear()
        trainer.step(LISTS[:8], phase)
        return len(calls) // 2

    def counts(make):
        return [encodes(make(), form, phase) for form in ("mixed", "exact") for phase in (1, 2)]

    assert counts(mine) == [1, 1, 2, 3]
    assert counts(lambda: Split(USERS, ITEMS, N, HISTORY, dim=16)) == [1, 1, 1, 2]


# Losses


@pytest.mark.equation("eq-own-pairwise")
def test_the_pairwise_loss_is_the_mean_over_all_pairs_of_a_list():
    torch.manual_seed(1)
    logits, labels = torch.randn(5, N), LISTS.labels[:5]
    terms = [
        math.log(1 + math.exp(row[j] - row[i]))
        for row, liked in zip(logits.tolist(), labels.tolist(), strict=True)
        for i in range(N)
        for j in range(N)
        if liked[i] and not liked[j]
    ]
    assert pairwise(logits, labels).item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    sure = torch.where(labels, 20.0, -20.0)
    assert pairwise(sure, labels).item() == pytest.approx(0, abs=1e-6)


def test_the_pairwise_module_s_loss_uses_the_scores_that_are_given():
    model = mine(Pairwise)
    other = 1 - LISTS.scores
    assert torch.equal(model.loss(LISTS, other), pairwise(model(LISTS, other), LISTS.labels))


# Slates


@pytest.mark.equation("eq-own-slate")
def test_a_slate_s_logits_are_minus_the_places():
    slate, rest = torch.tensor([[3, 0]]), torch.tensor([[9.0, 0.1, 0.7, 5.0, 0.3]])
    assert slate_logits(slate, rest).tolist() == [[-1, -4, -2, 0, -3]]


def greedy(relevance, similarity, weight):
    """The slate of one list by the formula, candidate by candidate."""
    chosen = []
    while len(chosen) < K:
        worth = {
            i: weight * relevance[i]
            - (1 - weight) * max((similarity[i][j] for j in chosen), default=0.0)
            for i in range(len(relevance))
            if i not in chosen
        }
        chosen.append(max(worth, key=worth.get))
    return chosen


@pytest.mark.parametrize("weight", [0.3, 0.7, 1.0])
@pytest.mark.equation("eq-own-mmr")
def test_the_diverse_slate_is_the_greedy_choice(weight):
    base = mine()
    model = Diverse(base, weight)
    with torch.no_grad():
        logits = base(LISTS, LISTS.scores)
        order = model(LISTS, LISTS.scores).argsort(dim=1, descending=True)
        similarity = model.similarity(LISTS)
    low, high = logits.amin(dim=1, keepdim=True), logits.amax(dim=1, keepdim=True)
    relevance = (logits - low) / (high - low)
    slates = [
        greedy(*row, weight) for row in zip(relevance.tolist(), similarity.tolist(), strict=True)
    ]
    assert order[:, :K].tolist() == slates
    if weight == 1:
        assert torch.equal(order, logits.argsort(dim=1, descending=True))


def test_a_diverse_slate_moves_with_its_candidates():
    model = Diverse(mine(), 0.6)
    other, order = permuted(LISTS)
    moved = model(other, other.scores)
    assert torch.equal(moved, model(LISTS, LISTS.scores).gather(1, order))


def second_place(weight):
    """Of the exercise: relevances 0.9, 0.8 and 0.5, the first two alike."""
    similarity = [[1, 0.9, 0.1], [0.9, 1, 0.1], [0.1, 0.1, 1]]
    worth = {i: weight * r - (1 - weight) * similarity[0][i] for i, r in ((1, 0.8), (2, 0.5))}
    return max(worth, key=worth.get)


def test_the_third_candidate_of_the_exercise_comes_second_below_8_11():
    assert second_place(8 / 11 - 1e-6) == 2
    assert second_place(8 / 11 + 1e-6) == 1


def test_the_list_of_the_exercise_that_ranks_the_shown_first():
    gain = [1 / math.log2(1 + place) for place in range(1, 7)]
    assert sum(gain[1:]) == pytest.approx(2.305, abs=5e-4)
    assert sum(gain[:5]) == pytest.approx(2.948, abs=5e-4)
    assert sum(gain[1:]) / sum(gain[:5]) == pytest.approx(0.78, abs=5e-3)


# Exercises in code: answers in other words are right as well


def own_soft_rank(scores, temperature):
    x = scores.tolist()
    return [
        sum(1 / (1 + math.exp((a - b) / temperature)) for j, b in enumerate(x) if j != i)
        for i, a in enumerate(x)
    ]


def own_swap_weight(logits):
    x = logits.tolist()
    gain = [1 / math.log2(2 + sum(b > a for b in x)) for a in x]
    return [[abs(a - b) for b in gain] for a in gain]


ANSWERS = {"soft_rank": own_soft_rank, "swap_weight": own_swap_weight}


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda one: one.name)
@pytest.mark.equation("eq-own-soft-rank")
def test_an_answer_in_other_words_is_right(exercise):
    assert check(exercise.name, ANSWERS[exercise.name]).passed
    assert check(exercise.name, exercise.truth).passed


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda one: one.name)
def test_an_empty_answer_is_told_so_and_each_mistake_is_named(exercise):
    assert repr(check(exercise.name, lambda *_: ...)).startswith("Not yet: ")
    for words, mistake in exercise.mistakes.items():
        assert check(exercise.name, mistake).message.endswith(words)


def test_a_soft_rank_has_a_gradient_and_comes_near_the_rank():
    scores = torch.tensor([0.1, 0.9, 0.5, 0.3], requires_grad=True)
    ranks = EXERCISES[0].truth(scores, 0.01)
    torch.testing.assert_close(ranks.detach(), torch.tensor([3.0, 0.0, 1.0, 2.0]))
    EXERCISES[0].truth(scores, 0.1)[0].backward()
    assert scores.grad.abs().min() > 0


# A name


def test_build_takes_the_options_of_the_chapter_s_module(monkeypatch):
    from dnrlib.errors import ConfigError
    from dnrlib.rerankers import RERANKERS

    monkeypatch.setitem(RERANKERS, "mine", Split)
    assert build("mine", LISTS, dim=8).head.in_features == 8
    with pytest.raises(ConfigError, match="unknown parameter options.heads of mine: dim"):
        build("mine", LISTS, heads=2)
