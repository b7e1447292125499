"""Bundles from checkpoints, and the average of several."""

import pytest

from handler import Captioner, GenerationConfig
from tests.helpers.commands import run_module_in_process
from tests.helpers.paths import ROOT
from tests.helpers.training_runs import read_metrics
from tests.helpers.trainings import CRITICAL_EPOCHS, CRITICAL_STEPS, STEPS, train_in_process
from training.export import export_bundle

pytestmark = pytest.mark.slow


def test_export_bundle_latest_checkpoint_is_exported_with_its_step(finished_run, tmp_path, shared_meteor):
    decoding, checkpoint = GenerationConfig(beam_size=1, no_repeat_words=True), finished_run / "checkpoint.safetensors"
    export_bundle(finished_run, checkpoint, tmp_path / "last", ROOT / "samples", decoding=decoding)
    config = Captioner.load(tmp_path / "last").config
    assert config.card["training"]["step"] == STEPS + CRITICAL_STEPS
    assert config.card["training"]["data"] == ["samples/photos"]
    assert config.decoding == decoding
    assert "|beam:1|" in config.card["scores"][0]["signature"]


def test_export_missing_checkpoint_lists_available_ones(finished_run):
    code, _, errors = run_module_in_process("training.export", finished_run, "samples", "--checkpoint=x")
    assert code == 1
    assert errors.endswith("Available checkpoints: best-cross_entropy, best-self_critical, checkpoint.\n")


def test_train_self_critical_only_starts_from_bundles_which_can_be_averaged(
    finished_run, tmp_path, shared_meteor, no_figures
):
    bundles, start = [], finished_run / "bundle"
    for seed in (1, 2):
        run = tmp_path / str(seed)
        weights = [f"--encoder_weights={start}", f"--decoder_weights={start}", f"--seed={seed}"]
        assert train_in_process(run, "--epochs=0", "--num_cached_views=1", *weights) is None
        assert {line["phase"] for line in read_metrics(run)} == {"self_critical"}
        assert [line["step"] for line in read_metrics(run) if "reward" in line] == list(range(1, CRITICAL_STEPS + 1))
        assert [line["epoch"] for line in read_metrics(run) if "CIDEr" in line] == [*range(1, CRITICAL_EPOCHS + 1)]
        bundles.append(run / "bundle")
    output = tmp_path / "mean"
    arguments = [*bundles, "--data", "samples", "--output", output]
    code, stdout, errors = run_module_in_process("training.average_weights", *arguments)
    assert code == 0, errors
    card = Captioner.load(output).config.card
    assert card["mean_of"] == [Captioner.load(bundle).config.digest for bundle in bundles]
    assert f"CIDEr {card['scores'][0]['scores']['CIDEr']}" in stdout
