"""Fixtures of the evaluation tests: one METEOR process, cached tokenizer output, commands run in this process."""

import importlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from typing import NamedTuple

import pytest
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from eval.meteor import Meteor
from tests.helpers.paths import ROOT


class Finished(NamedTuple):
    """A command that has ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="session")
def run_main() -> Callable[..., Finished]:
    """Return a function that runs `python -m module` in this process, without the seconds of new imports."""

    def run(module: str, *arguments: object) -> Finished:
        out, errors, code = io.StringIO(), io.StringIO(), None
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors):
            patch.setattr(sys, "argv", [module, *map(str, arguments)])
            patch.chdir(ROOT)
            try:
                importlib.import_module(module).main()
            except SystemExit as ended:
                code = ended.code
        if isinstance(code, str):  # as the interpreter does it
            errors.write(f"{code}\n")
            code = 1
        return Finished(code or 0, out.getvalue(), errors.getvalue())

    return run


@pytest.fixture(scope="session")
def meteor() -> Iterator[Meteor]:
    """METEOR, started in a locale with decimal commas, requested in every way that Java reads it from."""
    german = "-Duser.language=de -Duser.country=DE -Duser.language.format=de -Duser.country.format=DE"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"):
            patch.setenv(name, german)
        patch.setenv("LC_ALL", "de_DE.UTF-8")
        process = Meteor(timeout=120)
    with process:
        yield process


@pytest.fixture
def shared_meteor(monkeypatch, meteor) -> None:
    """Let commands use the METEOR process of the tests."""
    for module in ("run", "score", "compare"):
        patched = f"eval.{module}.optional_meteor"
        monkeypatch.setattr(patched, lambda wanted: nullcontext(meteor if wanted else None))


@pytest.fixture(scope="session", autouse=True)
def cached_tokenizer() -> Iterator[None]:
    """Start the tokenizer once for each input: it is a Java process, and a function of its input."""
    outputs: dict[str, dict[int, list[str]]] = {}

    class CachedTokenizer(PTBTokenizer):
        def tokenize(self, captions):
            key = json.dumps(list(captions.items()))
            if key not in outputs:
                outputs[key] = super().tokenize(captions)
            return {image: list(texts) for image, texts in outputs[key].items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eval.metrics.PTBTokenizer", CachedTokenizer)
        yield
