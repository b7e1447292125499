"""The job on Ray Data: read and decode, caption in actors, write, all at once; never are all pictures in memory."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from deploy.batch.ray_session import READER_CPUS
from deploy.batch.results import Results
from deploy.batch.sources import Source
from deploy.batch.storage import BatchJobError
from handler.backends.openvino import DIRECTORY, export_openvino
from handler.bundle import BundleConfig
from handler.captioner import Caption, Captioner
from handler.errors import InternalError, RequestError
from handler.generation import GenerationConfig
from handler.image import decode_image
from handler.modeling.vocabulary import Vocabulary
from handler.oom import is_out_of_memory, retry_in_halves, to_request_error
from handler.preprocessing import Preprocessing

BLOCK_BYTES = 16 << 20  # of pixels that go from a reader to a worker at once, some 64 pictures
ERROR = pa.schema([("error_type", pa.string()), ("error_message", pa.string())])
CAPTION = pa.struct([("caption", pa.string()), ("score", pa.float64())])


@dataclass(frozen=True)
class Workers:
    """Who captions.

    Attributes:
        count: actors, each with a model of its own.
        threads: CPUs of each.
        gpus: GPUs of each; a share of one lets several use it.
        batch_size: pictures captioned together.
        precision: of `handler.backends.PRECISIONS`.
    """

    count: int
    threads: int
    gpus: float
    batch_size: int
    precision: str


def run(
    source: Source,
    work: pa.Table,
    results: Results,
    bundle: tuple[BundleConfig, dict[str, torch.Tensor], Vocabulary],
    options: GenerationConfig,
    workers: Workers,
    rows_per_file: int,
) -> None:
    """Captions the pictures that the work stands for, and writes them; Ray is running.

    Args:
        source: where they come from.
        work: of `source.left`.
        results: where captions go.
        bundle: of `load_bundle`.
        options: for all pictures.
        workers: who captions.
        rows_per_file: pictures in a file of captions, at least; the last ones may have fewer.

    Raises:
        BatchJobError: a worker failed again and again, or nothing can be written.
    """
    context = DataContext.get_current()
    context.target_max_block_size, context.enable_progress_bars = BLOCK_BYTES, False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    size = max(1, min(rows_per_file, len(work) // (8 * workers.count)))
    blocks = [work.slice(first, size) for first in range(0, len(work), size)]
    captions = (
        ray.data.from_arrow(blocks)
        .map_batches(
            read_pixels,
            batch_size=None,
            batch_format="pyarrow",
            fn_kwargs={"source": source, "preprocessing": bundle[0].preprocessing},
            # Ray joins steps that ask for the same: on CPUs a worker reads its own pictures, beside a GPU others do.
            num_cpus=READER_CPUS if workers.gpus else workers.threads,
        )
        .map_batches(
            CaptionPixels,
            batch_size=workers.batch_size,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=workers.count),
            num_cpus=workers.threads,
            num_gpus=workers.gpus,
            # In a list, a reference stays one: the weights go once to each machine, and only this one has their folder.
            fn_constructor_args=(
                [ray.put((bundle, {} if workers.gpus else _converted(bundle)))],
                options,
                workers.threads,
                "cuda" if workers.gpus else "cpu",
                workers.precision,
            ),
        )
    )
    try:
        captions.write_parquet(
            results.path,
            filesystem=results.filesystem,
            min_rows_per_file=rows_per_file,
            concurrency=1,
            ray_remote_args={"num_cpus": 0},  # a moment's work
        )
    except RayError as error:
        raise BatchJobError(
            f"{error}\nThe job broke off; what is written stays. The same command goes on there."
        ) from error


def _converted(bundle: tuple[BundleConfig, dict[str, torch.Tensor], Vocabulary]) -> dict[str, bytes]:
    """The files of the encoder as OpenVINO takes it: made once here, no worker needs seconds and timm for it."""
    with tempfile.TemporaryDirectory() as folder:
        export_openvino(*bundle[:2], Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).glob(f"{DIRECTORY}/*")}


def read_pixels(work: pa.Table, source: Source, preprocessing: Preprocessing) -> Iterator[pa.Table]:
    """Work → its pictures, ready for the encoder: `pixels`, (3, size, size) as bytes, or an error."""
    for rows, images in source.read(work):
        pixels = [_pixels(image, preprocessing) for image in images]
        errors = [one if isinstance(one, RequestError) else None for one in pixels]
        rows = rows.append_column(
            "pixels", pa.array([one if isinstance(one, bytes) else None for one in pixels], pa.binary())
        )
        yield _with_errors(rows, errors)


def _pixels(image: bytes | RequestError, preprocessing: Preprocessing) -> bytes | RequestError:
    if isinstance(image, RequestError):
        return image
    try:
        return (
            preprocessing.resize(decode_image(image, min_side=preprocessing.min_decode_side))
            .contiguous()
            .numpy()
            .tobytes()
        )
    except RequestError as error:
        return error
    except Exception as error:  # one picture must not end a job of a million
        return InternalError(f"The image could not be decoded: {type(error).__name__}: {error}.")


def _with_errors(rows: pa.Table, errors: list[RequestError | None]) -> pa.Table:
    types = pa.array([error and error.type for error in errors], pa.string())
    messages = pa.array([error and str(error) for error in errors], pa.string())
    return rows.append_column("error_type", types).append_column("error_message", messages)


class CaptionPixels:
    """The actor: what `read_pixels` gives → captions, or errors.

    Args:
        bundle: holds one reference, to what `load_bundle` gives and the files of its encoder, converted.
        options: for all pictures.
        threads: of torch.
        device: where the model runs.
        precision: it computes in.
    """

    def __init__(self, bundle: list[Any], options: GenerationConfig, threads: int, device: str, precision: str):
        torch.set_num_threads(threads)
        parts, converted = ray.get(bundle[0])
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, DIRECTORY).mkdir()
            for name, content in converted.items():
                Path(folder, DIRECTORY, name).write_bytes(content)
            self.captioner = Captioner(
                *parts, device=device, backend="auto", precision=precision, directory=Path(folder)
            )
        self.options = options

    def __call__(self, batch: pa.Table) -> pa.Table:
        pixels = {row: one for row, one in enumerate(batch["pixels"].to_pylist()) if one is not None}
        found, failed = self._caption(pixels)
        captions = [found.get(row) for row in range(len(batch))]
        errors = {name: batch[name].to_pylist() for name in ERROR.names}
        for row, error in failed.items():
            errors["error_type"][row], errors["error_message"][row] = error.type, str(error)
        rows = batch.drop_columns(["pixels", *ERROR.names])
        rows = rows.append_column("caption", pa.array([c and c[0].text for c in captions], pa.string()))
        rows = rows.append_column("score", pa.array([c and c[0].score for c in captions], pa.float64()))
        if self.options.num_captions > 1:
            told = [c and [{"caption": one.text, "score": one.score} for one in c] for c in captions]
            rows = rows.append_column("captions", pa.array(told, pa.list_(CAPTION)))
        rows = rows.append_column("model", pa.array([self.captioner.config.digest] * len(rows), pa.string()))
        for name in ERROR.names:
            rows = rows.append_column(name, pa.array(errors[name], pa.string()))
        return rows

    def _caption(self, pixels: dict[int, bytes]) -> tuple[dict[int, list[Caption]], dict[int, RequestError]]:
        """Rows' pixels → their captions, and errors where there is too little memory for one alone."""
        found: dict[int, list[Caption]] = {}
        size = self.captioner.config.preprocessing.size

        def attempt(rows: Sequence[int]) -> RequestError | None:
            stacked = np.stack([np.frombuffer(pixels[row], np.uint8) for row in rows]).reshape(-1, 3, size, size)
            try:
                captions = self.captioner.caption_pixels(torch.from_numpy(stacked), [self.options] * len(rows))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise  # it would meet every picture
                return to_request_error(error, "The image was not captioned")
            found.update(zip(rows, captions, strict=True))
            return None

        return found, dict(retry_in_halves(list(pixels), attempt)) if pixels else {}
