"""A frozen encoder's grids, computed once and kept on disk, so that training reads them instead of pictures."""

import fcntl
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm import tqdm

from handler.bundle import write_whole
from handler.encoder import Encoder
from handler.errors import RequestError
from handler.image import decode_image
from handler.preprocessing import Preprocessing
from training.coco import CaptionedImage

BATCH = 16


def cached_grids(
    folder: Path,
    encoder: Encoder,
    preprocessing: Preprocessing,
    images: Sequence[CaptionedImage],
    *,
    flips: bool,
    device: torch.device,
) -> np.memmap:
    """The grids of all images, memory-mapped, half precision; a computation that broke off goes on where it stopped.

    The file's name is a digest of the encoder's weights, the preprocessing and the pictures' bytes: where any of them
    changes, another file is made, so a stale one is never read.

    Args:
        folder: where the files are kept.
        encoder: in evaluation mode, on `device`.
        preprocessing: as in serving.
        images: a split.
        flips: keep the mirrored picture's grid too.
        device: where the encoder runs.

    Returns:
        float16 (images, 2 if flips else 1, cells, channels); [:, 1] are the mirrored pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{_digest(encoder, preprocessing, images, flips)}.npy"
    with path.with_suffix(".lock").open("w") as lock:  # of two runs that need the same grids, one waits
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _compute(path, encoder, preprocessing, images, flips, device)
    return np.load(path, mmap_mode="r")


@torch.inference_mode()
def _compute(path, encoder, preprocessing, images, flips, device) -> None:
    partial, progress = path.with_suffix(".partial"), path.with_suffix(".progress")
    size = preprocessing.size
    cells = encoder(torch.zeros(1, 3, size, size, device=device)).shape[1]
    shape = (len(images), 1 + flips, cells, encoder.channels)
    ready = int(progress.read_text()) if progress.exists() and partial.exists() else 0
    grids = np.lib.format.open_memmap(partial, "r+" if ready else "w+", dtype=np.float16, shape=shape)
    with tqdm(total=len(images), initial=ready, desc="encoding", unit="image") as bar:
        for first in range(ready, len(images), BATCH):
            batch = images[first : first + BATCH]
            pixels = []
            for image in batch:
                picture = read_picture(image.path)
                pixels.append(preprocessing.resize(picture))
                if flips:
                    pixels.append(preprocessing.resize(ImageOps.mirror(picture)))
            grid = encoder(preprocessing.normalize(torch.stack(pixels).to(device)))
            grids[first : first + len(batch)] = grid.cpu().half().view(len(batch), *shape[1:]).numpy()
            grids.flush()
            write_whole(progress, str(first + len(batch)))
            bar.update(len(batch))
    del grids
    os.replace(partial, path)
    progress.unlink()


def read_picture(path: Path) -> Image.Image:
    """A picture's file → RGB.

    Raises:
        ValueError: it can't be decoded; the message names the file.
    """
    try:
        return decode_image(path.read_bytes())
    except RequestError as error:
        raise ValueError(f"{path}: {error}") from error


def _digest(encoder: Encoder, preprocessing: Preprocessing, images: Sequence[CaptionedImage], flips: bool) -> str:
    digest = hashlib.sha256(json.dumps([encoder.name, asdict(preprocessing), flips], sort_keys=True).encode())
    for name, tensor in encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    for image in images:
        digest.update(hashlib.sha256(image.path.read_bytes()).digest())
    return digest.hexdigest()[:32]
