"""On-disk cache of frozen encoder features, so that training reads features instead of images."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
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

    Returns:
        float16 (images, cells, channels).

    Raises:
        ValueError: If the encoder is in training mode, or an image cannot be decoded.
    """
    if encoder.training:
        raise ValueError("The encoder is in training mode, so its features would depend on the batch.")
    directory.mkdir(parents=True, exist_ok=True)
    name = _digest(encoder, preprocessing, images, augmentation if view else None, view, bf16)
    path = directory / f"{name}.npy"
    with exclusive_lock(path.with_suffix(".lock"), timeout=None):  # a second run waits for the features of the first
        if not path.exists():
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                _compute(path, encoder, preprocessing, images, device, augmentation, view)
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
) -> None:
    partial, progress = path.with_suffix(".partial"), path.with_suffix(".progress")
    size = preprocessing.size
    shape = (len(images), *encoder(torch.zeros(1, 3, size, size, device=device)).shape[1:])
    done = int(progress.read_text()) if progress.exists() and partial.exists() else 0
    features = np.lib.format.open_memmap(partial, "r+" if done else "w+", dtype=np.float16, shape=shape)
    with tqdm(total=len(images), initial=done, desc=f"encoding, view {view}", unit="image") as bar:
        for first in range(done, len(images), BATCH_SIZE):
            batch = images[first : first + BATCH_SIZE]
            pixels = load_images(batch, preprocessing, augmentation if view else None, [view])
            encoded = encoder(preprocessing.normalize(pixels.to(device)))
            features[first : first + len(batch)] = encoded.float().cpu().half().numpy()
            features.flush()
            atomic_write_text(progress, str(first + len(batch)))
            bar.update(len(batch))
    del features
    partial.replace(path)
    progress.unlink()


@cache
def _file_digest(path: Path, _size: int, _modified: int) -> bytes:
    """SHA-256 of a file, computed once for all views; size and modification time are part of the cache key."""
    return hashlib.sha256(path.read_bytes()).digest()


def _digest(
    encoder: Encoder,
    preprocessing: Preprocessing,
    images: Sequence[CaptionedImage],
    augmentation: Augmentation | None,
    view: int,
    bf16: bool,
) -> str:
    augmentation_dict = asdict(augmentation) if augmentation else None
    settings = [encoder.name, asdict(preprocessing), RESIZE_VERSION, augmentation_dict, view, bf16]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    for image in images:
        status = image.path.stat()
        digest.update(_file_digest(image.path, status.st_size, status.st_mtime_ns))
        fixed = augmentation is not None and augmentation.horizontal_flip and mentions_direction(image)
        digest.update(bytes([fixed]))
    return digest.hexdigest()[:32]
