"""Caption image files on this machine, without a server.

python -m handler samples/photos/cat.jpg
python -m handler samples/photos --json > /tmp/captions.jsonl
python -m handler samples/photos/*.jpg --beam-size 10 --num-captions 3
python -m handler samples/photos/photographer.jpg --explain /tmp/explained.png

`pip install -e .` installs it as the command `captioner`.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from handler.backends import BACKENDS, PRECISIONS
from handler.captioner import Caption, Captioner
from handler.cli import add_generation_options, cli_errors, error_message, generation_config
from handler.errors import BundleError, RequestError
from handler.figure import draw_figure
from handler.generation import GenerationConfig
from handler.image_suffixes import IMAGE_SUFFIXES
from handler.parallel import parallel_map
from handler.serving.responses import captions_to_json

DEFAULT_BUNDLE = Path(__file__).resolve().parent.parent / "pretrained"
BATCH_SIZE = 16  # images
Result = list[Caption] | Exception  # captions of an image, best first, or why there are none
EPILOG = """
examples:
  captioner photo.jpg
  captioner photos/ --json > captions.jsonl
  captioner photo.jpg --num-captions 3 --temperature 1
  captioner photo.jpg --explain explained.png

in a checkout of the repository there is more:
  make serve    serve the model over REST and gRPC, with a demo page
  make eval     caption a data set through the server and score the captions
  make train    train a model; captioner --model <its bundle> uses it
  make help     list everything else
  docs/         the manual, e.g. docs/api.md
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv: Arguments; default: those of the process.
    """
    arguments = _parser().parse_args(argv)
    with cli_errors(ValueError, ModuleNotFoundError):
        sys.exit(_run(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="captioner",
        description="Caption image files on this machine, without a server.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("images", type=Path, nargs="+", help="image files, or directories that are searched for them")
    parser.add_argument(
        "--model", type=Path, default=DEFAULT_BUNDLE, help="bundle directory (default: the shipped one)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per image, errors included")
    parser.add_argument("--explain", type=Path, metavar="PNG", help="draw which parts of the image each word refers to")
    parser.add_argument(
        "--method", help="for --explain: attention or gradient (default: attention if the model has it)"
    )
    parser.add_argument("--backend", default="eager", help=f"auto, {', '.join(BACKENDS)} (default: eager)")
    parser.add_argument("--precision", default="full", help=f"{', '.join(PRECISIONS)} (default: full)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="default: cpu")
    add_generation_options(parser)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    """Caption the images and return the exit status: 1 if one of them failed."""
    paths = find_images(arguments.images)
    if arguments.explain and len(paths) > 1:
        raise ValueError("--explain draws the figure of one image: name one image.")
    if arguments.method and not arguments.explain:
        raise ValueError("--method is for --explain.")
    captioner = _load_captioner(arguments)
    config = generation_config(arguments, captioner.config.decoding)
    if arguments.explain:
        results = iter([(paths[0], _explain(captioner, paths[0], config, arguments))])
    else:
        results = caption_files(captioner, paths, config)
    show = _print_json if arguments.json else partial(_print_text, name_it=len(paths) > 1)
    try:
        failures = [path for path, result in results if show(path, result, config)]
        return 1 if failures else 0
    except BrokenPipeError:  # the reader of the output, e.g. head, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Replace directories by the image files in them, at any depth and in the order of their names.

    Raises:
        FileNotFoundError: If a directory has no image file.
    """
    images: dict[Path, None] = {}  # an ordered set: each file is captioned once
    for path in paths:
        files = [path]
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
        if not files:
            raise FileNotFoundError(f"{path}: no image file in this directory.")
        images |= dict.fromkeys(files)
    return list(images)


def _load_captioner(arguments: argparse.Namespace) -> Captioner:
    if arguments.model == DEFAULT_BUNDLE and not DEFAULT_BUNDLE.is_dir():
        raise BundleError(
            f"The shipped model is missing: there is no directory {DEFAULT_BUNDLE}. Install captioner from a checkout "
            "of its repository with `pip install -e .`, or name a bundle with --model."
        )
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("PyTorch finds no CUDA device: leave out --device.")
    return Captioner.load(arguments.model, arguments.device, backend=arguments.backend, precision=arguments.precision)


def caption_files(
    captioner: Captioner, paths: Sequence[Path], config: GenerationConfig
) -> Iterator[tuple[Path, Result]]:
    """Caption image files in batches; a file that cannot be read or decoded has its error as its result.

    Args:
        captioner: The model.
        paths: Image files.
        config: Decoding options of all images.

    Yields:
        Each path with its captions, best first, or its error.
    """
    for first in range(0, len(paths), BATCH_SIZE):
        batch = paths[first : first + BATCH_SIZE]
        decoded = parallel_map(partial(_preprocess, captioner), batch)
        pixels = [item for item in decoded if isinstance(item, torch.Tensor)]
        captions = iter(captioner.caption_pixels(torch.stack(pixels), [config] * len(pixels)) if pixels else ())
        for path, item in zip(batch, decoded, strict=True):
            yield path, next(captions) if isinstance(item, torch.Tensor) else item


def _preprocess(captioner: Captioner, path: Path) -> torch.Tensor | Exception:
    try:
        return captioner.preprocess(path)
    except (RequestError, OSError) as error:
        return error


def _explain(captioner: Captioner, path: Path, config: GenerationConfig, arguments: argparse.Namespace) -> Result:
    try:
        captions = captioner.explain(path, config, arguments.method)
        draw_figure(path.read_bytes(), captions[0]).save(arguments.explain, "PNG")
    except (RequestError, OSError) as error:
        return error
    return captions


def _print_text(path: Path, result: Result, config: GenerationConfig, *, name_it: bool) -> bool:
    """Print a line for each caption, or the error on stderr; return True for an error."""
    if isinstance(result, Exception):
        has_name = isinstance(result, OSError) and result.filename
        print(error_message(result) if has_name else f"{path}: {error_message(result)}", file=sys.stderr)
        return True
    for caption in result:
        name = f"{path}: " if name_it else ""
        score = f"{caption.score:7.3f}  " if config.num_captions > 1 else ""
        print(f"{name}{score}{caption.text}", flush=True)
    return False


def _print_json(path: Path, result: Result, config: GenerationConfig) -> bool:
    """Print a JSON object, which has the captions as in a response or the error; return True for an error."""
    content: dict[str, object]
    if isinstance(result, Exception):
        content = {"error": {"type": type(result).__name__, "message": error_message(result)}}
    else:
        content = captions_to_json(result, config.seed if config.do_sample else None)
    print(json.dumps({"image": str(path)} | content, ensure_ascii=False), flush=True)
    return isinstance(result, Exception)


if __name__ == "__main__":
    main()
