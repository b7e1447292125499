"""The command line of a training: mistakes get one sentence, and the precision fits the device."""

import pytest

from tests.helpers.commands import run_module_in_process
from tests.helpers.training_runs import PHOTO_SPLITS
from training.train import device_precision

NIC = ["nic-lite2-flickr8k", "samples"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope", "samples"], "There is no preset 'nope': choose one of "),
        (["nic-lite2-flickr8k", "nowhere"], "There is no split 'train' in nowhere"),
        ([*NIC, "--epochs=many"], 'Parser key "epochs"'),
        ([*NIC, "--epochs=-1"], "epochs must be at least 0"),
        ([*NIC, "--epochs=0"], "epochs 0 needs decoder_weights"),
        ([*NIC, "--decoding.beam_size=0"], "beam_size must be at least 1, not 0"),
        ([*NIC, "--decoder.dropout=1"], "dropout must be a number from 0 to below 1, not 1."),
        (["--epochs=3", *NIC], "The preset comes first"),
        ([*NIC, "--precision=fp8"], "precision must be one of auto, bf16-mixed, 32-true, not 'fp8'"),
        ([*NIC, *PHOTO_SPLITS, "--encoder=vgg99"], "'vgg99'"),
        ([*NIC, *PHOTO_SPLITS, "--encoder_weights=x.pth"], "no encoder weights 'x.pth'"),
        ([*NIC, "--self_critical.samples=1"], "samples must be at least 2"),
        ([*NIC, "--accelerator=abacus"], "abacus"),
    ],
)
def test_train_mistake_in_arguments_gives_one_sentence(arguments, message, tmp_path):
    code, _, errors = run_module_in_process("training.train", *arguments, f"--output-dir={tmp_path / 'run'}")
    assert code != 0
    assert message in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("accelerator", "cuda", "cpu_bf16", "expected"),
    [
        ("cpu", True, True, "bf16-mixed"),
        ("cpu", True, False, "32-true"),
        ("auto", True, False, "bf16-mixed"),
        ("auto", False, False, "32-true"),
        ("cuda", True, False, "bf16-mixed"),
    ],
)
def test_device_precision_is_bfloat16_if_the_device_supports_it(monkeypatch, accelerator, cuda, cpu_bf16, expected):
    monkeypatch.setattr("torch.cuda.is_available", lambda: cuda)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: cuda)
    monkeypatch.setattr("training.train.cpu_supports_bfloat16", lambda: cpu_bf16)
    assert device_precision(accelerator) == expected


def test_train_failed_start_leaves_the_directory_free_for_other_settings(tmp_path):
    code, _, errors = run_module_in_process("training.train", *NIC, f"--output-dir={tmp_path / 'run'}")
    assert (code, "There is no split 'train'" in errors) == (1, True)
    assert not (tmp_path / "run" / "settings.yaml").exists()
