"""From COCO's layout to a batch: reading, cached grids, captions drawn, pictures mirrored."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from handler.encoder import Encoder
from handler.preprocessing import Preprocessing
from support import ROOT
from training.batches import Batches
from training.coco import CaptionedImage, read_split
from training.features import cached_grids
from training.tokenizer import build_vocabulary

PREPROCESSING = Preprocessing(64, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))


def test_samples_are_read():
    images = read_split(ROOT / "samples", "photos")
    assert [image.path.stem for image in images][:2] == ["astronaut", "cat"]
    assert all(len(image.captions) == 5 for image in images)


def test_flickr8k_is_read(flickr8k):
    for split, count in (("train", 6000), ("val", 1000)):
        images = read_split(flickr8k, split)
        assert len(images) == count
        assert {len(image.captions) for image in images} == {5}


def write_split(folder, images, annotations):
    (folder / "annotations").mkdir()
    (folder / "s").mkdir()
    content = {"images": images, "annotations": annotations}
    (folder / "annotations" / "captions_s.json").write_text(json.dumps(content))


def test_a_picture_without_captions_is_left_out(tmp_path):
    write_split(
        tmp_path,
        [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        [{"image_id": 2, "caption": "x"}, {"image_id": 2, "caption": "y"}],
    )
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "s" / name).touch()
    assert read_split(tmp_path, "s") == [CaptionedImage(2, tmp_path / "s" / "b.jpg", ("x", "y"))]


@pytest.mark.parametrize(
    ("images", "annotations", "error", "message"),
    [
        ([{"id": 1, "file_name": "a.jpg"}], [], FileNotFoundError, "a.jpg, which is missing"),
        ([{"id": 1, "file_name": "../a.jpg"}], [], ValueError, "no plain file name"),
        ([{"id": 1}], [], ValueError, "not in COCO's layout: KeyError.'file_name'"),
        ([{"id": 1, "file_name": 7}], [], ValueError, "not in COCO's layout: TypeError..file_name is no text"),
        ([], [{"image_id": 1, "caption": None}], ValueError, "caption is no text"),
        ([], [], ValueError, "no captioned picture"),
    ],
)
def test_splits_that_cant_be_read(tmp_path, images, annotations, error, message):
    write_split(tmp_path, images, annotations)
    with pytest.raises(error, match=message):
        read_split(tmp_path, "s")


def test_a_missing_split_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no split 'val'.* Splits found there: none"):
        read_split(tmp_path, "val")


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder("test_efficientnet").eval().requires_grad_(False)


def grids_of(folder, encoder, images, flips=True):
    return cached_grids(folder, encoder, PREPROCESSING, images, flips=flips, device=torch.device("cpu"))


@torch.inference_mode()
def test_cached_grids_are_the_encoders(tmp_path, encoder):
    images = read_split(ROOT / "samples", "photos")
    grids = grids_of(tmp_path, encoder, images)
    assert grids.shape == (7, 2, 4, encoder.channels)
    picture = Image.open(images[3].path).convert("RGB")
    for side, turned in enumerate((picture, ImageOps.mirror(picture))):
        expected = encoder(PREPROCESSING.normalize(PREPROCESSING.resize(turned).unsqueeze(0)))[0]
        np.testing.assert_allclose(grids[3, side], expected.numpy(), atol=2e-3, rtol=2e-3)


def test_the_cache_is_read_again_and_a_stale_one_never(tmp_path, encoder):
    for name in ("annotations", "photos"):
        shutil.copytree(ROOT / "samples" / name, tmp_path / "data" / name)
    images = read_split(tmp_path / "data", "photos")
    grids_of(tmp_path / "cache", encoder, images)
    [first] = (tmp_path / "cache").glob("*.npy")
    written = first.stat().st_mtime_ns
    grids_of(tmp_path / "cache", encoder, images)
    assert [path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.npy")] == [written]
    Image.new("RGB", (50, 50), "red").save(images[0].path)  # the same name, another picture
    grids_of(tmp_path / "cache", encoder, images)
    torch.manual_seed(1)
    grids_of(tmp_path / "cache", Encoder("test_efficientnet").eval(), images)  # other weights
    grids_of(tmp_path / "cache", encoder, images, flips=False)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 4


def test_a_broken_off_cache_goes_on(tmp_path, encoder, monkeypatch):
    images = read_split(ROOT / "samples", "photos")
    whole = np.array(grids_of(tmp_path / "whole", encoder, images))
    monkeypatch.setattr("training.features.BATCH", 2)
    seen = []
    decode = __import__("training.features", fromlist=["decode_image"]).decode_image

    def failing(data):
        seen.append(data)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return decode(data)

    monkeypatch.setattr("training.features.decode_image", failing)
    with pytest.raises(KeyboardInterrupt):
        grids_of(tmp_path / "broken", encoder, images)
    assert not list((tmp_path / "broken").glob("*.npy"))
    grids = grids_of(tmp_path / "broken", encoder, images)
    assert len(seen) == 5 + 3  # the four that were done are not asked for again
    np.testing.assert_allclose(grids, whole, atol=1e-3)


def test_a_damaged_picture_is_named(tmp_path, encoder):
    for name in ("annotations", "photos"):
        shutil.copytree(ROOT / "samples" / name, tmp_path / name)
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"cat\.jpg: The bytes are no picture"):
        grids_of(tmp_path / "cache", encoder, read_split(tmp_path, "photos"))


CAPTIONS = [
    ("a dog on the left", "a dog"),
    ("the cat leaves", "a cat sleeps", "one cat"),
    ("a man turns right .",),
    ("two men", "three men", "four men", "five men"),
]


def batches_of(batch_size=2, captions_per_image=3, max_words=20, seed=0):
    images = [CaptionedImage(i, None, captions) for i, captions in enumerate(CAPTIONS)]
    vocabulary = build_vocabulary((text for captions in CAPTIONS for text in captions), 1)
    grids = np.zeros((4, 2, 1, 2), dtype=np.float16)
    grids[:, 0, 0, 0] = range(4)  # the cell tells the picture …
    grids[:, 1, 0, 0] = range(4)
    grids[:, 1, 0, 1] = 1  # … and whether it is mirrored
    return Batches(
        images,
        grids,
        vocabulary,
        batch_size=batch_size,
        captions_per_image=captions_per_image,
        max_words=max_words,
        seed=seed,
    ), vocabulary


def test_an_epoch_has_each_picture_once_with_its_own_captions():
    batches, vocabulary = batches_of()
    assert len(batches) == 2
    for epoch in range(3):
        seen = []
        for step in range(epoch * 2, epoch * 2 + 2):
            batch = batches[step]
            for row, picture in enumerate(batch.grid[:, 0, 0].int().tolist()):
                seen.append(picture)
                known = [vocabulary.encode(c.removesuffix(" .").split()) for c in CAPTIONS[picture]]
                for inputs, targets in zip(batch.inputs[row].tolist(), batch.targets[row].tolist(), strict=True):
                    words = [t for t in targets if t not in (vocabulary.pad, vocabulary.end)]
                    assert inputs[1 : len(words) + 1] == words
                    if words:
                        assert words in known
                        assert inputs[0] == vocabulary.start
                        assert targets[len(words)] == vocabulary.end
                        assert vocabulary.end not in inputs
        assert sorted(seen) == [0, 1, 2, 3]


def test_what_an_image_lacks_is_padding():
    batches, vocabulary = batches_of(batch_size=4)
    batch = batches[0]
    pictures = batch.grid[:, 0, 0].int().tolist()
    present = (batch.targets != vocabulary.pad).any(2).sum(1).tolist()
    assert dict(zip(pictures, present, strict=True)) == {0: 2, 1: 3, 2: 1, 3: 3}


def test_pictures_whose_captions_speak_of_sides_are_never_mirrored():
    batches, _ = batches_of(batch_size=4)
    mirrored = set()
    for step in range(60):
        for picture, flipped in batches[step].grid[:, 0].int().tolist():
            if flipped:
                mirrored.add(picture)
    assert mirrored == {1, 3}  # "leaves" is no side


def test_a_long_caption_is_cut_and_learns_no_end():
    batches, vocabulary = batches_of(batch_size=4, max_words=2)
    batch = batches[0]
    row = batch.grid[:, 0, 0].int().tolist().index(2)  # "a man turns right"
    assert batch.targets[row, 0].tolist() == [*vocabulary.encode(["a", "man"]), vocabulary.pad]


def test_a_step_gives_the_same_batch_each_time_and_another_seed_another():
    one, two, other = batches_of()[0], batches_of()[0], batches_of(seed=1)[0]
    for step in (5, 0, 3):
        for left, right in zip(vars(one[step]).values(), vars(two[step]).values(), strict=True):
            assert torch.equal(left, right)
    assert any(
        one[step].inputs.shape != other[step].inputs.shape or not torch.equal(one[step].inputs, other[step].inputs)
        for step in range(4)
    )
