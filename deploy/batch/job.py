"""Batch job on Ray Data: read and decode, caption in actors, write Parquet, as a stream with bounded memory."""

import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import ray
import torch
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from deploy.batch.ray_session import READER_CPUS
from deploy.batch.results import Results
from deploy.batch.sources import ImageSource
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

BLOCK_BYTES = 16 << 20  # bytes of pixels that a reader passes to a worker at once, about 64 images
ERROR = pa.schema([("error_type", pa.string()), ("error_message", pa.string())])
CAPTION = pa.struct([("caption", pa.string()), ("score", pa.float64())])


@dataclass(frozen=True)
class WorkerConfig:
    """Resources and settings of the captioning actors.

    Attributes:
        count: Number of actors, each with its own copy of the model.
        threads: CPUs per actor.
        gpus: GPUs per actor; a fraction lets several actors share one.
        batch_size: Images captioned together.
        precision: One of `handler.backends.PRECISIONS`.
    """

    count: int
    threads: int
    gpus: float
    batch_size: int
    precision: str


def run(
    source: ImageSource,
    pending: pa.Table,
    results: Results,
    bundle: tuple[BundleConfig, dict[str, torch.Tensor], Vocabulary],
    options: GenerationConfig,
    workers: WorkerConfig,
    rows_per_file: int,
) -> None:
    """Caption the pending images and write the results. Ray must be running.

    Args:
        source: Source of the images.
        pending: Rows of `source.remaining`.
        results: Output directory.
        bundle: Return value of `load_bundle`.
        options: Generation options for all images.
        workers: Captioning actors.
        rows_per_file: Minimum number of images in an output file; the last files may have fewer.

    Raises:
        BatchJobError: If a worker fails repeatedly or the output cannot be written.
    """
    context = DataContext.get_current()
    context.target_max_block_size, context.enable_progress_bars = BLOCK_BYTES, False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    size = max(1, min(rows_per_file, len(pending) // (8 * workers.count)))
    blocks = [pending.slice(first, size) for first in range(0, len(pending), size)]
    captions = (
        ray.data.from_blocks(blocks)  # unlike from_arrow, it starts no task to look at them
        .map_batches(
            read_pixels,
            batch_size=None,
            batch_format="pyarrow",
            fn_kwargs={"source": source, "preprocessing": bundle[0].preprocessing},
            # Ray fuses stages with equal resources: a CPU worker reads its own images; for GPUs there are readers.
            num_cpus=READER_CPUS if workers.gpus else workers.threads,
        )
        .map_batches(
            CaptionPixels,
            batch_size=workers.batch_size,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=workers.count),
            num_cpus=workers.threads,
            num_gpus=workers.gpus,
            # Inside a list, an object reference is passed on as it is, so the weights are sent to each node only once.
            fn_constructor_args=(
                [ray.put((bundle, {} if workers.gpus else _openvino_files(bundle)))],
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
            ray_remote_args={"num_cpus": 0},  # writing takes little CPU time
        )
    except RayError as error:
        raise BatchJobError(f"{error}\nThe job failed. Written results stay; the same command resumes it.") from error


def _openvino_files(bundle: tuple[BundleConfig, dict[str, torch.Tensor], Vocabulary]) -> dict[str, bytes]:
    """Convert the encoder to OpenVINO once, so that workers need neither timm nor the seconds for it."""
    with tempfile.TemporaryDirectory() as directory:
        export_openvino(*bundle[:2], Path(directory))
        return {path.name: path.read_bytes() for path in Path(directory).glob(f"{DIRECTORY}/*")}


def read_pixels(pending: pa.Table, source: ImageSource, preprocessing: Preprocessing) -> Iterator[pa.Table]:
    """Read, decode and resize images.

    Yields:
        The rows of the source with `pixels`, (3, size, size) as bytes, or `error_type` and `error_message`.
    """
    for rows, images in source.read(pending):
        pixels = [_to_pixels(image, preprocessing) for image in images]
        errors = [one if isinstance(one, RequestError) else None for one in pixels]
        data = [one if isinstance(one, bytes) else None for one in pixels]
        yield _append_errors(rows.append_column("pixels", pa.array(data, pa.binary())), errors)


def _to_pixels(image: bytes | RequestError, preprocessing: Preprocessing) -> bytes | RequestError:
    if isinstance(image, RequestError):
        return image
    try:
        pixels = preprocessing.resize(decode_image(image, min_side=preprocessing.min_decode_side))
        return pixels.contiguous().numpy().tobytes()
    except RequestError as error:
        return error
    except Exception as error:  # one image must not end a job with a million
        return InternalError(f"The image could not be decoded: {type(error).__name__}: {error}.")


def _append_errors(rows: pa.Table, errors: list[RequestError | None]) -> pa.Table:
    types = pa.array([error and error.type for error in errors], pa.string())
    messages = pa.array([error and str(error) for error in errors], pa.string())
    return rows.append_column("error_type", types).append_column("error_message", messages)


def _to_row(caption: Caption) -> dict[str, str | float]:
    return {"caption": caption.text, "score": caption.score}


class CaptionPixels:
    """Actor that captions the tables of `read_pixels`.

    Args:
        bundle: List of one object reference, to the return values of `load_bundle` and of `_openvino_files`.
        options: Generation options for all images.
        threads: Number of PyTorch threads.
        device: Device to run on.
        precision: One of `handler.backends.PRECISIONS`.
    """

    def __init__(self, bundle: list[Any], options: GenerationConfig, threads: int, device: str, precision: str) -> None:
        torch.set_num_threads(threads)
        (config, weights, vocabulary), openvino_files = ray.get(bundle[0])
        with tempfile.TemporaryDirectory() as directory:
            openvino = Path(directory, DIRECTORY)
            openvino.mkdir()
            for name, content in openvino_files.items():
                (openvino / name).write_bytes(content)
            self.captioner = Captioner(
                config,
                weights,
                vocabulary,
                device=device,
                backend="auto",
                precision=precision,
                directory=Path(directory),
            )
        self.options = options

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Replace `pixels` by captions; rows with an error have none."""
        pixels = {row: data for row, data in enumerate(batch["pixels"].to_pylist()) if data is not None}
        captioned, failed = self._caption(pixels)
        captions = [captioned.get(row) for row in range(len(batch))]
        errors = {name: batch[name].to_pylist() for name in ERROR.names}
        for row, error in failed.items():
            errors["error_type"][row], errors["error_message"][row] = error.type, str(error)
        rows = batch.drop_columns(["pixels", *ERROR.names])
        rows = rows.append_column("caption", pa.array([c and c[0].text for c in captions], pa.string()))
        rows = rows.append_column("score", pa.array([c and c[0].score for c in captions], pa.float64()))
        if self.options.num_captions > 1:
            all_captions = [None if c is None else [_to_row(one) for one in c] for c in captions]
            rows = rows.append_column("captions", pa.array(all_captions, pa.list_(CAPTION)))
        rows = rows.append_column("model", pa.array([self.captioner.config.digest] * len(rows), pa.string()))
        for name in ERROR.names:
            rows = rows.append_column(name, pa.array(errors[name], pa.string()))
        return rows

    def _caption(self, pixels: dict[int, bytes]) -> tuple[dict[int, list[Caption]], dict[int, RequestError]]:
        """Return captions by row, and errors of rows that do not fit into memory on their own."""
        captioned: dict[int, list[Caption]] = {}
        size = self.captioner.config.preprocessing.size

        def attempt(rows: Sequence[int]) -> RequestError | None:
            stacked = np.stack([np.frombuffer(pixels[row], np.uint8) for row in rows]).reshape(-1, 3, size, size)
            try:
                captions = self.captioner.caption_pixels(torch.from_numpy(stacked), [self.options] * len(rows))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise  # it would affect every image
                return to_request_error(error, "The image was not captioned")
            captioned.update(zip(rows, captions, strict=True))
            return None

        return captioned, dict(retry_in_halves(list(pixels), attempt)) if pixels else {}
