"""Unpacks a zip that came from elsewhere: wanted files only, each whole, none outside the folder, none without end."""

import fnmatch
import os
import shutil
import stat
import zipfile
import zlib
from pathlib import Path

from tqdm import tqdm

CHUNK = 1 << 20  # bytes held in memory


def unpack(archive: Path, pattern: str, folder: Path, limit: int) -> dict[str, int]:
    """Writes an archive's wanted files under a folder; those that are there with the right size are left as they are.

    Each is written under another name first: what has its own name is whole, and a kill in between costs one file.

    Args:
        archive: a zip.
        pattern: which files are wanted, such as `val2017/*.jpg`.
        folder: what the archive's names are relative to.
        limit: bytes that the wanted files may have together, unpacked.

    Returns:
        Path below the folder → bytes, of all that are wanted.

    Raises:
        ValueError: it is no zip or a damaged one, a name in it leads out of the folder, what is wanted is a link or
            another thing that is no file, is larger than the limit, or is not in it. Names and sizes are checked
            before anything is written.
        OSError: it can't be written.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            members = _wanted(source, pattern, limit)
            total = sum(member.file_size for member in members)
            with tqdm(total=total, desc=f"unpacking {archive.name}", unit="B", unit_scale=True, disable=None) as bar:
                for member in members:
                    if not has_size(folder / member.filename, member.file_size):
                        _write(source, member, folder / member.filename)
                    bar.update(member.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: encrypted, or not deflate
        raise ValueError(f"{archive} can't be unpacked: {error}.") from error
    return {member.filename: member.file_size for member in members}


def has_size(path: Path, size: int) -> bool:
    """Whether a file is there with so many bytes."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size == size


def _wanted(source: zipfile.ZipFile, pattern: str, limit: int) -> list[zipfile.ZipInfo]:
    """The files to write, all checked."""
    wanted = []
    for member in source.infolist():
        name = member.filename
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise ValueError(f"{source.filename} holds '{name}', which leads out of the folder.")
        if member.is_dir() or not fnmatch.fnmatchcase(name, pattern):
            continue
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):  # 0: packed where files have no such type
            raise ValueError(f"{source.filename} holds '{name}', which is a link or another thing that is no file.")
        wanted.append(member)
    if not wanted:
        raise ValueError(f"{source.filename} holds no {pattern}.")
    if (total := sum(member.file_size for member in wanted)) > limit:
        raise ValueError(f"{source.filename} would unpack to {total:,} bytes, and {limit:,} are the most it may.")
    return wanted


def _write(source: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(".unpacking")  # one name for all, so that a kill leaves one such file at most
    try:
        with source.open(member) as packed, partial.open("wb") as file:
            shutil.copyfileobj(packed, file, CHUNK)  # zipfile gives no more than the declared size, and checks the CRC
        if not has_size(partial, member.file_size):
            raise zipfile.BadZipFile(f"'{member.filename}' is shorter than declared")
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
