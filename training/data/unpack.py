"""Unpack an untrusted zip: only matching files, none outside the directory, not more than a size limit."""

import fnmatch
import stat
import zipfile
import zlib
from pathlib import Path

from tqdm import tqdm


def unpack(archive: Path, pattern: str, directory: Path, max_bytes: int) -> dict[str, int]:
    """Write the matching files of a zip; files that exist with the right size are skipped.

    Args:
        archive: The zip.
        pattern: Glob pattern of the files to write, e.g. `val2017/*.jpg`.
        directory: Directory that the names in the zip are relative to.
        max_bytes: Maximum unpacked size of the matching files.

    Returns:
        Size in bytes of each matching file, by its name in the zip.

    Raises:
        ValueError: If the zip is damaged, a name leads out of the directory, or the matching files are none, not
            regular, or larger than `max_bytes`. Names and sizes are checked before the first file is written.
        OSError: If a file cannot be written.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            members = _select(source, pattern, max_bytes)
            for member in tqdm(members, desc=f"unpacking {archive.name}", unit="file", disable=None):
                if not has_size(directory / member.filename, member.file_size):
                    source.extract(member, directory)  # checks the CRC, and reads no more than the declared size
                    if not has_size(directory / member.filename, member.file_size):
                        raise zipfile.BadZipFile(f"'{member.filename}' is shorter than declared")
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted
        raise ValueError(f"{archive} cannot be unpacked: {error}.") from error
    return {member.filename: member.file_size for member in members}


def has_size(path: Path, size: int) -> bool:
    """Return True if `path` is a regular file of `size` bytes."""
    return path.is_file() and path.stat().st_size == size


def _select(source: zipfile.ZipFile, pattern: str, max_bytes: int) -> list[zipfile.ZipInfo]:
    """Return the files to write, after all checks."""
    for name in source.namelist():
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise ValueError(f"{source.filename} holds '{name}', which leads out of the directory.")
    members = [
        member for member in source.infolist() if not member.is_dir() and fnmatch.fnmatchcase(member.filename, pattern)
    ]
    for member in members:
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):  # 0: the zip stores no file type
            raise ValueError(f"{source.filename} holds '{member.filename}', which is not a regular file.")
    if not members:
        raise ValueError(f"{source.filename} holds no {pattern}.")
    if (total := sum(member.file_size for member in members)) > max_bytes:
        raise ValueError(f"{source.filename} would unpack to {total:,} bytes; the limit is {max_bytes:,}.")
    return members
