"""Several captions of each image, as `num_captions` gives them: their file, and their diversity beside people's."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.diversity import measure_diversity
from eval.files import atomic_write_text
from eval.measures import Pair
from eval.metrics import tokenize_captions


def write_caption_sets(path: Path, sets: Mapping[int, Sequence[str]]) -> None:
    """Write captions by image id as `[{"image_id": 42, "captions": ["a dog", …]}]`, the best caption first."""
    entries = [{"image_id": image, "captions": list(captions)} for image, captions in sets.items()]
    atomic_write_text(path, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")


def measure_sets(references: Mapping[int, Sequence[str]], sets: Mapping[int, Sequence[str]]) -> dict[str, Pair]:
    """Measure the diversity of caption sets beside that of the references of the same images.

    The set and the references of an image are both cut to the size of the smaller. Images with fewer than two of either
    are left out.

    Args:
        references: Tokenized references by image id, tokens separated by spaces.
        sets: Captions by image id, the best first.

    Returns:
        Div-1, Div-2, mBLEU-4 and self-CIDEr; empty if no image has two captions and two references.

    Raises:
        RuntimeError: If the tokenizer fails.
    """
    sizes = {image: min(len(captions), len(references[image])) for image, captions in sets.items()}
    sizes = {image: size for image, size in sizes.items() if size > 1}
    if not sizes:
        return {}
    tokenized = tokenize_captions({image: sets[image][:size] for image, size in sizes.items()})
    documents = [[text.split() for text in texts] for texts in references.values()]
    model, people = (
        measure_diversity([[text.split() for text in source[image][:size]] for image, size in sizes.items()], documents)
        for source in (tokenized, references)
    )
    return {name: {"model": value, "people": people[name]} for name, value in model.items()}
