"""Score a COCO results file against a split, without an endpoint.

python -m eval.score captions_val_mine_results.json ../shared/data/flickr8k val
"""

import argparse
import json
import sys
from pathlib import Path

from eval.cli import (
    EXIT_PARTIAL,
    add_data_arguments,
    add_metric_arguments,
    add_partial_argument,
    cli_errors,
    split_from_args,
)
from eval.data import load_training_split
from eval.files import atomic_write_text
from eval.hallucination import read_objects
from eval.meteor import optional_meteor
from eval.model_metrics import ModelMetrics
from eval.results import read_results
from eval.summary import coverage_warning, format_summary, summarize


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m eval.score", description="Score a COCO results file.")
    parser.add_argument("results", type=Path, help='[{"image_id": …, "caption": …}, …]')
    add_data_arguments(parser)
    parser.add_argument("--train", help="training split, to count captions that are copies of its captions")
    parser.add_argument("--output", type=Path, help="JSON file to write the scores to")
    add_metric_arguments(parser)
    add_partial_argument(parser)
    arguments = parser.parse_args()
    with cli_errors(RuntimeError):
        split, images = split_from_args(arguments, require_images=False)
        captions = read_results(arguments.results)
        train = load_training_split(arguments.data, arguments.train)
        num_captioned = sum(image.id in captions for image in images)
        if not num_captioned:
            raise ValueError(f"{arguments.results} has a caption of no image of {split}.")
        captions = {image.id: "" for image in images} | captions
        decoding = f"results:{arguments.results.name}"
        objects = read_objects(arguments.data / Path(arguments.split).parent, images)
        with optional_meteor(arguments.meteor) as meteor:
            models = ModelMetrics(arguments.clip, arguments.bert)
            _, content = summarize(
                split,
                images,
                captions,
                decoding,
                train,
                meteor,
                objects=objects,
                num_captioned=num_captioned,
                models=models,
            )
        if arguments.output:
            atomic_write_text(arguments.output, json.dumps(content, indent=2) + "\n")
    print(f"{format_summary(content)}\n\n{content['signature']}")
    if partial := coverage_warning(content):
        print(partial, file=sys.stderr)
        if not arguments.allow_partial:
            sys.exit(EXIT_PARTIAL)


if __name__ == "__main__":
    main()
