"""Output directory of a batch job: Parquet files and the settings they were made with, so that a job can resume."""

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from pyarrow.fs import FileSelector, FileType  # type: ignore[import-untyped]

from deploy.batch.sources import IMAGE_COLUMN
from deploy.batch.storage import THREADS, BatchJobError, one_line, resolve_uri
from handler.files import LockedError, exclusive_lock

SETTINGS = "_settings.json"  # readers of Parquet directories skip names with a leading underscore
COLUMNS = (IMAGE_COLUMN, "caption", "score", "captions", "model", "error_type", "error_message")


class Results:
    """A directory of Parquet files. A file is valid if its footer is complete; there is no other bookkeeping.

    Args:
        uri: Path or URI; created if missing.
        settings: Everything that determines the captions. A directory holds captions of one settings only.

    Raises:
        BatchJobError: If the directory cannot be written, is not empty, or holds captions of other settings.
    """

    def __init__(self, uri: str, settings: dict[str, Any]) -> None:
        self.uri = uri
        try:
            self.filesystem, self.path = resolve_uri(uri)
            self.filesystem.create_dir(self.path)
            self._check_settings(settings)
        except (OSError, pa.ArrowException) as error:
            raise BatchJobError(f"{uri} cannot be written: {one_line(error)}.") from error

    def _check_settings(self, settings: dict[str, Any]) -> None:
        path = f"{self.path}/{SETTINGS}"
        if self.filesystem.get_file_info(path).type == FileType.NotFound:
            if self.filesystem.get_file_info(FileSelector(self.path)):
                raise BatchJobError(f"{self.uri} holds other files: name a new directory for the captions.")
            with self.filesystem.open_output_stream(path) as file:
                file.write(json.dumps(settings, indent=2).encode() + b"\n")  # in ASCII: paths need not be UTF-8
            return
        with self.filesystem.open_input_stream(path) as file:
            content = file.read()
        try:
            previous = json.loads(content)
        except ValueError as error:
            raise BatchJobError(f"{self.uri}/{SETTINGS} cannot be parsed: {error}.") from error
        differences = [
            f"{name} is {previous.get(name)} there and {value} here"
            for name, value in settings.items()
            if previous.get(name) != value
        ]
        if differences:
            raise BatchJobError(
                f"{self.uri} holds captions of other settings: {'; '.join(differences)}. Name another directory."
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Allow one job at a time on this machine to write here.

        Raises:
            BatchJobError: If another job does.
        """
        name = f"captioner-{os.getuid()}-{hashlib.sha256(self.uri.encode()).hexdigest()[:8]}.lock"
        try:
            with exclusive_lock(Path(tempfile.gettempdir(), name), timeout=0):
                yield
        except LockedError as error:
            raise BatchJobError(f"Another job writes into {self.uri}: wait for it, or stop it.") from error

    def load_done(self) -> set[str]:
        """Return the names of all images in valid files. Nothing is changed."""
        return {name for _, names in self._read(IMAGE_COLUMN) for name in names or []}

    def repair(self) -> None:
        """Delete incomplete files, and rows of images that another file has, too.

        A killed job leaves incomplete files. Its workers, and on a cluster those of any job, may also write for some
        seconds after the next job has listed what is done, which causes duplicate rows.
        """
        seen: set[str] = set()
        for path, names in self._read(IMAGE_COLUMN):
            if names is None:
                self.filesystem.delete_file(path)
                continue
            is_new = [name not in seen for name in names]
            if not all(is_new):
                self._filter_rows(path, is_new)
            seen.update(names)

    def _filter_rows(self, path: str, mask: list[bool]) -> None:
        with self.filesystem.open_input_file(path) as file:
            table = pq.read_table(file).filter(pa.array(mask))
        partial = f"{path}.partial"
        with self.filesystem.open_output_stream(partial) as file:
            pq.write_table(table, file)
        self.filesystem.move(partial, path)

    def outcomes(self) -> Counter[str | None]:
        """Count the written images by error type; None counts those with a caption."""
        return Counter(error for _, errors in self._read("error_type") for error in errors or [])

    def _read(self, column: str) -> Iterator[tuple[str, list[Any] | None]]:
        """Yield the path and a column of each file; None instead of the column if the file is incomplete."""

        def read(path: str) -> tuple[str, list[Any] | None]:
            try:
                with pq.ParquetFile(self.filesystem.open_input_file(path)) as parquet:
                    return path, parquet.read([column])[column].to_pylist()
            except pa.ArrowInvalid:
                return path, None

        infos = self.filesystem.get_file_info(FileSelector(self.path))
        with ThreadPoolExecutor(THREADS) as pool:
            yield from pool.map(read, [info.path for info in infos if info.path.endswith(".parquet")])
