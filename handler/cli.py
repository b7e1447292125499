"""Parts that command lines share: decoding options from one table, and expected errors as one sentence."""

import argparse
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from handler.errors import BundleError, RequestError
from handler.generation import GENERATION_OPTIONS, GenerationConfig
from handler.serving.option_parsing import parse_options


@contextmanager
def cli_errors(*expected: type[Exception], advice: str = "", interrupted: str = "Stopped.") -> Iterator[None]:
    """Exit with status 1 and one sentence on stderr instead of a traceback.

    Use it around the work of a `main()`:

        with cli_errors(MyError, advice="The same command resumes."):
            work()

    `BundleError`, `RequestError`, `OSError`, `KeyboardInterrupt` and the `expected` errors are caught; any other error
    is a defect and keeps its traceback.

    Args:
        *expected: Further errors whose message is a sentence for the user.
        advice: A sentence after the message, e.g. how to resume.
        interrupted: The message after Ctrl-C.

    Raises:
        SystemExit: If such an error was raised.
    """
    errors: tuple[type[Exception], ...] = (BundleError, RequestError, OSError, *expected)
    try:
        yield
    except errors as error:
        sys.exit(f"{error_message(error)} {advice}".rstrip())
    except KeyboardInterrupt:
        sys.exit(f"{interrupted} {advice}".rstrip())


def error_message(error: Exception) -> str:
    """Return the message of an error for a user, e.g. `cat.jpg: No such file or directory.`."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
    return str(error)


def add_generation_options(parser: argparse.ArgumentParser, exclude: Collection[str] = ()) -> None:
    """Add a flag for each decoding option but `attention`, e.g. `--beam-size`; see `generation_config`.

    An option that is true or false gets two flags, e.g. `--no-repeat-words` and `--repeat-words`.

    Args:
        parser: The parser to add to.
        exclude: Names of options to leave out.
    """
    group = parser.add_argument_group("decoding options", "The defaults are the model's own.")
    for option in GENERATION_OPTIONS.values():
        if option.name in (*exclude, "attention"):  # attention is drawn by --explain
            continue
        name = option.name.replace("_", "-")
        if option.type is bool:
            opposite = name.removeprefix("no-") if name.startswith("no-") else f"no-{name}"
            group.add_argument(f"--{name}", action="store_const", const="true", help=option.help)
            opposite_help = f"The opposite of --{name}."
            group.add_argument(
                f"--{opposite}", action="store_const", const="false", dest=option.name, help=opposite_help
            )
        else:
            help_text = f"{option.help} [{option.range}]".replace("%", "%%")
            group.add_argument(f"--{name}", metavar="N", help=help_text)


def generation_config(arguments: argparse.Namespace, defaults: GenerationConfig) -> GenerationConfig:
    """Return the decoding options of a command line parsed with `add_generation_options`.

    Args:
        arguments: The parsed arguments.
        defaults: The options for flags that are not given.

    Raises:
        OptionOutOfRange: If a value is invalid or out of range, or two options contradict each other.
    """
    given = {name: getattr(arguments, name, None) for name in GENERATION_OPTIONS}
    return parse_options({name: value for name, value in given.items() if isinstance(value, str)}, defaults)
