"""Image ids and captions in JSON files."""

import pytest

from eval.fields import parse_caption, parse_image_id


@pytest.mark.parametrize(
    ("value", "image_id"), [(42, 42), ("42", 42), ("0042", 42), (42.0, 42), (-7, -7), ("-7", -7), (10**15, 10**15)]
)
def test_parse_image_id_integers_in_other_types_are_equal(value, image_id):
    assert parse_image_id(value) == image_id
    assert type(parse_image_id(value)) is int


@pytest.mark.parametrize(
    "value", ["a", "", "4 2", "4.0", "٤", "1e3", 4.5, float("nan"), float("inf"), True, None, [1], {"id": 1}]
)
def test_parse_image_id_other_values_are_refused(value):
    with pytest.raises(TypeError, match=r"^the image id .* is not an integer$"):
        parse_image_id(value)


@pytest.mark.parametrize(
    ("value", "caption"),
    [
        ("a café 🐶", "a café 🐶"),
        ("a dog \ud83d", "a dog \ufffd"),
        ("\udc36\ud83d", "\ufffd\ufffd"),
        ("a\u2028b", "a\u2028b"),
    ],
)
def test_parse_caption_can_be_written_as_utf_8(value, caption):
    assert parse_caption(value) == caption
    parse_caption(value).encode()


@pytest.mark.parametrize("value", [None, 7, ["a dog"], {"raw": "a dog"}])
def test_parse_caption_other_values_are_refused(value):
    with pytest.raises(TypeError, match=r"^the caption .* is not a string$"):
        parse_caption(value)
