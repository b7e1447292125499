"""Training objectives: cross-entropy and self-critical. Each maps a batch to a loss and its metrics.

With several processes each objective divides its sums by the counts of the whole step, so the number of processes does
not change a step.
"""

import math
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any, NamedTuple, Protocol

import torch
from lightning_fabric import Fabric

from handler.modeling import Decoder, TeacherForcingOutput
from handler.modeling.decoder import expand_state
from handler.modeling.vocabulary import Vocabulary
from training.config import TrainingConfig
from training.data.dataset import CaptionBatch, collate_captions
from training.losses import (
    Array,
    Normalizers,
    advantages,
    caption_sums,
    cross_entropy,
    doubly_stochastic,
    hard_attention,
    log_policy,
    self_critical_loss,
)
from training.model import CaptionModel
from training.rewards import CombinedReward, NgramOveruse

BASELINE_MOMENTUM = 0.9  # per step, of the reward baseline of hard attention (Xu et al. 2015, eq. 11)

Samples = list[list[list[int]]]  # for each image its captions, each a list of token ids


class LossOutput(NamedTuple):
    """Result of an objective for a batch."""

    loss: torch.Tensor  # to minimize
    metrics: dict[str, float]  # to log, over all processes


class Objective(Protocol):
    """What a phase of the training minimizes."""

    def __call__(self, batch: CaptionBatch, progress: float, /) -> LossOutput:
        """Compute the loss of a batch on the device, at a completed share of the phase from 0 to 1."""

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return what changes from step to step, equal in all processes, for the checkpoint."""

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore what `state_dict` returned."""


class CrossEntropyObjective:
    """Teacher forcing with label smoothing, scheduled sampling and the attention terms.

    Args:
        config: Training settings.
        model: The model as wrapped by Fabric, for passes with a gradient; all processes call it in step.
        module: The unwrapped model, for passes without a gradient.
        vocabulary: Vocabulary of the decoder.
        fabric: Sums over the processes.
    """

    def __init__(
        self,
        config: TrainingConfig,
        model: Callable[..., Any],
        module: CaptionModel,
        vocabulary: Vocabulary,
        fabric: Fabric,
    ) -> None:
        self.config, self.model, self.module, self.vocabulary, self.fabric = config, model, module, vocabulary, fabric
        self.baseline = math.nan  # hard attention: moving average of the log-probability of a caption

    def __call__(self, batch: CaptionBatch, progress: float) -> LossOutput:
        """Compute the loss.

        Args:
            batch: A batch on the device.
            progress: Completed share of this phase, 0 to 1.
        """
        config = self.config
        mask = batch.targets != self.vocabulary.pad_id  # (B, K, T)
        targets = batch.targets[mask]  # (N,)
        counts = Normalizers(*self._sum(float(len(targets)), float(mask.any(2).sum())))
        inputs = batch.inputs
        if share := config.scheduled_sampling * progress:
            inputs = self._mix_in_predictions(batch, mask, share)
        output: TeacherForcingOutput = self.model(batch.images, inputs)
        loss, logprobs = cross_entropy(output.logits, targets, counts, config.label_smoothing)
        if config.doubly_stochastic_weight and output.attention is not None:
            loss = loss + config.doubly_stochastic_weight * doubly_stochastic(output.attention, mask, counts)
        total, reward = self._sum(-float(logprobs.sum()), float(caption_sums(logprobs, mask).sum()))
        if output.sampled_cells is not None:
            mean_reward = reward / counts.captions
            if math.isnan(self.baseline):  # at first: 0 would punish every sampled cell
                self.baseline = mean_reward
            weights = (config.reinforce_weight, config.entropy_weight)
            loss = loss + hard_attention(output, mask, logprobs, self.baseline, weights, counts)
            self.baseline = BASELINE_MOMENTUM * self.baseline + (1 - BASELINE_MOMENTUM) * mean_reward
        return LossOutput(loss * self.fabric.world_size, {"loss": total / counts.tokens})

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the moving average of the reward of hard attention."""
        return {"baseline": torch.tensor(self.baseline, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.baseline = float(state["baseline"])

    @torch.no_grad()
    def _mix_in_predictions(self, batch: CaptionBatch, mask: torch.Tensor, share: float) -> torch.Tensor:
        """Replace a share of the input tokens by tokens that the model predicts from the true prefix.

        Bengio et al. 2015 sample token by token. This samples all tokens from one teacher-forced pass, the parallel
        form of Mihaylova and Martins 2019, which works for every decoder.
        """
        with self.fabric.autocast():
            logits = self.module(batch.images, batch.inputs).logits
        sampled = torch.multinomial(log_policy(logits, self.vocabulary, 1.0).exp(), 1).squeeze(1)
        predictions = torch.zeros_like(batch.targets)
        predictions[mask] = sampled
        predictions = predictions.roll(1, 2)  # the prediction at t is the input at t + 1
        replace = (torch.rand(predictions.shape, device=predictions.device) < share) & mask
        replace[..., 0] = False  # `<start>` stays
        replace &= predictions != self.vocabulary.eos_id
        return torch.where(replace, predictions, batch.inputs)

    def _sum(self, *values: float) -> list[float]:
        return all_reduce_sum(self.fabric, *values)


class SelfCriticalObjective:
    """Reward of sampled captions, optionally mixed with cross-entropy.

    Args:
        cross_entropy: Objective of the cross-entropy share.
        reward: Reward with the references of the training split.
    """

    def __init__(self, cross_entropy: CrossEntropyObjective, reward: CombinedReward) -> None:
        self.cross_entropy, self.reward = cross_entropy, reward
        self.config, self.vocabulary = cross_entropy.config.self_critical, cross_entropy.vocabulary
        self.fabric = cross_entropy.fabric

    def __call__(self, batch: CaptionBatch, _progress: float) -> LossOutput:
        """Compute the loss of a batch on the device."""
        module, config, vocabulary = self.cross_entropy.module, self.config, self.vocabulary
        module.eval()  # dropout would make the sampling policy differ from the served one
        samples, greedy = self._sample(module, batch)
        parts = self._score(batch.indices, samples)
        rewards = self.reward.total(parts)  # (B, S)
        baseline = self.reward.total(self._score(batch.indices, greedy))[:, 0] if config.baseline == "greedy" else None
        if self.reward.overuse:
            self._count(self.reward.overuse, batch.indices, greedy)
        advantage = torch.from_numpy(advantages(rewards, baseline)).float().to(batch.images.device)

        inputs, targets = (
            part.to(batch.images.device) for part in collate_captions(samples, config.samples, vocabulary)
        )
        mask = targets != vocabulary.pad_id  # (B, S, T)
        tokens, captions, total, *part_sums = all_reduce_sum(
            self.fabric,
            float(mask.sum()),
            float(rewards.size),
            float(rewards.sum()),
            *(float(part.sum()) for part in parts.values()),
        )
        output: TeacherForcingOutput = self.cross_entropy.model(batch.images, inputs)
        loss = self_critical_loss(
            output.logits,
            targets[mask],
            advantage,
            mask,
            vocabulary,
            temperature=config.temperature,
            tokens=tokens,
        )
        metrics = {"reward": total / captions, "words": tokens / captions - 1}
        if len(parts) > 1:
            metrics |= {name: value / captions for name, value in zip(parts, part_sums, strict=True)}
        loss = loss * self.fabric.world_size
        if config.cross_entropy:
            module.train()
            supervised = self.cross_entropy(batch, 1.0)
            loss = (1 - config.cross_entropy) * loss + config.cross_entropy * supervised.loss
            metrics |= supervised.metrics
        return LossOutput(loss, metrics)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return the state of the cross-entropy share, and the counted trigrams if the reward counts them."""
        overuse = self.reward.overuse.state_dict() if self.reward.overuse else {}
        return self.cross_entropy.state_dict() | {f"overuse.{name}": tensor for name, tensor in overuse.items()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.cross_entropy.load_state_dict(state)
        if self.reward.overuse:
            prefix = "overuse."
            overuse = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
            self.reward.overuse.load_state_dict(overuse)

    def _sample(self, module: CaptionModel, batch: CaptionBatch) -> tuple[Samples, Samples]:
        """Sample captions, and decode greedy ones if they are the baseline or counted; else those are empty."""
        config, max_length = self.config, self.cross_entropy.config.max_length
        with torch.no_grad(), self.fabric.autocast():
            grid = module.encode(batch.images)
            samples = sample_captions(
                module.decoder,
                grid,
                self.vocabulary,
                samples=config.samples,
                temperature=config.temperature,
                max_length=max_length,
            )
            if config.baseline != "greedy" and not self.reward.overuse:
                return samples, []
            return samples, sample_captions(
                module.decoder, grid, self.vocabulary, samples=1, temperature=0, max_length=max_length
            )

    def _score(self, indices: list[int], captions: Samples) -> dict[str, Array]:
        """Compute each reward of each caption, (B, S)."""
        scores = self.reward.score(*_flatten(indices, captions))
        return {name: score.reshape(len(indices), -1) for name, score in scores.items()}

    def _count(self, overuse: NgramOveruse, indices: list[int], greedy: Samples) -> None:
        """Count the greedy captions of all processes, in the same order in each."""
        images, captions = _flatten(indices, greedy)
        gathered: list[Any] = [(images, captions)]
        if self.fabric.world_size > 1:
            gathered = [None] * self.fabric.world_size
            torch.distributed.all_gather_object(gathered, (images, captions))
        for process_images, process_captions in gathered:
            overuse.update(process_images, process_captions)


def _flatten(indices: list[int], captions: Samples) -> tuple[list[int], list[list[int]]]:
    """Return the image of each caption, and the captions as one list."""
    images = [index for index, samples in zip(indices, captions, strict=True) for _ in samples]
    return images, list(chain.from_iterable(captions))


@torch.no_grad()
def sample_captions(
    decoder: Decoder,
    grid: torch.Tensor,
    vocabulary: Vocabulary,
    *,
    samples: int,
    temperature: float,
    max_length: int,
) -> Samples:
    """Sample captions from the policy.

    Args:
        decoder: Decoder in evaluation mode; dropout would change the policy.
        grid: (B, cells, C).
        vocabulary: Vocabulary of the decoder.
        samples: Captions per image.
        temperature: Divisor of the logits, ≥ 0; 0 decodes greedily.
        max_length: Maximum length in tokens; a truncated caption has no `<end>`.

    Returns:
        The captions of each image as ids, with `<end>` if it was sampled, the longest caption first.
    """
    memory, state = decoder.init_state(grid)
    state = expand_state(state, samples)
    last = torch.full((len(grid), samples), vocabulary.bos_id, device=grid.device)
    finished = torch.zeros_like(last, dtype=torch.bool)
    columns = []
    for _ in range(max_length + 1):
        step = decoder.step(last, state, memory)
        state, memory = step.state, step.memory
        logprobs = log_policy(step.logits, vocabulary, temperature or 1.0)
        if temperature:
            tokens = torch.multinomial(logprobs.exp().flatten(0, 1), 1).view_as(last)
        else:
            tokens = logprobs.argmax(-1)
        last = tokens.masked_fill(finished, vocabulary.pad_id)
        columns.append(last)
        finished |= last == vocabulary.eos_id
        if finished.all():
            break
    rows = torch.stack(columns, 2).tolist()  # (B, S, T)
    captions = [[[i for i in ids if i != vocabulary.pad_id] for ids in image_rows] for image_rows in rows]
    return [sorted(_truncate(group, vocabulary, max_length), key=len, reverse=True) for group in captions]


def _truncate(captions: list[list[int]], vocabulary: Vocabulary, max_length: int) -> list[list[int]]:
    """Cut to `max_length` tokens, not counting `<end>`."""
    return [ids if ids[-1] == vocabulary.eos_id else ids[:max_length] for ids in captions]


def all_reduce_sum(fabric: Fabric, *values: float) -> list[float]:
    """Sum each value over all processes."""
    if fabric.world_size == 1:
        return list(values)
    total = fabric.all_reduce(torch.tensor(values, dtype=torch.float64), reduce_op="sum")
    return [float(value) for value in total]
