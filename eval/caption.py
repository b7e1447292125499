"""Caption image files through an endpoint, onto the terminal or into JSON lines or CSV.

python -m eval.caption photo.jpg --beam-size 5
python -m eval.caption photos/ 'more/**/*.jpg' --output captions.jsonl --concurrency 16
python -m eval.caption photo.jpg --protocol grpc --endpoint 127.0.0.1:7070
"""

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Self

from tqdm import tqdm

from eval.cli import add_endpoint_arguments, cli_errors, client_from_args
from eval.client import CaptionResult, Client
from eval.files import atomic_path
from eval.image_files import find_images
from eval.transports import EndpointError, ResponseBody, Unreachable

# Names only: the endpoint validates the values.
OPTIONS = (
    "beam_size",
    "length_penalty",
    "min_length",
    "max_length",
    "num_captions",
    "num_beam_groups",
    "diversity_penalty",
    "no_repeat_ngram",
    "temperature",
    "top_p",
    "seed",
)
FLAGS = ("no_repeat_words", "attention")  # options that are true or false
RESUME = "Run the same command again to resume."


class ResultsWriter:
    """Appends results to a file, one image a line: CSV if the name ends in `.csv`, else JSON lines.

    Args:
        file: File to append to.
        options: Generation options, written with each result.
        is_csv: Whether to write CSV.
        done: Images with a caption that the file held when it was opened.
    """

    COLUMNS = ("image", "caption", "score", "options", "error")

    def __init__(self, file: IO[str], options: str, *, is_csv: bool, done: frozenset[str]) -> None:
        self.options, self.is_csv, self.done = options, is_csv, done
        self._file = file

    @classmethod
    def open(cls, path: Path, options: dict[str, Any]) -> Self:
        """Open a file to append to, created if missing.

        Captions of a former run are kept. Its failures, which will be requested again, and a truncated last line are
        removed.

        Args:
            path: File to write.
            options: Generation options; all captions of a file have the same ones.

        Returns:
            The writer, a context manager that closes the file.

        Raises:
            ValueError: If the file has other content, or captions with other options.
        """
        is_csv, encoded = path.suffix.lower() == ".csv", _encode_options(options)
        existing = _read_existing(path, encoded, is_csv=is_csv) if path.exists() else {}
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as partial, _open_text(partial, "w") as file:
            file.write(_csv_line(cls.COLUMNS) if is_csv else "")
            file.writelines(existing.values())
        return cls(_open_text(path, "a"), encoded, is_csv=is_csv, done=frozenset(existing))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, result: CaptionResult) -> None:
        """Append a result and flush it."""
        response = result.response
        if self.is_csv:
            best: ResponseBody = {} if isinstance(response, EndpointError) else response
            score = next((one["score"] for one in best.get("captions", []) if "score" in one), "")
            error = str(response) if isinstance(response, EndpointError) else ""
            self._file.write(_csv_line((result.key, best.get("caption", ""), score, self.options, error)))
        else:
            content = {"error": error_to_json(response)} if isinstance(response, EndpointError) else response
            head = {"image": result.key, "options": json.loads(self.options)}
            self._file.write(json.dumps(head | content, ensure_ascii=False) + "\n")
        self._file.flush()


def _read_existing(path: Path, options: str, *, is_csv: bool) -> dict[str, str]:
    """Read the lines of a former run that hold a caption, by image; errors as in `ResultsWriter.open`."""
    with _open_text(path, "r") as file:
        text = file.read()
    complete = text[: text.rfind("\n") + 1]
    start = _csv_line(ResultsWriter.COLUMNS) if is_csv else '{"image": '
    try:
        lines = list(_parse_lines(complete, is_csv=is_csv))
        if not complete and not (text.startswith(start) or start.startswith(text)):
            raise ValueError("The only line is not a truncated result.")
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise ValueError(f"{path} has other content than captions: choose another file.") from error
    existing: dict[str, str] = {}
    for image, line_options, failed, line in lines:
        if line_options != options:
            raise ValueError(f"{path} has captions with other options, {line_options}: choose another file.")
        if not failed:
            existing.setdefault(image, line)
    return existing


def _parse_lines(text: str, *, is_csv: bool) -> Iterator[tuple[str, str, bool, str]]:
    """Yield image, options, whether it failed, and the line itself."""
    if is_csv:
        rows = csv.reader(io.StringIO(text, newline=""))
        if text and tuple(next(rows)) != ResultsWriter.COLUMNS:
            raise ValueError("The header is missing.")
        for row in rows:
            cells = dict(zip(ResultsWriter.COLUMNS, row, strict=True))
            yield cells["image"], cells["options"], bool(cells["error"]), _csv_line(row)
    else:
        for line in filter(None, text.split("\n")):
            content = json.loads(line)
            yield content["image"], _encode_options(content["options"]), "error" in content, f"{line}\n"


def _open_text(path: Path, mode: str) -> IO[str]:
    """Open a file for text that may contain file names, which need not be UTF-8."""
    return path.open(mode, encoding="utf-8", errors="surrogateescape", newline="")


def _csv_line(cells: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _encode_options(options: dict[str, Any]) -> str:
    return json.dumps(options, sort_keys=True)


def error_to_json(error: EndpointError) -> dict[str, Any]:
    """Return the JSON object of an error in a results file."""
    content = {"code": error.code, "type": error.type, "message": str(error)}
    return content | ({"request_id": error.request_id} if error.request_id else {})


def format_response(response: ResponseBody) -> str:
    """Format a response for the terminal: the caption, or one line with score for each of several captions."""
    captions = response.get("captions", [])
    if len(captions) < 2:
        return str(response["caption"])
    return "\n".join(f"{one['score']:8.3f}  {one['caption']}" for one in captions)


def stream_one(client: Client, path: str, options: dict[str, Any]) -> None:
    """Print the tokens of a caption as they arrive, then the response if it holds more than these tokens."""
    tokens = 0
    for chunk in client.stream(Path(path).read_bytes(), **options):
        if "token" in chunk:
            tokens += 1
            print(chunk["token"], end=" ", flush=True)
        else:
            print("\n" if tokens else "", end="")
            if not tokens or len(chunk.get("captions", [])) > 1:
                print(format_response(chunk))


def print_captions(client: Client, paths: Sequence[str], options: dict[str, Any], *, as_json: bool) -> int:
    """Caption files onto the terminal; return the number of failures, which are printed to standard error."""
    failures = 0
    for result in client.caption_all(((path, Path(path).read_bytes) for path in paths), **options):
        if isinstance(result.response, EndpointError):
            failures += 1
            print(f"{result.key}: {result.response}", file=sys.stderr)
        elif as_json:
            print(json.dumps({"image": result.key} | result.response, ensure_ascii=False), flush=True)
        else:
            prefix = f"{result.key}: " if len(paths) > 1 else ""
            print(prefix + format_response(result.response), flush=True)
    return failures


def write_captions(client: Client, paths: Sequence[str], options: dict[str, Any], output: Path) -> int:
    """Caption the files that `output` does not hold yet into `output`; return the number of failures."""
    failures = 0
    with ResultsWriter.open(output, options) as writer:
        remaining = [path for path in paths if path not in writer.done]
        if len(remaining) < len(paths):
            print(f"{output} has captions of {len(paths) - len(remaining)} of {len(paths)} images.", file=sys.stderr)
        with tqdm(total=len(remaining), unit="image", disable=None) as bar:
            for result in client.caption_all(((path, Path(path).read_bytes) for path in remaining), **options):
                bar.update()
                if isinstance(result.response, EndpointError):
                    failures += 1
                    tqdm.write(f"{result.key}: {result.response}", file=sys.stderr)
                writer.add(result)
    return failures


def parse_value(text: str) -> int | float | str:
    """Convert an option to a number if it is one, so that result files hold numbers."""
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of this command."""
    parser = argparse.ArgumentParser(prog="python -m eval.caption", description="Caption images through an endpoint.")
    parser.add_argument("images", nargs="+", help="files, directories, or quoted glob patterns")
    parser.add_argument("--output", type=Path, help="file to write: CSV if its name ends in .csv, else JSON lines")
    parser.add_argument("--json", action="store_true", help="print whole responses, one a line")
    parser.add_argument("--stream", action="store_true", help="print tokens as they arrive")
    add_endpoint_arguments(parser, retries=8)
    options = parser.add_argument_group("generation options, which the endpoint validates")
    for name in OPTIONS:
        options.add_argument(f"--{name.replace('_', '-')}", type=parse_value)
    for name in FLAGS:
        options.add_argument(f"--{name.replace('_', '-')}", action="store_true", default=None)
    options.add_argument("--repeat-words", dest="no_repeat_words", action="store_false", default=None)
    return parser


def main() -> None:
    """Run the command."""
    parser = build_parser()
    arguments = parser.parse_args()
    for stream in (sys.stdout, sys.stderr):  # file names need not be UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")
    options = {name: value for name in OPTIONS + FLAGS if (value := getattr(arguments, name)) is not None}
    if arguments.stream and (arguments.output or arguments.json):
        parser.error("--stream prints to the terminal: remove --output and --json.")
    failures = 0
    with cli_errors(hint=RESUME if arguments.output else ""):
        paths = find_images(arguments.images)
        with client_from_args(arguments) as client:
            try:
                if arguments.stream:
                    for path in paths:
                        stream_one(client, path, options)
                elif arguments.output:
                    failures = write_captions(client, paths, options, arguments.output)
                else:
                    failures = print_captions(client, paths, options, as_json=arguments.json)
            except Unreachable as error:
                sys.exit(f"{error} {RESUME}" if arguments.output else str(error))
    if failures:
        sys.exit(f"{failures} of {len(paths)} images have no caption.")


if __name__ == "__main__":
    main()
