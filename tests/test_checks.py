"""Each check finds the module that is broken in its way, and nothing else finds fault with it."""

import pytest
import torch
from torch import nn
from worlds import field_of, make_lists

from dnrlib.checks import CHECKS, NEARLY_ALL, check_reranker
from dnrlib.errors import ConfigError
from dnrlib.losses import bernoulli
from dnrlib.rerankers import OwnLoss, build

LISTS = make_lists(signal=0.5)[:64]
DESCRIBED = field_of(
    LISTS, features=torch.randn(64, 12, 3, generator=torch.Generator().manual_seed(1))
)
NAMES = {check.__name__.replace("_", " ") for check in CHECKS}
FEEDBACK = "serving reads no feedback"
ARGUMENT = "scores come by the argument"
OTHER = "other scores give other logits"
HEARD = "the gradient reaches the scores"
MOVES = "logits move with the candidates"
ALONE = "lists do not see each other"
FINITE = "one finite logit for each candidate"
EVERY = "the gradient reaches every parameter"
BY_HEART_NAME = "few lists are learnt by heart"


class Good(nn.Module):
    """History · item, an item's quality and the score; each broken one changes one line."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.past, self.item = nn.Embedding(41, 32), nn.Embedding(41, 32)
        self.quality = nn.Embedding(41, 1)
        self.trust = nn.Parameter(torch.ones(()))
        for table in (self.past, self.item, self.quality):
            nn.init.normal_(table.weight, std=0.3)

    def taste(self, batch):
        past = self.past(batch.history).sum(dim=1)
        return (self.item(batch.items) @ past[..., None])[..., 0]

    def forward(self, batch, scores):
        return self.taste(batch) + self.quality(batch.items)[..., 0] + self.trust * scores


class ReadsLabels(Good):
    def forward(self, batch, scores):
        return super().forward(batch, scores) + batch.labels


class ReadsWhatWasShown(Good):
    """To no effect on any logit, which the check sees even so."""

    def forward(self, batch, scores):
        return super().forward(batch, scores) + 0 * batch.shown


class ReadsTheBatchsScores(Good):
    def forward(self, batch, scores):
        return super().forward(batch, scores) + batch.scores


class DependsOnPosition(Good):
    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.linspace(1, 0, 12))

    def forward(self, batch, scores):
        return super().forward(batch, scores) + self.place


class SeesOtherLists(Good):
    def forward(self, batch, scores):
        logits = super().forward(batch, scores)
        return logits - logits.mean()


class IgnoresScores(Good):
    def __init__(self):
        super().__init__()
        del self.trust

    def forward(self, batch, scores):
        return self.taste(batch) + self.quality(batch.items)[..., 0]


class HearsRanksAlone(Good):
    def forward(self, batch, scores):
        return super().forward(batch, 1 / (1 + scores.argsort(dim=1).argsort(dim=1)))


class DeadParameter(Good):
    def __init__(self):
        super().__init__()
        self.forgotten = nn.Linear(8, 8)


class DeadByItsInput(Good):
    def __init__(self):
        super().__init__()
        self.silent = nn.Linear(32, 1, bias=False)

    def forward(self, batch, scores):
        return super().forward(batch, scores) + self.silent(0 * self.item(batch.items))[..., 0]


class DrawsWhileServing(Good):
    def forward(self, batch, scores):
        return super().forward(batch, scores) + 1e-6 * torch.randn_like(scores)


class OneLogitAList(Good):
    def forward(self, batch, scores):
        return super().forward(batch, scores).mean(dim=1)


class DividesByNothing(Good):
    def forward(self, batch, scores):
        return super().forward(batch, scores) / (scores * 0)


class KnowsTheScoreAlone(Good):
    def forward(self, batch, scores):
        return self.trust * scores + 0 * self.taste(batch) + 0 * self.quality.weight.sum()


class Raises(Good):
    def forward(self, batch, scores):
        raise IndexError("index 7 is out of range.\nmore")


class ReadsFeatures(Good):
    def __init__(self):
        super().__init__()
        self.weigh = nn.Linear(3, 1, bias=False)

    def forward(self, batch, scores):
        return super().forward(batch, scores) + self.weigh(batch.features)[..., 0]


class ReadsTheNeighboursFeatures(ReadsFeatures):
    def forward(self, batch, scores):
        return super().forward(batch, scores) + self.weigh(batch.features.roll(1, 1))[..., 0]


class SeesFeaturesOfOtherLists(ReadsFeatures):
    def forward(self, batch, scores):
        return super().forward(batch, scores) - batch.features.mean()


class KnowsFeaturesAndScoreAlone(nn.Module):
    def __init__(self):
        super().__init__()
        self.weigh, self.trust = nn.Linear(3, 1, bias=False), nn.Parameter(torch.ones(()))

    def forward(self, batch, scores):
        return self.weigh(batch.features)[..., 0] + self.trust * scores


def faults(model, lists=LISTS):
    return {finding.name for finding in check_reranker(model, lists) if not finding.passed}


def test_a_sound_module_passes_everything():
    findings = check_reranker(Good(), LISTS)
    assert [finding.name for finding in findings if finding.passed] == [f.name for f in findings]
    assert {finding.name for finding in findings} == NAMES
    assert all(finding.fault == "" for finding in findings)
    assert all(finding.tried and finding.why for finding in findings)
    assert str(findings[0]) == f"passed: {FINITE}"


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        (ReadsLabels, {FEEDBACK}),
        (ReadsWhatWasShown, {FEEDBACK}),
        (ReadsTheBatchsScores, {ARGUMENT}),
        (DependsOnPosition, {MOVES}),
        (SeesOtherLists, {ALONE}),
        (IgnoresScores, {OTHER, HEARD}),
        (HearsRanksAlone, {HEARD}),
        (DeadParameter, {EVERY}),
        (DeadByItsInput, {EVERY}),
        (DrawsWhileServing, {FINITE}),
        (KnowsTheScoreAlone, {EVERY, BY_HEART_NAME}),
        (Raises, NAMES),
    ],
)
def test_a_broken_module_is_found_by_the_check_of_its_fault(broken, expected):
    assert faults(broken()) == expected


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Good, set()),
        (ReadsFeatures, set()),
        (ReadsTheNeighboursFeatures, {MOVES}),
        (SeesFeaturesOfOtherLists, {ALONE}),
    ],
)
def test_features_go_through_every_check(model, expected):
    assert faults(model(), DESCRIBED) == expected


def test_features_that_tell_the_label_are_learnt_by_heart():
    telling = DESCRIBED.features + 9 * LISTS.labels[:, :, None]
    model = KnowsFeaturesAndScoreAlone()
    assert faults(model, field_of(LISTS, features=telling)) == set()
    assert faults(model, DESCRIBED) == {BY_HEART_NAME}


def message(model, name):
    [check] = [check for check in CHECKS if check.__name__.replace("_", " ") == name]
    return str(check(model, LISTS))


@pytest.mark.parametrize(
    ("broken", "name", "words"),
    [
        (ReadsLabels, FEEDBACK, "the reranker reads `labels`"),
        (ReadsWhatWasShown, FEEDBACK, "the reranker reads `shown`"),
        (DependsOnPosition, MOVES, "logits differ by up to"),
        (DeadParameter, EVERY, "none reaches forgotten.weight, forgotten.bias\n"),
        (DeadByItsInput, EVERY, "none reaches silent.weight\n"),
        (DrawsWhileServing, FINITE, "a second pass gave others"),
        (OneLogitAList, FINITE, "logits have shape [64], not [64, 12]"),
        (DividesByNothing, FINITE, "a logit is NaN or infinite"),
        (IgnoresScores, OTHER, "the logits stay the same"),
        (HearsRanksAlone, HEARD, "there is none"),
        (KnowsTheScoreAlone, BY_HEART_NAME, f"of {NEARLY_ALL}"),
        (Raises, MOVES, "IndexError: index 7 is out of range\n  Tried: the candidates of each"),
    ],
)
def test_the_fault_is_said(broken, name, words):
    said = message(broken(), name)
    assert said.startswith(f"FAILED: {name}\n  Found: ")
    assert words in said
    assert "\n  Why: " in said
    assert max(map(len, said.splitlines())) <= 88


@pytest.mark.parametrize("score_use", ["none", "rank", "concat"])
def test_prm_passes_what_its_use_of_the_score_allows(score_use):
    sizes = {"dim": 16, "heads": 2, "feed_forward": 24}
    expected = {"none": {OTHER, HEARD}, "rank": {HEARD}, "concat": set()}
    assert faults(build("prm", LISTS, score_use=score_use, **sizes)) == expected[score_use]


def test_the_module_its_mode_and_the_random_numbers_stay_as_they_are():
    model = build("prm", LISTS, dim=8, heads=2, feed_forward=8, dropout=0.3).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    check_reranker(model, LISTS)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert model.dropout.p == 0.3
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


class Staged(Good, OwnLoss):
    """The taste alone in the first half of the epochs, then the rest."""

    def __init__(self):
        super().__init__()
        self.register_buffer("late", torch.zeros(()))

    def begin_epoch(self, epoch, epochs, lists):
        self.late.fill_(epoch > epochs / 2)

    def loss(self, batch, scores):
        assert torch.equal(batch.scores, scores)
        taste = bernoulli(self.taste(batch), batch.labels)
        whole = self(batch, scores)
        with_score = bernoulli(whole, batch.labels)
        return torch.where(self.late > 0, with_score, taste)


class NeverLate(Staged):
    def begin_epoch(self, epoch, epochs, lists):
        pass


def test_a_loss_of_its_own_is_looked_at_in_every_stage():
    assert faults(Staged()) == set()
    never = faults(NeverLate())
    assert {HEARD, EVERY} <= never
    assert "none reaches trust, quality.weight\n" in message(NeverLate(), EVERY)


def test_two_lists_are_enough_and_one_is_not():
    assert all(finding.passed for finding in check_reranker(Good(), LISTS[:2]))
    with pytest.raises(ConfigError, match="1 lists: the checks need two at least"):
        check_reranker(Good(), LISTS[:1])
