"""The training loop: teacher forcing on cached grids, validation by decoding, the best kept, resumed after a kill."""

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from eval.metrics import score_captions
from handler.bundle import BundleConfig, save_bundle, update_card, write_whole
from handler.captioner import Captioner
from handler.decoders import build_decoder
from handler.encoder import Encoder
from training.batches import Batches
from training.checkpoint import load_checkpoint, save_checkpoint
from training.coco import CaptionedImage, read_split
from training.config import TrainingConfig
from training.curve import draw_curve
from training.features import cached_grids
from training.loss import caption_loss
from training.tokenizer import build_vocabulary
from training.validate import caption_grids, validate_bundle
from training.weights import load_pretrained


class Trainer:
    """One run in one folder.

    The folder holds `checkpoint.safetensors` (where it stands), `best.safetensors` (the best epoch's decoder),
    `metrics.jsonl` (a line a step and a line a validation), `curve.png`, and at the end `bundle/`. Started again on the
    same folder, the run goes on at the checkpoint's step; nothing random depends on anything but the seed and the step,
    so it ends as if it had never stopped.

    Args:
        config: all settings.
        data: the folder in COCO's layout.
        run: the run's folder.
        features: where encoders' grids are kept, shared by runs.
    """

    def __init__(self, config: TrainingConfig, data: Path, run: Path, features: Path):
        self.config, self.data, self.run = config, data, run
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        train, self.val = read_split(data, config.train_split), read_split(data, config.val_split)
        self.vocabulary = build_vocabulary((text for image in train for text in image.captions), config.min_count)
        self.encoder = Encoder(config.encoder)
        load_pretrained(self.encoder, config.encoder_weights)
        self.encoder.eval().requires_grad_(False).to(self.device)

        def grids(images, flips):
            return cached_grids(features, self.encoder, config.preprocessing, images, flips=flips, device=self.device)

        val_grids, train_grids = grids(self.val, False), grids(train, config.flip)
        # A grids' file is named by the digest of its pictures, so that the two names stand for all pixels.
        self.data_digest = digest_data(train + self.val, [Path(g.filename).stem for g in (train_grids, val_grids)])
        self.val_grids = val_grids[:, 0]
        self.batches = Batches(
            train,
            train_grids,
            self.vocabulary,
            batch_size=config.batch_size,
            captions_per_image=config.captions_per_image,
            max_words=config.max_words,
            seed=config.seed,
        )
        torch.manual_seed(config.seed)
        self.decoder = build_decoder(config.decoder, len(self.vocabulary), self.encoder.channels).to(self.device)
        self.optimizer = torch.optim.Adam(self.decoder.parameters(), lr=config.learning_rate)
        self.total_steps = config.epochs * len(self.batches)
        self.progress = {"step": 0, "best_cider": -1.0, "best_epoch": 0}
        self.metrics = run / "metrics.jsonl"

    def train(self) -> Path:
        """Trains to the end, from wherever the run stands, and writes the bundle.

        Returns:
            The bundle's folder.
        """
        self._resume()
        step = self.progress["step"]
        with (
            tqdm(total=self.total_steps, initial=step, desc="training", unit="step") as bar,
            self.metrics.open("a") as log,
        ):
            while step < self.total_steps:
                began = time.perf_counter()
                loss = self._step(step)
                step += 1
                self.progress["step"] = step
                line = {
                    "step": step,
                    "loss": round(loss, 5),
                    "learning_rate": round(self._rate(step - 1), 8),
                    "seconds": round(time.perf_counter() - began, 3),
                }
                log.write(json.dumps(line) + "\n")
                bar.set_postfix(loss=f"{loss:.3f}", **self._best(), refresh=False)
                bar.update()
                if step % len(self.batches) == 0:
                    log.write(json.dumps({"step": step} | self._validate(step // len(self.batches))) + "\n")
                if step % len(self.batches) == 0 or step % self.config.checkpoint_every == 0:
                    log.flush()
                    save_checkpoint(self.run / "checkpoint.safetensors", self.decoder, self.optimizer, self.progress)
                if step % len(self.batches) == 0:
                    draw_curve(self.metrics, self.run / "curve.png")
        return self._bundle()

    def _best(self) -> dict[str, str]:
        """The best CIDEr so far, for the progress bar; nothing before the first validation."""
        return {"CIDEr": f"{self.progress['best_cider']:.3f}"} if self.progress["best_epoch"] else {}

    def _step(self, step: int) -> float:
        """One step of gradient descent; returns the cross-entropy in nats a token."""
        config = self.config
        torch.manual_seed(config.seed * 1_000_003 + step)  # dropout depends on the step alone
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(step)
        self.decoder.train()
        batch = self.batches[step]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            logits, attention = self.decoder(batch.grid.to(self.device), batch.inputs.to(self.device))
        loss, entropy = caption_loss(
            logits,
            attention,
            batch.targets.to(self.device),
            pad=self.vocabulary.pad,
            label_smoothing=config.label_smoothing,
            doubly_stochastic=config.doubly_stochastic,
        )
        self.optimizer.zero_grad()
        if not torch.isfinite(loss):
            raise ValueError(
                f"The loss of step {step + 1} is not finite: try a lower learning_rate or precision=fp32. "
                f"{self.run} stands at its last checkpoint."
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.decoder.parameters(), config.clip_norm)
        self.optimizer.step()
        return entropy.item()

    def _rate(self, step: int) -> float:
        """The learning rate of a step: linear warm-up, then a cosine to 0 at the last step."""
        warmup = min(self.config.warmup_steps, self.total_steps)
        if step < warmup:
            return self.config.learning_rate * (step + 1) / warmup
        done = (step - warmup) / max(1, self.total_steps - warmup)
        return self.config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def _validate(self, epoch: int) -> dict[str, float]:
        """Decodes the validation split and keeps the decoder if its CIDEr is the best so far."""
        self.decoder.eval()
        captions = caption_grids(self.decoder, self.val_grids, self.vocabulary, self.config.decoding, self.device)
        found = {image.id: caption for image, caption in zip(self.val, captions, strict=True)}
        scores = score_captions({image.id: image.captions for image in self.val}, found)
        if scores["CIDEr"] > self.progress["best_cider"]:
            self.progress |= {"best_cider": scores["CIDEr"], "best_epoch": epoch}
            save_checkpoint(self.run / "best.safetensors", self.decoder, None, self.progress)
        tqdm.write(f"epoch {epoch}: CIDEr {scores['CIDEr']:.3f}, BLEU-4 {scores['Bleu_4']:.3f}")
        return {"epoch": epoch} | {name: round(score, 5) for name, score in scores.items()}

    def _resume(self) -> None:
        """Takes up the checkpoint, if there is one, and forgets what was logged after it."""
        path, data = self.run / "checkpoint.safetensors", self.run / "data.sha256"
        if not path.exists():
            self.metrics.unlink(missing_ok=True)
            write_whole(data, self.data_digest)
            return
        if data.read_text() != self.data_digest:
            raise ValueError(
                f"{self.data} is not the data that {self.run} was begun with: name another folder with --run."
            )
        self.progress = load_checkpoint(path, self.decoder, self.optimizer)
        self.progress["step"] = int(self.progress["step"])
        kept = [line for line in self.metrics.read_text().splitlines() if _step_of(line) <= self.progress["step"]]
        write_whole(self.metrics, "".join(f"{line}\n" for line in kept))

    def _bundle(self) -> Path:
        """Writes the best epoch's bundle, then scores it as it will be served and adds the scores to its card."""
        load_checkpoint(self.run / "best.safetensors", self.decoder)
        folder = self.run / "bundle"
        config = BundleConfig(
            encoder=self.config.encoder,
            preprocessing=self.config.preprocessing,
            decoder=self.config.decoder,
            decoding=self.config.decoding,
            card=self.config.card
            | {
                "training": {name: value for name, value in asdict(self.config).items() if name != "card"}
                | {
                    "best_epoch": int(self.progress["best_epoch"]),
                    "data": self.data.resolve().name,
                    "train_images": len(self.batches.captions),
                    "train_captions": sum(map(len, self.batches.captions)),
                }
            },
        )
        weights = {f"encoder.{name}": tensor for name, tensor in self.encoder.state_dict().items()}
        weights |= {f"decoder.{name}": tensor for name, tensor in self.decoder.state_dict().items()}
        save_bundle(folder, config, weights, self.vocabulary)
        split = f"{self.data.resolve().name}/{self.config.val_split}"
        result, _ = validate_bundle(Captioner.load(folder, self.device), self.val, split)
        update_card(folder, {"scores": [result]})
        return folder


def digest_data(images: Sequence[CaptionedImage], grids: Sequence[str]) -> str:
    """SHA-256 over the captions and the digests of the pictures' grids."""
    content = [[image.id, image.captions] for image in images]
    return hashlib.sha256(json.dumps([content, grids]).encode()).hexdigest()


def _step_of(line: str) -> float:
    """A log line's step; a line that a kill cut short counts as never written."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return math.inf
