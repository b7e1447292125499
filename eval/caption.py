"""The client's command: pictures by path, folder or pattern → captions on the terminal, as JSON lines or as CSV."""

import argparse
import csv
import glob
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from eval.client import CaptionResult, Client
from eval.transports import Answer, EndpointError, Unreachable

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp"}
OPTIONS = {
    "beam_size": int, "length_penalty": float, "min_length": int, "max_length": int, "num_captions": int,
    "no_repeat_ngram": int, "temperature": float, "top_p": float, "seed": int,
}  # fmt: skip


def find_images(arguments: Iterable[str]) -> list[str]:
    """Paths of files, folders (all pictures in them, however deep) and patterns → paths, each once, in their order.

    Raises:
        FileNotFoundError: an argument names nothing.
    """
    found: dict[str, None] = {}
    for argument in arguments:
        if Path(argument).is_dir():
            paths = sorted(str(path) for path in Path(argument).rglob("*") if _is_picture(path))
        elif Path(argument).exists():
            paths = [argument]
        else:
            paths = sorted(path for path in glob.glob(argument, recursive=True) if Path(path).is_file())
        if not paths:
            raise FileNotFoundError(f"There is no picture at {argument}.")
        found |= dict.fromkeys(paths)
    return list(found)


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


class Lines:
    """A file of results, a picture a line: JSON lines, or CSV where its name ends so. It grows as answers come.

    What a former run wrote is kept, but for failures, which are tried again, and a last line that broke off.

    Args:
        path: `.csv` or any other name.
        options: what the endpoint is asked for; one file holds captions of the same options alone.

    Attributes:
        done: the pictures that are in it.

    Raises:
        ValueError: the file holds something else, or captions of other options.
    """

    HEADER = ("image", "caption", "score", "options", "error")

    def __init__(self, path: Path, options: dict[str, Any]):
        self.csv = path.suffix.lower() == ".csv"
        self.options = json.dumps(options, sort_keys=True)
        self.done: set[str] = set()
        kept = list(self._kept(path)) if path.exists() else []
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        # Names of files need not be UTF-8: what is not passes through as it is.
        with partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(self._row(self.HEADER) if self.csv else "")
            file.writelines(kept)
        os.replace(partial, path)
        self.file = path.open("a", encoding="utf-8", errors="surrogateescape", newline="")

    def add(self, outcome: CaptionResult) -> None:
        """Writes what came of a picture, at once."""
        failed = isinstance(outcome.result, EndpointError)
        if self.csv:
            best = {} if failed else outcome.result
            score = next((one["score"] for one in best.get("captions", []) if "score" in one), "")
            error = str(outcome.result) if failed else ""
            self.file.write(self._row((outcome.key, best.get("caption", ""), score, self.options, error)))
        else:
            content = {"error": error_to_json(outcome.result)} if failed else outcome.result
            head = {"image": outcome.key, "options": json.loads(self.options)}
            self.file.write(json.dumps(head | content, ensure_ascii=False) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()

    def _kept(self, path: Path) -> Iterator[str]:
        """The lines of a former run that hold a caption."""
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            text = file.read()
        whole = text[: text.rfind("\n") + 1]
        rows = csv.reader(io.StringIO(whole, newline="")) if self.csv else (line for line in whole.split("\n") if line)
        for number, row in enumerate(rows):
            if self.csv and number == 0 and tuple(row) == self.HEADER:
                continue
            try:
                image, options, failed = self._parts(row, first=number == 0)
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path} holds something else than captions: name another file.") from error
            if options != self.options:
                raise ValueError(f"{path} holds captions of other options, {options}: name another file.")
            if not failed and image not in self.done:
                self.done.add(image)
                yield self._row(row) if self.csv else f"{row}\n"

    def _parts(self, row: Any, first: bool) -> tuple[str, str, bool]:
        """A line's picture, its options, and whether it failed."""
        if self.csv:
            if first:
                raise ValueError("The header is missing.")
            named = dict(zip(self.HEADER, row, strict=True))
            return named["image"], named["options"], bool(named["error"])
        content = json.loads(row)
        return content["image"], json.dumps(content["options"], sort_keys=True), "error" in content

    def _row(self, values: Iterable[Any]) -> str:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(values)
        return text.getvalue()


def error_to_json(error: EndpointError) -> dict[str, Any]:
    """An error as a line holds it."""
    described = {"code": error.code, "type": error.type, "message": str(error)}
    return described | ({"request_id": error.request_id} if error.request_id else {})


def show(answer: Answer) -> str:
    """An answer for a reader: the caption, or several with their scores."""
    captions = answer.get("captions", [])
    if len(captions) < 2:
        return answer["caption"]
    return "\n".join(f"{one['score']:8.3f}  {one['caption']}" for one in captions)


def stream_one(client: Client, path: str, options: dict[str, Any]) -> None:
    """Prints a picture's words as they come, and the whole answer where that is more."""
    words = 0
    for part in client.stream(Path(path).read_bytes(), **options):
        if "token" in part:
            words += 1
            print(part["token"], end=" ", flush=True)
        else:
            print("\n" if words else "", end="")
            if not words or len(part.get("captions", [])) > 1:
                print(show(part))


def caption_files(client: Client, paths: list[str], options: dict[str, Any], output: Path | None, as_json: bool) -> int:
    """Captions files, onto the terminal or into `output`; returns how many failed."""
    failed = 0
    lines = Lines(output, options) if output else None
    waiting = [path for path in paths if not lines or path not in lines.done]
    if len(waiting) < len(paths):
        print(f"{len(paths) - len(waiting)} of {len(paths)} pictures are in {output} already.", file=sys.stderr)
    pictures = ((path, Path(path).read_bytes) for path in waiting)
    try:
        with tqdm(total=len(waiting), unit="picture", disable=None if lines else True) as bar:
            for outcome in client.caption_all(pictures, **options):
                bar.update()
                if isinstance(outcome.result, EndpointError):
                    failed += 1
                    tqdm.write(f"{outcome.key}: {outcome.result}", file=sys.stderr)
                if lines:
                    lines.add(outcome)
                elif not isinstance(outcome.result, EndpointError):
                    if as_json:
                        print(json.dumps({"image": outcome.key} | outcome.result, ensure_ascii=False), flush=True)
                    else:
                        prefix = f"{outcome.key}: " if len(paths) > 1 else ""
                        print(prefix + show(outcome.result), flush=True)
    finally:
        if lines:
            lines.close()
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m eval.client", description="Captions pictures through an endpoint.")
    parser.add_argument("pictures", nargs="+", help="files, folders, or patterns in quotes")
    parser.add_argument("--endpoint", help="URL (REST) or host:port (gRPC); left out, TorchServe on this machine")
    parser.add_argument("--protocol", choices=["rest", "grpc"], default="rest")
    parser.add_argument("--model", default="captioner", help="its name at the endpoint")
    parser.add_argument("--output", type=Path, help="a file to write: JSON lines, or CSV if its name ends in .csv")
    parser.add_argument("--json", action="store_true", help="print whole answers, a line each")
    parser.add_argument("--stream", action="store_true", help="print words as they come")
    parser.add_argument("--concurrency", type=int, default=8, help="requests at once")
    parser.add_argument("--timeout", type=float, default=60, help="seconds for one try")
    parser.add_argument("--retries", type=int, default=8, help="further tries while the endpoint is busy")
    parser.add_argument("--token", default=os.environ.get("CAPTIONER_TOKEN"), help="or in CAPTIONER_TOKEN")
    asked = parser.add_argument_group("options of the endpoint")
    for name, kind in OPTIONS.items():
        asked.add_argument(f"--{name.replace('_', '-')}", type=kind)
    asked.add_argument("--attention", action="store_true", default=None)
    arguments = parser.parse_args()
    for stream in (sys.stdout, sys.stderr):  # names of files need not be UTF-8
        stream.reconfigure(errors="surrogateescape")
    options = {name: value for name in [*OPTIONS, "attention"] if (value := getattr(arguments, name)) is not None}
    if arguments.stream and (arguments.output or arguments.json):
        parser.error("--stream prints to the terminal: leave out --output and --json.")
    try:
        paths = find_images(arguments.pictures)
        client = Client(
            arguments.endpoint, protocol=arguments.protocol, model=arguments.model, timeout=arguments.timeout,
            retries=arguments.retries, token=arguments.token, concurrency=arguments.concurrency,
        )  # fmt: skip
        with client:
            if arguments.stream:
                for path in paths:
                    stream_one(client, path, options)
                return
            failed = caption_files(client, paths, options, arguments.output, arguments.json)
    except (OSError, ModuleNotFoundError, ValueError, EndpointError) as error:
        again = " The same command goes on." if arguments.output and isinstance(error, Unreachable) else ""
        sys.exit(f"{error}{again}")
    except KeyboardInterrupt:
        sys.exit("Stopped. The same command goes on where it stopped." if arguments.output else "Stopped.")
    if failed:
        sys.exit(f"{failed} of {len(paths)} pictures have no caption.")
