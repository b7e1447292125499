"""The training loop: cross-entropy, then self-critical; validation by decoding, the best kept, resumed after a kill."""

import hashlib
import json
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch.optim.swa_utils import AveragedModel

from eval.coco import CaptionedImage, read_split
from eval.endings import bad_endings
from eval.meteor import Meteor
from eval.metrics import score_captions
from handler.files import atomic_write_text
from handler.generation import generate
from handler.modeling import build_decoder
from handler.modeling.encoder import Encoder
from handler.modeling.vocabulary import build_vocabulary, detokenize
from training.checkpoint import fill, load_checkpoint, load_optimizer_state, optimizer_state, save_checkpoint
from training.config import TrainingConfig
from training.data.dataset import Batch, CachedFeatures, CaptionDataset, Pictures
from training.data.feature_cache import cached_features, read_batch
from training.export import export_bundle
from training.model import CaptionModel, check_size
from training.objectives import CrossEntropy, Outcome, SelfCritical, sum_over_processes
from training.optim import lr_multiplier
from training.pretrained_weights import load_decoder, load_encoder_weights
from training.rewards import build_reward
from training.run_logger import RunLog
from training.stages import below, check_split

VAL_BATCH = 50
CHECKPOINT = "checkpoint.safetensors"


@dataclass
class Phase:
    """A part of the training with an objective of its own.

    Attributes:
        name: `cross_entropy` or `self_critical`; the best epoch is kept as `best-<name>.safetensors`.
        objective: batch, share done → outcome.
        batches: what it learns from.
        epochs: times through them.
        learning_rate: after warm-up.
        warmup_steps: from 0.
        first: its first step, counted over the whole training.
    """

    name: str
    objective: Callable[[Batch, float], Outcome]
    batches: CaptionDataset
    epochs: int
    learning_rate: float
    warmup_steps: int
    first: int

    @property
    def steps(self) -> int:
        return self.epochs * len(self.batches)


class TrainingInterrupted(Exception):
    """The run was asked to stop; it has written a checkpoint."""


class Trainer:
    """One run in one folder.

    The folder holds `checkpoint.safetensors` (where it stands), the best epoch of each phase, `metrics.jsonl`,
    `curve.png`, `samples/`, `tensorboard/`, and at the end `bundle/`. Started again on the same folder, the run goes on
    at the checkpoint's step; nothing random depends on anything but the seed, the step and the process, so it ends as
    if it had never stopped. Of several processes the first one writes.

    Args:
        config: all settings.
        data: the folder in COCO's layout.
        run: the run's folder; all processes see it.
        features: where encoders' grids are kept, shared by runs.
        fabric: devices, processes and precision; launched.
    """

    def __init__(self, config: TrainingConfig, data: Path, run: Path, features: Path, fabric: Fabric):
        self.config, self.data, self.run, self.fabric = config, data, run, fabric
        train = [image for split in config.train_splits for image in read_split(data, split)]
        self.val = {split: read_split(data, split) for split in config.val_splits}
        self.vocabulary = build_vocabulary((text for image in train for text in image.captions), config.min_count)
        self.data_digest = digest_captions(train, *self.val.values())
        torch.manual_seed(config.seed)
        encoder = Encoder(config.encoder)
        load_encoder_weights(encoder, config.encoder_weights)
        check_size(encoder, config.serving.size)
        decoder = build_decoder(config.decoder, len(self.vocabulary), encoder.channels)
        if config.decoder_weights and not (run / CHECKPOINT).exists():
            load_decoder(decoder, self.vocabulary, Path(config.decoder_weights))
        self.raw = CaptionModel(encoder, decoder, config.preprocessing, config.finetune_from)
        self.raw.to(fabric.device)
        self.pictures, self.val_grids = self._pictures(train, features)
        self.average = AveragedModel(self.raw, multi_avg_fn=ema_update(config.ema)) if config.ema else None
        self.model, self.optimizer = fabric.setup(self.raw, self._new_optimizer(), move_to_device=False)
        self.truth = CrossEntropy(config, self.model, self.raw, self.vocabulary, fabric)
        self.phases = self._phases(train)
        self.total_steps = sum(phase.steps for phase in self.phases)
        self.progress = {"step": 0.0, "seconds": 0.0}
        self.stop = False

    def _pictures(self, train: list[CaptionedImage], features: Path):
        """What batches take their pictures from, and validation's grids by split where they are cached."""
        config, fabric = self.config, self.fabric
        if not config.cached_views:
            return Pictures(train, config.preprocessing, config.augmentation), {}

        frozen = self.raw.encoder
        if stage := config.finetune_from:
            for size in {config.preprocessing.size, config.serving.size}:
                check_split(frozen, stage, size)
            frozen = below(frozen, stage)

        def grids(images, preprocessing, **view):
            return cached_features(features, frozen, preprocessing, images, device=fabric.device, **view)

        with fabric.autocast():
            halved = torch.is_autocast_enabled(fabric.device.type)
        views = []
        with fabric.rank_zero_first():  # the others find the files
            for view in range(config.cached_views):
                parts = [
                    grids(
                        read_split(self.data, split), config.preprocessing,
                        augmentation=config.augmentation, view=view, bf16=halved,
                    )
                    for split in config.train_splits
                ]  # fmt: skip
                views.append(parts)
            val = {split: grids(images, config.serving) for split, images in self.val.items()}
        # A grids' file is named by the digest of its pictures, so that the names stand for all pixels.
        names = [Path(part.filename).stem for parts in [*views, list(val.values())] for part in parts]
        self.data_digest = hashlib.sha256(json.dumps([self.data_digest, names]).encode()).hexdigest()
        return CachedFeatures(views), val

    def _phases(self, train: list[CaptionedImage]) -> list[Phase]:
        config, critical = self.config, self.config.self_critical

        def batches(size: int, seed: int) -> CaptionDataset:
            return CaptionDataset(
                train, self.pictures, self.vocabulary, batch_size=size, captions_per_image=config.captions_per_image,
                max_words=config.max_words, seed=seed,
                rank=self.fabric.global_rank, processes=self.fabric.world_size,
            )  # fmt: skip

        phases = []
        if config.epochs:
            first = batches(config.batch_size, config.seed)
            phases.append(
                Phase("cross_entropy", self.truth, first, config.epochs, config.learning_rate, config.warmup_steps, 0)
            )
        if critical.epochs:
            second = batches(critical.batch_size, config.seed + 1_000_003)  # other views in another order
            reward = build_reward(second.captions, self.vocabulary, critical.bleu, critical.meteor)
            phases.append(
                Phase(
                    "self_critical",
                    SelfCritical(self.truth, reward),
                    second,
                    critical.epochs,
                    critical.learning_rate,
                    critical.warmup_steps,
                    sum(phase.steps for phase in phases),
                )
            )
        return phases

    def _new_optimizer(self) -> torch.optim.Optimizer:
        """AdamW; each group of parameters keeps its rate's share of the schedule's in `scale`."""
        config = self.config
        learned = self.raw.learned()
        groups = [
            {"params": [p for n, p in learned.items() if n.startswith(part)], "scale": scale}
            for part, scale in (("decoder.", 1.0), ("encoder.", config.encoder_learning_rate / config.learning_rate))
        ]
        return torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=config.learning_rate, weight_decay=config.weight_decay, fused=True,
        )  # fmt: skip

    def train(self) -> list[Path]:
        """Trains to the end, from wherever the run stands, and writes the bundles.

        Returns:
            The folders of the bundles, the best first; none in processes other than the first.

        Raises:
            TrainingInterrupted: SIGTERM or Ctrl-C; the step in hand was finished and a checkpoint written.
            OSError: the run's folder can't be written; its checkpoint is whole.
        """
        self._resume()
        log = RunLog(self.run, self.total_steps, int(self.progress["step"])) if self.fabric.is_global_zero else None
        handlers = {number: signal.signal(number, self._ask_to_stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            for phase in self.phases:
                if self.progress["step"] < phase.first + phase.steps:
                    self._train_phase(phase, log)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            if log:
                log.close()
        return self._bundles() if self.fabric.is_global_zero else []

    def _ask_to_stop(self, *_) -> None:
        if self.fabric.is_global_zero and not self.stop:
            print("\nStopping after the step in hand.", file=sys.stderr)
        self.stop = True

    def _train_phase(self, phase: Phase, log: RunLog | None) -> None:
        step = int(self.progress["step"])
        if step == phase.first and phase is not self.phases[0]:
            self._start_from_best(self.phases[0])
        steps = range(step - phase.first, phase.steps)
        began = time.perf_counter()
        for place, batch in zip(steps, self._loaded(phase.batches, steps), strict=True):
            shown = self._step(phase, place, batch)
            step = phase.first + place + 1
            seconds = time.perf_counter() - began  # waiting for the batch included
            self.progress["step"] = step
            self.progress["seconds"] += seconds
            if log:
                log.step(step, {"phase": phase.name} | shown | {"seconds": round(seconds, 3)})
            ends = (place + 1) % len(phase.batches) == 0
            if ends:
                self._validate(phase, (place + 1) // len(phase.batches), log)
            stop = bool(sum_over_processes(self.fabric, float(self.stop))[0])
            if ends or stop or step % self.config.checkpoint_every == 0:
                self._save(log)
            if stop:
                raise TrainingInterrupted(f"Stopped after step {step} of {self.total_steps}.")
            began = time.perf_counter()

    def _loaded(self, batches: CaptionDataset, steps: range) -> Iterator[Batch]:
        """The steps' batches on the device; workers read pictures or grids beside the training."""
        loader = torch.utils.data.DataLoader(
            batches,
            batch_size=None,
            sampler=steps,
            num_workers=self.config.workers,
            worker_init_fn=_ignore_signals,
            multiprocessing_context="fork" if self.config.workers else None,  # else memory-mapped grids would be copied
            pin_memory=self.fabric.device.type == "cuda",
        )
        for batch in loader:
            yield Batch(
                *(self.fabric.to_device(part) for part in (batch.pictures, batch.inputs, batch.targets)), batch.images
            )

    def _step(self, phase: Phase, place: int, batch: Batch) -> dict[str, float]:
        """One step of gradient descent at a place in the phase; returns what is shown of it."""
        config = self.config
        # Dropout and samples depend on the step and the process alone.
        torch.manual_seed(((config.seed * 1_000_003 + phase.first + place) << 10) + self.fabric.global_rank)
        factor = lr_multiplier(
            place, phase.steps, warmup=phase.warmup_steps, schedule=config.schedule,
            decay=config.decay, decay_steps=config.decay_epochs * len(phase.batches),
        )  # fmt: skip
        for group in self.optimizer.param_groups:
            group["lr"] = phase.learning_rate * factor * group["scale"]
        self.model.train()
        loss, shown = phase.objective(batch, place / phase.steps)
        self.optimizer.zero_grad()
        self.fabric.backward(loss)
        norm = self.fabric.clip_gradients(
            self.model, self.optimizer, max_norm=config.clip_norm, error_if_nonfinite=False
        )
        if not math.isfinite(norm):  # the same in all processes
            raise ValueError(
                f"The gradient of step {phase.first + place + 1} is not finite: try a lower learning_rate or precision "
                f"32-true. {self.run} stands at its last checkpoint."
            )
        self.optimizer.step()
        if self.average:
            self.average.update_parameters(self.raw)
        shown |= {"gradient": float(norm), "learning_rate": phase.learning_rate * factor}
        return {name: float(f"{value:.6g}") for name, value in shown.items()}

    def _kept(self) -> CaptionModel:
        """The model that is validated and kept: the average where there is one."""
        return self.average.module if self.average else self.raw

    def _validate(self, phase: Phase, epoch: int, log: RunLog | None) -> None:
        """Decodes the validation splits, and keeps the model if its CIDEr on the first is the phase's best so far."""
        began = time.perf_counter()
        scores: dict[str, dict[str, float]] = {}
        shown: list[str] = []
        for split, images in self.val.items():
            captions = self._decode(split)
            shown = shown or captions
            if log:
                found = {image.id: caption for image, caption in zip(images, captions, strict=True)}
                scores[split] = score_captions({image.id: image.captions for image in images}, found, meteor=False)
                scores[split]["bad_endings"] = bad_endings(captions)
        if not log:
            return
        scores = {split: {name: round(value, 5) for name, value in some.items()} for split, some in scores.items()}
        (main, first), *others = scores.items()
        if first["CIDEr"] > self.progress.get(f"best_{phase.name}", -1.0):
            self.progress |= {f"best_{phase.name}": first["CIDEr"], f"epoch_{phase.name}": float(epoch)}
            path = self.run / f"best-{phase.name}.safetensors"
            save_checkpoint(path, {"model": self._kept().learned()}, self.progress)
        values = {"phase": phase.name, "epoch": phase.first // len(self.phases[0].batches) + epoch}
        values |= first | ({"others": dict(others)} if others else {})
        values["seconds"] = round(time.perf_counter() - began, 1)
        log.epoch(int(self.progress["step"]), values, self.val[main], shown)

    def _decode(self, split: str) -> list[str]:
        """The captions of a validation split, each process decoding its share."""
        model, rank, processes = self._kept().eval(), self.fabric.global_rank, self.fabric.world_size
        images = self.val[split]
        longest = self.config.decoding.max_length
        share = -(-len(images) // processes)
        ids = torch.full((share, longest), self.vocabulary.pad_id, device=self.fabric.device)
        mine = list(range(rank, len(images), processes))
        for first in range(0, len(mine), VAL_BATCH):
            some = mine[first : first + VAL_BATCH]
            if split in self.val_grids:
                pictures = torch.from_numpy(self.val_grids[split][some])
            else:
                pictures = read_batch([images[i] for i in some], self.config.serving)
            with torch.inference_mode():
                grid = model.grid(pictures.to(self.fabric.device))
            found = generate(model.decoder, grid, [self.config.decoding] * len(some), self.vocabulary)
            for row, hypotheses in enumerate(found, first):
                words = hypotheses[0].token_ids
                ids[row, : len(words)] = torch.tensor(words)
        if processes > 1:
            ids = self.fabric.all_gather(ids).transpose(0, 1).flatten(0, 1)  # back in the split's order
        return [
            detokenize(self.vocabulary.decode(i for i in row if i != self.vocabulary.pad_id))
            for row in ids[: len(images)].tolist()
        ]

    def _start_from_best(self, phase: Phase) -> None:
        """The best model of a phase, and a fresh optimizer."""
        self.fabric.barrier()
        fill(self.raw.learned(), load_checkpoint(self.run / f"best-{phase.name}.safetensors")[0]["model"])
        self.optimizer.state.clear()
        if self.average:
            self.average.n_averaged.zero_()  # the next step's weights start it anew

    def _save(self, log: RunLog | None) -> None:
        """Writes the checkpoint from which the run goes on."""
        if not log:
            return
        log.flush()
        parts = {"model": self.raw.learned(), "optimizer": optimizer_state(self.optimizer)}
        if self.average:
            parts["average"] = self.average.module.learned()
            self.progress["averaged"] = float(self.average.n_averaged)
        self.progress["baseline"] = self.truth.baseline
        save_checkpoint(self.run / CHECKPOINT, parts, self.progress)

    def _resume(self) -> None:
        """Takes up the checkpoint, if there is one."""
        path, digest = self.run / CHECKPOINT, self.run / "data.sha256"
        if not path.exists():
            if self.fabric.is_global_zero:
                atomic_write_text(digest, self.data_digest)
                self.vocabulary.save(self.run / "vocabulary.txt")
            return
        if digest.read_text() != self.data_digest:
            raise ValueError(
                f"{self.data} is not the data that {self.run} was begun with: name another folder with --into."
            )
        parts, self.progress = load_checkpoint(path)
        fill(self.raw.learned(), parts["model"])
        load_optimizer_state(self.optimizer, parts.get("optimizer", {}))
        if self.average:
            fill(self.average.module.learned(), parts["average"])
            self.average.n_averaged.fill_(int(self.progress["averaged"]))
        self.truth.baseline = self.progress["baseline"]

    def _bundles(self) -> list[Path]:
        """A bundle of each phase's best epoch; the best of all is `bundle`."""
        order = sorted(self.phases, key=lambda phase: -self.progress[f"best_{phase.name}"])
        folders = [self.run / "bundle", *(self.run / f"bundle-{phase.name}" for phase in order[1:])]
        with Meteor() as meteor:
            for phase, folder in zip(order, folders, strict=True):
                export_bundle(self.run, self.run / f"best-{phase.name}.safetensors", folder, self.data, meteor)
        return folders


def ema_update(decay: float) -> Callable:
    """The step of an exponential moving average whose decay is at most (1 + n) / (10 + n), to forget its start."""

    def update(averaged, current, steps) -> None:
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + int(steps)) / (10 + int(steps))))

    return update


def _ignore_signals(_worker: int) -> None:
    """A signal to stop goes to the whole process group; the workers go on until the step in hand is finished."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def digest_captions(*splits: list[CaptionedImage]) -> str:
    """SHA-256 over the images' ids and captions."""
    content = [[[image.id, image.captions] for image in images] for images in splits]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
