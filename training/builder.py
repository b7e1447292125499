"""Build a trainer from settings: data, model, optimizer and phases."""

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.optim.swa_utils import AveragedModel

from eval.data import CaptionedImage, read_split
from eval.overlap import shared_images
from handler.bundle import load_bundle
from handler.modeling import build_decoder
from handler.modeling.encoder import Encoder
from handler.modeling.vocabulary import Vocabulary, build_vocabulary, unknown_share
from training.config import TrainingConfig
from training.data.dataset import CachedFeatures, CaptionDataset, ImageFiles, ImageSource
from training.data.feature_cache import cached_features
from training.model import CaptionModel, check_size, check_split, frozen_part
from training.objectives import CrossEntropyObjective, SelfCriticalObjective
from training.optim import build_optimizer, ema_update
from training.pretrained_weights import load_decoder, load_encoder_weights
from training.rewards import build_reward
from training.trainer import CHECKPOINT, Phase, Trainer, ValidationSplit

SELF_CRITICAL_SEED = 1_000_003  # added to the seed, so that the second phase has another order and other views

MAX_UNKNOWN = 0.1  # share of words; English captions have 0.02 at a min_count of 5

Features = np.ndarray[Any, Any]
Splits = Mapping[str, Sequence[CaptionedImage]]


def build_trainer(config: TrainingConfig, data: Path, run: Path, feature_cache: Path, fabric: Fabric) -> Trainer:
    """Read the data, build the model, and compute the cached features, which may take hours.

    Args:
        config: Training settings.
        data: Directory of the data.
        run: Directory of the run, visible to all processes.
        feature_cache: Directory of the feature cache, shared by runs.
        fabric: Devices, processes and precision; launched.

    Raises:
        BundleError: If a bundle to start from is damaged.
        FileNotFoundError: If a split or an image is missing.
        ValueError: If data, weights and settings do not fit together.
    """
    train_splits = {split: read_split(data, split) for split in config.train_splits}
    val_splits = {split: read_split(data, split) for split in config.val_splits}
    check_overlap(train_splits, val_splits)
    train = [image for split in config.train_splits for image in train_splits[split]]
    resumed = (run / CHECKPOINT).exists()
    vocabulary = _build_vocabulary(config, train, run if resumed else None)
    if fabric.is_global_zero:
        print(describe_data(train_splits, val_splits, vocabulary), file=sys.stderr)
    _check_selection(config.val_splits[0], val_splits[config.val_splits[0]])
    module = _build_model(config, vocabulary, resumed=resumed)
    module.to(fabric.device)

    source: ImageSource = ImageFiles(train, config.preprocessing, config.augmentation)
    val_features: dict[str, Features] = {}
    data_digest = digest_captions(train, *val_splits.values())
    if config.num_cached_views:
        views, val_features = _cache_features(config, module, train_splits, val_splits, feature_cache, fabric)
        source = CachedFeatures(views)
        data_digest = _digest_with_images(data_digest, [*views, list(val_features.values())])

    ema_model = AveragedModel(module, multi_avg_fn=ema_update(config.ema_decay)) if config.ema_decay else None
    model, optimizer = fabric.setup(module, build_optimizer(module, config), move_to_device=False)
    cross_entropy = CrossEntropyObjective(config, model, module, vocabulary, fabric)
    groups = [number for number, images in enumerate(train_splits.values()) for _ in images]
    dataset = partial(
        CaptionDataset,
        train,
        source,
        vocabulary,
        weights=[config.split_weights.get(split, 1.0) for split, images in train_splits.items() for _ in images],
        captions_per_image=config.captions_per_image,
        max_length=config.max_length,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    return Trainer(
        config,
        data,
        run,
        fabric,
        module=module,
        model=model,
        optimizer=optimizer,
        ema_model=ema_model,
        phases=_build_phases(config, dataset, groups, cross_entropy),
        val_splits={name: ValidationSplit(images, val_features.get(name)) for name, images in val_splits.items()},
        vocabulary=vocabulary,
        data_digest=data_digest,
    )


def describe_data(train_splits: Splits, val_splits: Splits, vocabulary: Vocabulary) -> str:
    """Return lines with the sizes of the splits and the vocabulary, and the share of words that become `<unk>`."""
    lines = []
    for use, splits in (("train", train_splits), ("validate", val_splits)):
        for name, images in splits.items():
            captions = [text for image in images for text in image.captions]
            share = unknown_share(captions, vocabulary)
            lines.append(
                f"{use} on {name}: {len(images):,} images, {len(captions):,} captions, {share:.1%} of words are <unk>"
            )
            if share > MAX_UNKNOWN:
                lines.append("  Many words are unknown: lower min_count, and write spaces between the words.")
    return "\n".join([*lines, f"vocabulary: {len(vocabulary):,} tokens"])


def _check_selection(name: str, images: Sequence[CaptionedImage]) -> None:
    """Raise ValueError if CIDEr, which selects the best epoch, is undefined on a split."""
    if len({image.captions for image in images}) < 2:
        raise ValueError(
            f"The validation split {name} has {len(images)} images with the same captions. "
            "CIDEr, which selects the best epoch, needs two images with different captions."
        )


def check_overlap(train: Splits, val: Splits) -> None:
    """Check that no validation image is a training image, unless a split is used for both.

    Args:
        train: Images of the training splits by name.
        val: Images of the validation splits by name.

    Raises:
        ValueError: If a validation split shares images with a training split; the message has the number.
    """
    for val_name, val_images in val.items():
        for train_name, train_images in train.items():
            if train_name != val_name and (shared := shared_images(train_images, val_images)):
                raise ValueError(
                    f"{len(shared)} of the {len(val_images)} images of the validation split '{val_name}' are in the "
                    f"training split '{train_name}', e.g. {shared[0].path}. Remove them from one of the splits."
                )


def _build_vocabulary(config: TrainingConfig, train: Sequence[CaptionedImage], resumed_run: Path | None) -> Vocabulary:
    if not config.keep_vocabulary:
        return build_vocabulary((text for image in train for text in image.captions), config.min_count)
    if resumed_run:  # the bundle may be gone
        return Vocabulary.load(resumed_run / "vocabulary.txt")
    *_, known = load_bundle(Path(config.decoder_weights or ""))
    return build_vocabulary((text for image in train for text in image.captions), config.min_count, known.tokens)


def _build_model(config: TrainingConfig, vocabulary: Vocabulary, *, resumed: bool) -> CaptionModel:
    torch.manual_seed(config.seed)
    encoder = Encoder(config.encoder).eval()  # in training mode, every pass changes the statistics of batch norm
    load_encoder_weights(encoder, config.encoder_weights)
    check_size(encoder, config.serving.size)
    decoder = build_decoder(config.decoder, len(vocabulary), encoder.channels)
    if config.decoder_weights and not resumed:
        load_decoder(decoder, vocabulary, Path(config.decoder_weights))
    return CaptionModel(encoder, decoder, config.preprocessing, config.unfreeze_from)


def _cache_features(
    config: TrainingConfig,
    module: CaptionModel,
    train_splits: Splits,
    val_splits: Splits,
    directory: Path,
    fabric: Fabric,
) -> tuple[list[list[Features]], dict[str, Features]]:
    """Features of each view of each training split, and of each validation split."""
    encoder, mean = module.encoder, module.decoder.uses_mean_cell
    if stage := config.unfreeze_from:
        mean = False  # the trainable part needs the grid
        for size in {config.preprocessing.size, config.serving.size}:
            check_split(encoder, stage, size)
        encoder = frozen_part(encoder, stage)
    with fabric.autocast():
        use_bf16 = torch.is_autocast_enabled(fabric.device.type)
    features = partial(cached_features, directory, encoder, device=fabric.device, mean=mean)
    with fabric.rank_zero_first():  # the other processes find the files
        views: list[list[Features]] = [
            [
                features(
                    config.preprocessing,
                    train_splits[split],
                    augmentation=config.augmentation,
                    view=view,
                    bf16=use_bf16,
                )
                for split in config.train_splits
            ]
            for view in range(config.num_cached_views)
        ]
        val_features: dict[str, Features] = {
            name: features(config.serving, images) for name, images in val_splits.items()
        }
    return views, val_features


def _build_phases(
    config: TrainingConfig,
    dataset: Callable[..., CaptionDataset],
    groups: Sequence[int],
    cross_entropy: CrossEntropyObjective,
) -> list[Phase]:
    phases, critical = [], config.self_critical
    if config.epochs:
        phases.append(
            Phase(
                "cross_entropy",
                cross_entropy,
                dataset(batch_size=config.batch_size, seed=config.seed),
                config.epochs,
                config.learning_rate,
                config.warmup_steps,
                first_step=0,
            )
        )
    if critical.epochs:
        critical_dataset = dataset(batch_size=critical.batch_size, seed=config.seed + SELF_CRITICAL_SEED)
        reward = build_reward(critical, critical_dataset.captions, groups, cross_entropy.vocabulary)
        phases.append(
            Phase(
                "self_critical",
                SelfCriticalObjective(cross_entropy, reward),
                critical_dataset,
                critical.epochs,
                critical.learning_rate,
                critical.warmup_steps,
                first_step=sum(phase.steps for phase in phases),
            )
        )
    return phases


def digest_captions(*splits: Sequence[CaptionedImage]) -> str:
    """Compute the SHA-256 of the IDs and captions of images."""
    content = [[[image.id, image.captions] for image in images] for images in splits]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _digest_with_images(digest: str, views: Sequence[Sequence[Any]]) -> str:
    """Extend a digest by the images: the name of a feature file is a digest of its images."""
    names = [Path(part.filename).stem for parts in views for part in parts]
    return hashlib.sha256(json.dumps([digest, names]).encode()).hexdigest()
