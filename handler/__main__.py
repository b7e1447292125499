"""Captions pictures in this process, with no server.

python -m handler samples/photos/cat.jpg
python -m handler samples/photos/*.jpg --beam-size 10 --num-captions 3
python -m handler samples/photos/photographer.jpg --explain explained.png
"""

import argparse
import os
import sys
from pathlib import Path

from handler.captioner import Captioner
from handler.cli import add_generation_options, generation_config
from handler.errors import BundleError, RequestError
from handler.figure import draw_figure

DEFAULT_BUNDLE = Path(__file__).parent.parent / "pretrained"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m handler", description="Captions pictures, with no server.")
    parser.add_argument("pictures", type=Path, nargs="+", help="image files")
    parser.add_argument(
        "--model", type=Path, default=DEFAULT_BUNDLE, help="a bundle's folder; left out, the shipped one"
    )
    parser.add_argument("--explain", type=Path, metavar="PNG", help="draw what each word of the caption rests on")
    parser.add_argument("--method", help="attention or gradient; left out, attention where the model has it")
    add_generation_options(parser)
    arguments = parser.parse_args()
    if arguments.explain and len(arguments.pictures) > 1:
        sys.exit("--explain draws one picture's figure: name one picture.")
    if arguments.method and not arguments.explain:
        sys.exit("--method is for --explain.")
    try:
        captioner = Captioner.load(arguments.model)
        options = generation_config(arguments, captioner.config.decoding)
    except (BundleError, RequestError) as error:
        sys.exit(str(error))
    failed = False
    for picture in arguments.pictures:
        name = f"{picture}: " if len(arguments.pictures) > 1 else ""
        try:
            if arguments.explain:
                captions = captioner.explain(picture, options, arguments.method)
                draw_figure(picture.read_bytes(), captions[0]).save(arguments.explain, "PNG")
            else:
                [captions] = captioner.caption([picture.read_bytes()], options)
            for caption in captions:
                score = f"{caption.score:7.3f}  " if options.num_captions > 1 else ""
                print(f"{name}{score}{caption.text}", flush=True)
        except (RequestError, ValueError) as error:
            failed = True
            print(f"{picture}: {str(error).removeprefix('Image 0: ')}", file=sys.stderr)
        except OSError as error:
            failed = True
            print(f"{error.filename or picture}: {error.strerror}.", file=sys.stderr)
    sys.exit(failed)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # who read it, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
