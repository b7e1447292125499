"""Generate a data set in the COCO layout: captions of a grammar with COCO's word statistics, images by links."""

import json
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

CAPTIONS_PER_IMAGE = 5
SPLITS = {"train2017": 118_287, "val2017": 5_000, "val2014": 40_504}  # images
# Words of each part of speech, and the exponent of Zipf's law of their ranks. In COCO, the captions have 10.5 words on
# average, 16 % of which are "a", and about 10,000 words occur five times.
PARTS = {"noun": 9_000, "verb": 2_500, "adjective": 2_500}
ZIPF_EXPONENT, ZIPF_OFFSET = 1.1, 3.0  # p(rank) ∝ 1 / (rank + offset)^exponent (Mandelbrot 1953)
PREPOSITIONS = ("on", "in", "with", "next to", "in front of", "near", "of", "at", "under", "behind")
# Slots of a caption; a number chooses among the nouns of the image.
TEMPLATES = (
    "A {adjective} {0} {verb} {preposition} a {1}.",
    "A {0} is {verb} {preposition} the {adjective} {1} {preposition} a {2}.",
    "A {0} and a {1} {preposition} a {adjective} {2}.",
    "The {adjective} {0} is {verb} a {1} {preposition} the {2}.",
    "Two {0} {verb} {preposition} a {adjective} {1} {preposition} a {2}.",
    "There is a {0} {preposition} a {1} {verb} {preposition} the {adjective} {noun}.",
)
SAME = 0.7  # probability that a caption names the nouns and the verb of its image
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"


def generate(directory: Path, images: Sequence[Path], scale: float = 1.0, seed: int = 0) -> None:
    """Write `SPLITS` with their captions, and results of a captioner for `val2017` and `val2014`.

    Args:
        directory: Directory to write; gets `annotations/`, `results/` and a directory of links per split.
        images: Image files to link to, in turn.
        scale: Share of COCO's images.
        seed: Seed of the captions.
    """
    rng = np.random.default_rng(seed)
    for name in ("annotations", "results"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    first_id = 1
    for split, count in SPLITS.items():
        ids = range(first_id, first_id + round(count * scale))
        first_id = ids.stop
        (directory / split).mkdir(exist_ok=True)
        for image_id, image in zip(ids, cycle(images), strict=False):
            link = directory / split / f"{image_id:012d}.jpg"
            if not link.is_symlink():
                link.symlink_to(image.resolve())
        captions = list(generate_captions(rng, len(ids)))
        numbers = range(len(ids) * CAPTIONS_PER_IMAGE)
        content: dict[str, list[dict[str, Any]]] = {
            "images": [{"id": image_id, "file_name": f"{image_id:012d}.jpg"} for image_id in ids],
            "annotations": [
                {
                    "id": number,
                    "image_id": ids[number // CAPTIONS_PER_IMAGE],
                    "caption": captions[number // CAPTIONS_PER_IMAGE][number % CAPTIONS_PER_IMAGE],
                }
                for number in numbers
            ],
        }
        (directory / "annotations" / f"captions_{split}.json").write_text(json.dumps(content))
        if split.startswith("val"):
            results = [
                {"image_id": image_id, "caption": texts[-1]} for image_id, texts in zip(ids, captions, strict=True)
            ]
            (directory / "results" / f"{split}.json").write_text(json.dumps(results))


def generate_captions(rng: np.random.Generator, count: int) -> Iterator[list[str]]:
    """Yield the captions of `count` images, one more than references: the last one is that of a captioner."""
    lexicon = {part: [make_word(part, rank) for rank in range(size)] for part, size in PARTS.items()}
    weights = {part: zipf_weights(size) for part, size in PARTS.items()}

    def draw(part: str, size: tuple[int, ...]) -> np.ndarray[Any, Any]:
        ranks = np.searchsorted(np.cumsum(weights[part]), rng.random(size))
        return np.array(lexicon[part], dtype=object)[np.minimum(ranks, len(lexicon[part]) - 1)]

    per_image = CAPTIONS_PER_IMAGE + 1
    nouns, verbs = draw("noun", (count, 3)), draw("verb", (count,))
    other_nouns, other_verbs = draw("noun", (count, per_image, 4)), draw("verb", (count, per_image))
    adjectives = draw("adjective", (count, per_image))
    prepositions = rng.choice(PREPOSITIONS, (count, per_image))
    templates = rng.integers(len(TEMPLATES), size=(count, per_image))
    same = rng.random((count, per_image, 4)) < SAME
    for i in range(count):
        texts = []
        for k in range(per_image):
            slots = [nouns[i, j] if same[i, k, j] else other_nouns[i, k, j] for j in range(3)]
            texts.append(
                TEMPLATES[templates[i, k]].format(
                    *slots,
                    noun=other_nouns[i, k, 3],
                    verb=verbs[i] if same[i, k, 3] else other_verbs[i, k],
                    adjective=adjectives[i, k],
                    preposition=prepositions[i, k],
                )
            )
        yield texts


def zipf_weights(size: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the probabilities (size,) of the ranks."""
    weights = 1 / (np.arange(size) + 1 + ZIPF_OFFSET) ** ZIPF_EXPONENT
    result: np.ndarray[Any, np.dtype[np.float64]] = weights / weights.sum()
    return result


def make_word(part: str, rank: int) -> str:
    """Return a pronounceable word that no other rank or part of speech has, e.g. `bebe` for the noun of rank 1."""
    base, letters = len(CONSONANTS) * len(VOWELS), ""
    number = rank + base  # at least two syllables
    while number:
        number, syllable = divmod(number, base)
        letters = CONSONANTS[syllable // len(VOWELS)] + VOWELS[syllable % len(VOWELS)] + letters
    return letters + {"noun": "", "verb": "ring", "adjective": "sty"}[part]
