"""Scores anybody's results file in COCO's format, without an endpoint.

python -m eval.score captions_val_mine_results.json ../shared/data/flickr8k val
"""

import argparse
import json
import sys
from pathlib import Path

from eval.coco import read_split
from eval.meteor import optional_meteor
from eval.summary import add_meteor_option, load_training_split, read_results, split_name, summarize, table


def main() -> None:
    parser = argparse.ArgumentParser(description="Scores a results file in COCO's format.")
    parser.add_argument("results", type=Path, help='[{"image_id": …, "caption": …}, …]')
    parser.add_argument("data", type=Path, help="the folder in COCO's layout; its pictures need not be there")
    parser.add_argument("split", help="such as val")
    parser.add_argument("--train", help="the training split, to tell which captions are copies of its")
    parser.add_argument("--output", type=Path, help="write the scores there, too, as JSON")
    add_meteor_option(parser)
    arguments = parser.parse_args()
    try:
        images = read_split(arguments.data, arguments.split, pictures=False)
        captions = read_results(arguments.results)
        train = load_training_split(arguments.data, arguments.train)
        described = f"results:{arguments.results.name}"
        with optional_meteor(arguments.meteor) as meteor:
            split = split_name(arguments.data, arguments.split)
            _, content = summarize(split, images, captions, described, train, meteor)
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(str(error))
    if arguments.output:
        arguments.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"{table(content)}\n\n{content['signature']}")
    for name in ("mean_length", "vocabulary", "distinct", "copied"):
        if name in content:
            print(f"{name}: {content[name]:.4g}")


if __name__ == "__main__":
    main()
