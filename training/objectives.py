"""The two objectives, cross-entropy and self-critical: a batch → what is minimised and what is shown of it.

With several processes each divides its sums by the counts of the whole step, so that a step is the same however many
processes share it.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric

from handler.modeling import TeacherForcingOutput
from handler.modeling.vocabulary import Vocabulary
from training.config import TrainingConfig
from training.data.dataset import Batch, collate_captions
from training.losses import Counts, caption_sums, cross_entropy, doubly_stochastic, hard_attention
from training.model import CaptionModel
from training.rewards import CombinedReward
from training.self_critical import advantages, policy, sample_captions, self_critical_loss

BASELINE_KEPT = 0.9  # of hard attention's moving baseline a step (Xu et al. 2015, eq. 11)


class Outcome(NamedTuple):
    """What an objective gives for a batch."""

    loss: torch.Tensor  # to be minimised
    shown: dict[str, float]  # for the log, over all processes; `loss` first


class CrossEntropy:
    """Teacher forcing, with label smoothing, scheduled sampling, and the attention's terms.

    Args:
        config: the training's.
        model: as forward passes call it, all processes in step.
        raw: the same without the wrapping, for passes that need no gradient.
        vocabulary: the decoder's.
        fabric: sums over the processes.
    """

    def __init__(
        self, config: TrainingConfig, model: Callable, raw: CaptionModel, vocabulary: Vocabulary, fabric: Fabric
    ):
        self.config, self.model, self.raw, self.vocabulary, self.fabric = config, model, raw, vocabulary, fabric
        self.baseline = 0.0  # hard attention's: moving average of the log-probability of a caption

    def __call__(self, batch: Batch, done: float) -> Outcome:
        """A batch on the device, and the share of this training that is done, 0 to 1."""
        config = self.config
        present = batch.targets != self.vocabulary.pad_id  # (B, K, T)
        targets = batch.targets[present]  # (N,)
        counts = Counts(*self._sum(float(len(targets)), float(present.any(2).sum())))
        inputs = batch.inputs
        if share := config.scheduled_sampling * done:
            inputs = self._scheduled(batch, present, share)
        forced: TeacherForcingOutput = self.model(batch.pictures, inputs)
        loss, logprobs = cross_entropy(forced.logits, targets, counts, config.label_smoothing)
        if config.doubly_stochastic and forced.attention is not None:
            loss = loss + config.doubly_stochastic * doubly_stochastic(forced.attention, present, counts)
        if forced.sampled_cells is not None:
            weights = (config.hard_reward, config.hard_entropy)
            loss = loss + hard_attention(forced, present, logprobs, self.baseline, weights, counts)
        shown, reward = self._sum(-float(logprobs.sum()), float(caption_sums(logprobs, present).sum()))
        if forced.sampled_cells is not None:
            self.baseline = BASELINE_KEPT * self.baseline + (1 - BASELINE_KEPT) * reward / counts.captions
        return Outcome(loss * self.fabric.world_size, {"loss": shown / counts.tokens})

    @torch.no_grad()
    def _scheduled(self, batch: Batch, present: torch.Tensor, share: float) -> torch.Tensor:
        """Inputs in which a share of the words is what the model says there itself, given the true words before.

        Bengio et al. 2015 sample one word after another; taking all from one pass over the true words is the parallel
        form of Mihaylova and Martins 2019, the same for every decoder.
        """
        with self.fabric.autocast():
            logits = self.raw(batch.pictures, batch.inputs).logits
        said = torch.multinomial(policy(logits, self.vocabulary, 1.0).exp(), 1).squeeze(1)
        words = torch.zeros_like(batch.targets)
        words[present] = said
        before = words.roll(1, 2)  # what was said at t is the input at t + 1
        replace = (torch.rand(before.shape, device=before.device) < share) & present
        replace[..., 0] = False  # `<start>` stays
        replace &= before != self.vocabulary.eos_id
        return torch.where(replace, before, batch.inputs)

    def _sum(self, *values: float) -> list[float]:
        """The values' sums over all processes."""
        return sum_over_processes(self.fabric, *values)


class SelfCritical:
    """Sampled captions, rewarded, mixed with cross-entropy.

    Args:
        truth: cross-entropy, for its share of the loss.
        reward: the training split's.
    """

    def __init__(self, truth: CrossEntropy, reward: CombinedReward):
        self.truth, self.reward = truth, reward
        self.config, self.vocabulary, self.fabric = truth.config.self_critical, truth.vocabulary, truth.fabric

    def __call__(self, batch: Batch, done: float) -> Outcome:
        """A batch on the device, and the share of this training that is done, 0 to 1."""
        raw, config, vocabulary = self.truth.raw, self.config, self.vocabulary
        raw.eval()  # dropout would make another policy than the one that is served
        with torch.no_grad(), self.fabric.autocast():
            grid = raw.grid(batch.pictures)
            max_words = self.truth.config.max_words
            drawn = sample_captions(
                raw.decoder, grid, vocabulary,
                samples=config.samples, temperature=config.temperature, max_words=max_words,
            )  # fmt: skip
            greedy = None
            if config.baseline == "greedy":
                greedy = sample_captions(raw.decoder, grid, vocabulary, samples=1, temperature=0, max_words=max_words)
        parts = self._parts(batch.images, drawn)
        rewards = self.reward.total(parts)  # (B, S)
        baseline = self.reward.total(self._parts(batch.images, greedy))[:, 0] if greedy else None
        advantage = torch.from_numpy(advantages(rewards, baseline)).float().to(grid.device)

        inputs, targets = (part.to(grid.device) for part in collate_captions(drawn, config.samples, vocabulary))
        present = targets != vocabulary.pad_id
        sums = [
            float(present.sum()),
            float(rewards.size),
            float(rewards.sum()),
            *(float(p.sum()) for p in parts.values()),
        ]
        tokens, captions, total, *of_parts = sum_over_processes(self.fabric, *sums)
        forced: TeacherForcingOutput = self.truth.model(batch.pictures, inputs)
        loss = self_critical_loss(
            forced.logits, targets[present], advantage, present, vocabulary,
            temperature=config.temperature, tokens=tokens,
        )  # fmt: skip
        shown = {"reward": total / captions, "words": tokens / captions - 1}
        if len(parts) > 1:
            shown |= {name: value / captions for name, value in zip(parts, of_parts, strict=True)}
        loss = loss * self.fabric.world_size
        if config.cross_entropy:
            raw.train()
            truth = self.truth(batch, 1.0)
            loss = (1 - config.cross_entropy) * loss + config.cross_entropy * truth.loss
            shown |= truth.shown
        return Outcome(loss, shown)

    def _parts(self, images: list[int], captions: list[list[list[int]]]) -> dict[str, np.ndarray]:
        """What each image's captions are worth by each reward, (B, S)."""
        places = [image for image, some in zip(images, captions, strict=True) for _ in some]
        scores = self.reward.score(places, [ids for some in captions for ids in some])
        return {name: score.reshape(len(images), -1) for name, score in scores.items()}


def sum_over_processes(fabric: Fabric, *values: float) -> list[float]:
    """Each value's sum over all processes."""
    if fabric.world_size == 1:
        return list(values)
    return fabric.all_reduce(torch.tensor(values, dtype=torch.float64), reduce_op="sum").tolist()
