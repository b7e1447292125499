"""On-disk cache of frozen encoder features, so that training reads features instead of images."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from eval.data import CaptionedImage
from handler.files import atomic_write_text, exclusive_lock
from handler.modeling.encoder import Encoder
from handler.preprocessing import RESIZE_VERSION, Preprocessing
from training.data.augmentation import Augmentation, mentions_direction
from training.data.file_digests import FileDigests
from training.data.image_loading import load_images

BATCH_SIZE = 16  # images per forward pass


def cached_features(
    directory: Path,
    encoder: Encoder,
    preprocessing: Preprocessing,
    images: Sequence[CaptionedImage],
    *,
    device: torch.device,
    augmentation: Augmentation | None = None,
    view: int = 0,
    bf16: bool = False,
    mean: bool = False,
) -> np.memmap[Any, np.dtype[np.float16]]:
    """Return the features of each image, memory-mapped; compute what is missing. An interrupted computation resumes.

    The file name is a digest of the encoder weights, the preprocessing, the image bytes and the view. A change of any
    of them gives another file, so stale features are never read.

    Args:
        directory: Directory of the cache, shared by runs.
        encoder: The frozen encoder, or its frozen part, in evaluation mode, on `device`.
        preprocessing: From image to encoder input.
        images: A split.
        device: Device to run on.
        augmentation: Augmentation of the views other than 0.
        view: 0 is the image unchanged; any other number is another random view of each image.
        bf16: Compute in bfloat16, which changes the features by a few percent.
        mean: Store the mean of the cells only.

    Returns:
        float16 (images, cells, channels); one cell if `mean`.

    Raises:
        OSError: If the disk has no space for the features; it is reserved before the first image is encoded.
        ValueError: If the encoder is in training mode, or an image cannot be decoded.
    """
    if encoder.training:
        raise ValueError("The encoder is in training mode, so its features would depend on the batch.")
    directory.mkdir(parents=True, exist_ok=True)
    files = FileDigests(directory / "images.json").digest_all([image.path for image in images])
    name = _digest(encoder, preprocessing, images, files, augmentation if view else None, view, bf16, mean)
    path = directory / f"{name}.npy"
    with exclusive_lock(path.with_suffix(".lock"), timeout=None):  # a second run waits for the features of the first
        if not path.exists():
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                _compute(path, encoder, preprocessing, images, device, augmentation, view, mean)
    return np.load(path, mmap_mode="r")  # type: ignore[no-any-return]  # numpy.load is untyped


@torch.inference_mode()
def _compute(
    path: Path,
    encoder: Encoder,
    preprocessing: Preprocessing,
    images: Sequence[CaptionedImage],
    device: torch.device,
    augmentation: Augmentation | None,
    view: int,
    mean: bool,
) -> None:
    def encode(pixels: torch.Tensor) -> torch.Tensor:
        grid: torch.Tensor = encoder(preprocessing.normalize(pixels.to(device)))
        return grid.float().mean(1, keepdim=True) if mean else grid.float()

    partial, progress = path.with_suffix(".partial"), path.with_suffix(".progress")
    size = preprocessing.size
    shape = (len(images), *encode(torch.zeros(1, 3, size, size, dtype=torch.uint8)).shape[1:])
    done = int(progress.read_text()) if progress.exists() and partial.exists() else 0
    features = np.lib.format.open_memmap(partial, "r+" if done else "w+", dtype=np.float16, shape=shape)
    if not done:
        _reserve(partial)
    with tqdm(total=len(images), initial=done, desc=f"encoding, view {view}", unit="image") as bar:
        for first in range(done, len(images), BATCH_SIZE):
            batch = images[first : first + BATCH_SIZE]
            pixels = load_images(batch, preprocessing, augmentation if view else None, [view])
            features[first : first + len(batch)] = encode(pixels).cpu().half().numpy()
            features.flush()
            atomic_write_text(progress, str(first + len(batch)))
            bar.update(len(batch))
    del features
    partial.replace(path)
    progress.unlink()


def _reserve(path: Path) -> None:
    """Allocate the blocks of a sparse file: on a full disk, writing to its memory map would kill the process."""
    size = path.stat().st_size
    try:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        path.unlink()
        message = f"The features need {size / 1e9:,.2f} GB, which {path.parent} has no space for ({error.strerror})"
        raise OSError(f"{message}. Lower num_cached_views, or choose another --feature-cache.") from error


def _digest(
    encoder: Encoder,
    preprocessing: Preprocessing,
    images: Sequence[CaptionedImage],
    files: Sequence[bytes],
    augmentation: Augmentation | None,
    view: int,
    bf16: bool,
    mean: bool,
) -> str:
    augmentation_dict = asdict(augmentation) if augmentation else None
    settings = [encoder.name, asdict(preprocessing), RESIZE_VERSION, augmentation_dict, view, bf16, *["mean"] * mean]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    for image, file_digest in zip(images, files, strict=True):
        digest.update(file_digest)
        fixed = augmentation is not None and augmentation.horizontal_flip and mentions_direction(image)
        digest.update(bytes([fixed]))
    return digest.hexdigest()[:32]
