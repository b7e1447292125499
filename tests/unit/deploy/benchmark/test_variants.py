"""Variants of an archive."""

import zipfile

import pytest
import yaml

from deploy.benchmark.variants import BASELINE_ENTRY, VARIANTS, Variant, grid, repack
from tests.helpers.paths import ROOT


@pytest.fixture
def archive(tmp_path):
    """An archive of the files that variants change, and one that they leave as it is."""
    with zipfile.ZipFile(tmp_path / "captioner.mar", "w") as content:
        for name in ("captioner_service.py", "bundle.py", "model-config.yaml"):
            content.write(ROOT / "handler" / name, name)
    return tmp_path / "captioner.mar"


def test_repack_changes_the_settings_and_the_entry_point_only(archive, tmp_path):
    variant = Variant("x", {"batchSize": 3, "handler.backend": "eager"}, BASELINE_ENTRY)
    with zipfile.ZipFile(archive) as before, zipfile.ZipFile(repack(archive, tmp_path / "other.mar", variant)) as after:
        assert before.namelist() == after.namelist()
        different = {name for name in before.namelist() if before.read(name) != after.read(name)}
        assert different == {"model-config.yaml", "captioner_service.py"}
        assert after.read("captioner_service.py") == BASELINE_ENTRY.read_bytes()
        settings = yaml.safe_load(after.read("model-config.yaml"))
        assert settings["batchSize"] == 3
        assert settings["handler"] | {"backend": "auto"} == yaml.safe_load(before.read("model-config.yaml"))["handler"]


def test_repack_with_unknown_setting_raises_and_writes_nothing(archive, tmp_path):
    with pytest.raises(KeyError, match="backends"):
        repack(archive, tmp_path / "other.mar", Variant("x", {"handler.backends": "eager"}))
    assert [path.name for path in tmp_path.iterdir()] == ["captioner.mar"]


@pytest.mark.parametrize("variant", [*VARIANTS.values(), *grid()], ids=lambda variant: variant.name)
def test_every_variant_changes_existing_settings(archive, variant):
    assert repack(archive, archive, variant) == archive
