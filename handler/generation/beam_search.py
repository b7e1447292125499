"""Greedy search, beam search and sampling for a batch of images, each with its own options.

The search knows no architecture: it calls `Decoder.init_state` and `Decoder.step`, and reorders the tensors that they
return.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from handler.generation.backpointers import BackPointer, BackPointers
from handler.generation.constraints import NEG_INF, Constraints
from handler.generation.options import GenerationConfig
from handler.generation.sampling import sample_tokens, uniform_noise
from handler.modeling.decoder import Decoder, State, TensorDict, expand_state, gather_beams
from handler.modeling.vocabulary import Vocabulary

# Steps between two checks for finished images, by device. On a GPU a check waits for all work that is queued there.
DONE_CHECK_INTERVAL = {"cuda": 4}
TokenCallback = Callable[[list[int]], None]  # receives the ids of all tokens that are certain so far


@dataclass(frozen=True)
class Hypothesis:
    """A generated caption.

    Attributes:
        token_ids: Its tokens, without `<start>` and `<end>`.
        logprobs: Natural log-probability of each token, then that of `<end>`: one more than `token_ids`.
        attention: (tokens, cells), each row sums to 1; None if it was not requested or the decoder has none.
    """

    token_ids: list[int]
    logprobs: list[float]
    attention: torch.Tensor | None = None

    @property
    def score(self) -> float:
        """Mean log-probability of the tokens, `<end>` included."""
        return sum(self.logprobs) / len(self.logprobs)


@torch.inference_mode()
def generate(
    decoder: Decoder,
    grid: torch.Tensor,
    configs: Sequence[GenerationConfig],
    vocabulary: Vocabulary,
    on_tokens: Mapping[int, TokenCallback] | None = None,
) -> list[list[Hypothesis]]:
    """Generate the captions of each image by beam search or sampling.

    At each step of beam search the top `2 * beam_size` candidates are scored. Candidates that end in `<end>` are moved
    to the finished set; the best `beam_size` others stay live. An image is done once `beam_size` hypotheses have
    finished. Sampled captions are independent of each other. After `max_length` words every hypothesis is forced to
    end, so there is always a caption. `<unk>`, `<pad>` and `<start>` are never emitted. The result of an image does not
    depend on the other images of the batch.

    Args:
        decoder: The decoder, in evaluation mode.
        grid: (B, cells, C).
        configs: The options of each image, B of them.
        vocabulary: The vocabulary of the decoder.
        on_tokens: Callbacks by image index. After each step a callback receives the ids of all tokens that its best
            caption certainly begins with: the tokens so far if there is one hypothesis, else the common prefix of all
            hypotheses that can still win. The list never shrinks, and is the whole caption in the end.

    Returns:
        For each image its `num_captions` best hypotheses, best first; fewer if `max_length` and the vocabulary allow
        no more.

    Raises:
        ValueError: If there are not as many options as images.
    """
    if len(grid) != len(configs):
        raise ValueError(f"There are {len(grid)} images and {len(configs)} options.")
    if not len(grid):
        return []
    search = _BeamSearch(decoder, grid, configs, vocabulary)
    on_tokens = on_tokens or {}
    finished: list[list[BackPointer]] = [[] for _ in configs]
    interval = 1 if on_tokens else DONE_CHECK_INTERVAL.get(grid.device.type, 1)
    while search.active_images:
        search.step()
        for image in on_tokens.keys() & set(search.active_images):
            on_tokens[image](search.common_prefix(image))
        if search.length % interval == 0 or search.length == search.max_tokens:
            for image, pointers in search.pop_finished():
                finished[image] = pointers
                if image in on_tokens:
                    on_tokens[image](search.tokens(image, pointers[:1])[0][:-1])
    return search.finalize(finished)


class _BeamSearch:
    """Live and finished hypotheses of the active images: B images, K beams, V tokens in the vocabulary.

    A step records where each candidate comes from instead of copying histories; a caption is backtracked once it is
    finished.
    """

    def __init__(
        self, decoder: Decoder, grid: torch.Tensor, configs: Sequence[GenerationConfig], vocabulary: Vocabulary
    ) -> None:
        self.decoder, self.vocabulary, self.configs = decoder, vocabulary, configs
        device, num_images = grid.device, len(grid)
        self.active_images = list(range(num_images))  # by row of the tensors
        self.row_of_image = np.arange(num_images)
        self.num_beams = max(config.num_beams for config in configs)
        self.num_candidates = 2 * self.num_beams  # at most K of them end, so K others remain
        self.return_attention = any(config.attention for config in configs)
        self.max_tokens = max(config.max_length for config in configs) + 1  # with `<end>`
        self.constraints = Constraints(configs, vocabulary, self.num_beams, device)
        self.history = BackPointers()

        self.memory, state = decoder.init_state(grid)
        self.state: State = expand_state(state, self.num_beams)
        self.last_tokens = torch.full((num_images, self.num_beams), vocabulary.bos_id, device=device)

        def column(values: Iterable[float]) -> torch.Tensor:  # (B, 1)
            return torch.tensor(list(values), device=device).unsqueeze(1)

        candidates = torch.arange(self.num_candidates, device=device)
        self.beams = candidates[: self.num_beams]
        num_beams = column(config.num_beams for config in configs)
        # All beams of a search start alike, so only the first one is live.
        num_live = column(config.num_beams if config.do_sample else 1 for config in configs)
        self.state_by_row: TensorDict = {
            "num_beams": num_beams,
            "length_penalty": column(float(config.length_penalty) for config in configs),
            "max_length": column(config.max_length for config in configs),
            "unused": self.beams >= num_beams,  # (B, K)
            "can_finish": candidates < num_beams,  # (B, 2K), candidates that are good enough to become a caption
            "beam_scores": torch.where(self.beams < num_live, 0.0, NEG_INF),  # (B, K), sum of log-probabilities
            "finished_scores": torch.full((num_images, self.num_beams), NEG_INF, device=device),  # best first
            # step · 2K + candidate, of each finished hypothesis
            "finished_pointers": torch.zeros(num_images, self.num_beams, dtype=torch.long, device=device),
            "num_finished": torch.zeros(num_images, 1, dtype=torch.long, device=device),
        }
        self.sampled_rows = self._sampled_rows()
        if len(self.sampled_rows):
            self.state_by_row |= {
                "temperature": column(float(config.temperature) for config in configs).squeeze(1),
                "top_p": column(float(config.top_p) for config in configs).squeeze(1),
                "noise": uniform_noise(configs, self.num_beams, self.max_tokens).to(device),
            }

    @property
    def length(self) -> int:
        """Number of tokens so far, the same for all live hypotheses."""
        return len(self.history)

    def step(self) -> None:
        """Extend every live hypothesis by one token."""
        step = self.decoder.step(self.last_tokens, self.state, self.memory)
        self.memory = step.memory
        logprobs = self.constraints.apply(step.logits.log_softmax(-1, dtype=torch.float32), self.length)  # (B, K, V)
        logprob, token, parent_beam = self._top_candidates(logprobs)  # (B, 2K) each, best first
        scores = logprob + self.state_by_row["beam_scores"].gather(1, parent_beam)

        is_end = token == self.vocabulary.eos_id
        self._update_finished(scores.masked_fill(~(is_end & self.state_by_row["can_finish"]), NEG_INF))
        live_scores = scores.masked_fill(is_end, NEG_INF)
        beam_scores, selected = live_scores.topk(self.num_beams)
        if len(self.sampled_rows):  # a sampled caption keeps its beam, which its noise belongs to
            selected[self.sampled_rows] = self.beams
            beam_scores[self.sampled_rows] = live_scores[self.sampled_rows, : self.num_beams]
        record = {"parent_beam": parent_beam, "token": token, "selected": selected, "logprob": logprob}
        if self.return_attention and step.attention is not None:
            record["attention"] = step.attention.float()  # (B, K, cells)
        self.history.add(self.row_of_image, record)

        self.state_by_row["beam_scores"] = beam_scores.masked_fill(self.state_by_row["unused"], NEG_INF)
        self.last_tokens = token.gather(1, selected)
        parent_beams = parent_beam.gather(1, selected)
        self.state = {name: gather_beams(tensor, parent_beams) for name, tensor in step.state.items()}
        self.constraints.extend(parent_beams, self.last_tokens)

    def _update_finished(self, scores: torch.Tensor) -> None:
        """Merge the captions that end now into the best K; scores (B, 2K) are -inf for all other candidates."""
        rows = self.state_by_row
        # An image can be done and still be active until the next check.
        scores = scores.masked_fill(rows["num_finished"] >= rows["num_beams"], NEG_INF)
        normalized = scores / (self.length + 1) ** rows["length_penalty"]
        pointers = torch.arange(self.num_candidates, device=scores.device) + self.length * self.num_candidates
        rows["num_finished"] = rows["num_finished"] + scores.isfinite().sum(1, keepdim=True)
        rows["finished_scores"], best = torch.cat([rows["finished_scores"], normalized], 1).topk(self.num_beams)
        merged = torch.cat([rows["finished_pointers"], pointers.expand(len(scores), -1)], 1)
        rows["finished_pointers"] = merged.gather(1, best)

    def _top_candidates(self, logprobs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the best continuations of each image.

        Args:
            logprobs: (B, K, V), -inf for tokens that are not allowed.

        Returns:
            Log-probability, token id and parent beam, (B, 2K) each, best first. An image that samples has one candidate
            for each hypothesis, then candidates of -inf.
        """
        # The best candidates of an image are among the best of each beam, so scores are added to those only.
        best, tokens = logprobs.topk(min(self.num_candidates, logprobs.shape[-1]))
        beam_scores = self.state_by_row["beam_scores"].unsqueeze(-1)
        index = (best + beam_scores).flatten(1).topk(self.num_candidates).indices
        logprob, token = best.flatten(1).gather(1, index), tokens.flatten(1).gather(1, index)
        parent_beam = index.div(best.shape[-1], rounding_mode="floor")
        if len(self.sampled_rows):
            rows, num_beams = self.sampled_rows, self.num_beams
            temperature, top_p = self.state_by_row["temperature"][rows], self.state_by_row["top_p"][rows]
            noise = self.state_by_row["noise"][rows, :, self.length]
            sampled_tokens = sample_tokens(logprobs[rows], temperature, top_p, noise)
            logprob[rows] = NEG_INF
            logprob[rows, :num_beams] = logprobs[rows].gather(-1, sampled_tokens.unsqueeze(-1)).squeeze(-1)
            token[rows, :num_beams], parent_beam[rows, :num_beams] = sampled_tokens, self.beams
        return logprob, token, parent_beam

    def common_prefix(self, image: int) -> list[int]:
        """Return the token ids that the best caption of an active image begins with, whatever comes next."""
        row = self.active_images.index(image)
        live_beams = self.state_by_row["beam_scores"][row].isfinite().nonzero().squeeze(1).tolist()
        sequences = self.tokens(image, [self.history.live_pointer(image, beam) for beam in live_beams])
        if finished := self._finished([row])[0]:
            sequences.append(self.tokens(image, finished[:1])[0][:-1])
        prefix = []
        for tokens in zip(*sequences, strict=False):
            if len(set(tokens)) > 1:
                break
            prefix.append(tokens[0])
        return prefix

    def tokens(self, image: int, pointers: Sequence[BackPointer]) -> list[list[int]]:
        """Return the token ids up to each pointer of an image."""
        return [tokens for tokens, _, _ in self.history.backtrack([image] * len(pointers), pointers)]

    def pop_finished(self) -> list[tuple[int, list[BackPointer]]]:
        """Drop the images that are done; return the index of each with its finished hypotheses, best first."""
        all_finished = self.state_by_row["num_finished"] >= self.state_by_row["num_beams"]
        reached_max_length = self.state_by_row["max_length"] < self.length
        done = (all_finished | reached_max_length).squeeze(1).tolist()
        if not any(done):
            return []
        rows = [row for row, is_done in enumerate(done) if is_done]
        popped = [(self.active_images[row], found) for row, found in zip(rows, self._finished(rows), strict=True)]
        self._select_rows([row for row, is_done in enumerate(done) if not is_done])
        return popped

    def _finished(self, rows: list[int]) -> list[list[BackPointer]]:
        """Return the finished hypotheses of some rows, best first."""
        scores = self.state_by_row["finished_scores"][rows].tolist()
        pointers = self.state_by_row["finished_pointers"][rows].tolist()
        return [
            [divmod(pointer, self.num_candidates) for score, pointer in zip(*row, strict=True) if score != NEG_INF]
            for row in zip(scores, pointers, strict=True)
        ]

    def _select_rows(self, rows: list[int]) -> None:
        """Drop the images of all other rows."""
        self.row_of_image = np.full(len(self.configs), -1)
        self.active_images = [self.active_images[row] for row in rows]
        self.row_of_image[self.active_images] = np.arange(len(rows))
        self.sampled_rows = self._sampled_rows()
        if not rows:
            return
        index = torch.tensor(rows, device=self.last_tokens.device)
        self.last_tokens = self.last_tokens[index]
        self.constraints.select_rows(index)
        for tensors in (self.memory, self.state, self.state_by_row):
            for name in tensors:
                tensors[name] = tensors[name][index]

    def finalize(self, finished: Sequence[Sequence[BackPointer]]) -> list[list[Hypothesis]]:
        """Return the captions of all images of the call, given their finished hypotheses."""
        returned = [
            (image, pointer)
            for image, (config, pointers) in enumerate(zip(self.configs, finished, strict=True))
            for pointer in pointers[: config.num_captions]
        ]
        images = [image for image, _ in returned]
        sequences = self.history.backtrack(images, [pointer for _, pointer in returned])
        hypotheses: list[list[Hypothesis]] = [[] for _ in self.configs]
        for image, (tokens, logprobs, attention) in zip(images, sequences, strict=True):
            # The copy is independent of the tensor of the whole batch, which would stay in memory with it.
            kept = attention[:-1].clone() if self.configs[image].attention and attention is not None else None
            hypotheses[image].append(Hypothesis(tokens[:-1], logprobs, kept))
        return hypotheses

    def _sampled_rows(self) -> torch.Tensor:
        """Rows of the images that sample, (R,)."""
        rows = [row for row, image in enumerate(self.active_images) if self.configs[image].do_sample]
        return torch.tensor(rows, dtype=torch.long, device=self.last_tokens.device)
