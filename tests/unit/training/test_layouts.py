"""Copies of a data set in other layouts give the same training data."""

import csv
import json

import torch

from eval.data import read_split
from handler.modeling.vocabulary import build_vocabulary
from tests.helpers.paths import ROOT
from training.data.dataset import CaptionDataset


class Indices:
    """An image source whose images are their indices."""

    def __call__(self, indices, seeds):
        return torch.tensor(indices)


def write_copies(directory, images):
    """Write Kaggle's layout of Flickr8k and Karpathy's, with links to the images."""
    kaggle, karpathy = directory / "kaggle", directory / "karpathy"
    for path in (kaggle / "Images", karpathy / "Flicker8k_Dataset"):
        path.mkdir(parents=True)
        for image in images:
            (path / image.path.name).symlink_to(image.path)
    with (kaggle / "captions.txt").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "caption"])
        writer.writerows([image.path.name, text] for image in images for text in image.captions)
    (kaggle / "Flickr_8k.trainImages.txt").write_text("".join(f"{image.path.name}\n" for image in images))
    entries = [
        {
            "imgid": number,
            "filename": image.path.name,
            "split": "train",
            "sentences": [{"raw": text, "tokens": text.split()} for text in image.captions],
        }
        for number, image in enumerate(images)
    ]
    (karpathy / "dataset_flickr8k.json").write_text(json.dumps({"images": entries}))
    return kaggle, karpathy


def test_kaggle_and_karpathy_copies_give_the_vocabulary_and_the_batches_of_coco(tmp_path):
    coco = read_split(ROOT / "samples", "photos")
    read = [coco, *(read_split(copy, "train") for copy in write_copies(tmp_path, coco))]
    names = [[(image.path.resolve(), image.captions) for image in images] for images in read]
    assert names[0] == names[1] == names[2]
    vocabularies = [build_vocabulary((text for image in images for text in image.captions), 1) for images in read]
    assert vocabularies[0].tokens == vocabularies[1].tokens == vocabularies[2].tokens
    options = {"batch_size": 3, "captions_per_image": 2, "max_length": 20, "seed": 1}
    first, *others = (
        CaptionDataset(images, Indices(), words, **options)[0] for images, words in zip(read, vocabularies, strict=True)
    )
    for batch in others:
        assert batch.indices == first.indices
        assert torch.equal(batch.inputs, first.inputs)
        assert torch.equal(batch.targets, first.targets)
