"""Greedy search, beam search and sampling for a whole batch of images at once, each with its own options.

Search knows nothing of architectures: it calls `Decoder.init_state` and `Decoder.step`, and reorders what they return.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from handler.generation.backpointers import End, Trail
from handler.generation.config import GenerationConfig
from handler.generation.sampling import draws, sample_tokens
from handler.modeling.decoder import Decoder, Tensors, repeat_state
from handler.modeling.vocabulary import Vocabulary

NEVER = float("-inf")
PATIENCE = {"cuda": 4}  # steps from one look at who is done to the next, by device: to look is to wait for it
Listener = Callable[[list[int]], None]  # is told the ids of words that are certain, in their order


@dataclass(frozen=True)
class Hypothesis:
    """A caption that search found.

    Attributes:
        token_ids: its words, without `<start>` and `<end>`.
        logprobs: natural log-probability of each word, and last of `<end>`: one more than words.
        attention: (words, cells), each row sums to 1; None where not asked for or the decoder has none.
    """

    token_ids: list[int]
    logprobs: list[float]
    attention: torch.Tensor | None = None

    @property
    def score(self) -> float:
        """Mean log-probability a token, `<end>` among them."""
        return sum(self.logprobs) / len(self.logprobs)


@torch.inference_mode()
def generate(
    decoder: Decoder,
    grid: torch.Tensor,
    options: Sequence[GenerationConfig],
    vocabulary: Vocabulary,
    listeners: Mapping[int, Listener] | None = None,
) -> list[list[Hypothesis]]:
    """Finds the likeliest captions of each image, or draws some.

    In a beam, at each step an image's `beam_size` best continuations are looked at: those that end leave the beam as
    finished captions, the best others fill it again. An image is done when `beam_size` captions have ended. Drawn
    captions go each its own way until it ends. At `max_length` words every hypothesis is made to end, so there always
    is a caption. `<unk>`, `<pad>` and `<start>` are never emitted. An image's result does not depend on the images
    beside it.

    Args:
        decoder: in evaluation mode.
        grid: (B, cells, C).
        options: one an image.
        vocabulary: the decoder's.
        listeners: for some images, by their place, who is told the words of the best caption as soon as they are
            certain: with one hypothesis each at its step, in a beam once all that can still win agree on them.

    Returns:
        For each image its `num_captions` best hypotheses, the best first. There can be fewer where `max_length` and the
        vocabulary leave no more.
    """
    if len(grid) != len(options):
        raise ValueError(f"There are {len(grid)} images and {len(options)} options.")
    if not len(grid):
        return []
    beams = _Beams(decoder, grid, options, vocabulary)
    ends: list[list[End]] = [[] for _ in options]
    heard = dict.fromkeys(listeners or {}, 0)  # how many words by each listener
    patience = 1 if listeners else PATIENCE.get(grid.device.type, 1)

    def tell(image: int, words: list[int]) -> None:
        if len(words) > heard[image]:
            listeners[image](words[heard[image] :])
            heard[image] = len(words)

    while beams.places:
        beams.step()
        for image in heard.keys() & set(beams.places):
            tell(image, beams.certain(image))
        if beams.length % patience == 0 or beams.length == beams.longest:
            for image, found in beams.pop_done():
                ends[image] = found
                if image in heard:
                    tell(image, beams.words(image, found[:1])[0][:-1])
    return beams.hypotheses(ends)


class _Beams:
    """The hypotheses of the images that are not done: B images, K the most hypotheses, V the vocabulary.

    Each step looks at 2K candidates an image and goes on with K of them. What a hypothesis has said is not carried
    along: a step notes where each candidate came from, and a caption is read backwards once it is finished.
    """

    def __init__(
        self, decoder: Decoder, grid: torch.Tensor, options: Sequence[GenerationConfig], vocabulary: Vocabulary
    ):
        self.decoder, self.vocabulary, self.options = decoder, vocabulary, options
        device, images = grid.device, len(grid)
        self.places = list(range(images))  # of the images that are not done, in the call
        self.rows_by_place = np.arange(images)  # of those in the tensors
        self.width = max(option.num_beams for option in options)
        self.candidates = 2 * self.width  # at most K of them end, so K are left to go on with
        self.never = torch.tensor([vocabulary.pad_id, vocabulary.bos_id, vocabulary.unk_id], device=device)
        self.return_attention = any(option.attention for option in options)
        self.longest = max(option.max_length for option in options) + 1  # tokens of a caption
        self.first_full = min(option.max_length for option in options)  # words, from which on some may have no more
        self.last_short = max(option.min_length for option in options)  # words, up to which some must have more
        self.trail = Trail()

        self.memory, state = decoder.init_state(grid)
        self.state: Tensors = repeat_state(state, self.width)
        self.last = torch.full((images, self.width), vocabulary.bos_id, device=device)
        self.said = None  # (B, K, words so far), kept where runs of words must not be repeated
        if any(option.no_repeat_ngram for option in options):
            self.said = self.last.new_empty(images, self.width, 0)

        def column(values: Iterable[float]) -> torch.Tensor:  # (B, 1)
            return torch.tensor(list(values), device=device).unsqueeze(1)

        slots = torch.arange(self.candidates, device=device)
        self.slots = slots[: self.width]
        hypotheses = column(option.num_beams for option in options)
        # A beam's all start alike: one of them is enough.
        starting = column(option.num_beams if option.do_sample else 1 for option in options)
        self.rows: Tensors = {
            "hypotheses": hypotheses,
            "length_penalty": column(float(option.length_penalty) for option in options),
            "min_length": column(option.min_length for option in options),
            "max_length": column(option.max_length for option in options),
            "unused": self.slots >= hypotheses,  # (B, K)
            "counts": slots < hypotheses,  # (B, 2K): a candidate that ends is a caption, if it is so good
            # (B, K), log-probability of each live hypothesis
            "total": torch.where(self.slots < starting, 0.0, NEVER),
            "rank": torch.full((images, self.width), NEVER, device=device),  # of each finished one, best first
            "end": torch.zeros(images, self.width, dtype=torch.long, device=device),  # where: step · 2K + candidate
            "ended": torch.zeros(images, 1, dtype=torch.long, device=device),  # captions finished so far
        }
        self.drawn = self._drawn()  # rows of the images whose captions are drawn, (R,)
        if len(self.drawn):
            self.rows |= {
                "temperature": column(float(option.temperature) for option in options).squeeze(1),
                "top_p": column(float(option.top_p) for option in options).squeeze(1),
                "draws": draws(options, self.width, self.longest).to(device),
            }

    @property
    def length(self) -> int:
        """Words so far, the same for all live hypotheses."""
        return len(self.trail)

    def step(self) -> None:
        """Lengthens every live hypothesis by a token."""
        logits, state, attention = self.decoder.step(self.last, self.state, self.memory)
        logprobs = self._allowed(logits.log_softmax(-1, dtype=torch.float32))  # (B, K, V)
        logprob, token, origin = self._candidates(logprobs)  # (B, 2K) each, best first
        scores = logprob + self.rows["total"].gather(1, origin)

        ends = token == self.vocabulary.eos_id
        going_on = scores.masked_fill(ends, NEVER)
        self._finish(scores.masked_fill(~(ends & self.rows["counts"]), NEVER))
        total, chosen = going_on.topk(self.width)
        if len(self.drawn):  # a drawn caption stays in its place, where its draws are
            chosen[self.drawn] = self.slots
            total[self.drawn] = going_on[self.drawn, : self.width]
        note = {"origin": origin, "token": token, "chosen": chosen, "logprob": logprob}
        if self.return_attention and attention is not None:
            note["attention"] = attention.float()  # (B, K, cells)
        self.trail.add(self.rows_by_place, note)

        self.rows["total"] = total.masked_fill(self.rows["unused"], NEVER)
        self.last = token.gather(1, chosen)
        parents = origin.gather(1, chosen)
        self.state = {name: _take(tensor, parents) for name, tensor in state.items()}
        if self.said is not None:
            self.said = torch.cat([_take(self.said, parents), self.last.unsqueeze(-1)], -1)

    def _finish(self, scores: torch.Tensor) -> None:
        """Merges captions that end now, scores (B, 2K) with -inf for all others, into the best K so far."""
        # An image that is done may be still here.
        scores = scores.masked_fill(self.rows["ended"] >= self.rows["hypotheses"], NEVER)
        ranks = scores / (self.length + 1) ** self.rows["length_penalty"]
        here = torch.arange(self.candidates, device=scores.device) + self.length * self.candidates
        self.rows["ended"] = self.rows["ended"] + scores.isfinite().sum(1, keepdim=True)
        self.rows["rank"], best = torch.cat([self.rows["rank"], ranks], 1).topk(self.width)
        self.rows["end"] = torch.cat([self.rows["end"], here.expand(len(scores), -1)], 1).gather(1, best)

    def _candidates(self, logprobs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The words that may come next.

        Args:
            logprobs: (B, K, V), of the tokens that may come next; -inf for the others.

        Returns:
            Each (B, 2K), best first: the log-probability, the token, and the hypothesis that it lengthens. Of an image
            whose captions are drawn they are one for each hypothesis, then candidates of -inf.
        """
        # The best of all are among the best of each: what those before them add to all words need not be added.
        best, tokens = logprobs.topk(min(self.candidates, logprobs.shape[-1]))
        places = (best + self.rows["total"].unsqueeze(-1)).flatten(1).topk(self.candidates).indices
        logprob, token = best.flatten(1).gather(1, places), tokens.flatten(1).gather(1, places)
        origin = places.div(best.shape[-1], rounding_mode="floor")
        if len(self.drawn):
            rows, width = self.drawn, self.width
            uniform = self.rows["draws"][rows, :, self.length]
            drawn = sample_tokens(logprobs[rows], self.rows["temperature"][rows], self.rows["top_p"][rows], uniform)
            logprob[rows] = NEVER
            logprob[rows, :width] = logprobs[rows].gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
            token[rows, :width], origin[rows, :width] = drawn, self.slots
        return logprob, token, origin

    def _allowed(self, logprobs: torch.Tensor) -> torch.Tensor:
        """Rules out tokens (B, K, V) that may not come next, in place; the others keep the model's log-probability."""
        end = logprobs[..., self.vocabulary.eos_id].clone()
        logprobs.index_fill_(-1, self.never, NEVER)
        if self.said is not None:
            self._rule_out_repeats(logprobs)
        if self.length >= self.first_full:
            logprobs.masked_fill_((self.rows["max_length"] <= self.length).unsqueeze(-1), NEVER)
            logprobs[..., self.vocabulary.eos_id] = end
        if self.length < self.last_short:
            short = self.rows["min_length"] > self.length  # (B, 1)
            logprobs[..., self.vocabulary.eos_id] = end.masked_fill(short, NEVER)
            # A hypothesis that no word can follow may end, however short: there always is a caption.
            stuck = logprobs.amax(-1) == NEVER  # (B, K)
            logprobs[..., self.vocabulary.eos_id] = end.masked_fill(short & ~stuck, NEVER)
        return logprobs

    def _rule_out_repeats(self, logprobs: torch.Tensor) -> None:
        """Rules out tokens (B, K, V), in place, that would repeat a run of words, in the images that allow none."""
        options = [self.options[image] for image in self.places]
        for size in {option.no_repeat_ngram for option in options} - {0}:
            rows = [row for row, option in enumerate(options) if option.no_repeat_ngram == size]
            logprobs[rows] = logprobs[rows].masked_fill(self._repeats(rows, size, logprobs.shape[-1]), NEVER)

    def _repeats(self, rows: list[int], size: int, vocabulary_size: int) -> torch.Tensor:
        """Tokens (R, K, V) that would say a run of `size` words a second time, in the images `rows`."""
        said = self.said[rows]  # (R, K, t)
        banned = torch.zeros(*said.shape[:2], vocabulary_size + 1, dtype=torch.bool, device=said.device)
        if self.length >= size:
            runs = said.unfold(2, size, 1)  # (R, K, t - size + 1, size)
            recent = said[:, :, self.length - size + 1 :].unsqueeze(2)  # (R, K, 1, size - 1)
            again = (runs[..., :-1] == recent).all(-1)
            # What is not banned is sent to a spare column, so that it can't undo a ban.
            banned.scatter_(2, torch.where(again, runs[..., -1], vocabulary_size), True)
        return banned[..., :vocabulary_size]

    def certain(self, image: int) -> list[int]:
        """The words that the image's best caption begins with, whatever comes yet."""
        row = self.places.index(image)
        alive = self.rows["total"][row].isfinite().nonzero().squeeze(1).tolist()
        ways = self.words(image, [self.trail.live(image, beam) for beam in alive])
        if ended := self._ends([row])[0]:
            ways.append(self.words(image, ended[:1])[0][:-1])
        shared = []
        for words in zip(*ways, strict=False):
            if len(set(words)) > 1:
                break
            shared.append(words[0])
        return shared

    def words(self, image: int, ends: Sequence[End]) -> list[list[int]]:
        """The tokens up to some ends of an image."""
        return [tokens for tokens, _, _ in self.trail.read([image] * len(ends), ends)]

    def pop_done(self) -> list[tuple[int, list[End]]]:
        """Drops the images that are done; for each its place in the call and where its captions end, the best first."""
        enough, over = self.rows["ended"] >= self.rows["hypotheses"], self.rows["max_length"] < self.length
        done = (enough | over).squeeze(1).tolist()
        if not any(done):
            return []
        rows = [row for row, is_done in enumerate(done) if is_done]
        popped = [(self.places[row], ends) for row, ends in zip(rows, self._ends(rows), strict=True)]
        self._keep([row for row, is_done in enumerate(done) if not is_done])
        return popped

    def _ends(self, rows: list[int]) -> list[list[End]]:
        """Where the finished captions of the images `rows` end, for each the best first."""
        ranks, ends = self.rows["rank"][rows].tolist(), self.rows["end"][rows].tolist()
        return [
            [divmod(end, self.candidates) for rank, end in zip(*pair, strict=True) if rank != NEVER]
            for pair in zip(ranks, ends, strict=True)
        ]

    def _keep(self, rows: list[int]) -> None:
        """Drops the images that are not in `rows`."""
        self.rows_by_place = np.full(len(self.options), -1)
        self.places = [self.places[row] for row in rows]
        self.rows_by_place[self.places] = np.arange(len(rows))
        self.drawn = self._drawn()
        if not rows:
            return
        index = torch.tensor(rows, device=self.last.device)
        self.last = self.last[index]
        self.said = None if self.said is None else self.said[index]
        for tensors in (self.memory, self.state, self.rows):
            for name in tensors:
                tensors[name] = tensors[name][index]

    def hypotheses(self, ends: Sequence[Sequence[End]]) -> list[list[Hypothesis]]:
        """The captions of all images of the call, by where they end."""
        wanted = [
            (image, end)
            for image, (option, some) in enumerate(zip(self.options, ends, strict=True))
            for end in some[: option.num_captions]
        ]
        found = [[] for _ in self.options]
        images = [image for image, _ in wanted]
        for image, (words, logprobs, looks) in zip(
            images, self.trail.read(images, [end for _, end in wanted]), strict=True
        ):
            attention = looks[:-1].clone() if self.options[image].attention and looks is not None else None
            found[image].append(Hypothesis(words[:-1], logprobs, attention))
        return found

    def _drawn(self) -> torch.Tensor:
        rows = [row for row, image in enumerate(self.places) if self.options[image].do_sample]
        return torch.tensor(rows, dtype=torch.long, device=self.last.device)


def _take(tensor: torch.Tensor, beams: torch.Tensor) -> torch.Tensor:
    """Tensor (B, K, …), beams (B, N) → (B, N, …): for each image the named beams."""
    index = beams.view(*beams.shape, *[1] * (tensor.ndim - 2)).expand(-1, -1, *tensor.shape[2:])
    return tensor.gather(1, index)
