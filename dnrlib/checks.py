"""What a reranker of this book must hold, to be tried on a module of one's own.

`check_reranker` tries everything in `CHECKS`. Each of these is a function of a reranker and a few
lists, which returns a `Finding`, leaves the reranker as it is and draws no random number of the
caller's.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import wraps
from textwrap import fill

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dnrlib.errors import ConfigError
from dnrlib.export import Request, serving_inputs
from dnrlib.lists import CandidateLists
from dnrlib.losses import Scalar, bernoulli
from dnrlib.metrics import ndcg, rank
from dnrlib.rerankers.own_loss import OwnLoss
from dnrlib.trainers import trainer_for
from dnrlib.training import TrainingConfig, score_lists

LISTS = 64
"""How many lists are looked at; more are left out."""
BY_HEART = TrainingConfig(epochs=60, batch_size=16, learning_rate=1e-2, weight_decay=0.0)
NEARLY_ALL = 0.95
"""The NDCG@6 from which lists count as learnt by heart."""
STAGES = 4
"""Epochs of which a loss of its own is told, so that every stage of its training has its turn."""
DRAWS = 4
"""Losses that are looked at in each stage, as what is drawn may leave a parameter out."""


@dataclass(frozen=True)
class Finding:
    """What came of one check.

    Args:
        name: what should hold.
        passed: whether it does.
        tried: what was done to find out.
        fault: what went wrong; empty if nothing did.
        why: why it matters.
    """

    name: str
    passed: bool
    tried: str
    fault: str
    why: str

    def __str__(self) -> str:
        if self.passed:
            return f"passed: {self.name}"
        lines = (f"Found: {self.fault}", f"Tried: {self.tried}", f"Why: {self.why}")
        said = [fill(line, 88, initial_indent="  ", subsequent_indent="    ") for line in lines]
        return "\n".join([f"FAILED: {self.name}", *said])


Check = Callable[[nn.Module, CandidateLists], Finding]


def _check(tried: str, why: str) -> Callable[[Callable[[nn.Module, CandidateLists], str]], Check]:
    """Make a check of a function that returns the fault, or nothing if there is none."""

    def check_of(fault_of: Callable[[nn.Module, CandidateLists], str]) -> Check:
        name = fault_of.__name__.replace("_", " ")

        @wraps(fault_of)
        def run(reranker: nn.Module, lists: CandidateLists) -> Finding:
            tried_on = copy.deepcopy(reranker).eval()
            device = lists.scores.device
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                torch.manual_seed(0)
                try:
                    fault = fault_of(tried_on, lists[:LISTS])
                except Exception as error:  # whatever the reader's module may raise
                    fault = f"{type(error).__name__}: {str(error).split(chr(10))[0].rstrip('.')}"
            return Finding(name, not fault, tried, fault, why)

        return run

    return check_of


def _logits(reranker: nn.Module, batch: CandidateLists, scores: Tensor | None = None) -> Tensor:
    with torch.no_grad():
        return reranker(batch, batch.scores if scores is None else scores)


def _differ(a: Tensor, b: Tensor) -> str:
    """By how much, if that is more than rounding."""
    if torch.allclose(a, b, rtol=1e-3, atol=1e-4):
        return ""
    return f"logits differ by up to {float((a - b).abs().max()):.2g}"


def _loss(reranker: nn.Module, batch: CandidateLists, scores: Float[Tensor, "lists n"]) -> Scalar:
    """What its trainer descends on, with the scores in the batch as well."""
    if isinstance(reranker, OwnLoss):
        return reranker.loss(replace(batch, scores=scores), scores)
    return bernoulli(reranker(batch, scores), batch.labels)


def _stages(reranker: nn.Module, lists: CandidateLists) -> Iterator[int]:
    """Each stage of its training, of which a model without its own loss has one."""
    if not isinstance(reranker, OwnLoss):
        yield 1
        return
    for epoch in range(1, STAGES + 1):
        reranker.begin_epoch(epoch, STAGES, lists)
        yield epoch


@_check(
    "two passes over the same lists in evaluation mode",
    "A NaN has no place in an order, and a served order that changes with the draw cannot be "
    "measured",
)
def one_finite_logit_for_each_candidate(reranker: nn.Module, lists: CandidateLists) -> str:
    """Shape ``[lists, n]``, no NaN, and the same when asked again."""
    logits = _logits(reranker, lists)
    if logits.shape != lists.scores.shape:
        return f"logits have shape {list(logits.shape)}, not {list(lists.scores.shape)}"
    if not logits.isfinite().all():
        return "a logit is NaN or infinite"
    return "" if torch.equal(logits, _logits(reranker, lists)) else "a second pass gave others"


@_check(
    "a pass over a request, which has users, history, items, scores and features alone",
    "What was shown and liked is the answer: it is not there when the model serves",
)
def serving_reads_no_feedback(reranker: nn.Module, lists: CandidateLists) -> str:
    """Nothing but `dnrlib.export.serving_inputs` is read."""
    _logits(reranker, Request(*serving_inputs(lists)))
    return ""


@_check(
    "other scores in the batch, the same in the argument",
    "Synthetic scores come by the argument alone; a model that reads batch.scores is never "
    "trained on them",
)
def scores_come_by_the_argument(reranker: nn.Module, lists: CandidateLists) -> str:
    """``batch.scores`` is not read."""
    others = replace(lists, scores=1 - lists.scores)
    return _differ(_logits(reranker, lists), _logits(reranker, others, lists.scores))


@_check(
    "the scores reversed",
    "Denoising training speaks to a model through its scores; to one without them it says nothing",
)
def other_scores_give_other_logits(reranker: nn.Module, lists: CandidateLists) -> str:
    """The scores are used at all."""
    same = torch.equal(_logits(reranker, lists), _logits(reranker, lists, 1 - lists.scores))
    return "the logits stay the same" if same else ""


@_check(
    "the gradient of the loss in the scores, in every stage of training",
    "Phase two trains its generator through the scores. Direct training and heuristic noise do "
    "without",
)
def the_gradient_reaches_the_scores(reranker: nn.Module, lists: CandidateLists) -> str:
    """A rank, for one, has none."""
    reranker.train()
    for _ in _stages(reranker, lists):
        scores = lists.scores.clone().requires_grad_()
        loss = _loss(reranker, lists, scores)
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad(loss, scores, allow_unused=True)
            if gradient is not None and gradient.any():
                return ""
    return "there is none"


@_check(
    "the candidates of each list in another order",
    "Where a candidate stands in the tensor is chance or, worse, says what was shown: a model that "
    "reads it learns how the file was written",
)
def logits_move_with_the_candidates(reranker: nn.Module, lists: CandidateLists) -> str:
    """The model is permutation equivariant."""
    order = torch.rand(lists.items.shape).argsort(dim=1).to(lists.items.device)
    names = ("items", "scores", "labels", "shown")
    moved = {name: getattr(lists, name).gather(1, order) for name in names}
    if lists.features is not None:
        moved["features"] = lists.features.take_along_dim(order[:, :, None], dim=1)
    logits = _logits(reranker, replace(lists, **moved))
    return _differ(logits, _logits(reranker, lists).gather(1, order))


@_check(
    "each list by itself, against all of them in one batch",
    "What a user is shown must not depend on who else asks at that moment, nor a metric on the "
    "batch size",
)
def lists_do_not_see_each_other(reranker: nn.Module, lists: CandidateLists) -> str:
    """No statistics over the batch in evaluation mode."""
    alone = [_logits(reranker, lists[i : i + 1]) for i in range(min(len(lists), 8))]
    return _differ(torch.cat(alone), _logits(reranker, lists)[: len(alone)])


@_check(
    "the gradient of the loss in every parameter, in every stage of training",
    "A parameter without one keeps its random start: a layer is not connected, or its input is "
    "constant",
)
def the_gradient_reaches_every_parameter(reranker: nn.Module, lists: CandidateLists) -> str:
    """Each tensor of parameters has a gradient that is not all zero, in some stage."""
    reranker.train()
    dead = dict(reranker.named_parameters())
    for _ in _stages(reranker, lists):
        for _ in range(DRAWS):
            reranker.zero_grad()
            loss = _loss(reranker, lists, lists.scores)
            if loss.requires_grad:
                loss.backward()
            dead = {name: p for name, p in dead.items() if p.grad is None or not p.grad.any()}
    return f"none reaches {', '.join(dead)}" if dead else ""


@_check(
    f"{BY_HEART.epochs} epochs on so few lists, without dropout, measured on these lists",
    "A model that cannot learn a few lists by heart has a fault in its wiring, sees too little of "
    "the request, or takes longer than this",
)
def few_lists_are_learnt_by_heart(reranker: nn.Module, lists: CandidateLists) -> str:
    """NDCG@6 on the lists that it was trained on; begins from the weights that it has."""
    for module in reranker.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    trainer_for(type(reranker))(reranker, lists, lists, BY_HEART).run()
    reached = float(ndcg(rank(score_lists(reranker, lists), lists.labels), 6).nanmean())
    return "" if reached >= NEARLY_ALL else f"NDCG@6 reaches {reached:.2f} of {NEARLY_ALL}"


CHECKS: tuple[Check, ...] = (
    one_finite_logit_for_each_candidate,
    serving_reads_no_feedback,
    scores_come_by_the_argument,
    other_scores_give_other_logits,
    the_gradient_reaches_the_scores,
    logits_move_with_the_candidates,
    lists_do_not_see_each_other,
    the_gradient_reaches_every_parameter,
    few_lists_are_learnt_by_heart,
)
"""All checks, in the order in which `check_reranker` tries them."""


def check_reranker(reranker: nn.Module, lists: CandidateLists) -> list[Finding]:
    """Every check of `CHECKS`, in order; the last takes some seconds.

    A fault is no verdict by itself: a model that is not to see the scores ignores them, one of
    ranks has no gradient in them. It says what the model then cannot do.

    Args:
        reranker: a `Reranker`, or any module whose ``forward(batch, scores)`` gives logits.
        lists: training lists, on the reranker's device, of which the first `LISTS` are used.

    Raises:
        ConfigError: fewer than two lists.
    """
    if len(lists) < 2:
        raise ConfigError(f"{len(lists)} lists: the checks need two at least")
    return [check(reranker, lists) for check in CHECKS]
