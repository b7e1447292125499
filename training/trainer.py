"""Training loop: phases with an objective each, validation by decoding, best checkpoints, exact resume."""

import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.optim.swa_utils import AveragedModel

from eval.data import CaptionedImage
from eval.meteor import Meteor
from eval.preflight import check_metrics
from eval.summary import round_floats, summarize
from handler.files import atomic_write_text
from handler.generation import generate
from handler.modeling.vocabulary import Vocabulary, detokenize
from handler.parallel import available_cpus
from training.checkpoint import copy_into, load_checkpoint, load_optimizer_state, optimizer_state, save_checkpoint
from training.config import TrainingConfig
from training.data.dataset import CaptionBatch, CaptionDataset
from training.data.image_loading import load_images
from training.export import export_bundle
from training.model import CaptionModel
from training.objectives import Objective, all_reduce_sum
from training.optim import lr_multiplier, set_learning_rate
from training.run_logger import RunLogger
from training.selection import selection_score
from training.tracking import build_tracker

VAL_BATCH_SIZE = 50
CHECKPOINT = "checkpoint.safetensors"


class TrainingInterrupted(Exception):
    """The run was asked to stop, and has written a checkpoint."""


@dataclass(frozen=True)
class Phase:
    """A part of the training with its own objective.

    Attributes:
        name: `cross_entropy` or `self_critical`. The best epoch is saved as `best-<name>.safetensors`.
        objective: Maps a batch and the completed share of the phase to a loss; its state is part of the checkpoint.
        dataset: Training batches.
        epochs: Passes over the data set.
        learning_rate: Peak learning rate.
        warmup_steps: Steps of linear warm-up from 0.
        first_step: Step of the training before the first one of this phase.
    """

    name: str
    objective: Objective
    dataset: CaptionDataset
    epochs: int
    learning_rate: float
    warmup_steps: int
    first_step: int

    @property
    def steps(self) -> int:
        """Number of steps."""
        return self.epochs * len(self.dataset)

    @property
    def best_checkpoint(self) -> str:
        """File name of the best epoch."""
        return f"best-{self.name}.safetensors"


@dataclass(frozen=True)
class ValidationSplit:
    """Images to validate on, with their cached features (images, cells, channels), if there are any."""

    images: Sequence[CaptionedImage]
    features: np.ndarray[Any, Any] | None = None


class Trainer:
    """A run in a directory. `training.builder.build_trainer` creates one from settings.

    The directory holds `checkpoint.safetensors`, the best epoch of each phase, `metrics.jsonl`, `curve.png`,
    `samples/`, `tensorboard/`, and finally `bundle/`. Running the same command again resumes from the last checkpoint.
    All randomness is derived from (seed, step, rank), so a resumed run is identical to an uninterrupted one. Only the
    first process writes.

    Args:
        config: Training settings.
        data: Directory of the data.
        run: Directory of the run, visible to all processes.
        fabric: Devices, processes and precision; launched.
        module: The unwrapped model.
        model: The model as wrapped by Fabric.
        optimizer: Optimizer as wrapped by Fabric.
        ema_model: Moving average of the model, or None.
        phases: Phases in order.
        val_splits: Validation splits by name; the first one selects the best epoch.
        vocabulary: Vocabulary of the decoder.
        data_digest: Digest of the data. A run resumes only with the same data.
    """

    def __init__(
        self,
        config: TrainingConfig,
        data: Path,
        run: Path,
        fabric: Fabric,
        *,
        module: CaptionModel,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        ema_model: AveragedModel | None,
        phases: Sequence[Phase],
        val_splits: Mapping[str, ValidationSplit],
        vocabulary: Vocabulary,
        data_digest: str,
    ) -> None:
        self.config, self.data, self.run, self.fabric = config, data, run, fabric
        self.module, self.model, self.optimizer, self.ema_model = module, model, optimizer, ema_model
        self.phases, self.val_splits = phases, val_splits
        self.vocabulary, self.data_digest = vocabulary, data_digest
        self.total_steps = sum(phase.steps for phase in phases)
        self.progress = {"step": 0.0, "seconds": 0.0}
        self.stop_requested = False
        self._saved_at = time.monotonic()

    def resume(self) -> None:
        """Load the checkpoint if there is one; else record the data and the vocabulary.

        Raises:
            ValueError: If the run was started with other data, or the checkpoint is of another model.
        """
        path, digest = self.run / CHECKPOINT, self.run / "data.sha256"
        if not path.exists():
            if self.fabric.is_global_zero:
                atomic_write_text(digest, self.data_digest)
                self.vocabulary.save(self.run / "vocabulary.txt")
            return
        if digest.read_text() != self.data_digest:
            raise ValueError(f"{self.data} is not the data that {self.run} was started with: use another --output-dir.")
        parts, self.progress = load_checkpoint(path)
        copy_into(self.module.trainable_parameters(), parts["model"])
        load_optimizer_state(self.optimizer, parts.get("optimizer", {}))
        if self.ema_model:
            copy_into(self._eval_model.trainable_parameters(), parts["average"])
            self.ema_model.n_averaged.fill_(int(self.progress["averaged"]))
        for phase in self.phases:
            phase.objective.load_state_dict(parts[phase.name])

    def train(self) -> list[Path]:
        """Train to the end, and export the bundles.

        Returns:
            Directories of the bundles, the best first; empty in processes other than the first.

        Raises:
            JavaError: If the tokenizer of the scores fails.
            TrainingInterrupted: On SIGTERM or Ctrl-C, after the current step and a checkpoint.
            OSError: If the run directory cannot be written; its checkpoint stays intact.
        """
        is_main = self.fabric.is_global_zero
        logger = None
        if is_main:
            tracker = build_tracker(self.config.tracker, self.run, asdict(self.config))
            logger = RunLogger(self.run, self.total_steps, int(self.progress["step"]), tracker)
        handlers = {number: signal.signal(number, self._request_stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            if is_main and self.progress["step"] < self.total_steps:
                self._check_metrics()
            for phase in self.phases:
                if self.progress["step"] < phase.first_step + phase.steps:
                    self._train_phase(phase, logger)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            if logger:
                logger.close()
        return self._export_bundles() if is_main else []

    def _check_metrics(self) -> None:
        """Name the metrics that the cards of the bundles will lack, before hours of training."""
        with Meteor() as meteor:
            check_metrics(meteor)

    def _request_stop(self, _signal: int, _frame: FrameType | None) -> None:
        if self.fabric.is_global_zero and not self.stop_requested:
            print("\nStopping after the current step.", file=sys.stderr)
        self.stop_requested = True

    def _train_phase(self, phase: Phase, logger: RunLogger | None) -> None:
        step = int(self.progress["step"])
        if step == phase.first_step and phase is not self.phases[0]:
            self._start_from_best(self.phases[0])
        steps = range(step - phase.first_step, phase.steps)
        start = time.perf_counter()
        for step_in_phase, batch in zip(steps, self._iter_batches(phase.dataset, steps), strict=True):
            metrics = self._step(phase, step_in_phase, batch)
            step = phase.first_step + step_in_phase + 1
            seconds = time.perf_counter() - start  # including the wait for the batch
            self.progress["step"] = step
            self.progress["seconds"] += seconds
            if logger:
                logger.log_step(step, {"phase": phase.name, **metrics, "seconds": round(seconds, 3)})
            epoch_ends = (step_in_phase + 1) % len(phase.dataset) == 0
            if epoch_ends:
                self._validate(phase, (step_in_phase + 1) // len(phase.dataset), logger)
            stop = bool(all_reduce_sum(self.fabric, float(self.stop_requested))[0])
            due = time.monotonic() - self._saved_at >= 60 * self.config.checkpoint_minutes
            if epoch_ends or stop or due:
                self._save_checkpoint(logger)
            if stop:
                raise TrainingInterrupted(f"Stopped after step {step} of {self.total_steps}.")
            start = time.perf_counter()

    def _iter_batches(self, dataset: CaptionDataset, steps: range) -> Iterator[CaptionBatch]:
        """Yield the batches of the steps on the device; worker processes load them in the background."""
        workers = self.config.num_workers(available_cpus(), int(os.environ.get("LOCAL_WORLD_SIZE", 1)))
        loader: torch.utils.data.DataLoader[CaptionBatch] = torch.utils.data.DataLoader(
            dataset,
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            worker_init_fn=_ignore_signals,
            multiprocessing_context="fork" if workers else None,  # shares the memory-mapped features
            pin_memory=self.fabric.device.type == "cuda",
        )
        for batch in loader:
            yield batch.to(self.fabric.device)

    def _step(self, phase: Phase, step_in_phase: int, batch: CaptionBatch) -> dict[str, float]:
        """Run one optimizer step; return its metrics."""
        config = self.config
        # Dropout and sampling depend on the step and the rank only.
        torch.manual_seed(
            ((config.seed * 1_000_003 + phase.first_step + step_in_phase) << 10) + self.fabric.global_rank
        )
        learning_rate = phase.learning_rate * lr_multiplier(
            step_in_phase,
            phase.steps,
            warmup=phase.warmup_steps,
            schedule=config.schedule,
            decay=config.decay,
            decay_steps=config.decay_epochs * len(phase.dataset),
        )
        set_learning_rate(self.optimizer, learning_rate)
        self.model.train()
        loss, metrics = phase.objective(batch, step_in_phase / phase.steps)
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        norm = self.fabric.clip_gradients(
            self.model, self.optimizer, max_norm=config.clip_norm, error_if_nonfinite=False
        )
        if norm is None or not math.isfinite(norm):  # equal in all processes
            raise ValueError(
                f"The gradient of step {phase.first_step + step_in_phase + 1} is not finite. Start a new run with a "
                "lower learning_rate or with precision 32-true."
            )
        self.optimizer.step()
        if self.ema_model:
            self.ema_model.update_parameters(self.module)
        metrics = metrics | {"gradient": float(norm), "learning_rate": learning_rate}
        return {name: float(f"{value:.6g}") for name, value in metrics.items()}

    @property
    def _eval_model(self) -> CaptionModel:
        """The model to validate and export: the moving average if there is one."""
        model: CaptionModel = self.ema_model.module if self.ema_model else self.module  # type: ignore[assignment]
        return model

    def _validate(self, phase: Phase, epoch: int, logger: RunLogger | None) -> None:
        """Decode and score the validation splits; save the model if it is the best of the phase on the first one."""
        start = time.perf_counter()
        captions = {name: self._decode(split) for name, split in self.val_splits.items()}
        if not logger:
            return
        (main_split, main), *others = (
            (name, _score(name, split.images, captions[name])) for name, split in self.val_splits.items()
        )
        selection = round(selection_score(main, self.config.selection_likeness), 5)
        if selection > self.progress.get(f"best_{phase.name}", -1.0):
            self.progress |= {f"best_{phase.name}": selection, f"epoch_{phase.name}": float(epoch)}
            parts = {"model": self._eval_model.trainable_parameters()}
            save_checkpoint(self.run / phase.best_checkpoint, parts, self.progress)
        overall_epoch = phase.first_step // len(self.phases[0].dataset) + epoch
        values = {"phase": phase.name, "epoch": overall_epoch, "selection": selection, **main.pop("scores"), **main}
        if others:
            values["others"] = dict(others)
        values["seconds"] = round(time.perf_counter() - start, 1)
        logger.log_epoch(int(self.progress["step"]), values, self.val_splits[main_split].images, captions[main_split])

    def _decode(self, split: ValidationSplit) -> list[str]:
        """Decode a validation split; each process decodes a shard."""
        model, rank, world_size = self._eval_model.eval(), self.fabric.global_rank, self.fabric.world_size
        config, images = self.config, split.images
        shard_size = -(-len(images) // world_size)
        ids = torch.full((shard_size, config.decoding.max_length), self.vocabulary.pad_id, device=self.fabric.device)
        shard = list(range(rank, len(images), world_size))
        for first in range(0, len(shard), VAL_BATCH_SIZE):
            indices = shard[first : first + VAL_BATCH_SIZE]
            if split.features is not None:
                inputs = torch.from_numpy(split.features[indices])
            else:
                inputs = load_images([images[i] for i in indices], config.serving)
            with torch.inference_mode():
                grid = model.encode(inputs.to(self.fabric.device))
            hypotheses = generate(model.decoder, grid, [config.decoding] * len(indices), self.vocabulary)
            for row, best in enumerate(hypotheses, first):
                tokens = best[0].token_ids
                ids[row, : len(tokens)] = torch.tensor(tokens)
        if world_size > 1:
            gathered: Any = self.fabric.all_gather(ids)  # (world_size, shard_size, T)
            ids = gathered.transpose(0, 1).flatten(0, 1)  # in the order of the split
        return [
            detokenize(self.vocabulary.decode(i for i in row if i != self.vocabulary.pad_id))
            for row in ids[: len(images)].tolist()
        ]

    def _start_from_best(self, phase: Phase) -> None:
        """Load the best model of a phase, and reset the optimizer and the moving average."""
        self.fabric.barrier()
        parts, _ = load_checkpoint(self.run / phase.best_checkpoint)
        copy_into(self.module.trainable_parameters(), parts["model"])
        self.optimizer.state.clear()
        if self.ema_model:
            self.ema_model.n_averaged.zero_()  # the next update copies the weights

    def _save_checkpoint(self, logger: RunLogger | None) -> None:
        self._saved_at = time.monotonic()
        if not logger:
            return
        logger.flush()
        parts = {"model": self.module.trainable_parameters(), "optimizer": optimizer_state(self.optimizer)}
        if self.ema_model:
            parts["average"] = self._eval_model.trainable_parameters()
            self.progress["averaged"] = float(self.ema_model.n_averaged)
        parts |= {phase.name: phase.objective.state_dict() for phase in self.phases}
        save_checkpoint(self.run / CHECKPOINT, parts, self.progress)

    def _export_bundles(self) -> list[Path]:
        """Export the best epoch of each phase; the best of all is `bundle`."""
        order = sorted(self.phases, key=lambda phase: -self.progress[f"best_{phase.name}"])
        bundles = [self.run / "bundle", *(self.run / f"bundle-{phase.name}" for phase in order[1:])]
        with Meteor() as meteor:
            for phase, bundle in zip(order, bundles, strict=True):
                export_bundle(self.run, self.run / phase.best_checkpoint, bundle, self.data, meteor)
        return bundles


def _score(split: str, images: Sequence[CaptionedImage], captions: Sequence[str]) -> dict[str, Any]:
    """Score captions and measure them beside people's, without METEOR and intervals, which take too long."""
    by_image = {image.id: caption for image, caption in zip(images, captions, strict=True)}
    _, content = summarize(split, images, by_image, "", quick=True)
    scores: dict[str, Any] = {name: content[name] for name in ("scores", "measures", "overused")}
    rounded: dict[str, Any] = round_floats(scores, 5)
    return rounded


def _ignore_signals(_worker: int) -> None:
    """Ignore stop signals in a worker: they go to the process group, and the current step still needs its batch."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
