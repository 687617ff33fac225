"""What rerankers share that make a slate, an ordered choice of K candidates, rather than scores."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dnrlib.rerankers.base import initial_rank


def slate_logits(
    slate: Int[Tensor, "lists k"], rest: Float[Tensor, "lists n"]
) -> Float[Tensor, "lists n"]:
    """Logits with which a slate goes through the same metrics as scores: minus the place.

    The slate's candidates have the first K places in its order, the others follow by ``rest``.
    """
    k = slate.shape[1]
    in_slate = torch.zeros_like(rest, dtype=torch.bool).scatter(1, slate, True)
    place = k + initial_rank(rest.masked_fill(in_slate, -torch.inf))
    first = torch.arange(k, device=slate.device).expand_as(slate)
    return -place.scatter(1, slate, first).to(rest.dtype)


def take(
    vectors: Float[Tensor, "lists n dim"], index: Int[Tensor, "lists k"]
) -> Float[Tensor, "lists k dim"]:
    """The vectors of the candidates of a slate, in its order."""
    return vectors.gather(1, index[..., None].expand(-1, -1, vectors.shape[2]))


def random_slates(labels: Bool[Tensor, "lists n"], k: int) -> Int[Tensor, "lists k"]:
    """Choices of K candidates in random order, from which an evaluator learns.

    By Gumbel's trick, with liked candidates preferred by a strength that is drawn for each list
    from 0 (a uniform choice) to 6, so that slates of every quality are seen. The lists of our data
    have no display order that could be replayed.
    """
    noise = -torch.empty_like(labels, dtype=torch.float32).exponential_().log()
    preference = 6 * torch.rand(len(labels), 1, device=labels.device)
    _, slate = (preference * labels + noise).topk(k, dim=1)
    shuffle = torch.rand(slate.shape, device=slate.device).argsort(dim=1)
    return slate.gather(1, shuffle)


class Evaluator(nn.Module):
    """The likely feedback of a slate as a whole: a GRU over it and a linear head.

    Args:
        dim: of the candidates' vectors and of the hidden state.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.gru = nn.GRU(dim, dim, batch_first=True)
        self.head = nn.Linear(2 * dim, 1)

    def forward(self, slate: Float[Tensor, "lists k dim"]) -> Float[Tensor, "lists k"]:
        """Logits of the feedback at each place, given the candidates up to it."""
        context, _ = self.gru(slate)
        return self.head(torch.cat([slate, context], dim=2))[..., 0]
