"""Training on the samples: a real run killed half-way and started again ends as one that was left alone."""

import json
import shutil
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from handler import Captioner
from support import PHOTOS, ROOT
from training.checkpoint import load_checkpoint, save_checkpoint
from training.coco import read_split
from training.config import PRESETS, preset
from training.train import alone
from training.validate import validate_bundle

EPOCHS = 8
STEPS = 4 * EPOCHS  # seven pictures, two a step
SETTINGS = [
    "--train_split=photos", "--val_split=photos", "--min_count=1", "--batch_size=2", f"--epochs={EPOCHS}",
    "--preprocessing.size=64", "--decoder.embed_size=32", "--decoder.hidden_size=32", "--decoder.attention_size=8",
    "--decoder.dropout=0.1",
    "--warmup_steps=5", "--learning_rate=0.02", "--checkpoint_every=3", "--decoding.beam_size=2", "--precision=fp32",
]  # fmt: skip


def command(run, *settings):
    arguments = ["soft_attention-lite2-flickr8k", "samples", f"--run={run}", f"--features={run.parent / 'features'}"]
    return [sys.executable, "-m", "training.train", *arguments, *SETTINGS, *settings]


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run from beginning to end."""
    run = tmp_path_factory.mktemp("training") / "whole"
    subprocess.run(command(run), cwd=ROOT, check=True, capture_output=True)
    return run


def test_a_run_learns_and_keeps_its_best(whole):
    losses = [line["loss"] for line in lines(whole) if "loss" in line]
    validations = [line for line in lines(whole) if "CIDEr" in line]
    assert len(losses) == STEPS
    assert [line["epoch"] for line in validations] == list(range(1, EPOCHS + 1))
    assert sum(losses[:4]) / 4 - sum(losses[-4:]) / 4 > 0.5  # nats a token, from the first epoch to the last
    training = Captioner.load(whole / "bundle").config.card["training"]
    best = max(validations, key=lambda line: line["CIDEr"])
    assert training["best_epoch"] == best["epoch"]
    assert (whole / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_learning_rate_warms_up_and_falls_as_a_cosine(whole):
    rates = [line["learning_rate"] for line in lines(whole) if "loss" in line]
    assert rates[:5] == pytest.approx([0.004, 0.008, 0.012, 0.016, 0.02])
    # step 18 of 32 lies 13 of 27 past the warm-up: 0.01 * (1 + cos(pi * 13 / 27)) = 0.010581
    assert rates[18] == pytest.approx(0.010581, abs=1e-6)
    assert rates[-1] < 0.0002


def test_killed_and_started_again_it_ends_as_if_left_alone(whole, tmp_path):
    shutil.copytree(whole.parent / "features", tmp_path / "features")
    run = tmp_path / "killed"
    for epochs in (2, 5):  # twice, at different places
        process = subprocess.Popen(command(run), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        metrics = run / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not (metrics.exists() and metrics.read_text().count("CIDEr") >= epochs):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
        process.wait()
        assert not (run / "bundle").exists()
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"step": 999, "lo')  # the line that a kill cut short
    subprocess.run(command(run), cwd=ROOT, check=True, capture_output=True)
    assert [line["step"] for line in lines(run)] == [line["step"] for line in lines(whole)]
    for left, right in zip(lines(run), lines(whole), strict=True):
        for name in left.keys() - {"seconds"}:
            assert left[name] == pytest.approx(right[name], abs=1e-4), name
    ours, theirs = Captioner.load(run / "bundle"), Captioner.load(whole / "bundle")
    assert [c[0].caption for c in ours.caption(PHOTOS)] == [c[0].caption for c in theirs.caption(PHOTOS)]


def test_the_cards_scores_are_the_bundles(whole):
    captioner = Captioner.load(whole / "bundle")
    [written] = captioner.config.card["scores"]
    result, captions = validate_bundle(captioner, read_split(ROOT / "samples", "photos"), "samples/photos")
    assert result == written
    assert written["n"] == len(captions) == 7
    digest = captioner.config.digest[:19]
    signature = "samples/photos|n:7|refs:5|tok:ptb3.4.1|cider-d:idf=refs|beam:2|lp:0.7|length:1-20|ngram:0|" + digest
    assert written["signature"] == signature


def test_other_settings_in_the_same_folder_are_refused(whole):
    done = subprocess.run(command(whole, "--epochs=9"), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"{whole} was begun with other settings (epochs): name another folder with --run.\n"


def test_two_at_once_in_the_same_folder_are_refused(whole):
    with alone(whole):
        done = subprocess.run(command(whole), cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"Another process is training in {whole}.\n"


def test_other_data_in_the_same_folder_is_refused(whole, tmp_path):
    shutil.copytree(ROOT / "samples", tmp_path / "samples")
    annotations = tmp_path / "samples" / "annotations" / "captions_photos.json"
    arguments = command(whole)
    arguments[arguments.index("samples")] = str(tmp_path / "samples")
    moved = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert moved.returncode == 0, moved.stderr  # the same data elsewhere is the same data
    text, cat = annotations.read_text(), tmp_path / "samples" / "photos" / "cat.jpg"
    changes = (
        lambda: annotations.write_text(text.replace("woman", "wombat")),
        lambda: (annotations.write_text(text), cat.write_bytes(cat.with_name("coffee.jpg").read_bytes())),
    )
    for change in changes:
        change()
        done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "is not the data that" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "samples", "photos"], "nowhere is no model bundle: captioner.json is missing."),
        (["pretrained", "samples", "val"], "There is no split 'val' in samples"),
        (["pretrained", "samples", "photos", "--beam-size=0"], "beam_size is at least 1, not 0."),
    ],
)
def test_mistakes_in_scoring_get_one_sentence(arguments, message):
    program = [sys.executable, "-m", "training.validate", *arguments]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope", "samples"], "There is no preset 'nope': choose one of nic-lite2-flickr8k"),
        (["nic-lite2-flickr8k", "nowhere"], "There is no split 'train' in nowhere"),
        (["nic-lite2-flickr8k", "samples", "--epochs=many"], 'Parser key "epochs"'),
        (["nic-lite2-flickr8k", "samples", "--epochs=0"], "epochs is at least 1, not 0"),
        (["nic-lite2-flickr8k", "samples", "--decoding.beam_size=0"], "beam_size is at least 1, not 0"),
        (["nic-lite2-flickr8k", "samples", "--decoder.dropout=1"], "dropout is from 0 to below 1, not 1"),
        (["--epochs=3", "nic-lite2-flickr8k", "samples"], "The preset comes first"),
        (["nic-lite2-flickr8k", "samples", "--precision=fp8"], "precision is 'bf16' or 'fp32', not 'fp8'"),
        (["nic-lite2-flickr8k", "samples", "--train_split=photos", "--val_split=photos", "--encoder=vgg99"], "'vgg99'"),
    ],
)
def test_mistakes_get_one_sentence(arguments, message, tmp_path):
    program = [sys.executable, "-m", "training.train", *arguments, f"--run={tmp_path / 'run'}"]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_presets_are_found():
    assert preset("soft_attention-lite2-flickr8k").parent == PRESETS
    with pytest.raises(FileNotFoundError, match="no preset 'x'"):
        preset("x")


def test_a_checkpoint_is_whole_or_the_old_one(tmp_path, monkeypatch):
    model = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, model, optimizer, {"step": 7, "best_cider": 0.25})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("training.checkpoint.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, model, optimizer, {"step": 8, "best_cider": 0.5})
    other = nn.Linear(2, 2)
    restored = torch.optim.Adam(other.parameters())
    assert load_checkpoint(path, other, restored) == {"step": 7.0, "best_cider": 0.25}
    assert torch.equal(other.weight, model.weight)
    for left, right in zip(optimizer.state.values(), restored.state.values(), strict=True):
        assert left.keys() == right.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(left[name], right[name]) for name in left)
