"""Write the stamps of Tux Paint, drawings and photos with one caption each, in the COCO layout.

python docs/examples/tux_paint_stamps.py stamps/usr/share/tuxpaint/stamps my-images
"""

import json
import random
import sys
from pathlib import Path

from PIL import Image

MAX_WORDS = 12
NUM_VAL = 200


def main() -> None:
    """Write `train/`, `val/` and their captions; the split is random with a fixed seed."""
    source, target = map(Path, sys.argv[1:])
    captions = {path: path.with_suffix(".txt") for path in sorted(source.rglob("*.png"))}
    first_lines = {
        path: text.read_text(encoding="utf-8").partition("\n")[0].strip()
        for path, text in captions.items()
        if text.is_file()
    }
    pairs = [(path, caption) for path, caption in first_lines.items() if 0 < len(caption.split()) <= MAX_WORDS]
    random.Random(0).shuffle(pairs)  # noqa: S311 -- no secret
    write_split(target, "val", pairs[:NUM_VAL])
    write_split(target, "train", pairs[NUM_VAL:])


def write_split(target: Path, split: str, pairs: list[tuple[Path, str]]) -> None:
    """Write `<split>/<number>.jpg` and `annotations/captions_<split>.json`."""
    images, annotations = [], []
    for directory in (target / split, target / "annotations"):
        directory.mkdir(parents=True, exist_ok=True)
    for number, (path, caption) in enumerate(pairs):
        stamp = Image.open(path).convert("RGBA")
        page = Image.new("RGBA", stamp.size, "white")
        page.alpha_composite(stamp)
        page.convert("RGB").save(target / split / f"{number}.jpg")
        images.append({"id": number, "file_name": f"{number}.jpg"})
        annotations.append({"id": number, "image_id": number, "caption": caption})
    content = json.dumps({"images": images, "annotations": annotations})
    (target / "annotations" / f"captions_{split}.json").write_text(content)
    print(f"{split}: {len(pairs)} images")


if __name__ == "__main__":
    main()
