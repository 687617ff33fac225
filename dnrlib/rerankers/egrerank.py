"""EG-Rerank: an evaluator, then a generator trained by it (Huzhang et al., TKDE 2023)."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.rerankers.base import ScoreInput
from dnrlib.rerankers.inputs import CandidateInput
from dnrlib.rerankers.own_loss import OwnLoss
from dnrlib.rerankers.prm import ListDropout
from dnrlib.rerankers.slates import Evaluator, random_slates, slate_logits, take

Choice = Callable[[int, Float[Tensor, "lists slates n"]], Int[Tensor, "lists slates"]]
"""The candidates for a place, from its number and every candidate's log-probability."""


def most_likely(place: int, log_p: Tensor) -> Tensor:
    """Greedy decoding."""
    return log_p.argmax(dim=2)


def sampled(place: int, log_p: Tensor) -> Tensor:
    """A draw for each slate, by Gumbel's trick."""
    return (log_p - torch.empty_like(log_p).exponential_().log()).argmax(dim=2)


class Policy(nn.Module):
    """π(y_j | y_1 … y_{j-1}), the generator: a pointer network.

    An LSTM reads what was chosen; an additive attention of its state over the candidates'
    encodings gives the logits, in which the chosen are masked.

    Args:
        places: K, of the slate.
        dim: of the candidates' vectors and of the LSTM's state.
        hidden: of the encodings and of the attention.
        n, score_use: see `ScoreInput`.
    """

    def __init__(self, places: int, dim: int, hidden: int, n: int, score_use: str):
        super().__init__()
        self.places = places
        self.score_input = ScoreInput(score_use, dim, n)
        self.encoder = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, hidden))
        self.lstm = nn.LSTMCell(dim, dim)
        self.from_state = nn.Linear(dim, hidden, bias=False)
        self.head = nn.Linear(hidden, 1, bias=False)

    def forward(
        self,
        e: Float[Tensor, "lists n dim"],
        scores: Float[Tensor, "lists n"],
        slates: int,
        choose: Choice,
    ) -> tuple[Int[Tensor, "lists slates k"], Float[Tensor, "lists slates k n"]]:
        """So many slates of each list, and every candidate's log-probability at each place."""
        h = self.score_input(e, scores)
        encoded = self.encoder(h)[:, None]  # lists 1 n hidden
        last = h.new_zeros(h.shape[0] * slates, h.shape[2])  # nothing is chosen yet
        state = last, last
        taken = h.new_zeros(h.shape[0], slates, h.shape[1])
        chosen, log_p = [], []
        for place in range(self.places):
            state = self.lstm(last, state)
            asked = self.from_state(state[0]).unflatten(0, (-1, slates))[:, :, None]
            logits = self.head(F.relu(encoded + asked))[..., 0]
            log_p.append(logits.masked_fill(taken > 0, -torch.inf).log_softmax(dim=2))
            chosen.append(choose(place, log_p[-1]))
            taken = taken.scatter(2, chosen[-1][..., None], 1.0)
            last = take(h, chosen[-1]).flatten(0, 1)
        return torch.stack(chosen, dim=2), torch.stack(log_p, dim=2)


def with_buffers(module: nn.Module) -> nn.Module:
    """A copy whose weights are buffers: kept with the model, but not trained."""
    copied = copy.deepcopy(module)
    for part in copied.modules():
        for name, weight in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, weight.detach())
    return copied


def returns(
    rewards: Float[Tensor, "lists slates k"], discount: float
) -> Float[Tensor, "lists slates k"]:
    """G_j = Σ_{i ≥ j} γ^(i - j) r_i: what is still to come from each place on."""
    to_come, parts = torch.zeros_like(rewards[:, :, 0]), []
    for reward in rewards.unbind(dim=2)[::-1]:
        to_come = reward + discount * to_come
        parts.append(to_come)
    return torch.stack(parts[::-1], dim=2)


def advantage(value: Float[Tensor, "lists slates k"]) -> Float[Tensor, "lists slates k"]:
    """How much better than the list's other slates at this place, in standard deviations."""
    mean, std = value.mean(dim=1, keepdim=True), value.std(dim=1, keepdim=True, correction=0)
    return (value - mean) / (std + 1e-6)  # equal slates have none


def clipped(
    ratio: Float[Tensor, "lists slates k"],
    better: Float[Tensor, "lists slates k"],
    clip: float,
) -> Float[Tensor, ""]:
    """PPO's objective, the mean of min(ρ A, clip(ρ, 1 - ε, 1 + ε) A)."""
    return torch.minimum(ratio * better, ratio.clamp(1 - clip, 1 + clip) * better).mean()


class EGRerank(OwnLoss):
    """A generator that maximises what a frozen evaluator predicts.

    Stage one, the first third of the epochs: the evaluator, a GRU over an ordered slate, learns
    the feedback at each place from random slates. Stage two: it is frozen together with the item,
    user and history embeddings, and the generator (`Policy`) learns by proximal policy
    optimisation. The reward of a place is the predicted feedback there; the advantage of a slate
    is taken against the other slates drawn for the same list, without a critic. Slates are drawn
    from an older policy, renewed every ``lag`` steps, so that the clip acts. Serving takes the most
    likely candidate for each place.

    The paper's generator has embeddings of its own; here it begins from the evaluator's. With
    ``discriminator`` above 0 this is EG-Rerank+: a discriminator tells the evaluator's random
    slates from generated ones, and the reward grows by -log(1 - D) times that weight.

    Args:
        users, items: how many there are.
        n: candidates in a list.
        history: items of history.
        places: K, of the slate.
        dim: of the candidates' vectors and of both recurrent states.
        hidden: of the generator's attention.
        dropout: on the evaluator's input; none in stage two, where it would blur the ratio.
        samples: slates drawn for each list and step, in both stages.
        lag: steps between two renewals of the older policy.
        clip: ε.
        entropy: weight of the policy's entropy, in nats.
        discount: γ, by which a place's choice is credited with the feedback of later places.
        discriminator: weight of the discriminator's reward; 0 has none.
        score_use: see `ScoreInput`; evaluator and generator have one each.

    Raises:
        ConfigError: a size is not positive, a weight is negative, a share is not in [0, 1], fewer
            than two samples, or fewer candidates than places.
    """

    def __init__(
        self,
        users: int,
        items: int,
        n: int = 50,
        history: int = 20,
        *,
        places: int = 6,
        dim: int = 128,
        hidden: int = 64,
        dropout: float = 0.1,
        samples: int = 5,
        lag: int = 8,
        clip: float = 0.1,
        entropy: float = 1e-3,
        discount: float = 0.9,
        discriminator: float = 0.0,
        score_use: str = "none",
    ):
        super().__init__()
        for name, size in {"dim": dim, "hidden": hidden, "lag": lag}.items():
            if size < 1:
                raise ConfigError(f"{name} = {size}: must be at least 1")
        if samples < 2:
            raise ConfigError(f"samples = {samples}: must be at least 2, to compare slates")
        if not 1 <= places <= n:
            raise ConfigError(f"places = {places}: must lie in 1 … {n}, the number of candidates")
        for name, share in {"clip": clip, "discount": discount}.items():
            if not 0 <= share <= 1:
                raise ConfigError(f"{name} = {share}: must lie in [0, 1]")
        for name, weight in {"entropy": entropy, "discriminator": discriminator}.items():
            if weight < 0:
                raise ConfigError(f"{name} = {weight}: must not be negative")
        self.places, self.samples, self.lag = places, samples, lag
        self.clip, self.entropy, self.discount = clip, entropy, discount
        self.discriminator_weight = discriminator
        self.input = CandidateInput(users, items, history, dim)
        self.score_input = ScoreInput(score_use, dim, n)
        self.dropout = ListDropout(dropout)
        self.evaluator = Evaluator(dim)
        self.policy = Policy(places, dim, hidden, n, score_use)
        self.old = with_buffers(self.policy)
        if discriminator:
            self.discriminator = Evaluator(dim)
        self.evaluator_learns, self.age = True, 0

    def extra_repr(self) -> str:
        """Tell apart what has the same parameters."""
        names = ("places", "samples", "lag", "clip", "entropy", "discount", "discriminator_weight")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)

    def begin_epoch(self, epoch: int, epochs: int, lists: CandidateLists) -> None:
        """Stage one lasts a third of the epochs, one at least."""
        self.evaluator_learns, self.age = epoch <= max(1, epochs // 3), 0

    def loss(self, batch: CandidateLists, scores: Float[Tensor, "lists n"]) -> Float[Tensor, ""]:
        """Log loss of the evaluator in stage one, minus the generator's objective in stage two."""
        if self.evaluator_learns:
            return self.evaluator_loss(batch, scores)
        with torch.no_grad():
            e = self.input(batch)
            h = self.score_input(e, scores)
        return self.generator_loss(e, h, scores, self.some_slates(batch))

    def some_slates(self, batch: CandidateLists) -> Int[Tensor, "lists slates k"]:
        """Those from which the evaluator learns."""
        labels = batch.labels.repeat_interleave(self.samples, dim=0)
        return random_slates(labels, self.places).unflatten(0, (-1, self.samples))

    def evaluator_loss(
        self, batch: CandidateLists, scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, ""]:
        """-log of the probability of the feedback at each place of random slates."""
        h = self.score_input(self.dropout(self.input(batch)), scores)
        slates = self.some_slates(batch)
        liked = batch.labels.gather(1, slates.flatten(1)).view_as(slates).to(h.dtype)
        return F.binary_cross_entropy_with_logits(seen(self.evaluator, h, slates), liked)

    def generator_loss(
        self,
        e: Float[Tensor, "lists n dim"],
        h: Float[Tensor, "lists n dim"],
        scores: Float[Tensor, "lists n"],
        real: Int[Tensor, "lists slates k"],
    ) -> Float[Tensor, ""]:
        """PPO on slates of the older policy, and the discriminator's loss if there is one."""
        if self.age % self.lag == 0:
            self.old.load_state_dict(self.policy.state_dict())
        self.age += 1
        with torch.no_grad():
            slates, old_log_p = self.old(e, scores, self.samples, sampled)
            rewards = seen(self.evaluator, h, slates).sigmoid()
            if self.discriminator_weight:
                rewards += self.discriminator_weight * F.softplus(
                    seen(self.discriminator, h, slates)
                )
            better = advantage(returns(rewards, self.discount))
        _, log_p = self.policy(e, scores, self.samples, lambda place, _: slates[:, :, place])
        new, old = (at.gather(3, slates[..., None])[..., 0] for at in (log_p, old_log_p))
        entropy = -(log_p.exp() * log_p.clamp(min=-100)).sum(dim=3).mean()  # of 0 · -inf, too
        objective = clipped((new - old).exp(), better, self.clip) + self.entropy * entropy
        if not self.discriminator_weight:
            return -objective
        told = [seen(self.discriminator, h, these) for these in (real, slates)]
        return F.softplus(-told[0]).mean() + F.softplus(told[1]).mean() - objective

    def forward(
        self, batch: CandidateLists, scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n"]:
        """The greedy slate, then the others by their probability of the last place."""
        slates, log_p = self.policy(self.input(batch), scores, 1, most_likely)
        return slate_logits(slates[:, 0], log_p[:, 0, -1])


def seen(
    evaluator: Evaluator, h: Float[Tensor, "lists n dim"], slates: Int[Tensor, "lists slates k"]
) -> Float[Tensor, "lists slates k"]:
    """The evaluator's logits at each place of several slates of each list."""
    vectors = take(h, slates.flatten(1)).unflatten(1, slates.shape[1:])  # lists slates k dim
    return evaluator(vectors.flatten(0, 1)).unflatten(0, slates.shape[:2])
