"""Append-only log of the requests of a run, as JSON lines, from which an interrupted run resumes."""

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Self

from eval.client import CaptionResult
from eval.files import lock_file
from eval.transports import EndpointError

# HTTP status codes caused by the image itself. Others, e.g. a missing token or an unknown option, can be fixed.
NON_RETRYABLE = {413, 415, 422}


def open_log(path: Path, run: dict[str, Any]) -> "RequestLog":
    """Open the log of a run, created if missing, and start a session.

    A truncated last line is removed. The log stays locked for other processes until it is closed.

    Args:
        path: Log file.
        run: Everything that must be the same to resume the run: the split, its digest, the options.

    Returns:
        The log, a context manager that closes it.

    Raises:
        OSError: If the file cannot be written.
        ValueError: If the file belongs to another run, is damaged, or is locked by another process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a", encoding="utf-8")
    try:
        lock_file(file)
        log = RequestLog(path, file)
        lines = _read_lines(path)
        if lines:
            log.resume(lines, run)
        log.start_session(run if not lines else None)
    except BlockingIOError as error:
        file.close()
        raise ValueError(f"Another process uses {path}: choose another RUN, or wait for it.") from error
    except BaseException:
        with suppress(OSError):  # closing flushes again what did not fit on the disk
            file.close()
        raise
    return log


class RequestLog:
    """Log of a run; see `open_log`.

    The first line describes the run. Each session adds `{"session": …}`, each caption or failure a line.

    Args:
        path: Log file, for messages.
        file: The same file, open for appending.

    Attributes:
        answers: The last line of each image, by image id.
        model: Name, version and digest of the model of the endpoint; None if the endpoint does not report them.
        seconds: Total time of all sessions.
    """

    def __init__(self, path: Path, file: IO[str]) -> None:
        self.path = path
        self.answers: dict[int, dict[str, Any]] = {}
        self.model: Any = None
        self.seconds = 0.0
        self._file = file
        self._sessions = 0
        self._start, self._seconds_before = time.monotonic(), 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def resume(self, lines: Sequence[dict[str, Any]], run: dict[str, Any]) -> None:
        """Restore the state from the lines of former sessions.

        Raises:
            ValueError: If they belong to another run.
        """
        if different := sorted(name for name in run if lines[0]["run"].get(name) != run[name]):
            raise ValueError(f"{self.path} belongs to a run with other {' and '.join(different)}: choose another RUN.")
        last = 0.0
        for line in lines[1:]:
            if "session" in line:
                self._sessions += 1
                self.seconds += last
                last = 0.0
            else:
                self._index(line)
                last = line["at"]
        self.seconds += last

    def start_session(self, run: dict[str, Any] | None) -> None:
        """Append the line of a new session, after the description of the run if the log is new.

        Raises:
            OSError: If the disk is full.
        """
        if run is not None:
            self._write({"run": run})
        self._write({"session": self._sessions + 1, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
        self._start, self._seconds_before = time.monotonic(), self.seconds

    def is_done(self, image: int) -> bool:
        """Return True if an image needs no further request: it has a caption, or a retry would fail again."""
        line = self.answers.get(image)
        return line is not None and ("caption" in line or line["error"]["code"] in NON_RETRYABLE)

    def add(self, result: CaptionResult) -> None:
        """Append a result and flush it.

        Raises:
            OSError: If the disk is full. The result is not counted; the next session removes the truncated line.
            ValueError: If the endpoint has another model than at the start of the run.
        """
        line: dict[str, Any] = {"image_id": result.key}
        if isinstance(result.response, EndpointError):
            error = result.response
            line["error"] = {"code": error.code, "type": error.type, "message": str(error)}
        else:
            self.check_model(result.response)
            line |= {"caption": result.response["caption"], "model": result.response.get("model")}
            if len(captions := _all_captions(result.response)) > 1:
                line["captions"] = captions
        # The time of an image that was requested again includes former requests.
        before = self.answers.get(result.key, {"seconds": 0.0})["seconds"]
        line |= {"at": round(time.monotonic() - self._start, 4), "seconds": round(before + result.seconds, 5)}
        self._write(line)
        self._index(line)
        self.seconds = self._seconds_before + line["at"]

    def check_model(self, response: dict[str, Any]) -> None:
        """Check that a response comes from the same model as the captions of the log.

        Raises:
            ValueError: If it does not.
        """
        model = response.get("model")
        if model != self.model and any("caption" in line for line in self.answers.values()):
            raise ValueError(
                f"The model of the endpoint has changed from {_model_digest(self.model)} to {_model_digest(model)}: "
                "choose another RUN."
            )

    def close(self) -> None:
        """Close the file and release its lock."""
        with suppress(OSError):  # a line that did not fit on the disk, which `add` has reported
            self._file.close()

    def _index(self, line: dict[str, Any]) -> None:
        self.answers[line["image_id"]] = line
        if "caption" in line:
            self.model = line["model"]

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")  # in ASCII: some Unicode characters would end a line
        self._file.flush()


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the lines of former sessions and remove a truncated last line from the file."""
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(path, end)
    try:
        return [json.loads(line) for line in content[:end].split(b"\n")[:-1]]
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): choose another RUN.") from error


def _all_captions(response: dict[str, Any]) -> list[str]:
    """Return the captions of a response to `num_captions`, the best first."""
    candidates = response.get("captions")
    texts = [one.get("caption") for one in candidates if isinstance(one, dict)] if isinstance(candidates, list) else []
    return [text for text in texts if isinstance(text, str)]


def _model_digest(model: object) -> str:
    return str(model.get("digest", model)) if isinstance(model, dict) else "a model without a name"
