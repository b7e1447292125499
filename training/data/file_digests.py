"""SHA-256 of image files, remembered between runs by path, size and modification time."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from handler.files import atomic_write_text, exclusive_lock

SAMPLE = 64  # files of a call that are read again, to detect other content under the same size and time


class FileDigests:
    """Digests of files, stored in a JSON file: COCO's 17 GB are read once, and not at each start.

    Args:
        store: The JSON file; created if missing. Remove it to read all files again.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self._known: dict[str, tuple[int, int, str]] = {}
        with suppress(FileNotFoundError, ValueError):  # missing, or truncated by a power failure
            content = json.loads(store.read_text(encoding="utf-8"))
            self._known = {name: (size, modified, digest) for name, (size, modified, digest) in content.items()}

    def digest_all(self, paths: Sequence[Path]) -> list[bytes]:
        """Return the digest of each file.

        Files whose size or modification time has changed are read. So is an even sample of the others; if one of them
        differs, all are read.
        """
        entries = [self._entry(path) for path in paths]
        known = [
            i
            for i, (name, size, modified) in enumerate(entries)
            if name in self._known and self._known[name][:2] == (size, modified)
        ]
        sample = known[:: max(1, len(known) // SAMPLE)]
        if any(self._known[entries[i][0]][2] != _sha256(paths[i]) for i in sample):
            known = []
        missing = set(range(len(paths))).difference(known)
        for i in missing:
            name, size, modified = entries[i]
            self._known[name] = (size, modified, _sha256(paths[i]))
        if missing:
            with exclusive_lock(self.store.with_suffix(".lock")):
                atomic_write_text(self.store, json.dumps(self._known))
        return [bytes.fromhex(self._known[name][2]) for name, _, _ in entries]

    @staticmethod
    def _entry(path: Path) -> tuple[str, int, int]:
        status = path.stat()
        return str(path.resolve()), status.st_size, status.st_mtime_ns


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
