"""Batches of images and captions, determined by seed and step."""

import numpy as np
import pytest
import torch

from eval.data import CaptionedImage, read_split
from handler.modeling.vocabulary import build_vocabulary
from handler.preprocessing import Preprocessing
from tests.helpers.paths import ROOT
from training.data.augmentation import Augmentation
from training.data.dataset import CachedFeatures, CaptionDataset, ImageFiles

PREPROCESSING = Preprocessing(64, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))


CAPTIONS = [
    ("a dog on the left", "a dog"),
    ("the cat leaves", "a cat sleeps", "one cat"),
    ("a man turns right .",),
    ("two men", "three men", "four men", "five men"),
]


def dataset_of(batch_size=2, captions_per_image=3, max_length=20, seed=0, **distributed):
    images = [CaptionedImage(i, None, captions) for i, captions in enumerate(CAPTIONS)]
    vocabulary = build_vocabulary((text for captions in CAPTIONS for text in captions), 1)
    grids = np.zeros((2, 4, 1, 2), dtype=np.float16)
    grids[:, :, 0, 0] = range(4)  # the first channel is the index of the image,
    grids[1, :, 0, 1] = 1  # the second one the view
    dataset = CaptionDataset(
        images,
        CachedFeatures([np.split(view, [3]) for view in grids]),  # two splits, of three images and of one
        vocabulary,
        batch_size=batch_size,
        captions_per_image=captions_per_image,
        max_length=max_length,
        seed=seed,
        **distributed,
    )
    return dataset, vocabulary


def test_dataset_epoch_has_each_image_once_with_its_captions():
    dataset, vocabulary = dataset_of()
    assert len(dataset) == 2
    for epoch in range(3):
        seen = []
        for step in range(epoch * 2, epoch * 2 + 2):
            batch = dataset[step]
            assert batch.indices == batch.images[:, 0, 0].int().tolist()
            for row, index in enumerate(batch.indices):
                seen.append(index)
                known = [vocabulary.encode(c.removesuffix(" .").split()) for c in CAPTIONS[index]]
                lengths = []
                for inputs, targets in zip(batch.inputs[row].tolist(), batch.targets[row].tolist(), strict=True):
                    words = [t for t in targets if t not in (vocabulary.pad_id, vocabulary.eos_id)]
                    assert inputs[1 : len(words) + 1] == words
                    lengths.append(len(words))
                    if words:
                        assert words in known
                        assert inputs[0] == vocabulary.bos_id
                        assert targets[len(words)] == vocabulary.eos_id
                        assert vocabulary.eos_id not in inputs
                assert lengths == sorted(lengths, reverse=True)  # so that finished captions are dropped together
        assert sorted(seen) == [0, 1, 2, 3]


def test_dataset_weights_repeat_and_sample_images():
    dataset, _ = dataset_of(batch_size=1, weights=[2.0, 0.5, 0.5, 0.0])
    assert len(dataset) == 3  # 2 + half of two images
    epochs = [sorted(i for step in range(3 * e, 3 * e + 3) for i in dataset[step].indices) for e in range(20)]
    assert {tuple(epoch) for epoch in epochs} == {(0, 0, 1), (0, 0, 2)}
    pairs = [[dataset[step] for step in range(3 * e, 3 * e + 3) if dataset[step].indices == [0]] for e in range(20)]
    assert any(int(a.images[0, 0, 1]) != int(b.images[0, 0, 1]) for a, b in pairs)  # another view the second time


def test_dataset_incomplete_last_batch_is_dropped():
    dataset, _ = dataset_of(batch_size=3)
    assert len(dataset) == 1
    assert {len(dataset[step].indices) for step in range(9)} == {3}
    assert {image for step in range(9) for image in dataset[step].indices} == {0, 1, 2, 3}
    assert len(dataset_of(batch_size=99)[0][0].indices) == 4


def test_dataset_missing_captions_are_padding():
    dataset, vocabulary = dataset_of(batch_size=4)
    batch = dataset[0]
    present = (batch.targets != vocabulary.pad_id).any(2).sum(1).tolist()
    assert dict(zip(batch.indices, present, strict=True)) == {0: 2, 1: 3, 2: 1, 3: 3}


def test_dataset_steps_take_any_cached_view():
    dataset, _ = dataset_of(batch_size=4)
    views = {tuple(pair) for step in range(60) for pair in dataset[step].images[:, 0].int().tolist()}
    assert views == {(index, view) for index in range(4) for view in range(2)}


def test_dataset_processes_share_a_step():
    complete = dataset_of(batch_size=4)[0]
    shares = [dataset_of(batch_size=4, rank=rank, world_size=3)[0] for rank in range(3)]
    for step in range(5):
        parts = [share[step] for share in shares]
        assert [len(part.indices) for part in parts] == [2, 1, 1]
        images_by_index = {index: part.images[i] for part in parts for i, index in enumerate(part.indices)}
        assert sorted(images_by_index) == [0, 1, 2, 3]
        for index, image in zip(complete[step].indices, complete[step].images, strict=True):
            assert torch.equal(images_by_index[index], image)
    with pytest.raises(ValueError, match="2 images, too few for 3 processes"):
        dataset_of(batch_size=2, rank=0, world_size=3)


def test_image_files_take_another_view_each_epoch():
    images = read_split(ROOT / "samples", "photos")
    source = ImageFiles(images, PREPROCESSING, Augmentation(min_crop_area=0.5))
    pixels = source([3, 5], [[1, 0, 3], [1, 0, 5]])
    assert pixels.shape == (2, 3, 64, 64)
    assert pixels.dtype == torch.uint8
    assert torch.equal(source([5], [[1, 0, 5]])[0], pixels[1])
    assert not torch.equal(source([5], [[1, 1, 5]])[0], pixels[1])


def test_dataset_truncated_caption_has_no_end():
    dataset, vocabulary = dataset_of(batch_size=4, max_length=2)
    batch = dataset[0]
    row = batch.indices.index(2)  # "a man turns right"
    assert batch.targets[row, 0].tolist() == [*vocabulary.encode(["a", "man"]), vocabulary.pad_id]


def test_dataset_batch_depends_on_seed_and_step_only():
    one, two, other = dataset_of()[0], dataset_of()[0], dataset_of(seed=1)[0]
    for step in (5, 0, 3):
        assert one[step].indices == two[step].indices
        for name in ("images", "inputs", "targets"):
            assert torch.equal(getattr(one[step], name), getattr(two[step], name))
    assert any(one[step].indices != other[step].indices for step in range(4))


def test_dataset_captions_without_words_are_skipped():
    images = [CaptionedImage(7, None, ("a dog", "!!!")), CaptionedImage(9, None, ("...",))]
    vocabulary = build_vocabulary(["a dog"], 1)
    options = {"batch_size": 1, "captions_per_image": 2, "max_length": 5, "seed": 0}
    grids = CachedFeatures([[np.zeros((2, 1, 2), np.float16)]])
    assert len(CaptionDataset(images[:1], grids, vocabulary, **options).captions[0]) == 1
    with pytest.raises(ValueError, match="image 9 has no caption with a word"):
        CaptionDataset(images, grids, vocabulary, **options)
