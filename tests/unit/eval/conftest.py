"""Fixtures of the evaluation tests: one METEOR process, cached tokenizer output, commands run in this process."""

import importlib
import io
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import pytest

from eval.meteor import JAR, NUM_STATISTICS, Meteor
from eval.ptb_tokenizer import tokenize_lines
from tests.helpers.paths import ROOT


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of the real METEOR as slow: the process takes ten seconds to start."""
    for item in items:
        if item.path.parent == Path(__file__).parent and "meteor" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


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
def meteor(tmp_path_factory) -> Iterator[Meteor]:
    """METEOR in a directory with an odd name, in a locale with decimal commas, set in every way that Java reads it."""
    directory = tmp_path_factory.mktemp("a é%20+b")
    (directory / "data").mkdir()
    for name in (JAR.name, "data/paraphrase-en.gz"):
        shutil.copyfile(JAR.parent / name, directory / name)
    german = "-Duser.language=de -Duser.country=DE -Duser.language.format=de -Duser.country.format=DE"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"):
            patch.setenv(name, german)
        patch.setenv("LC_ALL", "de_DE.UTF-8")
        patch.setattr("eval.meteor.JAR", directory / JAR.name)
        process = Meteor(timeout=120)
    with process:
        yield process


class FakeMeteor(Meteor):
    """A METEOR without Java, which counts the tokens that occur in any reference.

    Scores of the real one are compared with pycocoevalcap by the tests of `meteor` and `significance`.
    """

    requests: ClassVar[list[tuple[Mapping[int, Sequence[str]], Mapping[int, str]]]] = []

    def __init__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def statistics(self, references, captions):
        self.requests.append((references, captions))
        rows = np.zeros((len(captions), NUM_STATISTICS))
        for row, (image, texts) in zip(rows, references.items(), strict=True):
            tokens = captions[image].split()
            row[:2] = sum(any(token in text.split() for text in texts) for token in tokens), len(tokens)
        return rows

    def evaluate(self, statistics):
        scores = statistics[:, 0] / np.maximum(statistics[:, 1], 1)
        return float(statistics[:, 0].sum() / max(statistics[:, 1].sum(), 1)), scores.tolist()


@pytest.fixture
def fake_meteor(monkeypatch) -> type[FakeMeteor]:
    """Let commands and metrics start a METEOR without Java."""
    FakeMeteor.requests.clear()
    monkeypatch.setattr("eval.meteor.Meteor", FakeMeteor)
    monkeypatch.setattr("eval.metrics.Meteor", FakeMeteor)
    return FakeMeteor


@pytest.fixture(scope="session", autouse=True)
def cached_tokenizer() -> Iterator[None]:
    """Start the tokenizer once for each input: it is a Java process, and a function of its input."""
    cached = cache(lambda lines: tuple(tokenize_lines(lines)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eval.metrics.tokenize_lines", lambda lines: list(cached(tuple(lines))))
        yield
