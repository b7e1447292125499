"""Cached features equal what the encoder computes, are reused, and never stale."""

import os
import shutil
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from eval.data import read_split
from handler.modeling.encoder import Encoder
from handler.preprocessing import Preprocessing
from tests.helpers.paths import ROOT
from training.data import image_loading
from training.data.augmentation import Augmentation
from training.data.feature_cache import cached_features

PREPROCESSING = Preprocessing(64, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder("test_efficientnet").eval().requires_grad_(False)


def features_of(directory, encoder, images, **options):
    return cached_features(directory, encoder, PREPROCESSING, images, device=torch.device("cpu"), **options)


def relative_distance(actual, expected):
    """Return the distance of two arrays relative to the second."""
    return np.linalg.norm(np.float32(actual) - np.float32(expected)) / np.linalg.norm(np.float32(expected))


@torch.inference_mode()
def test_cached_features_equal_the_encoder_output(tmp_path, encoder):
    images = read_split(ROOT / "samples", "photos")
    features = features_of(tmp_path, encoder, images)
    assert features.shape == (7, 4, encoder.channels)
    image = Image.open(images[3].path).convert("RGB")
    expected = encoder(PREPROCESSING.normalize(PREPROCESSING.resize(image).unsqueeze(0)))[0]
    assert relative_distance(features[3], expected) < 2e-3 < 0.1 < relative_distance(features[4], expected)
    assert 0 < relative_distance(features_of(tmp_path, encoder, images, bf16=True)[3], expected) < 0.1


@torch.inference_mode()
def test_cached_features_views_are_random_and_reproducible(tmp_path, encoder):
    images = read_split(ROOT / "samples", "photos")
    plain = features_of(tmp_path, encoder, images)
    flip, crop = Augmentation(horizontal_flip=True), Augmentation(horizontal_flip=False, min_crop_area=0.3)
    turned = [np.array(features_of(tmp_path, encoder, images, augmentation=flip, view=view)) for view in range(6)]
    np.testing.assert_array_equal(turned[0], plain)  # view 0 is the image as it is served
    image = Image.open(images[3].path).convert("RGB")
    flipped = encoder(PREPROCESSING.normalize(PREPROCESSING.resize(ImageOps.mirror(image)).unsqueeze(0)))[0].numpy()
    alike = [[relative_distance(features[3], grid) < 3e-3 for grid in (plain[3], flipped)] for features in turned]
    assert {tuple(sides) for sides in alike} == {(True, False), (False, True)}
    cropped = [np.array(features_of(tmp_path, encoder, images, augmentation=crop, view=view)) for view in (1, 2)]
    assert relative_distance(cropped[0], cropped[1]) > 0.03
    shutil.rmtree(tmp_path)
    np.testing.assert_array_equal(features_of(tmp_path, encoder, images, augmentation=crop, view=2), cropped[1])


def test_cached_features_are_reused_unless_stale(tmp_path, encoder):
    for name in ("annotations", "photos"):
        shutil.copytree(ROOT / "samples" / name, tmp_path / "data" / name)
    images = read_split(tmp_path / "data", "photos")
    features_of(tmp_path / "cache", encoder, images)
    [first] = (tmp_path / "cache").glob("*.npy")
    written = first.stat().st_mtime_ns
    features_of(tmp_path / "cache", encoder, images)
    assert [path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.npy")] == [written]
    Image.new("RGB", (50, 50), "red").save(images[0].path)  # the same name, another image
    features_of(tmp_path / "cache", encoder, images)
    torch.manual_seed(1)
    features_of(tmp_path / "cache", Encoder("test_efficientnet").eval(), images)  # other weights
    for options in ({"bf16": True}, {"augmentation": Augmentation(), "view": 1}):
        features_of(tmp_path / "cache", encoder, images, **options)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 5


def test_cached_features_interrupted_computation_resumes(tmp_path, encoder, monkeypatch):
    images = read_split(ROOT / "samples", "photos")
    complete = np.array(features_of(tmp_path / "complete", encoder, images))
    monkeypatch.setattr("training.data.feature_cache.BATCH_SIZE", 2)
    seen = []
    decode = image_loading.decode_image

    def failing(data):
        seen.append(data)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return decode(data)

    monkeypatch.setattr("training.data.image_loading.decode_image", failing)
    with pytest.raises(KeyboardInterrupt):
        features_of(tmp_path / "broken", encoder, images)
    assert not list((tmp_path / "broken").glob("*.npy"))
    again = []  # apart from `seen`: a second thread may have read one more image before the interruption

    def counting(data):
        again.append(data)
        return decode(data)

    monkeypatch.setattr("training.data.image_loading.decode_image", counting)
    features = features_of(tmp_path / "broken", encoder, images)
    assert len(again) == 3  # the four encoded images are not read again
    assert relative_distance(features, complete) < 2e-3


def test_cached_features_mean_is_the_mean_of_the_cells(tmp_path, encoder):
    images = read_split(ROOT / "samples", "photos")
    grid = np.float32(features_of(tmp_path, encoder, images))
    mean = features_of(tmp_path, encoder, images, mean=True)
    assert mean.shape == (7, 1, encoder.channels)
    np.testing.assert_allclose(mean[:, 0], grid.mean(1), atol=2e-3)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_cached_features_full_disk_fails_before_the_first_image(tmp_path, encoder, monkeypatch):
    """A sparse file would be created, and writing to its memory map would kill the process by SIGBUS."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], check=True)
    try:
        images = 20 * read_split(ROOT / "samples", "photos")  # 140 * 4 cells * 256 channels * 2 bytes = 287 kB
        monkeypatch.setattr("training.data.feature_cache.load_images", None)
        with pytest.raises(OSError, match=r"The features need 0.00 GB, which .* has no space for \(No space left"):
            features_of(tmp_path, encoder, images)
        assert not list(tmp_path.glob("*.partial"))
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_cached_features_damaged_image_is_named(tmp_path, encoder):
    for name in ("annotations", "photos"):
        shutil.copytree(ROOT / "samples" / name, tmp_path / name)
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"cat\.jpg: The bytes are not an image"):
        features_of(tmp_path / "cache", encoder, read_split(tmp_path, "photos"))
