"""CHAIR on hand-made captions."""

import json
from pathlib import Path

import pytest

from eval.data import CaptionedImage
from eval.hallucination import measure_objects, read_objects
from eval.object_words import CATEGORIES, mentioned_objects


@pytest.mark.parametrize(
    ("caption", "objects"),
    [
        ("two men ride bikes", ["person", "bicycle"]),
        ("a hot dog on a dining table", ["hot dog", "dining table"]),  # no dog
        ("a train track beside a bus stop", []),
        ("a baby elephant with knives and mice", ["elephant", "knife", "mouse"]),  # no person
        ("an orange and an orange cat", ["orange", "cat"]),
        ("children hold a teddy bear", ["person", "teddy bear"]),
        ("a red sunset", []),
    ],
)
def test_mentioned_objects_takes_the_longest_phrase(caption, objects):
    assert mentioned_objects(caption.split()) == objects


def test_object_words_has_the_80_categories():
    assert len(CATEGORIES) == 80
    assert all(mentioned_objects(category.split()) == [category] for category in CATEGORIES)


def test_measure_objects_equals_values_by_hand():
    references = {1: ["a dog sits", "a dog on a bench"], 2: ["a cat", "a kitten near a car"]}
    captions = {1: "a dog with a frisbee and a man", 2: "a cat on a couch"}
    measures = measure_objects(references, captions, {1: {"dog", "person"}, 2: {"cat", "bowl"}})
    # Image 1 has dog, person, bench: of dog, frisbee and man, one is wrong. Image 2 has cat, bowl, car: the couch is
    # wrong. Of five mentions two are wrong, in both captions; dog, person and cat of four annotated objects are named.
    # People: the first references name a dog and a cat, which are there.
    assert measures == {
        "chair_i": {"model": 2 / 5, "people": 0.0},
        "chair_s": {"model": 1.0, "people": 0.0},
        "object_recall": {"model": 3 / 4, "people": 2 / 4},
    }


def write_objects(path, ids, content=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {
        "images": [{"id": image_id} for image_id in ids],
        "categories": [{"id": 18, "name": "dog"}],
        "annotations": [{"image_id": ids[0], "category_id": 18}] * 2,
    }
    path.write_text(json.dumps(content or whole))


def test_read_objects_joins_the_files_of_all_images(tmp_path):
    images = [CaptionedImage(i, Path("a.jpg"), ("a dog",)) for i in (1, 2, 3)]
    assert read_objects(tmp_path, images) is None
    write_objects(tmp_path / "annotations" / "instances_val2017.json", [1, 2])
    assert read_objects(tmp_path, images) is None  # image 3 has none
    assert read_objects(tmp_path, images[:2]) == {1: {"dog"}, 2: set()}
    write_objects(tmp_path / "annotations" / "instances_train2017.json", [3])
    assert read_objects(tmp_path, images) == {1: {"dog"}, 2: set(), 3: {"dog"}}


def test_read_objects_of_another_format_names_the_file(tmp_path):
    write_objects(tmp_path / "annotations" / "instances_x.json", [1], {"images": []})
    with pytest.raises(ValueError, match=r"instances_x.json does not hold COCO's objects: KeyError"):
        read_objects(tmp_path, [])
