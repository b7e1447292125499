"""Presets and settings."""

from dataclasses import replace

import pytest
import timm

from handler.modeling import NICConfig
from training.config import PRESETS, SelfCriticalConfig, TrainingConfig, load_config, preset_path


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_load_config_preset_has_the_decoder_and_encoder_of_its_name(path):
    config = load_config(path)
    decoder, encoder, *_ = path.stem.split("-")
    assert config.decoder.name == decoder
    assert encoder in config.encoder
    assert {"name", "data", "terms", "limits"} <= config.card.keys()


def test_presets_with_weights_of_timm_name_them_and_normalize_as_they_expect():
    """`resnet101` alone is another set of weights in another version of timm."""
    configs = [load_config(path) for path in PRESETS.glob("*.yaml")]
    for config in [config for config in configs if config.encoder_weights == "timm"]:
        weights = timm.get_pretrained_cfg(config.encoder)
        assert weights.tag, config.encoder
        expected = [[255 * value for value in values] for values in (weights.mean, weights.std)]
        assert [list(config.preprocessing.mean), list(config.preprocessing.std)] == [
            pytest.approx(e, abs=0.01) for e in expected
        ]


def test_presets_that_train_on_karpathy_say_where_not_to_score():
    """`karpathy_train` has four fifths of val2017."""
    for path in PRESETS.glob("*.yaml"):
        if "karpathy_train" in load_config(path).train_splits:
            assert "karpathy_train has four fifths of val2017" in path.read_text(), path.stem


def test_read_preset_with_a_base_replaces_settings_and_extends_the_card(tmp_path):
    preset = tmp_path / "mine.yaml"
    preset.write_text("base: soft_attention-lite2-flickr8k\ndecoder: {name: nic}\ncard: {name: mine, limits: none}\n")
    base, config = (load_config(path) for path in (preset_path("soft_attention-lite2-flickr8k"), preset))
    assert config.decoder == NICConfig()  # not mixed with the sizes of the base
    assert config.card == base.card | {"name": "mine", "limits": "none"}
    assert config == replace(base, decoder=config.decoder, card=config.card)
    assert base.train_splits == ["train"]  # of its own base


def test_training_config_defaults_weigh_attention_as_the_authors_do():
    config = TrainingConfig()
    assert config.doubly_stochastic_weight == 0  # it is Xu et al.'s, and other decoders have attention, too
    # Xu et al.'s code, for a batch of 16 and captions of 12 tokens: 16 / (10 * 12) and 0.002 * 16, about 4 to 1.
    assert config.reinforce_weight == pytest.approx(16 / 120, abs=0.005)
    assert config.entropy_weight == pytest.approx(0.032)
    weights = {path.stem: load_config(path).doubly_stochastic_weight for path in PRESETS.glob("*.yaml")}
    assert {name for name, weight in weights.items() if weight} == {
        f"{decoder}-{data}"
        for decoder in ("soft_attention", "hard_attention")
        for data in ("lite2-flickr8k", "resnet101-coco")
    }


@pytest.mark.parametrize(
    ("settings", "cpus", "processes", "workers"),
    [
        ({"num_cached_views": 2}, 64, 1, 1),
        ({"num_cached_views": 0}, 2, 1, 1),
        ({"num_cached_views": 0}, 8, 1, 7),
        ({"num_cached_views": 0}, 64, 4, 15),
        ({"num_cached_views": 0}, 64, 1, 16),
        ({"num_cached_views": 0}, 2, 4, 1),
        ({"num_cached_views": 0, "workers": 0}, 8, 1, 0),
    ],
)
def test_num_workers_follows_the_machine(settings, cpus, processes, workers):
    assert TrainingConfig(**settings).num_workers(cpus, processes) == workers


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
