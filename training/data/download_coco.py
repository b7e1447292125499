"""Downloads COCO into COCO's layout; the same command again goes on where it stopped.

python -m training.data.download_coco ../coco
python -m training.data.download_coco ../coco --sets 2017 --annotations-only
"""

import argparse
import errno
import fcntl
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from training.data.http_download import DownloadError, fetch
from training.data.karpathy import write_karpathy_splits
from training.data.unpack import has_size, unpack

# The bucket's own address: images.cocodataset.org has no certificate for its name.
COCO = "https://s3.amazonaws.com/images.cocodataset.org"
KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent"
UNPACKED = 10  # an archive may unpack to so many times its size; pictures do to 1 time, captions to 4


@dataclass(frozen=True)
class Archive:
    """A zip to fetch.

    Args:
        url: where it lies.
        size: its bytes.
        sha256: its digest, in hexadecimal.
        wanted: a pattern of the files in it that are unpacked.
        kind: what they are; `karpathy` is turned into COCO's format.
    """

    url: str
    size: int
    sha256: str
    wanted: str
    kind: Literal["captions", "pictures", "karpathy"]

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[1]


CAPTIONS_2014 = Archive(
    f"{COCO}/annotations/annotations_trainval2014.zip",
    252_872_794,
    "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
    "annotations/captions_*2014.json",
    "captions",
)
CAPTIONS_2017 = Archive(
    f"{COCO}/annotations/annotations_trainval2017.zip",
    252_907_541,
    "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    "annotations/captions_*2017.json",
    "captions",
)
CAPTIONS_KARPATHY = Archive(
    f"{KARPATHY}/caption_datasets.zip",
    36_745_453,
    "4cfd70132527b80933105e5829dc9034eaab9573482e2e680abbab6130244817",
    "dataset_coco.json",
    "karpathy",
)
TRAIN_2014 = Archive(
    f"{COCO}/zips/train2014.zip",
    13_510_573_713,
    "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
    "train2014/*.jpg",
    "pictures",
)
VAL_2014 = Archive(
    f"{COCO}/zips/val2014.zip",
    6_645_013_297,
    "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
    "val2014/*.jpg",
    "pictures",
)
TRAIN_2017 = Archive(
    f"{COCO}/zips/train2017.zip",
    19_336_861_798,
    "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    "train2017/*.jpg",
    "pictures",
)
VAL_2017 = Archive(
    f"{COCO}/zips/val2017.zip",
    815_585_330,
    "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    "val2017/*.jpg",
    "pictures",
)
CATALOGUE = {
    "2017": (CAPTIONS_2017, TRAIN_2017, VAL_2017),
    "2014": (CAPTIONS_2014, TRAIN_2014, VAL_2014),
    "karpathy": (CAPTIONS_KARPATHY, TRAIN_2014, VAL_2014),
}
DEFAULT = ("2017", "karpathy")


def download(
    folder: Path,
    sets: Sequence[str] = DEFAULT,
    *,
    annotations_only: bool = False,
    keep_archives: bool = False,
    catalogue: Mapping[str, Sequence[Archive]] = CATALOGUE,
    pause: float = 1.0,
) -> None:
    """Fetches and unpacks what is not there yet, the smallest archive first.

    `<folder>/archives/` holds what came so far, and for each archive that was unpacked a note of its files, so that
    it is not asked for again while they are all there.

    Args:
        folder: becomes `annotations/captions_<split>.json` beside `<split>/*.jpg`; made where it is missing.
        sets: names in the catalogue.
        annotations_only: leave the pictures.
        keep_archives: do not delete an archive once it is unpacked.
        catalogue: the archives of each set; one in several sets is fetched once.
        pause: seconds before an attempt that follows one that failed, doubled with each further one.

    Raises:
        DownloadError: an archive can't be had.
        ValueError: an archive can't be unpacked, or another process downloads into the folder.
        OSError: something can't be written. What was done is kept, here and with all other errors.
    """
    archives = folder / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    with _alone(archives):
        chosen = {archive for name in sets for archive in catalogue[name]}
        for archive in sorted(chosen, key=lambda archive: archive.size):
            if not (annotations_only and archive.kind == "pictures"):
                _bring(archive, folder, archives / archive.name, keep_archives, pause)


def _bring(archive: Archive, folder: Path, packed: Path, keep: bool, pause: float) -> None:
    """Fetches and unpacks one archive, unless its files are there."""
    note = packed.with_name(f"{packed.name}.unpacked")
    files = _noted_files(note, archive)
    if not (files and all(has_size(folder / name, size) for name, size in files.items())):
        print(f"{archive.name}: fetching it ({archive.size / 1e6:,.0f} MB) and unpacking.", flush=True)
        fetch(archive.url, packed, size=archive.size, sha256=archive.sha256, pause=pause)
        files = _unpack(archive, packed, folder)
        os.sync()  # the archive may be deleted now, so what came from it must outlive a power failure
        partial = note.with_name(f"{note.name}.partial")
        partial.write_text(json.dumps({"sha256": archive.sha256, "files": files}))
        os.replace(partial, note)
    if not keep:
        packed.unlink(missing_ok=True)
        packed.with_name(f"{packed.name}.verified").unlink(missing_ok=True)
    print(f"{archive.name}: {len(files):,} {'file is' if len(files) == 1 else 'files are'} in {folder}.", flush=True)


def _noted_files(note: Path, archive: Archive) -> dict[str, int]:
    """Path below the folder → bytes of what was unpacked before; empty if nothing was, or from another archive."""
    try:
        content = json.loads(note.read_text())
    except (FileNotFoundError, ValueError):  # no note, or one that a power failure cut short
        return {}
    return content["files"] if content["sha256"] == archive.sha256 else {}


def _unpack(archive: Archive, packed: Path, folder: Path) -> dict[str, int]:
    limit = UNPACKED * archive.size
    if archive.kind != "karpathy":
        return unpack(packed, archive.wanted, folder, limit)
    unpack(packed, archive.wanted, packed.parent, limit)
    source = packed.parent / archive.wanted
    written = write_karpathy_splits(source, folder / "annotations")
    source.unlink()
    return {str(path.relative_to(folder)): path.stat().st_size for path in written}


@contextmanager
def _alone(archives: Path) -> Iterator[None]:
    """Lets one process at a time download into a folder."""
    with (archives / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"Another process is downloading into {archives.parent}.") from error
        yield


def main(
    arguments: Sequence[str] | None = None,
    catalogue: Mapping[str, Sequence[Archive]] = CATALOGUE,
    pause: float = 1.0,
) -> None:
    parser = argparse.ArgumentParser(
        description="Downloads COCO into COCO's layout; run again, it goes on where it stopped.", allow_abbrev=False
    )
    parser.add_argument("folder", type=Path, help="where to; made where it is missing")
    parser.add_argument(
        "--sets", nargs="+", choices=sorted(catalogue), default=DEFAULT, help=f"default: {' '.join(DEFAULT)}"
    )
    parser.add_argument("--annotations-only", action="store_true", help="captions without pictures")
    parser.add_argument("--keep-archives", action="store_true", help="do not delete a zip once it is unpacked")
    asked = parser.parse_args(arguments)
    try:
        download(
            asked.folder,
            asked.sets,
            annotations_only=asked.annotations_only,
            keep_archives=asked.keep_archives,
            catalogue=catalogue,
            pause=pause,
        )
    except (DownloadError, ValueError) as error:
        sys.exit(str(error))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            sys.exit(f"The disk of {asked.folder} is full. With more space, the same command goes on where it stopped.")
        sys.exit(f"{error.filename or asked.folder} can't be written: {error.strerror or error}.")
    except KeyboardInterrupt:
        sys.exit(f"Stopped. The same command goes on where it stopped, in {asked.folder}.")


if __name__ == "__main__":
    main()
