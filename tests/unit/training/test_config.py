"""Presets and settings."""

import pytest

from training.config import PRESETS, SelfCriticalConfig, TrainingConfig, load_config, preset_path


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_load_config_preset_has_the_decoder_and_encoder_of_its_name(path):
    config = load_config(path)
    decoder, encoder, *_ = path.stem.split("-")
    assert config.decoder.name == decoder
    assert config.encoder.endswith(encoder)
    assert {"name", "data", "terms", "limits"} <= config.card.keys()


def test_preset_path_unknown_name_lists_presets():
    assert preset_path("soft_attention-lite2-flickr8k").parent == PRESETS
    with pytest.raises(
        FileNotFoundError, match=f"no preset 'x': choose one of {min(path.stem for path in PRESETS.glob('*.yaml'))}"
    ):
        preset_path("x")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "linear"}, "schedule must be one of cosine, step, constant, not 'linear'"),
        ({"ema_decay": 1.0}, "ema_decay must be from 0 to below 1, not 1.0"),
        ({"clip_norm": 0.0}, "clip_norm must be above 0, not 0.0"),
        ({"max_length": 0}, "max_length must be at least 1, not 0"),
        ({"num_cached_views": -1}, "num_cached_views must be at least 0, not -1"),
        ({"split_weights": {"val": 1.0}}, "split_weights names 'val', which is not in train_splits"),
        ({"split_weights": {"train2017": -0.5}}, "split_weights must be at least 0, and above 0 for one split"),
        ({"split_weights": {"train2017": 0.0}}, "split_weights must be at least 0, and above 0 for one split"),
        ({"keep_vocabulary": True}, "keep_vocabulary needs decoder_weights"),
        ({"val_splits": []}, "val_splits needs at least one split"),
        ({"epochs": 0}, "epochs 0 needs decoder_weights and self_critical.epochs"),
    ],
)
def test_training_config_value_out_of_range_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"baseline": "mean"}, "baseline must be one of leave_one_out, greedy, not 'mean'"),
        ({"samples": 1}, "samples must be at least 2 with the baseline leave_one_out"),
        ({"samples": 0, "baseline": "greedy"}, "samples must be at least 1 with the baseline greedy"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"cross_entropy": 1.0}, "cross_entropy must be from 0 to below 1"),
        ({"overuse": -1.0}, "overuse must be at least 0"),
    ],
)
def test_self_critical_config_value_out_of_range_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SelfCriticalConfig(**settings)
