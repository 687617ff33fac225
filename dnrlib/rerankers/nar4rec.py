"""NAR4Rec: Non-autoregressive Generative Models for Reranking (Ren et al., KDD 2024)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.rerankers.base import ScoreInput
from dnrlib.rerankers.inputs import CandidateInput
from dnrlib.rerankers.own_loss import OwnLoss
from dnrlib.rerankers.prm import EncoderLayer, ListDropout
from dnrlib.rerankers.slates import random_slates, slate_logits, take

SURE = 1 - 1e-6
"""Keeps log(1 - p) finite where a probability rounds to 1."""


class PositionLayer(EncoderLayer):
    """Self-attention over the places, cross-attention to the candidates, then feed-forward."""

    def __init__(self, dim: int, heads: int, feed_forward: int, dropout: nn.Module):
        super().__init__(dim, heads, feed_forward, dropout)
        self.cross_query = nn.Linear(dim, dim)
        self.cross_key_value = nn.Linear(dim, 2 * dim)
        self.cross_output = nn.Linear(dim, dim)
        self.norm_cross = nn.LayerNorm(dim)

    def look(
        self, t: Float[Tensor, "lists k dim"], x: Float[Tensor, "lists n dim"]
    ) -> Float[Tensor, "lists k dim"]:
        """Cross-attention: each place asks, the candidates answer."""
        query = self.cross_query(t).unflatten(2, (self.heads, -1)).transpose(1, 2)
        key_value = self.cross_key_value(x).unflatten(2, (2, self.heads, -1))
        key, value = key_value.permute(2, 0, 3, 1, 4)  # lists heads n d
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.cross_output(mixed.transpose(1, 2).flatten(2))

    def forward(  # type: ignore[override]
        self, t: Float[Tensor, "lists k dim"], x: Float[Tensor, "lists n dim"]
    ) -> Float[Tensor, "lists k dim"]:
        """LayerNorm after each of the three residuals."""
        t = self.norm_attention(t + self.dropout(self.attend(t)))
        t = self.norm_cross(t + self.dropout(self.look(t, x)))
        return self.norm_feed_forward(t + self.dropout(self.narrow(F.relu(self.widen(t)))))


class SlateEvaluator(nn.Module):
    """The likely feedback at each place of a slate, every place seeing every other."""

    def __init__(self, dim: int, places: int, heads: int, feed_forward: int, dropout: nn.Module):
        super().__init__()
        self.place = nn.Parameter(torch.randn(places, dim) / dim**0.5)
        self.layer = EncoderLayer(dim, heads, feed_forward, dropout)
        self.head = nn.Linear(dim, 1)

    def forward(self, slate: Float[Tensor, "slates k dim"]) -> Float[Tensor, "slates k"]:
        """Logits of the feedback; their probabilities sum to the utility of the slate."""
        return self.head(self.layer(slate + self.place))[..., 0]


def separation(v: Float[Tensor, "lists m dim"], margin: float) -> Float[Tensor, ""]:
    """Contrastive loss: mean over pairs i ≠ j of max(0, margin - s(v_i, v_i) + s(v_i, v_j)).

    s is the cosine, so that s(v_i, v_i) = 1: a pair costs nothing below 1 - margin.
    """
    cosine = similarity(v)
    m = v.shape[1]
    hinge = F.relu(margin - 1 + cosine) * (1 - torch.eye(m, device=v.device))
    return hinge.sum(dim=(1, 2)).mean() / (m * (m - 1))


def similarity(v: Float[Tensor, "lists m dim"]) -> Float[Tensor, "lists m m"]:
    """Cosine of every two vectors of a list."""
    v = F.normalize(v, dim=2)
    return v @ v.transpose(1, 2)


def unlikelihood(
    p: Float[Tensor, "lists k n"],
    slate: Int[Tensor, "lists k"],
    good: Bool[Tensor, " lists"],
) -> Float[Tensor, ""]:
    """-Σ_j log p_j(y_j) of a good slate, -Σ_j log(1 - p_j(y_j)) of another; mean over slates."""
    p = p.gather(2, slate[..., None])[..., 0]
    likely = torch.where(good[:, None], p, 1 - SURE * p)
    return -likely.clamp(min=1e-30).log().sum(dim=1).mean()


class NAR4Rec(OwnLoss):
    """All K places of the slate in one pass; an evaluator picks among a few decodings.

    The generator matches places with candidates: p_j(i) = softmax_i(x_i · t_j / √d), where x is
    the candidates' encoding (self-attention, no positions) and t that of the K places (learned
    embeddings, self-attention, cross-attention to x). It learns from random slates: likelihood
    where the utility reaches ``threshold``, unlikelihood elsewhere, beside a contrastive loss that
    keeps candidates, and places, apart. The utility is the share of its likes that the slate
    holds of those that it could hold. Serving decodes greedily with ``slates`` strengths of
    diversity α from 0 to ``alpha``, and the evaluator picks the slate with most expected likes.

    The paper learns from logged slates, does not scale the product by √d, and has an evaluator
    with an input of its own; here both parts share the candidates' vectors, and both train them.

    Args:
        users, items: how many there are.
        n: candidates in a list.
        history: items of history.
        places: K, of the slate.
        dim, layers, heads, feed_forward, dropout: sizes of both encoders.
        threshold: τ, the least utility of a good slate, in [0, 1].
        samples: random slates for each list and step.
        margin: ρ of the contrastive loss.
        contrast: its weight ω.
        alpha: strongest α of decoding, in [0, 1].
        slates: how many slates are decoded.
        score_use: see `ScoreInput`.

    Raises:
        ConfigError: a size is not positive, ``dim`` is not a multiple of ``heads``, there are
            fewer candidates than places, or a share lies outside its range.
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
        layers: int = 2,
        heads: int = 4,
        feed_forward: int = 128,
        dropout: float = 0.1,
        threshold: float = 0.8,
        samples: int = 4,
        margin: float = 0.5,
        contrast: float = 0.01,
        alpha: float = 0.6,
        slates: int = 4,
        score_use: str = "none",
    ):
        super().__init__()
        sizes = {"dim": dim, "layers": layers, "heads": heads, "feed_forward": feed_forward}
        sizes |= {"samples": samples, "slates": slates}
        for name, size in sizes.items():
            if size < 1:
                raise ConfigError(f"{name} = {size}: must be at least 1")
        if dim % heads:
            raise ConfigError(f"dim = {dim} is not a multiple of heads = {heads}")
        if not 2 <= places <= n:
            raise ConfigError(f"places = {places}: must lie in 2 … {n}, the number of candidates")
        for name, share in {"threshold": threshold, "margin": margin, "alpha": alpha}.items():
            if not 0 <= share <= 1:
                raise ConfigError(f"{name} = {share}: must lie in [0, 1]")
        self.threshold, self.samples = threshold, samples
        self.margin, self.contrast = margin, contrast
        self.input = CandidateInput(users, items, history, dim)
        self.score_input = ScoreInput(score_use, dim, n)
        self.dropout = ListDropout(dropout)
        sizes_of_layer = (dim, heads, feed_forward, self.dropout)
        self.candidate_encoder = nn.Sequential(
            *(EncoderLayer(*sizes_of_layer) for _ in range(layers))
        )
        self.place = nn.Parameter(torch.randn(places, dim) / dim**0.5)
        self.position_encoder = nn.ModuleList(PositionLayer(*sizes_of_layer) for _ in range(layers))
        self.evaluator = SlateEvaluator(dim, places, heads, feed_forward, self.dropout)
        self.alphas: Tensor
        self.register_buffer("alphas", torch.linspace(0, alpha, slates), persistent=False)

    def extra_repr(self) -> str:
        """Tell apart what has the same parameters."""
        alphas = [round(float(alpha), 6) for alpha in self.alphas]
        return (
            f"threshold={self.threshold}, samples={self.samples}, margin={self.margin}, "
            f"contrast={self.contrast}, alphas={alphas}"
        )

    def vectors(
        self, batch: CandidateLists, scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n dim"]:
        """What generator and evaluator know of each candidate."""
        return self.score_input(self.input(batch), scores)

    def match(
        self, h: Float[Tensor, "lists n dim"]
    ) -> tuple[
        Float[Tensor, "lists k n"], Float[Tensor, "lists n dim"], Float[Tensor, "lists k dim"]
    ]:
        """The matching logits x_i · t_j / √d, the candidates' encoding x and the places' t."""
        x = self.candidate_encoder(self.dropout(h))
        t = self.place.expand(h.shape[0], -1, -1)
        for layer in self.position_encoder:
            t = layer(t, x)
        return t @ x.transpose(1, 2) / x.shape[2] ** 0.5, x, t

    def loss(self, batch: CandidateLists, scores: Float[Tensor, "lists n"]) -> Float[Tensor, ""]:
        """Unlikelihood and contrast of the generator, plus the evaluator's log loss."""
        h = self.vectors(batch, scores)
        matching, x, t = self.match(h)
        labels = batch.labels.repeat_interleave(self.samples, dim=0)
        slate = random_slates(labels, len(self.place))
        liked = labels.gather(1, slate)
        reachable = labels.sum(dim=1).clamp(min=1, max=len(self.place))
        good = liked.sum(dim=1) >= self.threshold * reachable
        p = matching.softmax(dim=2).repeat_interleave(self.samples, dim=0)
        generator = unlikelihood(p, slate, good) + self.contrast * (
            separation(x, self.margin) + separation(t, self.margin)
        )
        seen = self.evaluator(take(h.repeat_interleave(self.samples, dim=0), slate))
        return generator + F.binary_cross_entropy_with_logits(seen, liked.to(seen.dtype))

    def decode(
        self, p: Float[Tensor, "lists k n"], x: Float[Tensor, "lists n dim"]
    ) -> Int[Tensor, "lists slates k"]:
        """Contrastive decoding, one slate for each α, from the first place to the last.

        y_j = argmax over what is left of (1 - α) p_j(i) - α max over the chosen c of s(x_i, x_c).
        """
        alpha, cosine = self.alphas[:, None], similarity(x)
        shape = (x.shape[0], len(self.alphas), x.shape[1])
        taken, closest = torch.zeros(2, *shape, device=x.device).unbind()
        slate: list[Tensor] = []
        for place in p.unbind(dim=1):
            value = (1 - alpha) * place[:, None] - alpha * closest
            slate.append(value.masked_fill(taken > 0, -torch.inf).argmax(dim=2))
            taken = taken.scatter(2, slate[-1][..., None], 1.0)
            to_last = take(cosine, slate[-1])
            closest = torch.maximum(closest, to_last) if len(slate) > 1 else to_last
        return torch.stack(slate, dim=2)

    def forward(
        self, batch: CandidateLists, scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n"]:
        """The slate that the evaluator prefers, then the others by their mean matching."""
        h = self.vectors(batch, scores)
        matching, x, _ = self.match(h)
        slates = self.decode(matching.softmax(dim=2), x)
        seen = self.evaluator(
            take(h, slates.flatten(1)).unflatten(1, slates.shape[1:]).flatten(0, 1)
        )
        utility = seen.sigmoid().sum(dim=1).unflatten(0, slates.shape[:2])
        best = utility.argmax(dim=1)[:, None, None].expand(-1, 1, slates.shape[2])
        return slate_logits(slates.gather(1, best)[:, 0], matching.mean(dim=1))
