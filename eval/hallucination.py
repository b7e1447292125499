"""Objects that captions name and images do not show: CHAIR (Rohrbach et al. 2018, "Object Hallucination").

The words of each category are those of `eval.object_words`, not the authors' list, so values differ a little from
published ones.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from eval.data import CaptionedImage
from eval.object_words import mentioned_objects

Pair = dict[str, float | None]


class _Counts(NamedTuple):
    mentions: int
    hallucinated: int  # mentions of objects that are not there
    with_one: int  # captions with such a mention
    recalled: int  # objects that are there and mentioned
    there: int


def read_objects(root: Path, images: Sequence[CaptionedImage]) -> dict[int, set[str]] | None:
    """Read the annotated object categories of images from the files `annotations/instances_*.json`.

    Args:
        root: Directory that contains `annotations/`.
        images: Images of a split.

    Returns:
        Categories by image id; None if an image is not in these files.

    Raises:
        ValueError: If a file has another format.
    """
    objects: dict[int, set[str]] = {}
    for path in sorted((root / "annotations").glob("instances_*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            names = {category["id"]: category["name"] for category in content["categories"]}
            objects |= {image["id"]: set() for image in content["images"]}
            for annotation in content["annotations"]:
                objects[annotation["image_id"]].add(names[annotation["category_id"]])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} does not hold COCO's objects: {error!r}.") from error
    return {image.id: objects[image.id] for image in images} if all(i.id in objects for i in images) else None


def measure_objects(
    references: Mapping[int, Sequence[str]], captions: Mapping[int, str], annotated: Mapping[int, set[str]]
) -> dict[str, Pair]:
    """Measure which objects captions name.

    An object is in an image if it is annotated or a reference names it. For people, the first reference is the caption,
    and the others are the references.

    Args:
        references: Tokenized references by image id, tokens separated by spaces.
        captions: Tokenized caption by image id.
        annotated: Annotated categories by image id.

    Returns:
        `chair_i`, the share of mentions of objects that are not in the image; `chair_s`, the share of captions with
        such a mention; `object_recall`, the share of the annotated objects that are named.
    """
    model = _count((captions[image], texts, annotated[image]) for image, texts in references.items())
    people = _count((texts[0], texts[1:], annotated[image]) for image, texts in references.items() if len(texts) > 1)
    several = sum(len(texts) > 1 for texts in references.values())
    return {
        "chair_i": _pair(model.hallucinated, model.mentions, people.hallucinated, people.mentions),
        "chair_s": _pair(model.with_one, len(references), people.with_one, several),
        "object_recall": _pair(model.recalled, model.there, people.recalled, people.there),
    }


def _count(examples: Iterable[tuple[str, Sequence[str], set[str]]]) -> _Counts:
    total = _Counts(0, 0, 0, 0, 0)
    for caption, references, annotated in examples:
        mentions = mentioned_objects(caption.split())
        present = annotated.union(*(mentioned_objects(text.split()) for text in references))
        wrong = sum(category not in present for category in mentions)
        recalled = len(annotated.intersection(mentions))
        added = _Counts(len(mentions), wrong, wrong > 0, recalled, len(annotated))
        total = _Counts(*(a + b for a, b in zip(total, added, strict=True)))
    return total


def _pair(model: int, of_model: int, people: int, of_people: int) -> Pair:
    return {
        "model": model / of_model if of_model else None,
        "people": people / of_people if of_people else None,
    }
