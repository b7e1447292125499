"""Settings and the file that sets them."""

import re
from dataclasses import asdict

import pytest
import yaml

from handler.serving.settings import Settings
from tests.helpers.paths import ROOT


@pytest.mark.parametrize("name", ["max_pixels", "max_bytes", "max_images", "max_explanations", "max_batch_size"])
def test_settings_with_a_limit_of_zero_raise(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
        Settings(**{name: 0})


@pytest.mark.parametrize("values", [{"threads": -1}, {"backend": "magic"}, {"precision": "magic"}])
def test_settings_with_an_invalid_value_raise(values):
    with pytest.raises(ValueError, match=r"threads must be at least 0|magic"):
        Settings(**values)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"handlers": {}}, "Unknown setting 'handlers' in model-config.yaml. Did you mean 'handler'?"),
        ({"batch_size": 3}, "Unknown setting 'batch_size' in model-config.yaml. Did you mean 'batchSize'?"),
        ({"batchsize": 3}, "Unknown setting 'batchsize' in model-config.yaml. Did you mean 'batchSize'?"),
        ({"batchSize": "8"}, "batchSize must be an integer, not the text '8'."),
        ({"batchSize": 0}, "batchSize must be at least 1, not 0."),
        ({"maxWorkers": 1.5}, "maxWorkers must be an integer, not 1.5."),
        ({"handler": [1]}, "'handler' in model-config.yaml must hold settings, not [1]."),
        (
            {"handler": {"max_pixel": 3}},
            "Unknown setting 'max_pixel' in 'handler' in model-config.yaml. Did you mean 'max_pixels'?",
        ),
        ({"handler": {"max_pixels": "5e7"}}, "max_pixels must be an integer, not the text '5e7'."),
        ({"handler": {"max_pixels": True}}, "max_pixels must be an integer, not True."),
        ({"handler": {"max_pixels": None}}, "max_pixels must be an integer, not None."),
        ({"handler": {"log_captions": "no"}}, "log_captions must be true or false, not the text 'no'."),
        ({"handler": {"grpc_streaming": 1}}, "grpc_streaming must be true or false, not 1."),
        ({"handler": {"threads": 1.5}}, "threads must be an integer, not 1.5."),
        ({"handler": {"cache_entries": -3}}, "cache_entries must be at least 0, not -3."),
        ({"handler": {"backend": 7}}, "backend must be a text, not 7."),
    ],
)  # fmt: skip
def test_from_model_config_with_a_mistake_names_it(config, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Settings.from_model_config(config)


def test_from_model_config_with_an_unknown_setting_lists_the_valid_ones():
    with pytest.raises(ValueError, match=r"Unknown setting 'x' in .* Valid settings: max_pixels, "):
        Settings.from_model_config({"handler": {"x": 1}})


@pytest.mark.parametrize("config", [{}, {"handler": None}, {"batchSize": 4, "deviceType": "cpu", "handler": {}}])
def test_from_model_config_without_settings_has_the_defaults(config):
    assert Settings.from_model_config(config) == Settings()


def test_model_config_names_every_setting_with_its_default():
    config = yaml.safe_load((ROOT / "handler" / "model-config.yaml").read_text())
    assert config["handler"] == asdict(Settings())
