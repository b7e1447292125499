"""Greedy search, beam search and sampling for a whole batch of images at once, each with its own options.

Search knows nothing of architectures: it calls `Decoder.start` and `Decoder.step`, and reorders what they return.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from handler.decoders.base import Decoder, Tensors, repeat_state
from handler.sampling import draw_words, draws
from handler.vocabulary import Vocabulary

NEVER = float("-inf")
COLDEST = 0.01  # temperature
Listener = Callable[[list[int]], None]  # is told the ids of words that are certain, in their order


@dataclass(frozen=True)
class SearchOptions:
    """How one image is decoded.

    Attributes:
        beam_size: hypotheses kept at each step, 1 or more; 1 is greedy search. Sampling has no use for it.
        length_penalty: exponent a of the ranking, log-probability / tokens^a; 0 ranks by the sum, 1 by the mean.
        min_length: words a caption has at least.
        max_length: words a caption has at most.
        num_captions: captions to return; of a beam at most `beam_size`.
        no_repeat_ngram: no run of so many words stands twice in a caption; 0 allows all.
        temperature: above 0, and then at least 0.01, words are drawn from softmax(logits / temperature), each caption
            by itself; 0 searches.
        top_p: words are drawn from the smallest set of likeliest ones that holds this share of the probability
            (nucleus sampling, Holtzman et al. 2020), above 0 to 1.
        seed: of the draws, 0 or more: the same seed gives the same captions, whatever the batch; None: ever new ones.
        attention: keep each token's attention over the grid.

    Raises:
        ValueError: a value out of its range, or two that contradict each other; one clear sentence.
    """

    beam_size: int = 5
    length_penalty: float = 0.7
    min_length: int = 1
    max_length: int = 20
    num_captions: int = 1
    no_repeat_ngram: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    attention: bool = False

    def __post_init__(self):
        least = {"beam_size": 1, "min_length": 1, "num_captions": 1, "no_repeat_ngram": 0, "seed": 0}
        for name, low in least.items():
            if getattr(self, name) is not None and getattr(self, name) < low:
                raise ValueError(f"{name} is at least {low}, not {getattr(self, name)}.")
        for name in ("length_penalty", "temperature"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is at least 0, not {getattr(self, name)}.")
        if 0 < self.temperature < COLDEST:  # in single precision nothing would be left to draw from
            raise ValueError(f"temperature is 0 or at least {COLDEST}, not {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is above 0 and at most 1, not {self.top_p}.")
        if self.top_p < 1 and not self.samples:
            raise ValueError("top_p is for sampling: give a temperature above 0 with it.")
        if self.min_length > self.max_length:
            raise ValueError(f"min_length is {self.min_length}, more than max_length, {self.max_length}.")
        if self.num_captions > self.hypotheses:
            raise ValueError(
                f"num_captions is {self.num_captions}, more than beam_size, {self.beam_size}: "
                "a beam finds no more captions."
            )

    @property
    def samples(self) -> bool:
        """Whether words are drawn, not searched for."""
        return self.temperature > 0

    @property
    def hypotheses(self) -> int:
        """How many are kept at each step."""
        return self.num_captions if self.samples else self.beam_size


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
def search(
    decoder: Decoder,
    grid: torch.Tensor,
    options: Sequence[SearchOptions],
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
    found: list[list[Hypothesis]] = [[] for _ in options]
    heard = dict.fromkeys(listeners or {}, 0)  # how many words by each listener

    def tell(image: int, words: list[int]) -> None:
        if len(words) > heard[image]:
            listeners[image](words[heard[image] :])
            heard[image] = len(words)

    while len(beams):
        done = beams.step()
        for image in heard.keys() & set(beams.places):
            tell(image, beams.certain(image))
        if done.any():
            for image, hypotheses in beams.finished(done):
                found[image] = hypotheses
                if image in heard:
                    tell(image, hypotheses[0].token_ids)
            beams.keep(~done)
    return found


class _Beams:
    """The hypotheses of the images that are not done: B images, K the most hypotheses, T the longest caption + 1."""

    def __init__(self, decoder: Decoder, grid: torch.Tensor, options: Sequence[SearchOptions], vocabulary: Vocabulary):
        self.decoder, self.vocabulary, self.options = decoder, vocabulary, options
        device, images = grid.device, len(grid)
        self.places = list(range(images))  # of the images that are not done, in the call
        self.width = max(option.hypotheses for option in options)
        self.candidates = 2 * self.width  # at most K of them end, so K are left to go on with
        steps = max(option.max_length for option in options) + 1
        self.length = 0  # words so far, the same for all live hypotheses
        self.never = torch.tensor([vocabulary.pad, vocabulary.start, vocabulary.unknown], device=device)

        memory, state = decoder.start(grid)
        self.memory: Tensors = memory
        self.state: Tensors = repeat_state(state, self.width)
        self.last = torch.full((images, self.width), vocabulary.start, device=device)

        def column(name: str) -> torch.Tensor:  # (B,)
            return torch.tensor([getattr(option, name) for option in options], device=device)

        total = torch.full((images, self.width), NEVER, device=device)
        for image, option in enumerate(options):
            total[image, : option.hypotheses if option.samples else 1] = 0.0  # a beam's all start alike: one is enough
        self.rows: Tensors = {
            "image": torch.arange(images, device=device),
            "hypotheses": column("hypotheses"),
            "length_penalty": column("length_penalty").float(),
            "min_length": column("min_length"),
            "max_length": column("max_length"),
            "no_repeat_ngram": column("no_repeat_ngram"),
            "ended": torch.zeros(images, dtype=torch.long, device=device),  # captions finished so far
            "total": total,  # log-probability of each live hypothesis
            "rank": torch.full((images, self.width), NEVER, device=device),  # of each finished one, best first
        }
        self.drawn = self._drawn(device)  # rows of the images whose captions are drawn, (R,)
        if len(self.drawn):
            self.rows |= {
                "temperature": column("temperature").float(),
                "top_p": column("top_p").float(),
                "draws": draws(options, self.width, steps).to(device),
            }
        self.attends = any(option.attention for option in options)
        self.live = _history(images, self.width, steps, device)
        self.done = _history(images, self.width, steps, device)

    def __len__(self) -> int:
        return len(self.last)

    def step(self) -> torch.Tensor:
        """Lengthens every live hypothesis by a token; returns which images are done now, (B,)."""
        logits, state, attention = self.decoder.step(self.last, self.state, self.memory)
        logprobs = self._allowed(logits.float().log_softmax(-1))  # (B, K, V)
        vocabulary_size = logprobs.shape[-1]
        totals = self.rows["total"].unsqueeze(-1) + logprobs  # (B, K, V)
        scores, flat = totals.flatten(1).topk(self.candidates)  # best first
        if len(self.drawn):
            self._sample(logprobs, totals, scores, flat)
        origin, token = flat // vocabulary_size, flat % vocabulary_size  # (B, 2K)

        if self.attends and attention is not None and not self.length:
            for history in (self.live, self.done):
                history["attention"] = attention.new_zeros(*history["tokens"].shape, attention.shape[-1]).float()
        grown = {name: _take(tensor, origin) for name, tensor in self.live.items()}  # (B, 2K, T, …)
        grown["tokens"][:, :, self.length] = token
        grown["logprobs"][:, :, self.length] = logprobs.flatten(1).gather(1, flat)
        if "attention" in grown:
            grown["attention"][:, :, self.length] = _take(attention.float(), origin)

        place = torch.arange(self.candidates, device=flat.device)
        ends = token == self.vocabulary.end
        finishing = ends & (place < self.rows["hypotheses"].unsqueeze(1)) & scores.isfinite()
        self._finish(scores.masked_fill(~finishing, NEVER), grown)
        self.rows["ended"] += finishing.sum(1)

        going_on = scores.masked_fill(ends, NEVER)
        total, chosen = going_on.topk(self.width)
        if len(self.drawn):  # a drawn caption stays in its place, where its draws are
            chosen[self.drawn] = place[: self.width]
            total[self.drawn] = going_on[self.drawn, : self.width]
        beyond = place[: self.width] >= self.rows["hypotheses"].unsqueeze(1)
        self.rows["total"] = total.masked_fill(beyond, NEVER)
        self.last = token.gather(1, chosen)
        self.live = {name: _take(tensor, chosen) for name, tensor in grown.items()}
        parents = origin.gather(1, chosen)
        self.state = {name: _take(tensor, parents) for name, tensor in state.items()}
        self.length += 1
        full = self.length > self.rows["max_length"]
        return full | (self.rows["ended"] >= self.rows["hypotheses"])

    def _sample(self, logprobs: torch.Tensor, totals: torch.Tensor, scores: torch.Tensor, flat: torch.Tensor) -> None:
        """Puts a drawn word for each hypothesis in place of the beam's candidates, in the images that are sampled.

        Args:
            logprobs: (B, K, V), of the tokens that may come next; -inf for the others.
            totals: (B, K, V), with those of the words before.
            scores: (B, 2K), candidates' totals; changed.
            flat: (B, 2K), candidates' places in K · V; changed.
        """
        rows, size, width = self.drawn, logprobs.shape[-1], self.width
        uniform = self.rows["draws"][rows, :, self.length]
        word = draw_words(logprobs[rows], self.rows["temperature"][rows], self.rows["top_p"][rows], uniform)  # (R, K)
        scores[rows] = NEVER
        scores[rows, :width] = totals[rows].gather(-1, word.unsqueeze(-1)).squeeze(-1)
        flat[rows, :width] = torch.arange(width, device=flat.device) * size + word

    def certain(self, image: int) -> list[int]:
        """The words that the image's best caption begins with, whatever comes yet."""
        row = self.places.index(image)
        alive = self.rows["total"][row].isfinite()
        ways = self.live["tokens"][row, alive, : self.length].tolist()
        if self.rows["rank"][row, 0] != NEVER:
            best = self.done["tokens"][row, 0].tolist()
            ways.append(best[: best.index(self.vocabulary.end)])
        shared = []
        for words in zip(*ways, strict=False):
            if len(set(words)) > 1:
                break
            shared.append(words[0])
        return shared

    def finished(self, done: torch.Tensor) -> list[tuple[int, list[Hypothesis]]]:
        """The captions of the images in `done` (B,), with each image's place in the call."""
        rows = done.nonzero().squeeze(1)
        images, ranks = self.rows["image"][rows].tolist(), self.rows["rank"][rows].tolist()
        history = {name: tensor[rows].cpu() for name, tensor in self.done.items()}
        results = []
        for row, image in enumerate(images):
            option = self.options[image]
            hypotheses = []
            for beam in range(option.num_captions):
                if ranks[row][beam] == NEVER:
                    break
                tokens = history["tokens"][row, beam].tolist()
                words = tokens.index(self.vocabulary.end)
                hypotheses.append(
                    Hypothesis(
                        token_ids=tokens[:words],
                        logprobs=history["logprobs"][row, beam, : words + 1].tolist(),
                        attention=history["attention"][row, beam, :words].clone()  # not a view of the whole batch's
                        if option.attention and "attention" in history
                        else None,
                    )
                )
            results.append((image, hypotheses))
        return results

    def keep(self, rows: torch.Tensor) -> None:
        """Drops the images that are not in `rows` (B,)."""
        self.last = self.last[rows]
        self.places = self.rows["image"][rows].tolist()
        self.drawn = self._drawn(rows.device)
        for tensors in (self.memory, self.state, self.rows, self.live, self.done):
            for name in tensors:
                tensors[name] = tensors[name][rows]

    def _drawn(self, device: torch.device) -> torch.Tensor:
        rows = [row for row, image in enumerate(self.places) if self.options[image].samples]
        return torch.tensor(rows, dtype=torch.long, device=device)

    def _allowed(self, logprobs: torch.Tensor) -> torch.Tensor:
        """Rules out tokens (B, K, V) that may not come next; what is left keeps the model's own log-probability."""
        end = logprobs[..., self.vocabulary.end].clone()
        words = logprobs.index_fill(-1, self.never, NEVER)
        words[..., self.vocabulary.end] = NEVER
        for size in {self.options[image].no_repeat_ngram for image in self.places} - {0}:
            applies = (self.rows["no_repeat_ngram"] == size).view(-1, 1, 1)
            words.masked_fill_(self._repeats(size, words.shape[-1]) & applies, NEVER)
        words[self.rows["max_length"] <= self.length] = NEVER
        # A hypothesis that no word can follow may end, however short: there always is a caption.
        stuck = (words == NEVER).all(-1)
        early = (self.rows["min_length"] > self.length).unsqueeze(1) & ~stuck
        words[..., self.vocabulary.end] = end.masked_fill(early, NEVER)
        return words

    def _repeats(self, size: int, vocabulary_size: int) -> torch.Tensor:
        """Tokens (B, K, V) that would say a run of `size` words a second time."""
        said = self.live["tokens"][:, :, : self.length]  # (B, K, t)
        banned = torch.zeros(*said.shape[:2], vocabulary_size + 1, dtype=torch.bool, device=said.device)
        if self.length >= size:
            runs = said.unfold(2, size, 1)  # (B, K, t - size + 1, size)
            recent = said[:, :, self.length - size + 1 :].unsqueeze(2)  # (B, K, 1, size - 1)
            again = (runs[..., :-1] == recent).all(-1)
            # What is not banned is sent to a spare column, so that it can't undo a ban.
            banned.scatter_(2, torch.where(again, runs[..., -1], vocabulary_size), True)
        return banned[..., :vocabulary_size]

    def _finish(self, scores: torch.Tensor, grown: Tensors) -> None:
        """Merges captions that end now, scores (B, 2K) with -inf for all others, into the best K so far."""
        ranks = scores / (self.length + 1) ** self.rows["length_penalty"].unsqueeze(1)
        self.rows["rank"], best = torch.cat([self.rows["rank"], ranks], 1).topk(self.width)
        self.done = {name: _take(torch.cat([self.done[name], grown[name]], 1), best) for name in self.done}


def _history(images: int, width: int, steps: int, device: torch.device) -> Tensors:
    """Room for hypotheses' tokens and their log-probabilities."""
    return {
        "tokens": torch.zeros(images, width, steps, dtype=torch.long, device=device),
        "logprobs": torch.zeros(images, width, steps, device=device),
    }


def _take(tensor: torch.Tensor, beams: torch.Tensor) -> torch.Tensor:
    """Tensor (B, K, …), beams (B, N) → (B, N, …): for each image the named beams."""
    index = beams.view(*beams.shape, *[1] * (tensor.ndim - 2)).expand(-1, -1, *tensor.shape[2:])
    return tensor.gather(1, index)
