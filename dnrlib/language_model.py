"""Any causal language model that lies on this machine, as a scorer of candidates.

It is asked how likely the title of each candidate is after the titles of the history. Nothing is
trained and nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from dnrlib.errors import ConfigError, DataError
from dnrlib.lists import CandidateLists
from dnrlib.rerankers.base import Reranker

PROMPT = "Films that somebody has watched, the latest last: {history}. The next film is:"
"""What is put before a candidate's title; ``{history}`` becomes the history's titles."""
SEPARATOR = "; "
"""Between two titles of the history."""

Tokens = list[int]


class CausalScorer(Reranker):
    """Order the candidates by log p(title | prompt) per token of a causal language model.

    Neither the retriever's score nor a label is read. The model's weights stay as they are: train a
    `dnrlib.rerankers.text.TextPRM` on its scores as a feature (`dnrlib.semantics.with_feature`) to
    make use of both.

    Args:
        model: gives ``.logits`` of ``input_ids`` and ``attention_mask``, as those of Transformers.
        tokenizer: one of Transformers.
        texts: of item 1, 2, … in the numbering of the lists (`dnrlib.semantics.item_texts`).
        prompt: see `PROMPT`.
        titles: how many items of the history are told, the latest ones.
        batch_size: sequences that the model reads at once.

    Raises:
        ConfigError: the prompt has no ``{history}``, or a size is not positive.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        texts: Sequence[str],
        prompt: str = PROMPT,
        titles: int = 10,
        batch_size: int = 32,
    ):
        super().__init__()
        if "{history}" not in prompt:
            raise ConfigError(f"prompt = {prompt!r}: must say where the titles go, as {{history}}")
        if titles < 1 or batch_size < 1:
            raise ConfigError(f"titles = {titles}, batch_size = {batch_size}: must be positive")
        self.model = model.requires_grad_(False)
        self.tokenizer, self.texts = tokenizer, ["", *texts]
        self.prompt, self.titles, self.batch_size = prompt, titles, batch_size
        self.eval()

    def train(self, mode: bool = True) -> CausalScorer:
        """Nothing is trained: the model's dropout stays off."""
        return super().train(False)

    @classmethod
    def load(
        cls, folder: Path | str, texts: Sequence[str], device: str = "cpu", **options: Any
    ) -> CausalScorer:
        """A model and its tokenizer from a folder in the format of Hugging Face.

        Args:
            folder: what ``save_pretrained`` writes, or a download holds.
            texts: see `CausalScorer`, which takes the ``options`` as well.
            device: where to compute, such as ``cuda``.

        Raises:
            ConfigError: Transformers is not installed.
            DataError: there is no such folder, or no causal language model in it.
        """
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError as error:
            raise ConfigError("transformers is not installed: pip install 'dnrlib[llm]'") from error
        if not Path(folder).is_dir():
            raise DataError(folder, "no such folder: give one that holds a language model")
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError) as error:
            reason = str(error).split("\n")[0]
            raise DataError(folder, f"holds no causal language model ({reason})") from error
        return cls(model.to(device), tokenizer, texts, **options)

    # Text ---------------------------------------------------------------------------------

    def prompts(self, history: Int[Tensor, "lists history"]) -> list[str]:
        """What the model is told of each request; the padding is left out."""
        known = [[self.texts[item] for item in row if item] for row in history.tolist()]
        return [
            self.prompt.replace("{history}", SEPARATOR.join(titles[-self.titles :]))
            for titles in known
        ]

    def _tokens(self, text: str) -> Tokens:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def sequences(self, batch: CandidateLists) -> Iterator[tuple[Tokens, Tokens]]:
        """The tokens of prompt and title for each candidate, list by list.

        A prompt that is too long loses its beginning.

        Raises:
            ConfigError: a title alone is as long as all that the model can read.
        """
        start = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        most = getattr(self.model.config, "max_position_embeddings", None)
        for prompt, items in zip(self.prompts(batch.history), batch.items.tolist(), strict=True):
            told = start + self._tokens(prompt)
            for item in items:
                title = self._tokens(f" {self.texts[item]}")
                if most and len(title) >= most:
                    raise ConfigError(
                        f"the text of item {item} has {len(title)} tokens, but the model reads "
                        f"{most} at most: give shorter texts"
                    )
                surplus = len(told) + len(title) - most if most else 0
                yield told[max(surplus, 0) :], title

    # Scores -------------------------------------------------------------------------------

    def score(
        self, state: CandidateLists, scores: Float[Tensor, "lists n"]
    ) -> Float[Tensor, "lists n"]:
        """Mean log-probability of a title's tokens, in nats; at most 0."""
        sequences = list(self.sequences(state))
        # those of one length together: little padding
        order = sorted(range(len(sequences)), key=lambda i: sum(map(len, sequences[i])))
        found = torch.empty(len(sequences))
        for first in range(0, len(order), self.batch_size):
            some = order[first : first + self.batch_size]
            found[some] = self.log_probabilities([sequences[i] for i in some]).cpu().float()
        return found.view(state.items.shape).to(scores)

    def log_probabilities(
        self, sequences: Sequence[tuple[Tokens, Tokens]]
    ) -> Float[Tensor, " sequences"]:
        """(1 / |t|) Σ_k log p(t_k | prompt, t_1 … t_{k-1}) for pairs of a prompt and a title t.

        One pass over the sequences side by side, padded on the right, where a causal model does
        not look from what is before.
        """
        device = next(self.model.parameters()).device
        length = max(len(prompt) + len(title) for prompt, title in sequences)
        tokens = torch.zeros(len(sequences), length, dtype=torch.long)
        read, asked = torch.zeros_like(tokens), torch.zeros(len(sequences), length)
        for row, (prompt, title) in enumerate(sequences):
            whole = len(prompt) + len(title)
            tokens[row, :whole] = torch.tensor(prompt + title)
            read[row, :whole] = 1
            asked[row, len(prompt) : whole] = 1 / len(title)
        tokens, read, asked = tokens.to(device), read.to(device), asked.to(device)
        logits = self.model(input_ids=tokens, attention_mask=read).logits[:, :-1].float()
        loss = F.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
        return -(loss * asked[:, 1:]).sum(dim=1)


# A model that knows nothing ---------------------------------------------------------------


def save_random_model(
    folder: Path | str, texts: Sequence[str], dim: int = 64, layers: int = 2, seed: int = 0
) -> None:
    """Write a language model with random weights, and a tokenizer learnt from texts, to a folder.

    It is GPT-2's architecture and knows nothing: what it is good for is to see that all fits
    together, and how the time grows with its size.

    Raises:
        ConfigError: Transformers is not installed.
    """
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    except ImportError as error:
        raise ConfigError("transformers is not installed: pip install 'dnrlib[llm]'") from error
    tokens = Tokenizer(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokens.train_from_iterator(sorted(texts), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokens, bos_token="<s>")
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=512, n_embd=dim, n_layer=layers, n_head=dim // 16,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


# Cost -------------------------------------------------------------------------------------


def parameters(model: torch.nn.Module) -> int:
    """How many there are, those of embeddings included."""
    return sum(parameter.numel() for parameter in model.parameters())


def request_flops(
    size: float, prompt: float, title: float, candidates: int, shared: bool = True
) -> float:
    """Floating-point operations to score a request's candidates with a causal language model.

    Two for each parameter and token (Kaplan et al., 2020), without those of attention, which are
    few where the text is short. A prompt that is ``shared`` is read once for all candidates, its
    keys and values kept; `CausalScorer` reads it with each.

    Args:
        size: parameters of the model.
        prompt, title: tokens of each.
    """
    tokens = (1 if shared else candidates) * prompt + candidates * title
    return 2 * size * tokens


def measured_flops(reranker: torch.nn.Module, lists: CandidateLists) -> float:
    """Floating-point operations of a reranker's matrix products for one list, as PyTorch counts."""
    from torch.utils.flop_counter import FlopCounterMode

    was_training = reranker.training
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        reranker.eval()(lists, lists.scores)
    reranker.train(was_training)
    return counter.get_total_flops() / len(lists)
