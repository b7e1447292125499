"""`python -m handler`: captions and figures with no server, and what it says to bad input."""

import subprocess
import sys

import pytest
from PIL import Image

from handler import Captioner
from tests.helpers.commands import run_module_in_process
from tests.helpers.paths import PHOTOS, ROOT

CAT = "samples/photos/cat.jpg"


def handler(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "handler", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_one_picture_is_a_caption_alone(pretrained):
    done = handler(CAT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == pretrained.caption([ROOT / CAT])[0][0].text + "\n"


def test_several_pictures_are_named_and_a_bad_one_harms_none(tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    done = handler(PHOTOS[0], bad, tmp_path / "none.jpg", PHOTOS[1], "--num-captions", 2)
    assert done.returncode == 1
    assert [line.partition(": ")[0] for line in done.stdout.splitlines()] == [str(p) for p in PHOTOS[:2] for _ in "12"]
    assert done.stderr.splitlines() == [
        f"{bad}: The bytes are not an image in a known format (JPEG, PNG, WEBP, GIF, BMP).",
        f"{tmp_path}/none.jpg: No such file or directory.",
    ]


@pytest.mark.parametrize("method", Captioner.load(ROOT / "pretrained").explanation_methods)
def test_a_figure(tmp_path, method):
    path = tmp_path / "figure.png"
    done = handler(CAT, "--explain", path, "--method", method)
    assert (done.returncode, done.stderr) == (0, "")
    with Image.open(path) as figure:
        assert figure.format == "PNG"
        assert figure.width > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([CAT, "--beam-size", "0"], "beam_size must be an integer from 1 to 10, not 0.\n"),
        ([CAT, "--model", "samples"], "samples"),
        ([CAT, CAT, "--explain", "x.png"], "--explain draws one picture's figure: name one picture.\n"),
        ([CAT, "--method", "gradient"], "--method is for --explain.\n"),
        (
            [CAT, "--explain", "x.png", "--method", "magic"],
            "method must be attention or gradient for this model, not magic.",
        ),
        ([CAT, "--explain", "no/such/folder/x.png"], "no/such/folder/x.png: No such file or directory.\n"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, message):
    code, output, errors = run_module_in_process("handler", *arguments)
    assert code == 1
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert output == ""
