"""Greedy search, beam search and sampling for a batch of images, each with its own options.

The search knows no architecture: it calls `Decoder.init_state` and `Decoder.step`, and reorders the tensors that they
return.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from handler.generation.backpointers import BackPointer, BackPointers
from handler.generation.beam_groups import DiversityPenalties, beam_groups, images_searched_together
from handler.generation.constraints import NEG_INF, Constraints
from handler.generation.hypotheses import FinishedHypothesis, Hypothesis, duplicates_last, rank_across_groups
from handler.generation.options import GenerationConfig
from handler.generation.sampling import sample_tokens, uniform_noise
from handler.modeling.decoder import Decoder, State, TensorDict, expand_state, gather_beams
from handler.modeling.vocabulary import Vocabulary

# Steps between two checks for finished images, by device. On a GPU a check waits for all work that is queued there.
DONE_CHECK_INTERVAL = {"cuda": 4}
TokenCallback = Callable[[list[int]], None]  # receives the ids of all tokens that are certain so far


class Candidates(NamedTuple):
    """Best continuations of G groups with K beams each, and those that become the live beams."""

    logprob: torch.Tensor  # (G, 2K), of the token; best first
    token: torch.Tensor  # (G, 2K)
    parent_beam: torch.Tensor  # (G, 2K), the beam that is extended
    penalty: torch.Tensor  # (G, 2K), of all tokens up to this one; see `DiversityPenalties`
    selected: torch.Tensor  # (G, K), candidates that become the live beams


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
    finished. With `num_beam_groups` each group of beams is such a search, see `handler.generation.beam_groups`. Sampled
    captions are independent of each other. After `max_length` words every hypothesis is forced to end, so there is
    always a caption. `<unk>`, `<pad>` and `<start>` are never emitted. The result of an image does not depend on the
    other images of the batch.

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
        no more. With groups of beams: the best of each group, then the second best of each, and so on; hypotheses that
        an earlier group has found, too, come last.

    Raises:
        ValueError: If there are not as many options as images.
    """
    if len(grid) != len(configs):
        raise ValueError(f"There are {len(grid)} images and {len(configs)} options.")
    if not len(grid):
        return []
    hypotheses: list[list[Hypothesis]] = [[] for _ in configs]
    together = images_searched_together(configs)
    for images in together:
        callbacks = {i: on_tokens[image] for i, image in enumerate(images) if on_tokens and image in on_tokens}
        its_grid = grid if len(together) == 1 else grid[images]
        found = _search(_BeamSearch(decoder, its_grid, [configs[image] for image in images], vocabulary), callbacks)
        for image, its_hypotheses in zip(images, found, strict=True):
            hypotheses[image] = its_hypotheses
    return hypotheses


def _search(search: "_BeamSearch", on_tokens: Mapping[int, TokenCallback]) -> list[list[Hypothesis]]:
    """Run a search to its end; see `generate`."""
    interval = 1 if on_tokens else DONE_CHECK_INTERVAL.get(search.last_tokens.device.type, 1)
    waiting = set(on_tokens)
    while search.active_groups:
        search.step()
        for image in waiting:
            on_tokens[image](search.common_prefix(image))
        if search.length % interval == 0 or search.length == search.max_tokens:
            search.pop_finished()
            for image in waiting - search.active_images():
                waiting.remove(image)
                on_tokens[image](search.best_tokens(image))
    return search.finalize()


class _BeamSearch:
    """Live and finished hypotheses of the active groups: G groups of beams, K beams, V tokens in the vocabulary.

    An image has one group, or `num_beam_groups`; groups of the same image differ in their tensors only by what they
    choose. A step records where each candidate comes from instead of copying histories; a caption is backtracked once
    it is finished.
    """

    def __init__(
        self, decoder: Decoder, grid: torch.Tensor, configs: Sequence[GenerationConfig], vocabulary: Vocabulary
    ) -> None:
        self.decoder, self.vocabulary, self.configs = decoder, vocabulary, configs
        self.groups = beam_groups(configs)
        self.groups_of_image: list[list[int]] = [[] for _ in configs]
        for index, group in enumerate(self.groups):
            self.groups_of_image[group.image].append(index)
        device, num_groups = grid.device, len(self.groups)
        self.active_groups = list(range(num_groups))  # by row of the tensors
        self.row_of_group = np.arange(num_groups)
        self.finished: list[list[FinishedHypothesis]] = [[] for _ in self.groups]  # as of the latest `_read_finished`
        by_group = [configs[group.image] for group in self.groups]
        self.num_beams = max(config.beams_per_group for config in configs)
        self.num_candidates = 2 * self.num_beams  # at most K of them end, so K others remain
        self.return_attention = any(config.attention for config in configs)
        self.max_tokens = max(config.max_length for config in configs) + 1  # with `<end>`
        self.constraints = Constraints(by_group, vocabulary, self.num_beams, device)
        self.history = BackPointers()

        image = torch.tensor([group.image for group in self.groups], device=device)
        self.memory, state = decoder.init_state(grid)
        if num_groups > len(grid):
            self.memory, state = ({name: part[image] for name, part in parts.items()} for parts in (self.memory, state))
        self.state: State = expand_state(state, self.num_beams)
        self.last_tokens = torch.full((num_groups, self.num_beams), vocabulary.bos_id, device=device)

        def column(values: Iterable[float]) -> torch.Tensor:  # (G, 1)
            return torch.tensor(list(values), device=device).unsqueeze(1)

        candidates = torch.arange(self.num_candidates, device=device)
        self.beams = candidates[: self.num_beams]
        num_beams = column(config.beams_per_group for config in by_group)
        # All beams of a search start alike, so only the first one is live.
        num_live = column(config.num_beams if config.do_sample else 1 for config in by_group)
        self.state_by_row: TensorDict = {
            "image": image,  # (G,)
            "num_beams": num_beams,
            "diversity_penalty": column(float(config.diversity_penalty) for config in by_group),
            "length_penalty": column(float(config.length_penalty) for config in by_group),
            "max_length": column(config.max_length for config in by_group),
            "unused": self.beams >= num_beams,  # (G, K)
            "can_finish": candidates < num_beams,  # (G, 2K), candidates that are good enough to become a caption
            "beam_scores": torch.where(self.beams < num_live, 0.0, NEG_INF),  # (G, K), sum of log-probabilities
            "beam_penalties": torch.zeros(num_groups, self.num_beams, device=device),
            "finished_scores": torch.full((num_groups, self.num_beams), NEG_INF, device=device),  # best first
            # step · 2K + candidate, of each finished hypothesis
            "finished_pointers": torch.zeros(num_groups, self.num_beams, dtype=torch.long, device=device),
            "num_finished": torch.zeros(num_groups, 1, dtype=torch.long, device=device),
        }
        self.sampled_rows, self.rows_by_position = self._sampled_rows(), self._rows_by_position()
        if len(self.sampled_rows):
            self.state_by_row |= {
                "temperature": column(float(config.temperature) for config in by_group).squeeze(1),
                "top_p": column(float(config.top_p) for config in by_group).squeeze(1),
                "noise": uniform_noise(by_group, self.num_beams, self.max_tokens).to(device),
            }

    @property
    def length(self) -> int:
        """Number of tokens so far, the same for all live hypotheses."""
        return len(self.history)

    def step(self) -> None:
        """Extend every live hypothesis by one token."""
        step = self.decoder.step(self.last_tokens, self.state, self.memory)
        self.memory = step.memory
        logprobs = self.constraints.apply(step.logits.log_softmax(-1, dtype=torch.float32), self.length)  # (G, K, V)
        logprob, token, parent_beam, penalty, selected = self._candidates(logprobs)
        scores = logprob + self.state_by_row["beam_scores"].gather(1, parent_beam)

        is_end = token == self.vocabulary.eos_id
        self._update_finished(scores.masked_fill(~(is_end & self.state_by_row["can_finish"]), NEG_INF))
        beam_scores = scores.masked_fill(is_end, NEG_INF).gather(1, selected)
        record = {"parent_beam": parent_beam, "token": token, "selected": selected, "logprob": logprob}
        if self.return_attention and step.attention is not None:
            record["attention"] = step.attention.float()  # (G, K, cells)
        self.history.add(self.row_of_group, record)

        self.state_by_row["beam_scores"] = beam_scores.masked_fill(self.state_by_row["unused"], NEG_INF)
        self.state_by_row["beam_penalties"] = penalty.gather(1, selected)
        self.last_tokens = token.gather(1, selected)
        parent_beams = parent_beam.gather(1, selected)
        self.state = {name: gather_beams(tensor, parent_beams) for name, tensor in step.state.items()}
        self.constraints.extend(parent_beams, self.last_tokens)

    def _update_finished(self, scores: torch.Tensor) -> None:
        """Merge the captions that end now into the best K; scores (G, 2K) are -inf for all other candidates."""
        rows = self.state_by_row
        # A group can be done and still be active until the next check.
        scores = scores.masked_fill(rows["num_finished"] >= rows["num_beams"], NEG_INF)
        normalized = scores / (self.length + 1) ** rows["length_penalty"]
        pointers = torch.arange(self.num_candidates, device=scores.device) + self.length * self.num_candidates
        rows["num_finished"] = rows["num_finished"] + scores.isfinite().sum(1, keepdim=True)
        rows["finished_scores"], best = torch.cat([rows["finished_scores"], normalized], 1).topk(self.num_beams)
        merged = torch.cat([rows["finished_pointers"], pointers.expand(len(scores), -1)], 1)
        rows["finished_pointers"] = merged.gather(1, best)

    def _candidates(self, logprobs: torch.Tensor) -> Candidates:
        """Return the best continuations of each group.

        A group that samples has one candidate for each hypothesis, then candidates of -inf.

        Args:
            logprobs: (G, K, V), -inf for tokens that are not allowed.
        """
        penalties = None
        if len(self.rows_by_position) > 1:
            image, strength = self.state_by_row["image"], self.state_by_row["diversity_penalty"]
            penalties = DiversityPenalties(image, strength, len(self.configs), logprobs.shape[-1])
        parts = [self._top_candidates(logprobs[rows], rows, penalties) for rows in self.rows_by_position]
        candidates = Candidates(*map(torch.cat, zip(*parts, strict=True)))
        if len(self.sampled_rows):
            self._sample(candidates, logprobs)
        return candidates

    def _top_candidates(self, logprobs: torch.Tensor, rows: slice, penalties: DiversityPenalties | None) -> Candidates:
        """Return the best continuations of some groups, logprobs (R, K, V), and count them in the penalties."""
        ranked = logprobs if penalties is None else penalties.penalize(rows, logprobs)
        # The best candidates of a group are among the best of each beam, so scores are added to those only.
        best, tokens = ranked.topk(min(self.num_candidates, ranked.shape[-1]))
        beam_penalties = self.state_by_row["beam_penalties"][rows]
        beam_scores = (self.state_by_row["beam_scores"][rows] - beam_penalties).unsqueeze(-1)
        scores, index = (best + beam_scores).flatten(1).topk(self.num_candidates)
        token, parent_beam = tokens.flatten(1).gather(1, index), index.div(best.shape[-1], rounding_mode="floor")
        logprob = logprobs.flatten(1).gather(1, parent_beam * logprobs.shape[-1] + token)
        penalty = beam_penalties.gather(1, parent_beam)
        is_end = token == self.vocabulary.eos_id
        live_scores, selected = scores.masked_fill(is_end, NEG_INF).topk(self.num_beams)
        if penalties is not None:
            penalty = penalty + penalties.of(rows, token)
            # The tokens of a group that is done, or ends now, do not count.
            ending = is_end & self.state_by_row["can_finish"][rows] & scores.isfinite()
            num_finished = self.state_by_row["num_finished"][rows] + ending.sum(1, keepdim=True)
            is_active = num_finished < self.state_by_row["num_beams"][rows]
            penalties.add(rows, token.gather(1, selected), live_scores.isfinite() & is_active)
        return Candidates(logprob, token, parent_beam, penalty, selected)

    def _sample(self, candidates: Candidates, logprobs: torch.Tensor) -> None:
        """Replace the candidates of groups that sample, in place; logprobs (G, K, V)."""
        rows, num_beams = self.sampled_rows, self.num_beams
        temperature, top_p = self.state_by_row["temperature"][rows], self.state_by_row["top_p"][rows]
        noise = self.state_by_row["noise"][rows, :, self.length]
        tokens = sample_tokens(logprobs[rows], temperature, top_p, noise)
        candidates.logprob[rows] = NEG_INF
        candidates.logprob[rows, :num_beams] = logprobs[rows].gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        candidates.token[rows, :num_beams] = tokens
        # A sampled caption keeps its beam, which its noise belongs to.
        candidates.parent_beam[rows, :num_beams] = candidates.selected[rows] = self.beams

    def active_images(self) -> set[int]:
        """Return the images of which a group is active."""
        return {self.groups[group].image for group in self.active_groups}

    def common_prefix(self, image: int) -> list[int]:
        """Return the token ids that the best caption of an active image begins with, whatever comes next."""
        active = [group for group in self.groups_of_image[image] if self.row_of_group[group] >= 0]
        sequences = []
        for group in active:
            beam_scores = self.state_by_row["beam_scores"][self.row_of_group[group]]
            live_beams = beam_scores.isfinite().nonzero().squeeze(1).tolist()
            sequences += self._tokens(group, [self.history.live_pointer(group, beam) for beam in live_beams])
        self._read_finished(active)
        sequences += [self._tokens(group, [pointer])[0][:-1] for group, pointer in self._ranked(image)[:1]]
        prefix = []
        for tokens in zip(*sequences, strict=False):
            if len(set(tokens)) > 1:
                break
            prefix.append(tokens[0])
        return prefix

    def best_tokens(self, image: int) -> list[int]:
        """Return the token ids of the best caption of an image that is done."""
        group, pointer = self._ranked(image)[0]
        return self._tokens(group, [pointer])[0][:-1]

    def _ranked(self, image: int) -> list[tuple[int, BackPointer]]:
        """Return group and last token of the finished hypotheses of an image, best first."""
        groups = self.groups_of_image[image]
        ranked = rank_across_groups([self.finished[group] for group in groups])
        return [(groups[index], pointer) for index, pointer in ranked]

    def _tokens(self, group: int, pointers: Sequence[BackPointer]) -> list[list[int]]:
        """Return the token ids up to each pointer of a group."""
        return [tokens for tokens, _, _ in self.history.backtrack([group] * len(pointers), pointers)]

    def pop_finished(self) -> None:
        """Drop the groups that are done, and keep their finished hypotheses."""
        all_finished = self.state_by_row["num_finished"] >= self.state_by_row["num_beams"]
        reached_max_length = self.state_by_row["max_length"] < self.length
        done = (all_finished | reached_max_length).squeeze(1).tolist()
        if any(done):
            self._read_finished([group for group, is_done in zip(self.active_groups, done, strict=True) if is_done])
            self._select_rows([row for row, is_done in enumerate(done) if not is_done])

    def _read_finished(self, groups: list[int]) -> None:
        """Copy the finished hypotheses of active groups from the tensors, best first."""
        rows = self.row_of_group[groups].tolist()
        scores = self.state_by_row["finished_scores"][rows].tolist()
        pointers = self.state_by_row["finished_pointers"][rows].tolist()
        for group, *row in zip(groups, scores, pointers, strict=True):
            self.finished[group] = [
                (score, divmod(pointer, self.num_candidates))
                for score, pointer in zip(*row, strict=True)
                if score != NEG_INF
            ]

    def _select_rows(self, rows: list[int]) -> None:
        """Drop the groups of all other rows."""
        self.row_of_group = np.full(len(self.groups), -1)
        self.active_groups = [self.active_groups[row] for row in rows]
        self.row_of_group[self.active_groups] = np.arange(len(rows))
        self.sampled_rows, self.rows_by_position = self._sampled_rows(), self._rows_by_position()
        if not rows:
            return
        index = torch.tensor(rows, device=self.last_tokens.device)
        self.last_tokens = self.last_tokens[index]
        self.constraints.select_rows(index)
        for tensors in (self.memory, self.state, self.state_by_row):
            for name in tensors:
                tensors[name] = tensors[name][index]

    def finalize(self) -> list[list[Hypothesis]]:
        """Return the captions of all images of the search."""
        returned = []
        for image, config in enumerate(self.configs):
            ranked = self._ranked(image)
            # Groups may find the same captions, so all of theirs are compared.
            returned += ranked if config.num_beam_groups > 1 else ranked[: config.num_captions]
        sequences = self.history.backtrack([group for group, _ in returned], [pointer for _, pointer in returned])
        hypotheses: list[list[Hypothesis]] = [[] for _ in self.configs]
        for (group, _), (tokens, logprobs, attention) in zip(returned, sequences, strict=True):
            image = self.groups[group].image
            # The copy is independent of the tensor of the whole batch, which would stay in memory with it.
            kept = attention[:-1].clone() if self.configs[image].attention and attention is not None else None
            hypotheses[image].append(Hypothesis(tokens[:-1], logprobs, kept))
        return [
            duplicates_last(found)[: config.num_captions] if config.num_beam_groups > 1 else found
            for found, config in zip(hypotheses, self.configs, strict=True)
        ]

    def _sampled_rows(self) -> torch.Tensor:
        """Rows of the groups that sample, (R,)."""
        configs = [self.configs[self.groups[group].image] for group in self.active_groups]
        rows = [row for row, config in enumerate(configs) if config.do_sample]
        return torch.tensor(rows, dtype=torch.long, device=self.last_tokens.device)

    def _rows_by_position(self) -> list[slice]:
        """Rows of the first groups of all images, of the second groups, and so on."""
        positions = [self.groups[group].position for group in self.active_groups]
        starts = [row for row, position in enumerate(positions) if row == 0 or position != positions[row - 1]]
        return [slice(start, stop) for start, stop in pairwise([*starts, len(positions)])]
