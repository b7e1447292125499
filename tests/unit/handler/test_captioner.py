"""`Captioner` with the shipped model: batches against single images, and errors for bad input."""

import pytest
from PIL import Image

from handler import BundleError, Captioner, GenerationConfig, RequestError
from tests.helpers.paths import PHOTOS, ROOT

OPTIONS = [
    GenerationConfig(),
    GenerationConfig(beam_size=1),
    GenerationConfig(beam_size=10, num_captions=10, length_penalty=1.0),
    GenerationConfig(beam_size=3, no_repeat_ngram=2, min_length=8, attention=True),
    GenerationConfig(beam_size=10, num_beam_groups=5, num_captions=5, no_repeat_words=True),
]


@pytest.mark.parametrize("option", OPTIONS)
def test_batch_equals_one_by_one_to_the_token(pretrained, option):
    together = pretrained.caption(PHOTOS, option)
    for photo, captions in zip(PHOTOS, together, strict=True):
        [alone] = pretrained.caption([photo], option)
        assert [c.tokens for c in captions] == [c.tokens for c in alone]
        assert len(captions) == option.num_captions
        for left, right in zip(captions, alone, strict=True):
            assert left.score == pytest.approx(right.score, abs=1e-4)


def test_fields_of_a_caption_are_consistent(pretrained):
    for captions in pretrained.caption(PHOTOS, GenerationConfig(num_captions=5, attention=True)):
        ranks = [sum(c.token_logprobs) / len(c.token_logprobs) ** 0.7 for c in captions]
        assert ranks == sorted(ranks, reverse=True)
        for caption in captions:
            assert caption.text == " ".join(caption.tokens).replace(" 's", "'s")
            assert len(caption.token_logprobs) == len(caption.tokens) + 1
            assert caption.score == pytest.approx(sum(caption.token_logprobs) / len(caption.token_logprobs))
            assert all(logprob <= 0 for logprob in caption.token_logprobs)
            assert caption.attributions.shape == (len(caption.tokens), 10, 10)
            assert not set(caption.tokens) & {"<unk>", "<pad>", "<start>", "<end>"}


def test_shipped_model_recognizes_a_cat_and_a_photographer(pretrained):
    photos = [ROOT / "samples" / "photos" / f"{name}.jpg" for name in ("cat", "photographer")]
    [[cat], [photographer]] = pretrained.caption(photos)
    assert "cat" in cat.tokens
    assert {"man", "camera"} <= set(photographer.tokens)


def test_paths_bytes_and_pil_images_get_the_same_caption(pretrained):
    photo = PHOTOS[0]
    kinds = [photo, str(photo), photo.read_bytes(), Image.open(photo)]
    captions = pretrained.caption(kinds)
    assert len({found[0].text for found in captions}) == 1


def test_empty_bytes_are_rejected(pretrained):
    with pytest.raises(RequestError, match="Image 0: The image is empty"):
        pretrained.caption([b""])


def test_options_can_differ_per_image(pretrained):
    found = pretrained.caption(
        PHOTOS[:2], [GenerationConfig(beam_size=1), GenerationConfig(num_captions=3)], batch_size=2
    )
    assert [len(captions) for captions in found] == [1, 3]
    with pytest.raises(ValueError, match="2 images and 1 options"):
        pretrained.caption(PHOTOS[:2], [GenerationConfig()])


def test_no_images_give_no_captions(pretrained):
    assert pretrained.caption([]) == []


def test_error_names_the_index_of_the_image(pretrained):
    with pytest.raises(RequestError, match="Image 1: The bytes are not an image"):
        pretrained.caption([PHOTOS[0], b"no image"])
    with pytest.raises(FileNotFoundError):
        pretrained.caption(["nowhere.jpg"])


def test_load_without_a_bundle_raises(tmp_path):
    with pytest.raises(BundleError, match="no model bundle"):
        Captioner.load(tmp_path)


def test_decoder_without_attention_returns_none(tmp_path):
    from tests.helpers.bundles import write_tiny_bundle

    captioner = Captioner.load(write_tiny_bundle(tmp_path, "nic"))
    [[best]] = captioner.caption(PHOTOS[:1], GenerationConfig(attention=True))
    assert best.attributions is None
    assert best.tokens
