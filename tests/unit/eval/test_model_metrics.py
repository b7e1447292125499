"""CLIPScore, RefCLIPScore and BERTScore, with embeddings set by hand and with tiny random models."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eval.data import CaptionedImage, read_split
from eval.model_metrics import ModelMetrics, bert_layer, bert_scores, clip_scores, greedy_f1, harmonic_mean
from tests.helpers.paths import ROOT

IMAGES = read_split(ROOT / "samples", "photos")[:3]
VECTORS = {"x": (0.6, 0.8), "r": (0.0, 1.0), "s": (2.0, 0.0), "away": (-1.0, 0.0), "": (1.0, 0.0)}


class HandMadeClip:
    """A CLIP whose image embedding is (3, 0), and whose text embeddings are `VECTORS`."""

    config = SimpleNamespace(text_config=SimpleNamespace(max_position_embeddings=77))

    @classmethod
    def from_pretrained(cls, directory, local_files_only):
        assert local_files_only
        return cls()

    def eval(self):
        return self

    def __call__(self, items, **options):
        if "padding" in options:
            return {"texts": [text.removeprefix("A photo depicts ") for text in items]}
        return {"pixel_values": items}

    def get_text_features(self, texts):
        return torch.tensor([VECTORS[text] for text in texts])

    def get_image_features(self, pixel_values):
        return torch.tensor([(3.0, 0.0)] * len(pixel_values))


def test_clip_scores_of_embeddings_set_by_hand(monkeypatch):
    """Image (1, 0) and caption (0.6, 0.8): CLIPScore 2.5 × 0.6 = 1.5. References (0, 1), (1, 0): cosines 0.8, 0.6.

    RefCLIPScore 2 × 1.5 × 0.8 / (1.5 + 0.8) = 1.04348. A caption at (-1, 0) has the cosine -1 and scores 0, as does an
    empty one.
    """
    names = ("CLIPModel", "AutoTokenizer", "CLIPImageProcessor")
    transformers = SimpleNamespace(**dict.fromkeys(names, HandMadeClip))
    monkeypatch.setattr("eval.model_metrics._import_transformers", lambda: transformers)
    images = [CaptionedImage(image.id, image.path, ("r", "s")) for image in IMAGES]
    scores = clip_scores(Path("clip"), images, ["x", "away", ""])
    assert scores["CLIPScore"] == pytest.approx([1.5, 0, 0])
    assert scores["RefCLIPScore"] == pytest.approx([1.04348, 0, 0], abs=1e-5)


def test_harmonic_mean_of_zeros_is_zero():
    """2 × 0.75 × 0.6 / 1.35 = 0.66667."""
    assert harmonic_mean(0.75, 0.6) == pytest.approx(0.66667, abs=1e-5)
    assert harmonic_mean(0, 0) == 0


def test_greedy_f1_of_embeddings_set_by_hand():
    """Cosines [[1, 0], [0.6, 0.8]]: precision (1 + 0.8) / 2 = 0.9, recall (1 + 0.8) / 2 = 0.9.

    Without the weight of the second token of the reference, recall is 1: F1 = 2 × 0.9 × 1 / 1.9 = 0.947368.
    """
    candidate, reference = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.eye(2)
    both = torch.tensor([True, True])
    assert greedy_f1(candidate, reference, both, both) == pytest.approx(0.9)
    assert greedy_f1(candidate, reference, both, torch.tensor([True, False])) == pytest.approx(0.947368, abs=1e-6)
    assert greedy_f1(candidate, reference, ~both, both) == 0


def test_bert_layer_is_that_of_the_authors_or_the_last():
    assert (bert_layer("roberta", 24), bert_layer("gpt2", 12)) == (17, 12)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A tiny CLIP and a tiny BERT with random weights, in directories."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    directory = tmp_path_factory.mktemp("models")
    words = sorted({word for image in IMAGES for text in image.captions for word in text.lower().split()})
    ids = {word: number for number, word in enumerate(["<pad>", "<unk>", "a", "photo", "depicts", "dog", *words])}
    special = {"pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, special["unk_token"]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **special)
    small = {"hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = small | {"vocab_size": len(ids) + 3, "max_position_embeddings": 32, "pad_token_id": 0}
    torch.manual_seed(0)
    clip = transformers.CLIPModel(
        transformers.CLIPConfig(
            text_config=text, vision_config=small | {"image_size": 32, "patch_size": 16}, projection_dim=16
        )
    )
    clip.save_pretrained(directory / "clip")
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    transformers.CLIPImageProcessor(**size).save_pretrained(directory / "clip")
    transformers.BertModel(transformers.BertConfig(**text)).save_pretrained(directory / "bert")
    for name in ("clip", "bert"):
        fast.save_pretrained(directory / name)
    return directory


@pytest.mark.slow
def test_score_tiny_models_give_scores_in_range(models):
    metrics = ModelMetrics(models / "clip", models / "bert")
    scores = metrics.score(IMAGES, {image.id: image.captions[2] for image in IMAGES})
    assert {name: values.shape for name, values in scores.items()} == dict.fromkeys(
        ("CLIPScore", "RefCLIPScore", "BERTScore"), (3,)
    )
    assert np.all((scores["CLIPScore"] >= 0) & (scores["CLIPScore"] <= 2.5))
    # The caption is one of the references: its largest cosine is 1, and its BERTScore is 1.
    expected = [harmonic_mean(score, 1.0) for score in scores["CLIPScore"]]
    assert scores["RefCLIPScore"] == pytest.approx(expected, abs=1e-5)
    assert scores["BERTScore"] == pytest.approx([1, 1, 1], abs=1e-5)
    name, _, digest = metrics.signature().split("|")[1].partition("@")
    assert (name, len(digest)) == ("clip:clip", 12)


@pytest.mark.slow
def test_bert_scores_keep_the_order_of_the_captions(models):
    """A caption that is its reference scores 1, whatever the lengths of the others."""
    captions = ["a dog", "a photo of a dog depicts a photo of a dog", "dog", ""]
    references = [["a dog"], ["a photo", captions[1]], ["a photo depicts a photo"], ["a dog"]]
    scores = bert_scores(models / "bert", references, captions)
    assert scores[:2] == pytest.approx([1, 1], abs=1e-5)
    assert scores[2] < 0.999
    assert scores[3] == 0


@pytest.mark.slow
def test_score_command_prints_a_line_and_an_interval_of_each_metric(models, tmp_path, run_main):
    images = read_split(ROOT / "samples", "photos")
    results = tmp_path / "captions.json"
    results.write_text(json.dumps([{"image_id": image.id, "caption": image.captions[0]} for image in images]))
    options = ("--no-meteor", "--clip", models / "clip", "--bert", models / "bert", "--output", tmp_path / "s.json")
    done = run_main("eval.score", results, "samples", "photos", *options)
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "s.json").read_text())
    assert content["scores"]["BERTScore"] == pytest.approx(1, abs=1e-5)
    assert {"CLIPScore", "RefCLIPScore", "BERTScore"} <= content["intervals"].keys()
    assert "|clip:clip@" in content["signature"]
    assert "| BERTScore" in done.stdout


def test_score_without_the_packages_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match=r"need transformers\. Install it: .*model-metrics"):
        bert_scores(Path("bert"), [["a"]], ["a"])


def test_signature_without_models_is_empty():
    assert ModelMetrics().signature() == ""
    assert ModelMetrics().score(IMAGES, {image.id: "" for image in IMAGES}) == {}


def test_check_missing_model_is_found_before_captioning(tmp_path, run_main):
    pytest.importorskip("transformers")
    done = run_main("eval.run", "samples", "photos", "--results", tmp_path, "--clip", tmp_path)
    assert done.stderr.endswith(f"{tmp_path} has no model: config.json is missing.\n")
