"""SPICE (Anderson et al. 2016) by pycocoevalcap's jar, where its parser's models, 385 MB, are installed."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pycocoevalcap.spice import get_stanford_models as models
from pycocoevalcap.spice.spice import Spice

MISSING = (
    "its parser's models are not installed: .venv/bin/python -c 'from pycocoevalcap.spice.get_stanford_models import "
    "get_stanford_models; get_stanford_models()' downloads 385 MB"
)
OPENED = "--add-opens=java.base/java.lang=ALL-UNNAMED"  # the jar reflects on what Java 16 and later keep closed


def installed() -> bool:
    """Whether the models are there; pycocoevalcap would download them unasked."""
    return Path(models.SPICEDIR, models.SPICELIB, f"{models.JAR}.jar").is_file()


def spice_scores(references: Mapping[int, Sequence[str]], captions: Mapping[int, str]) -> tuple[float, list[float]]:
    """SPICE of a split, the mean, and of each image in the order of the references; 0 to 1. It needs 8 GB of memory.

    Args:
        references: image id → its reference captions, all texts as the PTB tokenizer gives them.
        captions: image id → the caption to score.

    Raises:
        RuntimeError: its program broke off.
    """
    before = os.environ.get("JAVA_TOOL_OPTIONS")
    os.environ["JAVA_TOOL_OPTIONS"] = f"{before or ''} {OPENED}".strip()
    try:
        score, rows = Spice().compute_score(
            {image: list(texts) for image, texts in references.items()},
            {image: [text] for image, text in captions.items()},
        )
    except (OSError, ValueError, KeyError) as error:
        raise RuntimeError(f"SPICE's program broke off: {error}.") from error
    finally:
        os.environ.pop("JAVA_TOOL_OPTIONS")
        if before is not None:
            os.environ["JAVA_TOOL_OPTIONS"] = before
    by_image = dict(zip(sorted(references), rows, strict=True))  # its rows are in the order of the ids
    return float(score), [float(by_image[image]["All"]["f"]) for image in references]
