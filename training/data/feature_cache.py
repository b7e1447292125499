"""What an encoder's frozen part gives, computed once and kept on disk: training reads that instead of pictures."""

import fcntl
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from eval.coco import CaptionedImage
from handler.errors import RequestError
from handler.files import atomic_write_text
from handler.image import decode_image
from handler.modeling.encoder import Encoder
from handler.parallel import parallel_map
from handler.preprocessing import RESIZE_VERSION, Preprocessing
from training.data.augmentation import Augmentation, mentions_direction

BATCH = 16


def cached_features(
    folder: Path,
    encoder: Encoder,
    preprocessing: Preprocessing,
    images: Sequence[CaptionedImage],
    *,
    device: torch.device,
    augmentation: Augmentation | None = None,
    view: int = 0,
    bf16: bool = False,
) -> np.memmap:
    """One grid of each image, memory-mapped, half precision; a computation that broke off goes on where it stopped.

    The file's name is a digest of the encoder's weights, the preprocessing, the pictures' bytes and the view: where any
    of them changes, another file is made, so a stale one is never read.

    Args:
        folder: where the files are kept.
        encoder: in evaluation mode, on `device`; or the part of it below a stage.
        preprocessing: from picture to the encoder's input.
        images: a split.
        device: where the encoder runs.
        augmentation: how views other than 0 differ from the picture.
        view: 0 is the picture as it is served; another number another random view of each picture.
        bf16: compute in bfloat16 where that is faster; the grids differ by some per cent.

    Returns:
        float16 (images, cells, channels).

    Raises:
        ValueError: the encoder is in training mode, or a picture can't be decoded.
    """
    if encoder.training:
        raise ValueError("The encoder is in training mode: its grids would depend on their neighbours.")
    folder.mkdir(parents=True, exist_ok=True)
    name = _digest(encoder, preprocessing, images, augmentation if view else None, view, bf16)
    path = folder / f"{name}.npy"
    with path.with_suffix(".lock").open("w") as lock:  # of two runs that need the same grids, one waits
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                _compute(path, encoder, preprocessing, images, device, augmentation, view)
    return np.load(path, mmap_mode="r")


@torch.inference_mode()
def _compute(path, encoder, preprocessing, images, device, augmentation, view) -> None:
    partial, progress = path.with_suffix(".partial"), path.with_suffix(".progress")
    size = preprocessing.size
    shape = (len(images), *encoder(torch.zeros(1, 3, size, size, device=device)).shape[1:])
    ready = int(progress.read_text()) if progress.exists() and partial.exists() else 0
    grids = np.lib.format.open_memmap(partial, "r+" if ready else "w+", dtype=np.float16, shape=shape)
    with tqdm(total=len(images), initial=ready, desc=f"encoding, view {view}", unit="image") as bar:
        for first in range(ready, len(images), BATCH):
            batch = images[first : first + BATCH]
            pixels = read_batch(batch, preprocessing, augmentation if view else None, [view])
            grid = encoder(preprocessing.normalize(pixels.to(device)))
            grids[first : first + len(batch)] = grid.float().cpu().half().numpy()
            grids.flush()
            atomic_write_text(progress, str(first + len(batch)))
            bar.update(len(batch))
    del grids
    os.replace(partial, path)
    progress.unlink()


def read_batch(
    images: Sequence[CaptionedImage],
    preprocessing: Preprocessing,
    augmentation: Augmentation | None = None,
    seed: Sequence[int] = (),
) -> torch.Tensor:
    """Pictures' files → uint8 pixels (B, 3, size, size), decoded side by side; the rest as for `read_pixels`."""
    return torch.stack(parallel_map(lambda image: read_pixels(image, preprocessing, augmentation, seed), images))


def read_pixels(
    image: CaptionedImage,
    preprocessing: Preprocessing,
    augmentation: Augmentation | None = None,
    seed: Sequence[int] = (),
) -> torch.Tensor:
    """A picture's file → uint8 pixels (3, size, size), of a random view where there is an augmentation.

    Args:
        image: the picture.
        preprocessing: from picture to the encoder's input.
        augmentation: how the view differs from the picture; None for the picture as it is.
        seed: numbers from 0 that, with the picture, decide the view.

    Raises:
        ValueError: it can't be decoded; the message names the file.
    """
    data = image.path.read_bytes()
    try:
        picture = decode_image(data)
    except RequestError as error:
        raise ValueError(f"{image.path}: {error}") from error
    if augmentation:
        digest = int.from_bytes(hashlib.sha256(data).digest()[:8])
        picture = augmentation.view(picture, image, np.random.default_rng([*seed, digest]))
    return preprocessing.resize(picture)


@cache
def _file_digest(path: Path, _size: int, _changed: int) -> bytes:
    """SHA-256 of a file, read once for all views."""
    return hashlib.sha256(path.read_bytes()).digest()


def _digest(encoder, preprocessing, images, augmentation, view, bf16) -> str:
    drawn = asdict(augmentation) if augmentation else None
    settings = [encoder.name, asdict(preprocessing), RESIZE_VERSION, drawn, view, bf16]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    for image in images:
        seen = image.path.stat()
        digest.update(_file_digest(image.path, seen.st_size, seen.st_mtime_ns))
        digest.update(bytes([augmentation is not None and augmentation.mirror and mentions_direction(image)]))
    return digest.hexdigest()[:32]
