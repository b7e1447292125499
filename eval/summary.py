"""Summary of the captions of a split: scores with intervals and signature, and measures of degeneration."""

from collections.abc import Mapping, Sequence
from typing import Any

from eval import parts_of_speech
from eval.caption_sets import measure_sets
from eval.copies import normalize_all
from eval.data import CaptionedImage
from eval.hallucination import measure_objects
from eval.markdown import markdown_table
from eval.measure_table import find_warnings, format_measures
from eval.measures import Measures, measure_captions
from eval.meteor import Meteor, MeteorError
from eval.metrics import CaptionScores, compute_all_metrics, compute_metrics, signature
from eval.model_metrics import ModelMetrics
from eval.overlap import shared_images
from eval.overuse import OverusedRun
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
    *,
    caption_sets: Mapping[int, Sequence[str]] | None = None,
    num_captioned: int | None = None,
    objects: Mapping[int, set[str]] | None = None,
    models: ModelMetrics = ModelMetrics(),
    quick: bool = False,
) -> tuple[CaptionScores, dict[str, Any]]:
    """Score captions.

    Args:
        split: Name of the split in the signature.
        images: Images of the split.
        captions: Caption by image id; empty if there is none.
        decoding: Options and model that made the captions, for the signature.
        train: Training split, to count its images among these, and captions that are copies of its captions.
        meteor: Running METEOR process; None omits METEOR.
        caption_sets: Several captions by image id, to measure their diversity.
        num_captioned: Number of images with a caption, for the coverage; default: all. The captions of the others are
            empty.
        objects: Annotated object categories by image id, to measure CHAIR.
        models: Models of further metrics.
        quick: Whether to omit SPICE and the intervals, which take longer than the rest.

    Returns:
        The scores, and the part of `scores.json` that depends on the captions only.

    Raises:
        ValueError: If the image ids of captions and images differ.
        RuntimeError: If the tokenizer fails.
    """
    references = {image.id: image.captions for image in images}
    if quick:
        measured, intervals = compute_metrics(references, captions, meteor=meteor or False), {}
    else:
        measured = compute_all_metrics(references, captions, meteor).add_means(models.score(images, captions))
        try:
            intervals = bootstrap(measured, meteor)
        except MeteorError as error:
            measured = measured.without_meteor(str(error))
            intervals = bootstrap(measured, None)
    known = normalize_all(text for image in train for text in image.captions)
    measures = measure_captions(measured.references, measured.tokens, known)
    if caption_sets:
        measures.pairs.update(measure_sets(measured.references, caption_sets))
    compared = signature(split, references, decoding, meteor="METEOR" in measured.scores, num_captioned=num_captioned)
    if objects is not None:
        measures.pairs.update(measure_objects(measured.references, measured.tokens, objects))
    overlap = len(shared_images(train, images)) if train else None
    content: dict[str, Any] = {
        "n": len(images),
        "captioned": len(images) if num_captioned is None else num_captioned,
        "scores": measured.scores,
        "intervals": {name: list(ends) for name, ends in intervals.items()},
        "signature": f"{compared}{models.signature()}|data:{split_digest(images)[:15]}"
        f"|bootstrap:{RESAMPLES},seed={SEED}"
        f"{'' if overlap is None else f'|train-overlap:{overlap}'}|v:{project_version()}",
        "empty": sum(not caption for caption in measured.tokens.values()),
        "measures": measures.pairs,
        "overused": [run._asdict() for run in measures.overused],
        "warnings": find_warnings(measures),
    }
    missing = dict(measured.not_measured)
    if not parts_of_speech.is_installed():
        missing["recall of words"] = parts_of_speech.MISSING
    if overlap is not None:
        content["train_overlap"] = overlap
    if missing:
        content["not_measured"] = missing
    return measured, content


def round_floats(value: Any, digits: int) -> Any:  # noqa: ANN401
    """Round all floats in nested dictionaries and lists."""
    if isinstance(value, dict):
        return {name: round_floats(item, digits) for name, item in value.items()}
    if isinstance(value, list):
        return [round_floats(item, digits) for item in value]
    return round(value, digits) if isinstance(value, float) else value


def format_coverage(content: Mapping[str, Any]) -> str:
    """Return the images with a caption and all of them, e.g. `4982/5000`."""
    return f"{content['captioned']}/{content['n']}"


def coverage_warning(content: Mapping[str, Any]) -> str:
    """Return a sentence if images have no caption, else an empty string."""
    missing = content["n"] - content["captioned"]
    if not missing:
        return ""
    return (
        f"{missing} of {content['n']} images have no caption and count as empty ones: the scores are not those of the "
        "model alone. --allow-partial accepts that."
    )


def measures_of(content: Mapping[str, Any]) -> Measures:
    """Return the measures in the content of `summarize`."""
    return Measures(content["measures"], [OverusedRun(**run) for run in content["overused"]])


def format_summary(content: Mapping[str, Any]) -> str:
    """Format the content of `summarize`: Markdown tables of scores, × 100, and of measures, with warnings and notes."""
    rows, coverage, overlap = [], format_coverage(content), content.get("train_overlap")
    for name, score in content["scores"].items():
        low, high = content["intervals"].get(name, (None, None))
        rows.append(
            (name, f"{100 * score:.1f}", "–" if low is None else f"{100 * low:.1f} – {100 * high:.1f}", coverage)
        )
    parts = [
        markdown_table(["metric", "score × 100", "95 % interval", "coverage"], rows),
        format_measures(measures_of(content)),
        *([f"The training split has {overlap} of these images: the scores are too high."] if overlap else []),
        *(f"Far from people: {warning}" for warning in content["warnings"]),
        *(f"{name} was not measured: {reason}." for name, reason in content.get("not_measured", {}).items()),
    ]
    return "\n\n".join(parts)
