"""The folder of captions: what they were made with and which are written, so that a job goes on where it stopped."""

import fcntl
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

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector, FileType

from deploy.batch.sources import PICTURE
from deploy.batch.storage import THREADS, BatchJobError, in_a_line, locate

SETTINGS = "_settings.json"  # those who read a folder of Parquet files pass over names that begin so

COLUMNS = ("picture", "caption", "score", "captions", "model", "error_type", "error_message")


class Results:
    """A folder of Parquet files. One counts when it is whole, which its end says; nothing else need be kept.

    Args:
        uri: a path or URI; made where it is missing.
        settings: all that decides captions; a folder holds those of one setting alone.

    Raises:
        BatchJobError: the folder can't be written, holds something else, or captions of other settings.
    """

    def __init__(self, uri: str, settings: dict[str, Any]):
        self.uri = uri
        try:
            self.filesystem, self.path = locate(uri)
            self.filesystem.create_dir(self.path)
            self._agree(settings)
        except (OSError, pa.ArrowException) as error:
            raise BatchJobError(f"{uri} can't be written: {in_a_line(error)}.") from error

    def _agree(self, settings: dict[str, Any]) -> None:
        path = f"{self.path}/{SETTINGS}"
        if self.filesystem.get_file_info(path).type == FileType.NotFound:
            if self.filesystem.get_file_info(FileSelector(self.path)):
                raise BatchJobError(f"{self.uri} holds something else: name a new folder for the captions.")
            with self.filesystem.open_output_stream(path) as file:
                file.write(json.dumps(settings, indent=2, ensure_ascii=False).encode() + b"\n")
            return
        with self.filesystem.open_input_stream(path) as file:
            content = file.read()
        try:
            theirs = json.loads(content)
        except ValueError as error:
            raise BatchJobError(f"{self.uri}/{SETTINGS} can't be understood: {error}.") from error
        told = [
            f"{name} is {theirs.get(name)} there and {value} here"
            for name, value in settings.items()
            if theirs.get(name) != value
        ]
        if told:
            raise BatchJobError(f"{self.uri} holds captions made otherwise: {'; '.join(told)}. Name another folder.")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lets one job at a time of this machine write here.

        Raises:
            BatchJobError: another one does.
        """
        name = f"captioner-{os.getuid()}-{hashlib.sha256(self.uri.encode()).hexdigest()[:8]}.lock"
        with Path(tempfile.gettempdir(), name).open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise BatchJobError(f"Another job writes into {self.uri}: wait for it, or stop it.") from error
            yield

    def done(self) -> set[str]:
        """The pictures that are written, each in one file.

        What a killed job left half-written is removed, and so are pictures that another file has: a killed job's
        workers, and on a cluster any job's, may write for some seconds more.
        """
        done: set[str] = set()
        for path, names in self._read(PICTURE):
            if names is None:
                self.filesystem.delete_file(path)
                continue
            new = [name not in done for name in names]
            if not all(new):
                self._keep(path, new)
            done.update(names)
        return done

    def _keep(self, path: str, rows: list[bool]) -> None:
        with self.filesystem.open_input_file(path) as file:
            table = pq.read_table(file).filter(pa.array(rows))
        partial = f"{path}.partial"
        with self.filesystem.open_output_stream(partial) as file:
            pq.write_table(table, file)
        self.filesystem.move(partial, path)

    def outcomes(self) -> Counter[str | None]:
        """How many of the pictures that are written have which error; None is for those with a caption."""
        return Counter(error for _, errors in self._read("error_type") for error in errors or [])

    def _read(self, column: str) -> Iterator[tuple[str, list[str | None] | None]]:
        """A column of each file; None where the file is not whole."""

        def read(path: str) -> tuple[str, list[str | None] | None]:
            try:
                with pq.ParquetFile(self.filesystem.open_input_file(path)) as parquet:
                    return path, parquet.read([column])[column].to_pylist()
            except pa.ArrowInvalid:
                return path, None

        infos = self.filesystem.get_file_info(FileSelector(self.path))
        with ThreadPoolExecutor(THREADS) as pool:
            yield from pool.map(read, [info.path for info in infos if info.path.endswith(".parquet")])
