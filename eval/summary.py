"""Summary of the captions of a split: scores with intervals and signature, and what scores do not show."""

from collections.abc import Mapping, Sequence
from typing import Any

from eval import spice
from eval.coco import CaptionedImage
from eval.endings import bad_endings
from eval.markdown import markdown_table
from eval.meteor import Meteor
from eval.metrics import CaptionScores, compute_all_metrics, signature
from eval.results import split_digest
from eval.significance import RESAMPLES, SEED, bootstrap
from eval.version import project_version


def summarize(
    split: str,
    images: Sequence[CaptionedImage],
    captions: Mapping[int, str],
    decoding: str,
    train: Sequence[CaptionedImage] = (),
    meteor: Meteor | None = None,
) -> tuple[CaptionScores, dict[str, Any]]:
    """Score captions.

    Args:
        split: Name of the split in the signature.
        images: Images of the split.
        captions: Caption by image id; empty if there is none.
        decoding: Options and model that made the captions, for the signature.
        train: Training split, to count captions that are copies of its captions.
        meteor: Running METEOR process; None omits METEOR.

    Returns:
        The scores, and the part of `scores.json` that depends on the captions only.

    Raises:
        ValueError: If the image ids of captions and images differ.
        RuntimeError: If the tokenizer or METEOR fails.
    """
    references = {image.id: image.captions for image in images}
    measured = compute_all_metrics(references, captions, meteor)
    intervals = bootstrap(measured, meteor)
    tokens = [text.split() for text in measured.tokens.values()]
    compared = signature(split, references, decoding, meteor=meteor is not None)
    content = {
        "n": len(images),
        "scores": measured.scores,
        "intervals": {name: list(ends) for name, ends in intervals.items()},
        "signature": f"{compared}|data:{split_digest(images)[:15]}|bootstrap:{RESAMPLES},seed={SEED}"
        f"|v:{project_version()}",
        "bad_endings": bad_endings(captions.values()),
        "mean_length": sum(map(len, tokens)) / len(tokens),
        "vocabulary": len({token for caption in tokens for token in caption}),
        "distinct": len(set(measured.tokens.values())) / len(tokens),
        "empty": sum(not caption for caption in tokens),
    }
    reasons = {"METEOR": "it was not requested", "SPICE": spice.MISSING}
    if missing := {name: reason for name, reason in reasons.items() if name not in measured.scores}:
        content["not_measured"] = missing
    if train:
        known = {_normalize(text) for image in train for text in image.captions}
        content["copied"] = sum(_normalize(text) in known for text in measured.tokens.values()) / len(tokens)
    return measured, content


def format_summary(content: Mapping[str, Any]) -> str:
    """Format the scores and intervals of `summarize`, × 100, as a Markdown table with notes."""
    rows = []
    for name, score in content["scores"].items():
        low, high = content["intervals"].get(name, (None, None))
        rows.append((name, f"{100 * score:.1f}", "–" if low is None else f"{100 * low:.1f} – {100 * high:.1f}"))
    parts = [markdown_table(["metric", "score", "95 % interval"], rows)]
    if "bad_endings" in content:
        parts.append(f"{100 * content['bad_endings']:.1f} % of the captions end in a function word.")
    parts += [f"{name} was not measured: {reason}." for name, reason in content.get("not_measured", {}).items()]
    return "\n\n".join(parts)


def _normalize(text: str) -> str:
    """Remove case and punctuation, to recognize copies."""
    return " ".join("".join(letter if letter.isalnum() else " " for letter in text.lower()).split())
