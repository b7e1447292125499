"""Constraints of the search: tokens that a hypothesis may not continue with."""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import torch

from handler.function_words import is_content_word
from handler.generation.options import GenerationConfig
from handler.modeling.decoder import TensorDict, gather_beams
from handler.modeling.vocabulary import Vocabulary

NEG_INF = float("-inf")


class Constraints:
    """Suppressed tokens, limits of the length, and bans of repetitions, for B images with K beams each.

    Args:
        configs: Options of each image, B of them.
        vocabulary: The vocabulary of the decoder, of V tokens.
        num_beams: K.
        device: Device of the search.
    """

    def __init__(
        self, configs: Sequence[GenerationConfig], vocabulary: Vocabulary, num_beams: int, device: torch.device
    ) -> None:
        self.pad_id, self.eos_id = vocabulary.pad_id, vocabulary.eos_id
        self.suppressed_tokens = torch.tensor([vocabulary.pad_id, vocabulary.bos_id, vocabulary.unk_id], device=device)
        self.shortest_max_length = min(config.max_length for config in configs)
        self.longest_min_length = max(config.min_length for config in configs)
        self.ngram_sizes = {config.no_repeat_ngram for config in configs} - {0}
        self.is_content: torch.Tensor | None = None  # (V,), only if content words must not repeat
        if any(config.no_repeat_words for config in configs):
            self.is_content = content_words(vocabulary, device)
        self.generated: torch.Tensor | None = None  # (B, K, tokens so far), only if something must not repeat
        if self.ngram_sizes or self.is_content is not None:
            self.generated = torch.empty(len(configs), num_beams, 0, dtype=torch.long, device=device)

        def column(values: Iterable[float]) -> torch.Tensor:  # (B, 1)
            return torch.tensor(list(values), device=device).unsqueeze(1)

        self.rows: TensorDict = {
            "min_length": column(config.min_length for config in configs),
            "max_length": column(config.max_length for config in configs),
            "no_repeat_ngram": column(config.no_repeat_ngram for config in configs),
            "no_repeat_words": column(config.no_repeat_words for config in configs),
        }

    def apply(self, logprobs: torch.Tensor, length: int) -> torch.Tensor:
        """Set tokens (B, K, V) that are not allowed to -inf, in place; the others keep their log-probability.

        A hypothesis without any other token may end: there is always a caption.

        Args:
            logprobs: (B, K, V).
            length: Number of tokens so far.
        """
        end = logprobs[..., self.eos_id].clone()
        logprobs.index_fill_(-1, self.suppressed_tokens, NEG_INF)
        if self.generated is not None:
            self._ban_repetitions(logprobs, self.generated)
        if length >= self.shortest_max_length:
            logprobs.masked_fill_((self.rows["max_length"] <= length).unsqueeze(-1), NEG_INF)
            logprobs[..., self.eos_id] = end
        if length < self.longest_min_length:
            too_short = self.rows["min_length"] > length  # (B, 1)
            logprobs[..., self.eos_id] = end.masked_fill(too_short, NEG_INF)
            stuck = logprobs.amax(-1) == NEG_INF  # (B, K)
            logprobs[..., self.eos_id] = end.masked_fill(too_short & ~stuck, NEG_INF)
        return logprobs

    def extend(self, parent_beams: torch.Tensor, tokens: torch.Tensor) -> None:
        """Reorder the beams and append a token to each; parents and tokens (B, K)."""
        if self.generated is not None:
            self.generated = torch.cat([gather_beams(self.generated, parent_beams), tokens.unsqueeze(-1)], -1)

    def select_rows(self, index: torch.Tensor) -> None:
        """Drop the images of all other rows."""
        self.generated = None if self.generated is None else self.generated[index]
        self.rows = {name: tensor[index] for name, tensor in self.rows.items()}

    def _ban_repetitions(self, logprobs: torch.Tensor, generated: torch.Tensor) -> None:
        """Set tokens that would repeat a content word or an n-gram to -inf, in place, where the image forbids it."""
        if self.is_content is not None:
            banned = self.is_content[generated] & self.rows["no_repeat_words"].unsqueeze(-1)
            self._ban(logprobs, generated, banned)
        length = generated.shape[-1]
        for size in self.ngram_sizes:
            if length >= size:
                ngrams = generated.unfold(2, size, 1)  # (B, K, length - size + 1, size)
                recent = generated[:, :, length - size + 1 :].unsqueeze(2)  # (B, K, 1, size - 1)
                matches = (ngrams[..., :-1] == recent).all(-1)
                self._ban(logprobs, ngrams[..., -1], matches & (self.rows["no_repeat_ngram"] == size).unsqueeze(-1))

    def _ban(self, logprobs: torch.Tensor, tokens: torch.Tensor, banned: torch.Tensor) -> None:
        """Set those of the tokens (B, K, N) that are banned to -inf, in place; `<pad>` stands in for the others."""
        logprobs.scatter_(2, torch.where(banned, tokens, self.pad_id), NEG_INF)


@lru_cache(maxsize=8)
def content_words(vocabulary: Vocabulary, device: torch.device) -> torch.Tensor:
    """Return which tokens of a vocabulary are content words, (V,); computed once for each vocabulary and device."""
    return torch.tensor([is_content_word(token) for token in vocabulary.tokens], device=device)
