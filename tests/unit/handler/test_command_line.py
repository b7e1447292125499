"""`python -m handler`: captions and figures without a server, and its messages for bad input."""

import json
import shutil
import subprocess
import sys

import pytest
from PIL import Image

import handler.__main__ as command_line
from handler import Captioner
from tests.helpers.commands import run_module_in_process
from tests.helpers.paths import PHOTOS, ROOT

CAT = "samples/photos/cat.jpg"
NOT_AN_IMAGE = "The bytes are not an image in a known format. Send JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC."


def run(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "handler", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def directory(tmp_path):
    """A directory with two photos, one of them in a subdirectory, a damaged image and a text file."""
    (tmp_path / "images" / "more").mkdir(parents=True)
    shutil.copy(PHOTOS[0], tmp_path / "images" / "a.jpg")
    shutil.copy(PHOTOS[1], tmp_path / "images" / "more" / "c.JPG")
    (tmp_path / "images" / "b.png").write_bytes(b"no image")
    (tmp_path / "images" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def test_one_image_prints_its_caption_only(pretrained):
    done = run(CAT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == pretrained.caption([ROOT / CAT])[0][0].text + "\n"


def test_several_images_are_named_and_a_bad_one_affects_no_other(directory, tmp_path):
    done = run(PHOTOS[2], directory, tmp_path / "none.jpg", "--num-captions", 2)
    assert done.returncode == 1
    captioned = [PHOTOS[2], directory / "a.jpg", directory / "more" / "c.JPG"]
    assert [line.partition(": ")[0] for line in done.stdout.splitlines()] == [str(p) for p in captioned for _ in "12"]
    assert done.stderr.splitlines() == [
        f"{directory}/b.png: {NOT_AN_IMAGE}",
        f"{tmp_path}/none.jpg: No such file or directory.",
    ]


def test_json_has_captions_and_errors(pretrained, directory):
    code, output, errors = run_module_in_process("handler", directory, "--json", "--temperature", "1", "--seed", "7")
    assert (code, errors) == (1, "")
    first, bad, last = map(json.loads, output.splitlines())
    assert [content["image"] for content in (first, bad, last)] == [
        str(directory / name) for name in ("a.jpg", "b.png", "more/c.JPG")
    ]
    assert bad["error"] == {"type": "InvalidImage", "message": NOT_AN_IMAGE}
    assert first["seed"] == last["seed"] == 7
    assert first["caption"] == first["captions"][0]["caption"]
    assert len(first["captions"][0]["token_logprobs"]) == len(first["captions"][0]["tokens"]) + 1


def test_batches_of_files_give_the_captions_of_single_files(pretrained, monkeypatch):
    monkeypatch.setattr(command_line, "BATCH_SIZE", 2)
    paths = [PHOTOS[0], ROOT / "nowhere.jpg", *PHOTOS[1:4]]
    results = list(command_line.caption_files(pretrained, paths, pretrained.config.decoding))
    assert [path for path, _ in results] == paths
    assert isinstance(results[1][1], FileNotFoundError)
    for path, captions in results[:1] + results[2:]:
        assert captions[0].tokens == pretrained.caption([path])[0][0].tokens


def test_find_images_searches_directories_and_names_each_file_once(directory):
    found = command_line.find_images([directory / "more" / "c.JPG", directory, directory / "notes.txt"])
    assert [str(path.relative_to(directory)) for path in found] == ["more/c.JPG", "a.jpg", "b.png", "notes.txt"]


@pytest.mark.parametrize("method", Captioner.load(ROOT / "pretrained").explanation_methods)
def test_explain_writes_a_figure(tmp_path, method):
    path = tmp_path / "figure.png"
    done = run(CAT, "--explain", path, "--method", method)
    assert (done.returncode, done.stderr) == (0, "")
    with Image.open(path) as figure:
        assert figure.format == "PNG"
        assert figure.width > 1000


def test_a_reader_that_closes_the_output_is_no_error():
    script = f"{sys.executable} -m handler {CAT} {PHOTOS[0]} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([CAT, "--beam-size", "0"], "beam_size must be an integer from 1 to 10, not 0.\n"),
        ([CAT, "--model", "samples"], "samples"),
        ([CAT, "--backend", "onnx"], "backend must be one of auto, eager, compile, openvino, not 'onnx'."),
        ([CAT, PHOTOS[0], "--explain", "x.png"], "--explain draws the figure of one image: name one image.\n"),
        ([CAT, "--method", "gradient"], "--method is for --explain.\n"),
        (
            [CAT, "--explain", "x.png", "--method", "magic"],
            "method must be attention or gradient for this model, not magic.",
        ),
        ([CAT, "--explain", "no/such/folder/x.png"], "no/such/folder/x.png: No such file or directory.\n"),
        (["requirements"], "requirements: no image file in this directory.\n"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, message):
    code, output, errors = run_module_in_process("handler", *arguments)
    assert code == 1
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert output == ""


def test_a_missing_default_bundle_is_explained(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command_line, "DEFAULT_BUNDLE", tmp_path / "pretrained")
    with pytest.raises(SystemExit) as caught:
        command_line.main([str(ROOT / CAT)])
    assert "The shipped model is missing" in caught.value.code
    assert "--model" in caught.value.code


def test_help_names_options_and_what_else_there_is(capsys):
    with pytest.raises(SystemExit):
        command_line.main(["--help"])
    text = capsys.readouterr().out
    for expected in ("usage: captioner", "--beam-size", "--json", "make serve", "make eval", "make train", "docs/"):
        assert expected in text
