"""SPICE (Anderson et al. 2016, https://arxiv.org/abs/1607.08822), computed by pycocoevalcap if its models exist."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pycocoevalcap.spice import get_stanford_models as models
from pycocoevalcap.spice.spice import Spice

MISSING = (
    "its parser's models are not installed: .venv/bin/python -c 'from pycocoevalcap.spice.get_stanford_models import "
    "get_stanford_models; get_stanford_models()' downloads 385 MB"
)
JAVA_OPTION = "--add-opens=java.base/java.lang=ALL-UNNAMED"  # SPICE uses reflection that Java 16 and later deny


def is_installed() -> bool:
    """Return True if the parser models exist; pycocoevalcap would download missing ones without asking."""
    return Path(models.SPICEDIR, models.SPICELIB, f"{models.JAR}.jar").is_file()


def spice_scores(references: Mapping[int, Sequence[str]], captions: Mapping[int, str]) -> tuple[float, list[float]]:
    """Compute SPICE of a split. Needs 8 GB of memory.

    Args:
        references: Tokenized reference captions by image id.
        captions: Tokenized caption by image id.

    Returns:
        The mean and the score of each image in the order of the references; 0 to 1.

    Raises:
        RuntimeError: If the SPICE process fails.
    """
    before = os.environ.get("JAVA_TOOL_OPTIONS")
    os.environ["JAVA_TOOL_OPTIONS"] = f"{before or ''} {JAVA_OPTION}".strip()
    try:
        score, rows = Spice().compute_score(
            {image: list(texts) for image, texts in references.items()},
            {image: [text] for image, text in captions.items()},
        )
    except (OSError, ValueError, KeyError) as error:
        raise RuntimeError(f"The SPICE process failed: {error}.") from error
    finally:
        os.environ.pop("JAVA_TOOL_OPTIONS")
        if before is not None:
            os.environ["JAVA_TOOL_OPTIONS"] = before
    by_image = dict(zip(sorted(references), rows, strict=True))  # rows are sorted by image id
    return float(score), [float(by_image[image]["All"]["f"]) for image in references]
