"""DiffuRec: A Diffusion Model for Sequential Recommendation (Li, Sun and Li, ACM TOIS 2023)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dnrlib.errors import ConfigError
from dnrlib.lists import CandidateLists
from dnrlib.rerankers.base import ScoreInput
from dnrlib.rerankers.own_loss import OwnLoss

T = 32
"""Steps of the diffusion."""


def truncated_linear() -> Float[Tensor, " T"]:
    """β of each step: Ho et al.'s linear schedule for T steps, moved up by 0.01."""
    return 0.01 + 1000 / T * torch.linspace(1e-4, 2e-2, T, dtype=torch.float64)


def step_waves(step: Int[Tensor, " lists"], dim: int) -> Float[Tensor, "lists dim"]:
    """Cosines and sines of the step, which is stretched to 0 … 1000 for any T."""
    half = dim // 2
    frequency = torch.exp(-math.log(10_000) * torch.arange(half, device=step.device) / half)
    angle = step[:, None] * (1000 / T) * frequency
    return F.pad(torch.cat([angle.cos(), angle.sin()], dim=1), (0, dim % 2))


class Block(nn.Module):
    """Transformer layer, normalised before each residual branch; feed-forward 4 d, GELU."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.widen = nn.Linear(dim, 4 * dim)
        self.narrow = nn.Linear(4 * dim, dim)
        self.norm_attention = nn.LayerNorm(dim)
        self.norm_feed_forward = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def attend(
        self, h: Float[Tensor, "lists m dim"], mask: Float[Tensor, "lists 1 1 m"]
    ) -> Float[Tensor, "lists m dim"]:
        """Self-attention over the history, both ways."""
        qkv = self.query_key_value(h).unflatten(2, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # lists heads m d
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def forward(
        self, h: Float[Tensor, "lists m dim"], mask: Float[Tensor, "lists 1 1 m"]
    ) -> Float[Tensor, "lists m dim"]:
        """h + attention(LayerNorm(h)), then h + feed-forward(LayerNorm(h))."""
        h = h + self.dropout(self.attend(self.norm_attention(h), mask))
        wide = F.gelu(self.widen(self.norm_feed_forward(h)), approximate="tanh")
        return h + self.dropout(self.narrow(wide))


class DiffuRec(OwnLoss):
    """Denoises the vector of the item that the user will like, with the history as condition.

    Training draws one liked candidate of each list as the target x_0 and a step t, and rebuilds
    x̂_0 from x_t. Serving starts from noise and walks back. The noise of serving is a buffer that
    all lists share, so that a list's logits depend on nothing but the list.

    Candidates are scored by the inner product with x̂_0. Where the scores are used, they enter
    the candidates' vectors; the loss, a softmax over all items, has the logits with the score in
    them for the candidates of the list and those without for all other items.

    The public code masks rows of padding among the queries, not among the keys; we mask the
    keys. It draws λ while serving too; we take its mean there. Its embeddings begin with
    variance 1; ours with 1 / dim, like every table here, as they learn much faster so.

    Args:
        users: not used: the model knows a user by the history.
        items: how many there are.
        n: candidates in a list.
        history: not used: the items of the history have no positions.
        dim, layers, heads, dropout: sizes; the defaults are the public code's.
        embedding_dropout: of the history's embeddings.
        delta: mean and standard deviation of λ, the weight of x_t beside a history item.
        steps: of the way back when serving, spread evenly over the T of training; the paper
            takes all 32. Each is a pass over the history.
        catalogue: loss over all items; otherwise over the candidates of the list.
        score_use: see `ScoreInput`.

    Raises:
        ConfigError: a size is not positive, ``dim`` is not a multiple of ``heads``, or more
            steps than T.
    """

    alpha_bar: Tensor
    taken: Tensor
    of_x_0: Tensor
    of_x_t: Tensor
    noise: Tensor

    def __init__(
        self,
        users: int,
        items: int,
        n: int = 50,
        history: int = 20,
        *,
        dim: int = 128,
        layers: int = 4,
        heads: int = 4,
        dropout: float = 0.1,
        embedding_dropout: float = 0.3,
        delta: float = 1e-3,
        steps: int = 2,
        catalogue: bool = True,
        score_use: str = "none",
    ):
        super().__init__()
        for name, size in {"dim": dim, "layers": layers, "heads": heads, "steps": steps}.items():
            if size < 1:
                raise ConfigError(f"{name} = {size}: must be at least 1")
        if dim % heads:
            raise ConfigError(f"dim = {dim} is not a multiple of heads = {heads}")
        if steps > T:
            raise ConfigError(f"steps = {steps}: the diffusion has {T}, take so many at most")
        self.dim, self.delta, self.catalogue = dim, delta, catalogue
        self.item = nn.Embedding(items + 1, dim, padding_idx=0)
        self.norm_item = nn.LayerNorm(dim)
        self.step = nn.Sequential(nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, dropout) for _ in range(layers))
        self.norm_output = nn.LayerNorm(dim)
        self.embedding_dropout = nn.Dropout(embedding_dropout)
        self.dropout = nn.Dropout(dropout)
        self.score_input = ScoreInput(score_use, dim, n)
        nn.init.normal_(self.item.weight, std=dim**-0.5)
        self._make_schedule(steps)

    def _make_schedule(self, steps: int) -> None:
        """ᾱ of all T steps; of those that serving takes, the weights and the noise."""
        alpha_bar = (1 - truncated_linear()).cumprod(0)
        taken = torch.linspace(T - 1, 0, steps).round().long()  # latest first
        here = alpha_bar[taken]
        before = torch.cat([here[1:], torch.ones_like(here[:1])])
        beta = 1 - here / before
        self.register_buffer("alpha_bar", alpha_bar.float())
        self.register_buffer("taken", taken)
        self.register_buffer("of_x_0", (beta * before.sqrt() / (1 - here)).float())
        of_x_t = (1 - before) * (1 - beta).sqrt() / (1 - here)
        self.register_buffer("of_x_t", of_x_t.float())
        # x_T is noise, and each step but the last adds some: its β, as variance.
        width = torch.cat([torch.ones_like(beta[:1]), beta[:-1].sqrt()])
        own = torch.Generator().manual_seed(0)
        noise = torch.randn(steps, self.dim, generator=own)
        self.register_buffer("noise", width[:, None].float() * noise)

    def approximate(
        self,
        history: Int[Tensor, "lists m"],
        x_t: Float[Tensor, "lists dim"],
        step: Int[Tensor, " lists"],
    ) -> Float[Tensor, "lists dim"]:
        """x̂_0: the state of the latest item, each item with λ (x_t + step) added to it."""
        tokens = self.norm_item(self.embedding_dropout(self.item(history)))
        if self.training:
            weight = torch.empty_like(tokens).normal_(self.delta, self.delta)
        else:
            weight = torch.full_like(tokens, self.delta)
        h = tokens + weight * (x_t + self.step(step_waves(step, self.dim)))[:, None]
        mask = torch.zeros_like(tokens[..., 0]).masked_fill(history == 0, -1e9)[:, None, None]
        for block in self.blocks:
            h = block(h, mask)
        return self.norm_output(self.dropout(h[:, -1]))

    def diffuse(
        self, x_0: Float[Tensor, "lists dim"], step: Int[Tensor, " lists"]
    ) -> Float[Tensor, "lists dim"]:
        """x_t = √ᾱ_t x_0 + √(1 - ᾱ_t) ε."""
        alpha_bar = self.alpha_bar[step][:, None]
        return alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * torch.randn_like(x_0)

    def reverse(self, history: Int[Tensor, "lists m"]) -> Float[Tensor, "lists dim"]:
        """x_0 from noise: x̂_0 at each step, and a draw from q(x_{t-1} | x_t, x̂_0)."""
        x = self.noise.new_zeros(history.shape[0], self.dim)
        for k, step in enumerate(self.taken):
            x_t = x + self.noise[k]
            x_0 = self.approximate(history, x_t, step.expand(history.shape[0]))
            x = self.of_x_0[k] * x_0 + self.of_x_t[k] * x_t
        return x

    def encode(
        self, batch: CandidateLists
    ) -> tuple[Float[Tensor, "lists dim"], Float[Tensor, "lists n dim"]]:
        """The predicted vector, and those of the candidates."""
        return self.reverse(batch.history), self.item(batch.items)

    def score(
        self,
        state: tuple[Float[Tensor, "lists dim"], Float[Tensor, "lists n dim"]],
        scores: Float[Tensor, "lists n"],
    ) -> Float[Tensor, "lists n"]:
        """Inner products: the paper's rounding of a vector to an item."""
        x_0, candidates = state
        return (self.score_input(candidates, scores) @ x_0[..., None])[..., 0]

    def loss(self, batch: CandidateLists, scores: Float[Tensor, "lists n"]) -> Float[Tensor, ""]:
        """-log softmax(E x̂_0) of a liked candidate, where x̂_0 is rebuilt from its x_t."""
        place = batch.labels.float().multinomial(1)[:, 0]
        items = batch.items.long() - 1  # padding is no class
        target = items.gather(1, place[:, None])[:, 0]
        step = torch.randint(T, target.shape, device=target.device)
        x_0 = self.approximate(batch.history, self.diffuse(self.item(target + 1), step), step)
        logits = self.score((x_0, self.item(batch.items)), scores)
        if not self.catalogue:
            return F.cross_entropy(logits, place)
        everything = x_0 @ self.item.weight[1:].T
        return F.cross_entropy(everything.scatter(1, items, logits), target)
