"""PIER: Permutation-Level Interest-Based End-to-End Re-ranking (Shi et al., KDD 2023)."""

from __future__ import annotations

from itertools import permutations
from math import factorial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.losses import bernoulli
from dnrlib.rerankers.base import ScoreInput
from dnrlib.rerankers.inputs import CandidateInput
from dnrlib.rerankers.own_loss import OwnLoss
from dnrlib.rerankers.prm import ListDropout
from dnrlib.rerankers.slates import random_slates, slate_logits, take

FIELDS = 2
"""Of an item: its embedding, and the embedding matched with the request and the score."""


class FPSM(nn.Module):
    """Fine-grained permutation selection: how far each order is from what the user looked through.

    A page of K items has the vector Σ_k e_k ⊙ p_k, and as signature the signs of its projections
    on random vectors. These and the places' vectors p_k are drawn from a normal distribution and
    stay as they are: nothing here is learned but the items' embeddings.

    Args:
        dim: of the items' embeddings.
        places: K.
        bits: of a signature.
    """

    place: Tensor
    projection: Tensor

    def __init__(self, dim: int, places: int, bits: int):
        super().__init__()
        # Around 0: with positive vectors an order would share its signs with every other.
        self.register_buffer("place", torch.randn(places, dim))
        self.register_buffer("projection", torch.randn(dim, bits))

    @torch.no_grad()
    def forward(
        self,
        chosen: Float[Tensor, "lists k dim"],
        pages: Float[Tensor, "lists pages k dim"],
        filled: Bool[Tensor, "lists pages"],
        orders: Float[Tensor, "orders k k"],
    ) -> Float[Tensor, "lists orders"]:
        """Hamming distance of each order to the pages, weighted by 1, 1/2, 1/4 … into the past.

        Such weights make every distance an exact number, so that equal ones are equal anywhere.
        """
        # Projected first, for each place and item: an order then picks K of these and sums them.
        at_place = (chosen[:, None] * self.place[:, None]) @ self.projection
        ordered = (at_place.flatten(1, 2).transpose(1, 2) @ orders.flatten(1).T).sign()
        seen = ((pages * self.place).sum(dim=2) @ self.projection).sign()
        distance = (seen.shape[2] - seen @ ordered) / 2  # lists pages orders
        age = torch.arange(pages.shape[1] - 1, -1, -1, device=pages.device)
        return (distance * (filled * 0.5**age)[..., None]).sum(dim=1)


class Attention(nn.Module):
    """Self-attention with one head, without output projection or residual."""

    def __init__(self, dim: int):
        super().__init__()
        # Without bias what is padded stays 0, and adds nothing to a page.
        self.query_key_value = nn.Linear(dim, 3 * dim, bias=False)

    def forward(self, x: Float[Tensor, "*batch tokens dim"]) -> Float[Tensor, "*batch tokens dim"]:
        """softmax(Q Kᵀ / √dim) V."""
        query, key, value = self.query_key_value(x).chunk(3, dim=-1)
        weight = (query @ key.transpose(-1, -2) / x.shape[-1] ** 0.5).softmax(dim=-1)
        return weight @ value


class OCPM(nn.Module):
    """Omnidirectional context-aware prediction: the click logit of each item of an ordered slate.

    Attention runs over the items within a field, and over the fields. It does not know places, so
    that it is computed once for a set of K items; their order enters by the page's vector, which
    is a linear map of the K items one after the other.

    Args:
        dim: of a field.
        places: K.
    """

    def __init__(self, dim: int, places: int):
        super().__init__()
        self.within_field = Attention(dim)
        self.between_fields = Attention(dim)
        self.fields_of_item = Attention(dim)
        self.in_order = nn.Linear(places * dim, dim, bias=False)
        self.page = nn.Linear(FIELDS * dim, dim, bias=False)
        self.item = nn.Linear(FIELDS * dim, dim)
        self.plain = nn.Linear(FIELDS * dim, dim)
        self.from_page = nn.Linear(2 * dim, dim)
        self.from_item = nn.Linear(2 * dim, dim, bias=False)
        self.predict = nn.Sequential(
            nn.ReLU(), nn.Linear(dim, 32), nn.ReLU(), nn.Linear(32, 1, bias=False)
        )

    def pages(
        self,
        x: Float[Tensor, "slates k fields dim"],
        orders: Float[Tensor, "slates orders k k"] | None = None,
    ) -> tuple[Float[Tensor, "slates orders dim"], Float[Tensor, "slates k fields dim"]]:
        """Omnidirectional attention: a vector for each order of a slate, and what its items saw.

        Without orders, for the one order in which the items stand.
        """
        field = x.transpose(1, 2)
        seen = self.within_field(field)
        if orders is None:
            fields = self.in_order((field + seen).flatten(2))[:, None]
        else:
            # The same layer, block by block: W_k y_i, of which an order picks K and sums them.
            blocks = self.in_order.weight.unflatten(1, (x.shape[1], -1))
            at_place = torch.einsum("sfid,ekd->skife", field + seen, blocks)
            fields = orders.flatten(2) @ at_place.flatten(3).flatten(1, 2)
            fields = fields.unflatten(2, (FIELDS, -1))  # slates orders fields dim
        page = self.page((fields + self.between_fields(fields)).flatten(2))
        return page, seen.transpose(1, 2)

    def forward(
        self,
        x: Float[Tensor, "lists k fields dim"],
        behaviour: Float[Tensor, "lists pages dim"],
        filled: Bool[Tensor, "lists pages"],
        orders: Float[Tensor, "lists orders k k"] | None = None,
    ) -> Float[Tensor, "lists orders k"]:
        """Logits of the K items in each of the orders.

        Args:
            x: the K items.
            behaviour: the vectors that `pages` gives the pages of the history.
            filled: the pages that are no padding.
            orders: permutation matrices, [place, item]; none for the one in which they stand.
        """
        page, seen = self.pages(x, orders)
        attention = page @ behaviour.transpose(1, 2) / page.shape[2] ** 0.5
        attention = attention.masked_fill(~filled[:, None], -1e9).softmax(dim=2)
        interest = attention @ behaviour
        context = self.item((seen + self.fields_of_item(seen)).flatten(2))
        plain = F.silu(self.plain(x.flatten(2)))
        hidden = self.from_page(torch.cat([page, interest], dim=2))[:, :, None]
        hidden = hidden + self.from_item(torch.cat([context, plain], dim=2))[:, None]
        return self.predict(hidden)[..., 0]


class PIER(OwnLoss):
    """A point-wise head chooses K candidates, FPSM a few of their orders, OCPM the best of these.

    Args:
        users, items: how many there are.
        n: candidates in a list.
        history: items of history, which are cut into pages of K from the latest backwards.
        dim: of items, users and fields.
        places: K, of whose K! orders each is hashed; 1 to 8.
        near: orders that FPSM keeps for OCPM; a sixth of 720 is the share in the published code.
        compared: orders at each end, the nearest and the farthest, in the contrast of the loss.
        bits: of a signature.
        contrast: weight of the contrast between near and far orders.
        discounted: weigh the place k by 1 / log₂(k + 1) when orders are compared, rather than
            all alike as in the paper. Its clicks depend on the place, our feedback does not.
        dropout: of channels of a list's candidates.
        score_use: see `ScoreInput`.

    Raises:
        ConfigError: a size is not positive, or ``places`` is above 8 or n.
    """

    orders: Tensor
    discount: Tensor

    def __init__(
        self,
        users: int,
        items: int,
        n: int = 50,
        history: int = 20,
        *,
        dim: int = 128,
        places: int = 6,
        near: int = 120,
        compared: int = 20,
        bits: int = 64,
        contrast: float = 0.01,
        discounted: bool = True,
        dropout: float = 0.1,
        score_use: str = "none",
    ):
        super().__init__()
        sizes = {"dim": dim, "places": places, "near": near, "compared": compared, "bits": bits}
        for name, size in sizes.items():
            if size < 1:
                raise ConfigError(f"{name} = {size}: must be at least 1")
        if places > min(n, 8):
            raise ConfigError(f"places = {places}: must be at most {min(n, 8)}")
        self.places, self.near, self.contrast = places, near, contrast
        self.compared = min(compared, max(factorial(places) // 2, 1))  # no order is on both sides
        self.candidates = CandidateInput(users, items, history, dim)
        self.score_input = ScoreInput(score_use, dim, n)
        self.dropout = ListDropout(dropout)
        self.point_wise = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1))
        self.fpsm = FPSM(dim, places, bits)
        self.ocpm = OCPM(dim, places)
        orders = torch.tensor(list(permutations(range(places))))
        self.register_buffer("orders", F.one_hot(orders).float(), persistent=False)
        place = torch.arange(places) if discounted else torch.zeros(places)
        self.register_buffer("discount", 1 / (place + 2.0).log2(), persistent=False)

    def encode(self, batch: CandidateLists) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """All that reads no score.

        Embeddings of the candidates, the same matched with the request, embeddings of the
        history in pages, the vectors of these pages, and which of them are no padding.
        """
        request = self.candidates.from_request(self.candidates.encode_request(batch))
        shift, gate = request[:, None].chunk(2, dim=2)
        item = self.candidates.item(batch.items)
        history = F.pad(batch.history, (-batch.history.shape[1] % self.places, 0))
        known = (history > 0)[..., None]
        past = self.candidates.item(history) * known
        past_matched = torch.addcmul(shift, 1 + gate, past) * known
        pages, matched_pages, known_pages = (
            x.unflatten(1, (-1, self.places)) for x in (past, past_matched, known)
        )
        slates = torch.stack([pages, matched_pages], dim=3).flatten(0, 1)
        behaviour = self.ocpm.pages(slates)[0][:, 0].unflatten(0, (-1, pages.shape[1]))
        filled = known_pages.any(dim=3).any(dim=2)
        return item, torch.addcmul(shift, 1 + gate, item), pages, behaviour, filled

    def see(
        self, item: Tensor, matched: Tensor, scores: Float[Tensor, "lists n"]
    ) -> tuple[Float[Tensor, "lists n fields_dim"], Float[Tensor, "lists n"]]:
        """The fields of each candidate, the scores among them, and its point-wise logit."""
        with_score = self.score_input(matched, scores)
        x = self.dropout(torch.cat([item, with_score], dim=2))
        return x, self.point_wise(x[..., item.shape[2] :])[..., 0]

    def fields(
        self, x: Float[Tensor, "lists n fields_dim"], slate: Int[Tensor, "lists k"]
    ) -> Float[Tensor, "lists k fields dim"]:
        """The fields of the candidates of a slate."""
        return take(x, slate).unflatten(2, (FIELDS, -1))

    def choose(
        self, item: Tensor, x: Tensor, point: Tensor, pages: Tensor, filled: Tensor
    ) -> tuple[Int[Tensor, "lists k"], Tensor, Int[Tensor, "lists orders"]]:
        """The K candidates that the head prefers, their fields, and their orders, nearest first."""
        chosen = point.topk(self.places, dim=1).indices
        distance = self.fpsm(take(item, chosen), pages, filled, self.orders)
        return chosen, self.fields(x, chosen), distance.argsort(dim=1, stable=True)

    def score(self, state: tuple[Tensor, ...], scores: Float[Tensor, "lists n"]) -> Tensor:
        """Minus the place in the best slate; the other candidates follow by the point-wise head."""
        item, matched, pages, behaviour, filled = state
        x, point = self.see(item, matched, scores)
        chosen, x, nearest = self.choose(item, x, point, pages, filled)
        near = self.orders[nearest[:, : self.near]]
        clicks = self.ocpm(x, behaviour, filled, near).sigmoid()
        utility = ((self.discount @ near) * clicks).sum(dim=2)
        best = nearest.gather(1, utility.argmax(dim=1, keepdim=True))[:, 0]
        return slate_logits(chosen.gather(1, self.orders[best].argmax(dim=2)), point)

    def loss(self, batch: CandidateLists, scores: Float[Tensor, "lists n"]) -> Float[Tensor, ""]:
        """Log losses of OCPM and of the point-wise head, less the contrast of near and far."""
        item, matched, pages, behaviour, filled = self.encode(batch)
        x, point = self.see(item, matched, scores)
        slate = random_slates(batch.labels, self.places)
        shown = self.ocpm(self.fields(x, slate), behaviour, filled)[:, 0]
        clicked = bernoulli(shown, batch.labels.gather(1, slate))

        _, x, nearest = self.choose(item, x, point, pages, filled)
        ends = torch.cat([nearest[:, : self.compared], nearest[:, -self.compared :]], dim=1)
        near, far = self.ocpm(x, behaviour, filled, self.orders[ends]).sigmoid().chunk(2, dim=1)
        contrast = near.mean() - far.mean()
        return clicked + bernoulli(point, batch.labels) - self.contrast * contrast
