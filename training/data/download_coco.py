"""Download splits of COCO into the COCO layout. Run the same command again to resume.

python -m training.data.download_coco ../coco
python -m training.data.download_coco ../coco --splits karpathy_train karpathy_val karpathy_test
"""

import argparse
import errno
import json
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from handler.files import LockedError, atomic_write_text, exclusive_lock
from training.data.karpathy import convert_coco, convert_flickr
from training.data.remote_zip import DownloadError, RemoteZip

# The address of the bucket: images.cocodataset.org has no certificate for its name.
COCO = "https://s3.amazonaws.com/images.cocodataset.org"
KARPATHY = "https://cs.stanford.edu/people/karpathy/deepimagesent"
COCO_SPLITS = ("val2017", "train2017", "val2014", "train2014")
KARPATHY_SPLITS = ("karpathy_train", "karpathy_val", "karpathy_test", "karpathy_val2017")
FLICKR = ("flickr8k", "flickr30k")
BITS_PER_SECOND = 100e6  # of the time that is said


class Archive(NamedTuple):
    """A zip to take files from: its URL, and its size in bytes."""

    url: str
    size: int


CATALOG = {
    "annotations2014": Archive(f"{COCO}/annotations/annotations_trainval2014.zip", 252_872_794),
    "annotations2017": Archive(f"{COCO}/annotations/annotations_trainval2017.zip", 252_907_541),
    "karpathy": Archive(f"{KARPATHY}/caption_datasets.zip", 36_745_453),
    "train2014": Archive(f"{COCO}/zips/train2014.zip", 13_510_573_713),
    "val2014": Archive(f"{COCO}/zips/val2014.zip", 6_645_013_297),
    "train2017": Archive(f"{COCO}/zips/train2017.zip", 19_336_861_798),
    "val2017": Archive(f"{COCO}/zips/val2017.zip", 815_585_330),
}


class Downloader:
    """Downloads what is missing of a data set.

    Args:
        directory: Gets `annotations/captions_<split>.json` and the directories of images; created if missing.
        catalog: Archives by name.
        pause: Seconds before the first retry.
    """

    def __init__(self, directory: Path, catalog: Mapping[str, Archive] = CATALOG, pause: float = 1.0) -> None:
        self.directory, self.catalog, self.pause = directory, catalog, pause
        self.annotations = directory / "annotations"

    def download(self, split: str, *, annotations_only: bool = False) -> None:
        """Download the captions of a split, and its images, of which those that exist are skipped.

        Args:
            split: One of `COCO_SPLITS`, `KARPATHY_SPLITS` and `FLICKR`; of the last ones, only captions.
            annotations_only: Skip the images.

        Raises:
            DownloadError: If a file cannot be downloaded, or the annotations name a file outside the directory.
            ValueError: If Karpathy's file has another format.
            LockedError: If another process downloads into the directory.
            OSError: If a file cannot be written.
        """
        self.annotations.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(self.annotations / ".lock", timeout=0):
            if split in FLICKR:
                self._write_flickr(split)
            elif annotations_only:
                self._read_captions(split)
            else:
                self._write_images(split)

    def _write_images(self, split: str) -> None:
        """Write the missing images of a split, each from the archive called like its directory."""
        missing: dict[str, dict[str, Path]] = defaultdict(dict)
        images = self._read_captions(split)["images"]
        for image in images:
            name = image["file_name"] if "/" in image["file_name"] else f"{split}/{image['file_name']}"
            if not re.fullmatch(r"(train|val)20\d\d/\w+\.jpg", name):
                raise DownloadError(f"The annotations of {split} name '{name}', which is no image of COCO.")
            path = self.directory / name
            if not path.is_file() or path.stat().st_size == 0:  # a power failure can leave empty files
                missing[name.split("/")[0]][name] = path
        for archive, targets in missing.items():
            remote = self._open(archive)
            size = remote.download_size(targets)
            what = f"{len(targets):,} images of {archive}"
            time = f"about {8 * size / BITS_PER_SECOND:,.0f} s at {BITS_PER_SECOND / 1e6:.0f} Mbit/s"
            print(f"{split}: downloading {what}, {size / 1e6:,.0f} MB, {time}.", flush=True)
            remote.extract(targets)
        print(f"{split}: {len(images):,} images are in {self.directory}.", flush=True)

    def _read_captions(self, split: str) -> dict[str, Any]:
        """Return the content of the annotations of a split, downloaded if they are missing."""
        path = self.annotations / f"captions_{split}.json"
        if not path.is_file():
            if split in KARPATHY_SPLITS:
                splits = convert_coco(self._read_karpathy("coco"), self._read_captions("val2017"))
                self._write_captions(splits)
            else:
                names = [f"annotations/captions_{split}.json"]
                if split.startswith("val"):  # objects, which captions are compared with
                    names.insert(0, f"annotations/instances_{split}.json")
                self._open(f"annotations{split[-4:]}").extract({name: self.directory / name for name in names})
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content

    def _write_flickr(self, dataset: str) -> None:
        splits = convert_flickr(self._read_karpathy(dataset))
        self._write_captions(splits)
        print(f"The splits {', '.join(splits)} of {dataset} are in {self.annotations}.")
        print(f"Put its images, which only its authors give out, into {self.directory / 'images'}.")

    def _read_karpathy(self, dataset: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self._open("karpathy").read(f"dataset_{dataset}.json"))
        return content

    def _write_captions(self, splits: Mapping[str, Any]) -> None:
        for split, content in splits.items():
            path = self.annotations / f"captions_{split}.json"
            atomic_write_text(path, json.dumps(content, ensure_ascii=False))

    def _open(self, archive: str) -> RemoteZip:
        return RemoteZip(*self.catalog[archive], pause=self.pause)


def main(
    arguments: Sequence[str] | None = None,
    catalog: Mapping[str, Archive] = CATALOG,
    pause: float = 1.0,
) -> None:
    """Run the command.

    Args:
        arguments: Command line; default: that of the process.
        catalog: As for `Downloader`.
        pause: As for `Downloader`.
    """
    parser = argparse.ArgumentParser(
        prog="python -m training.data.download_coco",
        description="Download splits of COCO into the COCO layout.",
        allow_abbrev=False,
    )
    parser.add_argument("directory", type=Path, help="target directory; created if missing")
    choices = [*COCO_SPLITS, *KARPATHY_SPLITS, *FLICKR]
    parser.add_argument("--splits", nargs="+", choices=choices, default=["val2017"], help="default: val2017")
    parser.add_argument("--annotations-only", action="store_true", help="skip the images")
    args = parser.parse_args(arguments)
    resume = "Run the same command again to resume."
    try:
        for split in args.splits:
            Downloader(args.directory, catalog, pause).download(split, annotations_only=args.annotations_only)
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
