"""DCDR: Discrete Conditional Diffusion for Reranking (Lin et al., WWW 2024 companion)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.losses import bernoulli
from dnrlib.rerankers.base import ScoreInput
from dnrlib.rerankers.inputs import CandidateInput, initial_order
from dnrlib.rerankers.own_loss import OwnLoss
from dnrlib.rerankers.prm import EncoderLayer, ListDropout
from dnrlib.rerankers.slates import Evaluator, random_slates, slate_logits, take

OPERATIONS = ("both", "permutation", "replacement")
DISLIKED, LIKED, UNKNOWN = range(3)
"""The response at a place; unknown where the condition is dropped."""


def one_swap(
    slate: Int[Tensor, "slates k"], n: int, operation: str
) -> Bool[Tensor, "slates k_times_n"]:
    """Which swaps (place i, candidate c), numbered i n + c, lead to a neighbour of a slate.

    Candidate c comes to place i, and who stood there goes to where c came from: to another place
    of the slate (``permutation``), of which each pair is counted once, or out of it
    (``replacement``).
    """
    places = slate.shape[1]
    at = slate[:, None] == torch.arange(n, device=slate.device)[:, None]  # slates n k
    inside = at.any(dim=2)[:, None].expand(-1, places, -1)
    later = torch.ones(places, places, dtype=torch.bool, device=slate.device).triu(1)
    permutes = (at[:, None] & later[:, None]).any(dim=3)
    allowed = {"both": permutes | ~inside, "permutation": permutes, "replacement": ~inside}
    return allowed[operation].flatten(1)


def swapped(
    slate: Int[Tensor, "slates k"], swap: Int[Tensor, " slates"], n: int
) -> tuple[Int[Tensor, "slates k"], Int[Tensor, " slates"]]:
    """The slate after a swap, and the swap that undoes it. Number K n leaves all as it is."""
    stay = swap == slate.shape[1] * n
    place = (swap // n).masked_fill(stay, 0)[:, None]
    old = slate.gather(1, place)
    new = torch.where(stay[:, None], old, (swap % n)[:, None])
    after = torch.where(slate == new, old, slate).scatter(1, place, new)
    return after, torch.where(stay, swap, (place * n + old)[:, 0])


class Denoiser(nn.Module):
    """p(R_{t-1} | R_t, t, response): logits of the swaps that may undo the noise's last step.

    Every place of the slate has an affinity for every candidate, and a swap's logit is what it
    adds to the affinities of the places to who stands there.

    Args:
        dim, layers, heads, feed_forward, dropout: sizes of the encoder over the slate's places.
        places: K.
        steps: T.
        operation: which swaps there are, see `one_swap`.
    """

    def __init__(
        self,
        dim: int,
        layers: int,
        heads: int,
        feed_forward: int,
        dropout: nn.Module,
        places: int,
        steps: int,
        operation: str,
    ):
        super().__init__()
        self.operation = operation
        self.place = nn.Embedding(places, dim)
        self.step = nn.Embedding(steps, dim)
        self.response = nn.Embedding(3, dim)
        self.layers = nn.Sequential(
            *(EncoderLayer(dim, heads, feed_forward, dropout) for _ in range(layers))
        )
        self.wanted = nn.Linear(dim, dim)
        self.stay = nn.Linear(dim, 1)
        for table in (self.place, self.step, self.response):
            nn.init.normal_(table.weight, std=dim**-0.5)  # as long as the items' vectors

    def forward(
        self,
        h: Float[Tensor, "lists n dim"],
        slates: Int[Tensor, "lists m k"],
        step: Int[Tensor, "#lists #m"],
        response: Int[Tensor, "#lists #m #k"],
    ) -> Float[Tensor, "lists m swaps"]:
        """Logits of the K n swaps, -∞ for those that there are not, and of staying, the last.

        Args:
            h: the candidates' vectors.
            slates: R_t, m of them for each list.
            step: t - 1.
            response: at each place of R_0.
        """
        lists, m, places = slates.shape
        n, dim = h.shape[1:]
        tokens = take(h, slates.flatten(1)).view(lists, m, places, dim)
        time = self.step(step)[:, :, None]
        tokens = tokens + self.place.weight + time + self.response(response)
        seen = self.layers(tokens.flatten(0, 1))
        wanted = self.wanted(seen).view(lists, m * places, dim)
        affinity = (wanted @ h.transpose(1, 2)).view(lists, m, places, n)

        # What place i gains, and where c comes from a place j of the slate, what that gains.
        to_slate = affinity.gather(3, slates[:, :, None].expand(-1, -1, places, -1))  # i of c_j
        own = to_slate.diagonal(dim1=2, dim2=3)
        other = to_slate.transpose(2, 3) - own[:, :, None]
        gain = (affinity - own[..., None]).scatter_add(
            3, slates[:, :, None].expand(-1, -1, places, -1), other
        )
        allowed = one_swap(slates.flatten(0, 1), n, self.operation).view(lists, m, -1)
        swaps = gain.flatten(2).masked_fill(~allowed, -torch.inf)
        stay = self.stay(seen.mean(dim=1)).view(lists, m, 1)
        return torch.cat([swaps, stay], dim=2)


class DCDR(OwnLoss):
    """A slate is diffused by random swaps, and a denoiser learns to take them back.

    It is told the user's response to each place of the original slate. Asked for a slate to which
    all responses are positive, it leads from the initial list to one that is liked throughout.

    Args:
        users, items: how many there are.
        n: candidates in a list.
        history: items of history.
        dim, layers, heads, feed_forward, dropout: sizes of the denoiser.
        places: K.
        steps: T, of the diffusion and of its reversal.
        beam: slates that are followed.
        drop: the share of lists whose condition is dropped in training.
        guidance: how far to go from the unconditional to the conditional logits and, above 1,
            beyond. At 1 the unconditional ones are not computed.
        operation: ``both``, or one of ``permutation`` and ``replacement``.
        discounted: weigh the place k by 1 / log₂(k + 1) when slates are evaluated, as our
            feedback does not depend on the place.
        score_use: see `ScoreInput`.

    Raises:
        ConfigError: a size is not positive, ``dim`` is not a multiple of ``heads``, there are
            fewer than 2 or more than n - 1 places, or ``operation`` is unknown.
    """

    beta: Tensor
    discount: Tensor

    def __init__(
        self,
        users: int,
        items: int,
        n: int = 50,
        history: int = 20,
        *,
        dim: int = 128,
        layers: int = 1,
        heads: int = 4,
        feed_forward: int = 128,
        places: int = 6,
        steps: int = 6,
        beam: int = 4,
        drop: float = 0.1,
        guidance: float = 1.0,
        operation: str = "both",
        discounted: bool = True,
        dropout: float = 0.1,
        score_use: str = "none",
    ):
        super().__init__()
        sizes = {
            "dim": dim, "layers": layers, "heads": heads, "feed_forward": feed_forward,
            "steps": steps, "beam": beam,
        }  # fmt: skip
        for name, size in sizes.items():
            if size < 1:
                raise ConfigError(f"{name} = {size}: must be at least 1")
        if dim % heads:
            raise ConfigError(f"dim = {dim} is not a multiple of heads = {heads}")
        if not 2 <= places < n:
            raise ConfigError(f"places = {places}: must be at least 2 and at most {n - 1}")
        if not 0 <= drop < 1:
            raise ConfigError(f"drop = {drop}: must be at least 0 and below 1")
        if operation not in OPERATIONS:
            raise ConfigError(
                f"operation {operation!r} is unknown: choose one of {', '.join(OPERATIONS)}"
            )
        self.places, self.steps, self.beam = places, steps, beam
        self.drop, self.guidance, self.score_use = drop, guidance, score_use
        self.candidates = CandidateInput(users, items, history, dim)
        self.score_input = ScoreInput(score_use, dim, n)
        self.dropout = ListDropout(dropout)
        self.denoiser = Denoiser(
            dim, layers, heads, feed_forward, self.dropout, places, steps, operation
        )
        self.evaluator = Evaluator(dim)
        self.register_buffer("beta", (1 + torch.arange(1, steps + 1) / steps) / 2, persistent=False)
        place = torch.arange(places) if discounted else torch.zeros(places)
        self.register_buffer("discount", 1 / (place + 2.0).log2(), persistent=False)

    def vectors(
        self, batch: CandidateLists, scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n dim"]:
        """A vector for each candidate, the scores in it."""
        return self.dropout(self.score_input(self.candidates(batch), scores))

    # Training -----------------------------------------------------------------------------

    def diffuse(
        self, slate: Int[Tensor, "lists k"], n: int
    ) -> tuple[Int[Tensor, "lists steps k"], Int[Tensor, "lists steps"]]:
        """R_1 … R_T from R_0, and for each the swap that leads back to the slate before it.

        q(R_t | R_{t-1}): with probability β_t one of the allowed swaps, all alike.
        """
        path, undo = [], []
        for beta in self.beta:
            allowed = one_swap(slate, n, self.denoiser.operation)
            swap = allowed.float().multinomial(1)[:, 0]
            stay = torch.rand(len(slate), device=slate.device) >= beta
            slate, back = swapped(slate, swap.masked_fill(stay, allowed.shape[1]), n)
            path.append(slate)
            undo.append(back)
        return torch.stack(path, dim=1), torch.stack(undo, dim=1)

    def loss(self, batch: CandidateLists, scores: Float[Tensor, "lists n"]) -> Float[Tensor, ""]:
        """Cross entropy of the reverse steps, and log loss of the evaluator.

        R_0 has the liked candidates first: with feedback that does not depend on the place, this
        is the order that a slate ought to have. The step that was made is a draw from the posterior
        q(R_{t-1} | R_t, R_0), so that on average this is the cross entropy to the posterior itself.
        The evaluator learns from the slate in its random order, which says nothing of the labels.
        """
        h = self.vectors(batch, scores)
        slate = random_slates(batch.labels, self.places)
        liked = batch.labels.gather(1, slate)
        evaluated = bernoulli(self.evaluator(take(h, slate)), liked)

        response, order = liked.long().sort(dim=1, descending=True, stable=True)
        path, undo = self.diffuse(slate.gather(1, order), h.shape[1])
        dropped = torch.rand(len(slate), 1, device=slate.device) < self.drop
        response = response.masked_fill(dropped, UNKNOWN)[:, None]
        step = torch.arange(self.steps, device=slate.device)[None]
        logits = self.denoiser(h, path, step, response)
        return F.cross_entropy(logits.flatten(0, 1), undo.flatten()) + evaluated

    # Decoding -----------------------------------------------------------------------------

    def reverse_step(
        self, h: Float[Tensor, "lists n dim"], slates: Int[Tensor, "lists m k"], t: int
    ) -> Float[Tensor, "lists m swaps"]:
        """log p(R_{t-1} | R_t, all liked) of the swaps, guided away from that without condition.

        Staying is left out. One outcome against hundreds of swaps, it would be the likeliest as
        long as the denoiser is not sure; when to stop is up to the evaluator.
        """
        step = torch.full((1, 1), t - 1, device=h.device)
        logits = self.denoiser(h, slates, step, torch.full_like(step, LIKED)[..., None])[..., :-1]
        if self.guidance != 1:
            unknown = torch.full_like(step, UNKNOWN)[..., None]
            free = self.denoiser(h, slates, step, unknown)[..., :-1]
            guided = free + self.guidance * (logits - free)
            logits = logits.where(logits.isinf(), guided)
        return logits.log_softmax(dim=2)

    def utility(
        self, h: Float[Tensor, "lists n dim"], slates: Int[Tensor, "lists m k"]
    ) -> Float[Tensor, "lists m"]:
        """What the evaluator expects of each slate."""
        vectors = take(h, slates.flatten(1)).unflatten(1, slates.shape[1:])
        clicks = self.evaluator(vectors.flatten(0, 1)).sigmoid() @ self.discount
        return clicks.view(slates.shape[:2])

    def forward(
        self, batch: CandidateLists, scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n"]:
        """Minus the place in the best slate; the others follow by what each is worth alone."""
        h = self.vectors(batch, scores)
        n = h.shape[1]
        first = initial_order(self.score_use, scores, batch.items)[:, : self.places]
        slates, log_p = first[:, None], torch.zeros_like(scores[:, :1])
        best, most = first, self.utility(h, slates)
        improving = torch.ones_like(most, dtype=torch.bool)
        for t in range(self.steps, 0, -1):
            paths = log_p[..., None] + self.reverse_step(h, slates, t)
            swaps = paths.shape[2]
            log_p, path = paths.flatten(1).topk(min(self.beam, swaps), dim=1)
            origin = slates.gather(1, (path // swaps)[..., None].expand(-1, -1, self.places))
            slates = swapped(origin.flatten(0, 1), (path % swaps).flatten(), n)[0].view_as(origin)
            # Where there are fewer swaps than the beam holds, the others cannot be reached.
            utility = self.utility(h, slates).masked_fill(log_p.isinf(), -torch.inf)
            found, which = utility.max(dim=1, keepdim=True)
            improving = improving & (found > most)
            slate = slates.gather(1, which[..., None].expand(-1, -1, self.places))[:, 0]
            best = torch.where(improving, slate, best)
            most = torch.where(improving, found, most)
        alone = self.evaluator(h.flatten(0, 1)[:, None]).view_as(scores)
        return slate_logits(best, alone)
