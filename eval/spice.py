"""SPICE (Anderson et al. 2016, https://arxiv.org/abs/1607.08822), computed by the jar of pycocoevalcap.

The wrapper class of pycocoevalcap writes temporary files into its package, which may be read-only.
"""

import json
import math
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pycocoevalcap.spice import get_stanford_models as models
from pycocoevalcap.spice import spice as coco

from eval.java import LOCALE_OPTIONS, JavaError, find_java, java_environment, last_message

MISSING = (
    "its parser's models are not installed: .venv/bin/python -c 'from pycocoevalcap.spice.get_stanford_models import "
    "get_stanford_models; get_stanford_models()' downloads 385 MB"
)
DIRECTORY = Path(coco.__file__).parent
# SPICE uses reflection that Java 16 and later deny.
COMMAND = ("-Xmx8G", "--add-opens=java.base/java.lang=ALL-UNNAMED", *LOCALE_OPTIONS, "-jar", coco.SPICE_JAR)


def is_installed() -> bool:
    """Return True if the parser models exist; pycocoevalcap would download missing ones without asking."""
    return Path(models.SPICEDIR, models.SPICELIB, f"{models.JAR}.jar").is_file()


def spice_scores(references: Mapping[int, Sequence[str]], captions: Mapping[int, str]) -> tuple[float, list[float]]:
    """Compute SPICE of a split. Needs 8 GB of memory.

    Parsed captions are kept in the directory of the jar if it can be written to.

    Args:
        references: Tokenized reference captions by image id.
        captions: Tokenized caption by image id.

    Returns:
        The mean and the score of each image in the order of the references; 0 to 1.

    Raises:
        JavaError: If the SPICE process fails.
    """
    java = find_java()
    entries = [{"image_id": image, "test": captions[image], "refs": list(texts)} for image, texts in references.items()]
    with tempfile.TemporaryDirectory() as directory:
        source, target = Path(directory, "captions.json"), Path(directory, "scores.json")
        source.write_text(json.dumps(entries), encoding="utf-8")
        cache = (DIRECTORY if os.access(DIRECTORY, os.W_OK) else Path(directory)) / coco.CACHE_DIR
        try:
            cache.mkdir(exist_ok=True)
            done = subprocess.run(
                [java, *COMMAND, source, "-cache", cache, "-out", target, "-subset", "-silent"],
                cwd=DIRECTORY,
                env=java_environment(),
                capture_output=True,
                check=False,
                text=True,
            )
            if done.returncode:
                raise JavaError(f"The SPICE process ended with status {done.returncode}{last_message(done.stderr)}.")
            rows = json.loads(target.read_text(encoding="utf-8"))
            by_image = {row["image_id"]: _parse_score(row["scores"]["All"]["f"]) for row in rows}
            scores = [by_image[image] for image in references]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise JavaError(f"The SPICE process failed: {error!r}.") from error
    return float(np.mean(scores)), scores


def _parse_score(value: float | None) -> float:
    return math.nan if value is None else float(value)
