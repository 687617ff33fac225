"""MIR: Multi-Level Interaction Reranking with User Behavior History (Xi et al., SIGIR 2022)."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.rerankers.base import Reranker, ScoreInput
from dnrlib.rerankers.inputs import CandidateInput


class PaddedBiLSTM(nn.Module):
    """A two-way LSTM over sequences that are padded on the left, as if they had no padding.

    Each direction has to meet the padding last. From the latest item backwards it does; forwards
    the items are first rolled to the left. What stands at padding is without meaning.
    """

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.forwards = nn.LSTM(dim, hidden, batch_first=True)
        self.backwards = nn.LSTM(dim, hidden, batch_first=True)

    def forward(
        self, sequence: Float[Tensor, "lists m dim"], padding: Bool[Tensor, "lists m"]
    ) -> Float[Tensor, "lists m two_hidden"]:
        """States of both directions at each item."""
        place = torch.arange(sequence.shape[1], device=sequence.device)
        first = padding.sum(dim=1, keepdim=True)
        rolled, _ = self.forwards(_at(sequence, (place + first) % sequence.shape[1]))
        turned, _ = self.backwards(sequence.flip(1))
        return torch.cat([_at(rolled, (place - first) % sequence.shape[1]), turned.flip(1)], dim=2)


def _at(sequence: Tensor, place: Tensor) -> Tensor:
    """The rows of each sequence at its own places."""
    return sequence.gather(1, place[..., None].expand(-1, -1, sequence.shape[2]))


class State(NamedTuple):
    """What `MIR.encode` makes of a request, before any score is known."""

    x: Float[Tensor, "lists n dim"]
    q: Float[Tensor, "lists m q"]
    features: Float[Tensor, "lists m n"]
    decay: Float[Tensor, "lists m"]
    padding: Bool[Tensor, "lists m"]


class MIR(Reranker):
    """Candidates as a set, the history as a list, and attention from the one to the other.

    The affinity of history item m and candidate i is C = tanh((1 + exp(-θ_u t_m)) C'), where C'
    adds an affinity of their vectors to one of their features, and t_m counts steps back: a long-
    term interest, and a short-term one that is forgotten at the user's own rate θ_u.

    The paper proves that the order of the candidates does not matter. Its public code breaks this
    by weights that belong to places (a column of w_v and w_q for each), which ``per_place``
    restores; by default there is one column, as in ReChorus. The code's affinity also grows with
    age, exp(+θ t), and it attends to padding; ours follows the paper's meaning.

    Args:
        users, items: how many there are.
        n: candidates in a list.
        history: items of history.
        dim: of the candidates' vectors.
        hidden: of each direction of the LSTM.
        heads: of the candidates' self-attention.
        dropout: in the final perceptron, of 500, 200 and 80 units.
        per_place: attention weights for each place of the input, which make the order matter.
        score_use: see `ScoreInput`.

    Raises:
        ConfigError: a size is not positive, or ``dim`` is not a multiple of ``heads``.
    """

    def __init__(
        self,
        users: int,
        items: int,
        n: int = 50,
        history: int = 20,
        *,
        dim: int = 128,
        hidden: int = 64,
        heads: int = 1,
        dropout: float = 0.2,
        per_place: bool = False,
        score_use: str = "none",
    ):
        super().__init__()
        for name, size in {"dim": dim, "hidden": hidden, "heads": heads}.items():
            if size < 1:
                raise ConfigError(f"{name} = {size}: must be at least 1")
        if dim % heads:
            raise ConfigError(f"dim = {dim} is not a multiple of heads = {heads}")
        self.heads = heads
        dim_v, dim_q = 2 * dim, dim + 2 * hidden
        self.candidates = CandidateInput(users, items, history, dim)
        self.score_input = ScoreInput(score_use, dim, n)
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.bilstm = PaddedBiLSTM(dim, hidden)
        self.item_affinity = nn.Linear(dim_v, dim_q, bias=False)
        self.feature_affinity = nn.Linear(dim, dim, bias=False)
        self.rate = nn.Sequential(nn.Linear(dim, 32), nn.ReLU(), nn.Linear(32, 1), nn.Softplus())
        self.w_v = nn.Linear(dim_v, n if per_place else 1, bias=False)
        self.w_q = nn.Linear(dim_q, n if per_place else 1, bias=False)
        sizes = [dim + dim_v + dim_q, 500, 200, 80]
        self.perceptron = nn.Sequential(nn.LayerNorm(sizes[0]))
        for before, after in pairwise(sizes):
            self.perceptron.extend([nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)])
        self.perceptron.append(nn.Linear(sizes[-1], 1))

    def attend(self, x: Float[Tensor, "lists n dim"]) -> Float[Tensor, "lists n dim"]:
        """Self-attention over the candidates, without residual."""
        qkv = self.query_key_value(x).unflatten(2, (3, self.heads, -1))  # lists n 3 heads d
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # lists heads n d
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)

    def encode(self, batch: CandidateLists) -> State:
        """The candidates' vectors, and the history with what it weighs for them."""
        padding = batch.history == 0
        items, past = self.candidates.item(batch.items), self.candidates.item(batch.history)
        q = torch.cat([self.bilstm(past, padding), past], dim=2)
        features = past @ self.feature_affinity(items).transpose(1, 2)
        steps_back = torch.arange(past.shape[1], device=past.device).flip(0)
        decay = torch.exp(-self.rate(self.candidates.user(batch.users)) * steps_back)
        return State(self.candidates(batch), q, features, decay, padding)

    def summarise(
        self, v: Float[Tensor, "lists n v"], state: State
    ) -> tuple[Float[Tensor, "lists n v"], Float[Tensor, "lists n q"]]:
        """Set-to-list attention: for each candidate a mean of the set and one of the history."""
        n, absent = v.shape[1], state.padding[..., None]
        affinity = state.q @ self.item_affinity(v).transpose(1, 2) + state.features
        c = torch.tanh((1 + state.decay[..., None]) * affinity).masked_fill(absent, 0)
        of_v = self.w_v(v).expand(-1, -1, n)  # lists n n
        of_q = self.w_q(state.q).transpose(1, 2).expand(-1, n, -1)  # lists n m
        to_v = torch.tanh(of_v + of_q @ c)
        to_q = torch.tanh(of_q + of_v @ c.transpose(1, 2))
        to_q = to_q.masked_fill(absent.transpose(1, 2), -1e9)
        return to_v.softmax(dim=2) @ v, to_q.softmax(dim=2) @ state.q

    def score(self, state: State, scores: Float[Tensor, "lists n"]) -> Float[Tensor, "lists n"]:
        """Logits of each candidate from itself and its two summaries."""
        x = self.score_input(state.x, scores)
        v, q = self.summarise(torch.cat([self.attend(x), x], dim=2), state)
        return self.perceptron(torch.cat([x, v, q], dim=2))[..., 0]
