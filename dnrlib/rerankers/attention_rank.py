"""Attention rank: the loss of DLCM (Ai et al., SIGIR 2018), which SetRank took over."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def attention_rank(
    scores: Float[Tensor, "lists n"], relevance: Float[Tensor, "lists n"]
) -> Float[Tensor, ""]:
    """Cross entropy from the attention that a list's relevance r deserves to that of its scores s.

    The mean over lists of -Σ_i a_i log softmax(s)_i, where a_i = ψ(r_i) / Σ_j ψ(r_j) and ψ(r) is
    exp(r) for r > 0, else 0. A list without anything relevant adds 0. For feedback of 0 and 1 the
    exponential cancels, which leaves PRM's `dnrlib.losses.softmax`.
    """
    deserved = torch.where(relevance > 0, relevance.exp(), 0.0)
    deserved = deserved / deserved.sum(dim=1, keepdim=True).clamp(min=1)
    return -(deserved * scores.log_softmax(dim=1)).sum(dim=1).mean()
