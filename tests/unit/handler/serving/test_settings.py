"""Settings and the file that sets them."""

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


def test_model_config_names_every_setting_with_its_default():
    config = yaml.safe_load((ROOT / "handler" / "model-config.yaml").read_text())
    assert config["handler"] == asdict(Settings())
