"""From COCO's layout to a batch: reading, cached grids, captions drawn, pictures mirrored."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from eval.coco import CaptionedImage, read_split
from handler.modeling.encoder import Encoder
from handler.modeling.vocabulary import build_vocabulary
from handler.preprocessing import Preprocessing
from tests.helpers.paths import ROOT
from training.data.augmentation import Augmentation
from training.data.dataset import CachedFeatures, CaptionDataset, Pictures
from training.data.feature_cache import cached_features

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


def test_a_name_with_a_folder_is_relative_to_the_root(tmp_path):
    names = ["train2014/a.jpg", "val2014/a.jpg", "a.jpg"]
    write_split(
        tmp_path,
        [{"id": index, "file_name": name} for index, name in enumerate(names)],
        [{"image_id": index, "caption": "x"} for index in range(3)],
    )
    expected = [tmp_path / "train2014" / "a.jpg", tmp_path / "val2014" / "a.jpg", tmp_path / "s" / "a.jpg"]
    for path in expected:
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert [image.path for image in read_split(tmp_path, "s")] == expected


@pytest.mark.parametrize(
    "name",
    ["../a.jpg", "s/../../a.jpg", "/a.jpg", "//a.jpg", "s//a.jpg", "s/./a.jpg", "s\\..\\a.jpg", "s/..", "s/", ""],
)
def test_a_name_that_leads_elsewhere_is_refused(tmp_path, name):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "root").mkdir()
    write_split(tmp_path / "root", [{"id": 1, "file_name": name}], [{"image_id": 1, "caption": "x"}])
    (tmp_path / "root" / "s" / "a.jpg").touch()
    with pytest.raises(ValueError, match=r"captions_s\.json names '.*', which is no plain file name and no path below"):
        read_split(tmp_path / "root", "s")


def test_a_split_may_be_another_folders(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    write_split(tmp_path / "two", [{"id": 1, "file_name": "a.jpg"}], [{"image_id": 1, "caption": "x"}])
    (tmp_path / "two" / "s" / "a.jpg").touch()
    [image] = read_split(tmp_path / "one", "../two/s")
    assert image.path.samefile(tmp_path / "two" / "s" / "a.jpg")
    assert read_split(tmp_path, "two/s") == read_split(tmp_path / "two", "s")
    with pytest.raises(FileNotFoundError, match=r"no split 't' in .*two: .*captions_t\.json.* found there: s\."):
        read_split(tmp_path / "one", "../two/t")


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


def grids_of(folder, encoder, images, **options):
    return cached_features(folder, encoder, PREPROCESSING, images, device=torch.device("cpu"), **options)


def apart(found, expected):
    """The distance of two grids, as a share of their size."""
    return np.linalg.norm(np.float32(found) - np.float32(expected)) / np.linalg.norm(np.float32(expected))


@torch.inference_mode()
def test_cached_grids_are_the_encoders(tmp_path, encoder):
    images = read_split(ROOT / "samples", "photos")
    grids = grids_of(tmp_path, encoder, images)
    assert grids.shape == (7, 4, encoder.channels)
    picture = Image.open(images[3].path).convert("RGB")
    expected = encoder(PREPROCESSING.normalize(PREPROCESSING.resize(picture).unsqueeze(0)))[0]
    assert apart(grids[3], expected) < 2e-3 < 0.1 < apart(grids[4], expected)
    assert 0 < apart(grids_of(tmp_path, encoder, images, bf16=True)[3], expected) < 0.1


@torch.inference_mode()
def test_views_are_random_and_the_same_again(tmp_path, encoder):
    images = read_split(ROOT / "samples", "photos")
    plain = grids_of(tmp_path, encoder, images)
    mirror, crop = Augmentation(mirror=True), Augmentation(mirror=False, min_area=0.3)
    turned = [np.array(grids_of(tmp_path, encoder, images, augmentation=mirror, view=view)) for view in range(6)]
    np.testing.assert_array_equal(turned[0], plain)  # view 0 is the picture as it is served
    picture = Image.open(images[3].path).convert("RGB")
    flipped = encoder(PREPROCESSING.normalize(PREPROCESSING.resize(ImageOps.mirror(picture)).unsqueeze(0)))[0].numpy()
    alike = [[apart(grids[3], grid) < 3e-3 for grid in (plain[3], flipped)] for grids in turned]
    assert {tuple(sides) for sides in alike} == {(True, False), (False, True)}
    cropped = [np.array(grids_of(tmp_path, encoder, images, augmentation=crop, view=view)) for view in (1, 2)]
    assert apart(cropped[0], cropped[1]) > 0.03
    shutil.rmtree(tmp_path)
    np.testing.assert_array_equal(grids_of(tmp_path, encoder, images, augmentation=crop, view=2), cropped[1])


def test_crops_keep_their_share_and_stay_inside():
    draw, sizes = np.random.default_rng(0), []
    image = CaptionedImage(1, None, ("a dog on the left",))
    for _ in range(300):
        left, top, right, bottom = Augmentation(min_area=0.5)._box(400, 200, draw)
        assert 0 <= left < right <= 400
        assert 0 <= top < bottom <= 200
        sizes.append((right - left) * (bottom - top) / 80_000)
    assert 0.42 < min(sizes) < 0.52  # where a stretched side would leave the picture it is cut: a little less
    assert max(sizes) > 0.95
    picture = Image.linear_gradient("L").rotate(90).convert("RGB")  # dark at one side
    views = {np.array(Augmentation().view(picture, image, draw)).tobytes() for _ in range(20)}
    assert len(views) == 1  # "left": never mirrored
    other = CaptionedImage(2, None, ("a dog that leaves",))
    assert len({np.array(Augmentation().view(picture, other, draw)).tobytes() for _ in range(20)}) == 2


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
    for options in ({"bf16": True}, {"augmentation": Augmentation(), "view": 1}):
        grids_of(tmp_path / "cache", encoder, images, **options)
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 5


def test_a_broken_off_cache_goes_on(tmp_path, encoder, monkeypatch):
    images = read_split(ROOT / "samples", "photos")
    whole = np.array(grids_of(tmp_path / "whole", encoder, images))
    monkeypatch.setattr("training.data.feature_cache.BATCH", 2)
    seen = []
    decode = __import__("training.data.feature_cache", fromlist=["decode_image"]).decode_image

    def failing(data):
        seen.append(data)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return decode(data)

    monkeypatch.setattr("training.data.feature_cache.decode_image", failing)
    with pytest.raises(KeyboardInterrupt):
        grids_of(tmp_path / "broken", encoder, images)
    assert not list((tmp_path / "broken").glob("*.npy"))
    grids = grids_of(tmp_path / "broken", encoder, images)
    assert len(seen) == 5 + 3  # the four that were done are not asked for again
    assert apart(grids, whole) < 2e-3


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


def batches_of(batch_size=2, captions_per_image=3, max_words=20, seed=0, **processes):
    images = [CaptionedImage(i, None, captions) for i, captions in enumerate(CAPTIONS)]
    vocabulary = build_vocabulary((text for captions in CAPTIONS for text in captions), 1)
    grids = np.zeros((2, 4, 1, 2), dtype=np.float16)
    grids[:, :, 0, 0] = range(4)  # the cell tells the picture …
    grids[1, :, 0, 1] = 1  # … and the view
    batches = CaptionDataset(
        images,
        CachedFeatures([np.split(view, [3]) for view in grids]),  # two splits, of three pictures and of one
        vocabulary,
        batch_size=batch_size,
        captions_per_image=captions_per_image,
        max_words=max_words,
        seed=seed,
        **processes,
    )
    return batches, vocabulary


def test_an_epoch_has_each_picture_once_with_its_own_captions():
    batches, vocabulary = batches_of()
    assert len(batches) == 2
    for epoch in range(3):
        seen = []
        for step in range(epoch * 2, epoch * 2 + 2):
            batch = batches[step]
            assert batch.images == batch.pictures[:, 0, 0].int().tolist()
            for row, picture in enumerate(batch.images):
                seen.append(picture)
                known = [vocabulary.encode(c.removesuffix(" .").split()) for c in CAPTIONS[picture]]
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
                assert lengths == sorted(lengths, reverse=True)  # so that those that are over fall away together
        assert sorted(seen) == [0, 1, 2, 3]


def test_an_epoch_leaves_out_what_does_not_fill_a_step():
    batches, _ = batches_of(batch_size=3)
    assert len(batches) == 1
    assert {len(batches[step].images) for step in range(9)} == {3}
    assert {image for step in range(9) for image in batches[step].images} == {0, 1, 2, 3}
    assert len(batches_of(batch_size=99)[0][0].images) == 4


def test_what_an_image_lacks_is_padding():
    batches, vocabulary = batches_of(batch_size=4)
    batch = batches[0]
    present = (batch.targets != vocabulary.pad_id).any(2).sum(1).tolist()
    assert dict(zip(batch.images, present, strict=True)) == {0: 2, 1: 3, 2: 1, 3: 3}


def test_steps_take_any_view():
    batches, _ = batches_of(batch_size=4)
    views = {tuple(pair) for step in range(60) for pair in batches[step].pictures[:, 0].int().tolist()}
    assert views == {(picture, view) for picture in range(4) for view in range(2)}


def test_processes_share_a_step():
    whole = batches_of(batch_size=4)[0]
    shares = [batches_of(batch_size=4, rank=rank, processes=3)[0] for rank in range(3)]
    for step in range(5):
        parts = [share[step] for share in shares]
        assert [len(part.images) for part in parts] == [2, 1, 1]
        found = {image: part.pictures[i] for part in parts for i, image in enumerate(part.images)}
        assert sorted(found) == [0, 1, 2, 3]
        for image, picture in zip(whole[step].images, whole[step].pictures, strict=True):
            assert torch.equal(found[image], picture)
    with pytest.raises(ValueError, match="2 images, too few for 3 processes"):
        batches_of(batch_size=2, rank=0, processes=3)


def test_pictures_are_read_anew_at_every_step():
    images = read_split(ROOT / "samples", "photos")
    pictures = Pictures(images, PREPROCESSING, Augmentation(min_area=0.5))
    pixels = pictures([3, 5], epoch=0, seed=1)
    assert pixels.shape == (2, 3, 64, 64)
    assert pixels.dtype == torch.uint8
    assert torch.equal(pictures([5], epoch=0, seed=1)[0], pixels[1])
    assert not torch.equal(pictures([5], epoch=1, seed=1)[0], pixels[1])


def test_a_long_caption_is_cut_and_learns_no_end():
    batches, vocabulary = batches_of(batch_size=4, max_words=2)
    batch = batches[0]
    row = batch.images.index(2)  # "a man turns right"
    assert batch.targets[row, 0].tolist() == [*vocabulary.encode(["a", "man"]), vocabulary.pad_id]


def test_a_step_gives_the_same_batch_each_time_and_another_seed_another():
    one, two, other = batches_of()[0], batches_of()[0], batches_of(seed=1)[0]
    for step in (5, 0, 3):
        assert one[step].images == two[step].images
        for name in ("pictures", "inputs", "targets"):
            assert torch.equal(getattr(one[step], name), getattr(two[step], name))
    assert any(one[step].images != other[step].images for step in range(4))


def test_captions_without_words_are_left_out_and_pictures_without_captions_named():
    images = [CaptionedImage(7, None, ("a dog", "!!!")), CaptionedImage(9, None, ("...",))]
    vocabulary = build_vocabulary(["a dog"], 1)
    options = {"batch_size": 1, "captions_per_image": 2, "max_words": 5, "seed": 0}
    grids = CachedFeatures([[np.zeros((2, 1, 2), np.float16)]])
    assert len(CaptionDataset(images[:1], grids, vocabulary, **options).captions[0]) == 1
    with pytest.raises(ValueError, match="image 9 has no caption with a word in it"):
        CaptionDataset(images, grids, vocabulary, **options)
