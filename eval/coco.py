"""Captioned images in the COCO layout: `annotations/captions_<split>.json` and a directory `<split>/` of images."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.fields import describe_error, parse_caption, parse_image_id, read_json

NUM_EXAMPLES = 3  # names in a message about many


@dataclass(frozen=True)
class CaptionedImage:
    """An image and its reference captions, as in the annotations file."""

    id: int
    path: Path
    captions: tuple[str, ...]


class Split(list[CaptionedImage]):
    """The captioned images of a split, in the order of its file.

    Args:
        images: The images; each has a caption.
        left_out: What the file holds besides, by kind, e.g. `images without a caption`: their names.
    """

    def __init__(
        self, images: Iterable[CaptionedImage] = (), left_out: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        super().__init__(images)
        self.left_out = {kind: list(names) for kind, names in (left_out or {}).items() if names}

    def describe(self) -> str:
        """Return one sentence with the number of images and captions, and one on what was left out."""
        sentence = f"{len(self)} images, {sum(len(image.captions) for image in self)} captions."
        if self.left_out:
            kinds = (f"{len(names)} {kind} ({_examples(names)})" for kind, names in self.left_out.items())
            sentence += f" Left out: {', '.join(kinds)}."
        return sentence


def read_split(root: Path, split: str, *, require_images: bool = True) -> Split:
    """Read the captioned images of a split.

    File names are relative to the directory of the split. Names that contain a directory are relative to `root`, since
    Karpathy splits use images of two directories. A caption without a letter or a digit is left out, and so is an image
    without another one.

    Args:
        root: Directory that contains `annotations/`.
        split: Name, e.g. `train2017` or `val`; for a split of another data set, its path relative to `root`, e.g.
            `../coco/train2017`.
        require_images: Whether the image files must exist; the captions alone are enough for scoring.

    Raises:
        FileNotFoundError: If the annotations or image files are missing; the message counts these and names some.
        ValueError: If the annotations are not in the COCO layout or name a file outside `root`.
    """
    root, split = root / Path(split).parent, Path(split).name
    annotations = root / "annotations" / f"captions_{split}.json"
    if not annotations.is_file():
        splits = sorted(path.stem.removeprefix("captions_") for path in annotations.parent.glob("captions_*.json"))
        raise FileNotFoundError(
            f"There is no split '{split}' in {root}: {annotations} is missing. "
            f"Existing splits: {', '.join(splits) or 'none'}."
        )
    names, captions = _read_annotations(annotations)
    directory = _image_directory(root, split)
    paths = {image: _image_path(root, directory, name, annotations) for image, name in names.items()}
    usable = {image: [text for text in captions.get(image, ()) if any(map(str.isalnum, text))] for image in names}
    images = [CaptionedImage(image, path, tuple(usable[image])) for image, path in paths.items() if usable[image]]
    left_out = {
        "images without a caption": [name for image, name in names.items() if not usable[image]],
        "captions without a word": [
            f"of {names[image]}" for image in names for _ in range(len(captions.get(image, ())) - len(usable[image]))
        ],
        "captions of images that are not listed": [
            f"of image {image}" for image in captions if image not in names for _ in captions[image]
        ],
    }
    result = Split(images, left_out)
    if not images:
        raise ValueError(f"{annotations} has no captioned image. {result.describe()}")
    if require_images and (missing := [str(image.path) for image in images if not image.path.is_file()]):
        raise FileNotFoundError(
            f"{annotations} names {len(images)} captioned images, of which {len(missing)} are missing: "
            f"{_examples(missing)}. Copy them there, or remove them from the annotations."
        )
    return result


def _examples(names: Sequence[str]) -> str:
    return ", ".join(names[:NUM_EXAMPLES]) + (", …" if len(names) > NUM_EXAMPLES else "")


def _image_path(root: Path, directory: Path, name: str, annotations: Path) -> Path:
    parts = name.split("/")
    if "\\" in name or "\0" in name or not {"", ".", ".."}.isdisjoint(parts):
        raise ValueError(f"{annotations} names '{name}', which is not a plain file name or a path below {root}.")
    return directory / name if len(parts) == 1 else root / name


def _image_directory(root: Path, split: str) -> Path:
    """Return `root/split`, or the directory that it names: without symbolic links, git writes one as a text file."""
    directory = root / split
    if directory.is_file() and directory.stat().st_size < 256:
        target = directory.read_text(encoding="utf-8", errors="replace").strip()
        if target in {path.name for path in root.iterdir() if path.is_dir()}:
            return root / target
    return directory


def load_training_split(data: Path, split: str | None) -> Sequence[CaptionedImage]:
    """Read the captions of the training split, whose image files may be missing; empty if `split` is None."""
    return read_split(data, split, require_images=False) if split else ()


def _read_annotations(path: Path) -> tuple[dict[int, str], dict[int, list[str]]]:
    """Read file names and captions by image id."""
    captions: dict[int, list[str]] = defaultdict(list)
    names: dict[int, str] = {}
    try:
        content = read_json(path)
        for annotation in content["annotations"]:
            captions[parse_image_id(annotation["image_id"])].append(parse_caption(annotation["caption"]))
        for image in content["images"]:
            image_id = parse_image_id(image["id"])
            if image_id in names:
                raise ValueError(f"the image id {image_id} occurs twice")
            if not isinstance(image["file_name"], str):
                raise TypeError(f"file_name is not a string in {image}")
            names[image_id] = image["file_name"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not in the COCO layout: {describe_error(error)}.") from error
    return names, captions
