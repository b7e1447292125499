"""What a run has asked and was answered: an append-only file, a line of JSON each, that survives any kill."""

import fcntl
import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from eval.client import CaptionResult
from eval.transports import EndpointError

FINAL = {413, 415, 422}  # what is wrong with a picture stays wrong; a missing token or an unknown option may be mended


class RequestLog:
    """The log of a run.

    Its first line says what the run is; then come `{"session": …}` for each start of the harness, and a line for each
    picture that was answered or failed. A last line that broke off is dropped. One process at a time may hold it.

    Args:
        path: made where it is missing.
        run: what must be the same for the run to go on: the split, its digest, the options.

    Attributes:
        answers: image id → its line; of several lines the last.
        model: name, version and digest of the endpoint's model, once it is known; None where it does not say.

    Raises:
        OSError: it can't be written.
        ValueError: the file belongs to another run (the message says where they differ), is damaged, or another process
            holds it.
    """

    def __init__(self, path: Path, run: dict[str, Any]):
        self.path, self.run = path, run
        self.answers: dict[int, dict[str, Any]] = {}
        self.model: Any = None
        self.seconds = 0.0  # of all sessions
        self._sessions = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lines = self._lines()
            self._take_up(lines)
            if not lines:
                self._write({"run": run})
            self._write({"session": self._sessions + 1, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
        except BlockingIOError as error:
            self.close()
            raise ValueError(f"Another process works on {path}: name another RUN, or wait for it.") from error
        except (OSError, ValueError):
            self.close()
            raise
        self._began, self._before = time.monotonic(), self.seconds

    def _lines(self) -> list[dict[str, Any]]:
        """What former sessions wrote; what broke off is cut away."""
        content = self.path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self.path, whole)
        try:
            return [json.loads(line) for line in content[:whole].split(b"\n")[:-1]]
        except ValueError as error:
            raise ValueError(f"{self.path} is damaged ({error}): name another RUN.") from error

    def _take_up(self, lines: list[dict[str, Any]]) -> None:
        """Goes on where former sessions stopped."""
        run, path = self.run, self.path
        if lines:
            if differ := sorted(name for name in run if lines[0]["run"].get(name) != run[name]):
                raise ValueError(f"{path} is of a run with another {' and '.join(differ)}: name another RUN.")
            last = 0.0
            for line in lines[1:]:
                if "session" in line:
                    self._sessions += 1
                    self.seconds += last
                    last = 0.0
                else:
                    self._take(line)
                    last = line["at"]
            self.seconds += last

    def settled(self, image: int) -> bool:
        """Whether a picture needs no further request: it has a caption, or was refused for good."""
        line = self.answers.get(image)
        return line is not None and ("caption" in line or line["error"]["code"] in FINAL)

    def add(self, outcome: CaptionResult) -> None:
        """Writes what came of a picture, at once.

        Raises:
            OSError: the disk is full; the line is not taken, and what of it was written is dropped by the next start.
            ValueError: the endpoint's model is no longer the one that the run was begun with.
        """
        line: dict[str, Any] = {"image_id": outcome.key}
        if isinstance(outcome.result, EndpointError):
            error = outcome.result
            line["error"] = {"code": error.code, "type": error.type, "message": str(error)}
        else:
            answer = outcome.result
            self.confirm(answer)
            line |= {"caption": answer["caption"], "model": answer.get("model")}
        # Of a picture that was asked for again, the time of all its tries.
        before = self.answers.get(outcome.key, {"seconds": 0.0})["seconds"]
        line |= {"at": round(time.monotonic() - self._began, 4), "seconds": round(before + outcome.seconds, 5)}
        self._write(line)
        self._take(line)
        self.seconds = self._before + line["at"]

    def confirm(self, answer: dict[str, Any]) -> None:
        """Sees that an answer is of the model that gave the others.

        Raises:
            ValueError: the endpoint's model is no longer the one that the run was begun with.
        """
        model = answer.get("model")
        if model != self.model and any("caption" in known for known in self.answers.values()):
            raise ValueError(
                f"The endpoint's model has changed from {_named(self.model)} to {_named(model)}: name another RUN."
            )

    def close(self) -> None:
        with suppress(OSError):  # a line that there was no room for, which has been told
            self._file.close()

    def _take(self, line: dict[str, Any]) -> None:
        self.answers[line["image_id"]] = line
        if "caption" in line:
            self.model = line["model"]

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")  # in ASCII: some characters would end a line
        self._file.flush()


def _named(model: Any) -> str:
    return str(model.get("digest", model)) if isinstance(model, dict) else "one without a name"
