"""Download COCO into the COCO layout. Run the same command again to resume.

python -m training.data.download_coco ../coco
python -m training.data.download_coco ../coco --sets 2017 --annotations-only
"""

import argparse
import errno
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from handler.files import LockedError, atomic_write_text, exclusive_lock
from training.data.http_download import DownloadError, download_file
from training.data.karpathy import write_karpathy_splits
from training.data.unpack import has_size, unpack

# The address of the bucket: images.cocodataset.org has no certificate for its name.
COCO = "https://s3.amazonaws.com/images.cocodataset.org"
KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent"
MAX_UNPACK_RATIO = 10  # unpacked over packed bytes; about 1 for images, 4 for captions


@dataclass(frozen=True)
class Archive:
    """A zip to download.

    Attributes:
        url: Its URL.
        size: Its size in bytes.
        sha256: Its SHA-256, in hexadecimal.
        pattern: Glob pattern of the files to unpack.
        kind: What the files are; `karpathy` is converted to the COCO format.
    """

    url: str
    size: int
    sha256: str
    pattern: str
    kind: Literal["captions", "images", "karpathy"]

    @property
    def name(self) -> str:
        """The file name in the URL."""
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
    "images",
)
VAL_2014 = Archive(
    f"{COCO}/zips/val2014.zip",
    6_645_013_297,
    "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
    "val2014/*.jpg",
    "images",
)
TRAIN_2017 = Archive(
    f"{COCO}/zips/train2017.zip",
    19_336_861_798,
    "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    "train2017/*.jpg",
    "images",
)
VAL_2017 = Archive(
    f"{COCO}/zips/val2017.zip",
    815_585_330,
    "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    "val2017/*.jpg",
    "images",
)
CATALOG = {
    "2017": (CAPTIONS_2017, TRAIN_2017, VAL_2017),
    "2014": (CAPTIONS_2014, TRAIN_2014, VAL_2014),
    "karpathy": (CAPTIONS_KARPATHY, TRAIN_2014, VAL_2014),
}
DEFAULT = ("2017", "karpathy")


def download(
    directory: Path,
    sets: Sequence[str] = DEFAULT,
    *,
    annotations_only: bool = False,
    keep_archives: bool = False,
    catalog: Mapping[str, Sequence[Archive]] = CATALOG,
    pause: float = 1.0,
) -> None:
    """Download and unpack what is missing, the smallest archive first.

    `<directory>/archives/` holds the downloads and, for each unpacked archive, a manifest of its files. An archive is
    not downloaded again while all of them exist.

    Args:
        directory: Gets `annotations/captions_<split>.json` and `<split>/*.jpg`; created if missing.
        sets: Names of sets in the catalog.
        annotations_only: Skip the images.
        keep_archives: Keep each archive after unpacking.
        catalog: Archives of each set; an archive in several sets is downloaded once.
        pause: Seconds before the first retry.

    Raises:
        DownloadError: If an archive cannot be downloaded.
        ValueError: If an archive cannot be unpacked.
        LockedError: If another process downloads into the directory.
        OSError: If a file cannot be written. All errors keep the progress so far.
    """
    archives = directory / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(archives / ".lock", timeout=0):
        for archive in sorted({archive for name in sets for archive in catalog[name]}, key=lambda item: item.size):
            if not (annotations_only and archive.kind == "images"):
                _fetch_and_unpack(archive, directory, archives / archive.name, keep_archives, pause)


def _fetch_and_unpack(archive: Archive, directory: Path, packed: Path, keep: bool, pause: float) -> None:
    """Download and unpack one archive, unless its files exist."""
    manifest = packed.with_name(f"{packed.name}.unpacked")
    files = _read_manifest(manifest, archive)
    if not (files and all(has_size(directory / name, size) for name, size in files.items())):
        print(f"{archive.name}: downloading {archive.size / 1e6:,.0f} MB and unpacking.", flush=True)
        download_file(archive.url, packed, size=archive.size, sha256=archive.sha256, pause=pause)
        files = _unpack(archive, packed, directory)
        os.sync()  # the archive may be deleted next, so its files have to survive a power failure
        atomic_write_text(manifest, json.dumps({"sha256": archive.sha256, "files": files}))
    if not keep:
        packed.unlink(missing_ok=True)
    print(f"{archive.name}: {len(files):,} {'file is' if len(files) == 1 else 'files are'} in {directory}.", flush=True)


def _read_manifest(manifest: Path, archive: Archive) -> dict[str, int]:
    """Return the sizes of the unpacked files by path; empty if there are none, or they are of another archive."""
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # missing, or truncated by a power failure
        return {}
    return dict(content["files"]) if content["sha256"] == archive.sha256 else {}


def _unpack(archive: Archive, packed: Path, directory: Path) -> dict[str, int]:
    max_bytes = MAX_UNPACK_RATIO * archive.size
    if archive.kind != "karpathy":
        return unpack(packed, archive.pattern, directory, max_bytes)
    unpack(packed, archive.pattern, packed.parent, max_bytes)
    source = packed.parent / archive.pattern
    written = write_karpathy_splits(source, directory / "annotations")
    source.unlink()
    return {str(path.relative_to(directory)): path.stat().st_size for path in written}


def main(
    arguments: Sequence[str] | None = None,
    catalog: Mapping[str, Sequence[Archive]] = CATALOG,
    pause: float = 1.0,
) -> None:
    """Run the command.

    Args:
        arguments: Command line; default: that of the process.
        catalog: As for `download`.
        pause: As for `download`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m training.data.download_coco",
        description="Download COCO into the COCO layout.",
        allow_abbrev=False,
    )
    parser.add_argument("directory", type=Path, help="target directory; created if missing")
    sets = f"default: {' '.join(DEFAULT)}"
    parser.add_argument("--sets", nargs="+", choices=sorted(catalog), default=DEFAULT, help=sets)
    parser.add_argument("--annotations-only", action="store_true", help="skip the images")
    parser.add_argument("--keep-archives", action="store_true", help="keep each zip after unpacking")
    args = parser.parse_args(arguments)
    resume = "Run the same command again to resume."
    try:
        download(
            args.directory,
            args.sets,
            annotations_only=args.annotations_only,
            keep_archives=args.keep_archives,
            catalog=catalog,
            pause=pause,
        )
    except LockedError:
        sys.exit(f"Another process is downloading into {args.directory}.")
    except (DownloadError, ValueError) as error:
        sys.exit(str(error))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            sys.exit(f"The disk of {args.directory} is full. Free some space. {resume}")
        sys.exit(f"{error.filename or args.directory} cannot be written: {error.strerror or error}.")
    except KeyboardInterrupt:
        sys.exit(f"Stopped. {resume}")


if __name__ == "__main__":
    main()
