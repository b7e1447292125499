"""Metrics of a neural network: CLIPScore, RefCLIPScore and BERTScore, with models from local directories.

They are optional: `pip install -e '.[model-metrics]'`. Nothing is downloaded.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from eval.data import CaptionedImage

if TYPE_CHECKING:
    import torch

PROMPT = "A photo depicts "  # before each text, as in the paper
CLIP_WEIGHT = 2.5  # stretches the similarities, of which few exceed 0.4, to 0 … 1
BATCH_SIZE = 64  # images
# Type and number of layers of a model → layer, from bert-score 0.3.13.
BERT_LAYERS = {("bert", 12): 9, ("bert", 24): 18, ("roberta", 12): 10, ("roberta", 24): 17, ("distilbert", 6): 5}
MODEL_METRICS = ("CLIPScore", "RefCLIPScore", "BERTScore")
EXTRA = "Install it: .venv/bin/pip install -e '.[model-metrics]'"

Scores = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class ModelMetrics:
    """Directories of the models, in the format of Hugging Face; None omits the metrics of a model.

    Attributes:
        clip: A CLIP model, e.g. `openai/clip-vit-base-patch32`, on which the paper's scores are.
        bert: A text encoder, e.g. `roberta-large`.
    """

    clip: Path | None = None
    bert: Path | None = None

    def check(self) -> None:
        """Check that the models and the packages are there, before anything is captioned.

        Raises:
            FileNotFoundError: If a directory has no model.
            ModuleNotFoundError: If a package is not installed.
        """
        for directory in filter(None, (self.clip, self.bert)):
            _import_transformers()
            if not (directory / "config.json").is_file():
                raise FileNotFoundError(f"{directory} has no model: config.json is missing.")

    def score(self, images: Sequence[CaptionedImage], captions: Mapping[int, str]) -> Scores:
        """Score the caption of each image, (images,) by metric; errors as in `clip_scores` and `bert_scores`."""
        texts = [captions[image.id] for image in images]
        scores: Scores = {}
        if self.clip:
            scores |= clip_scores(self.clip, images, texts)
        if self.bert:
            scores["BERTScore"] = bert_scores(self.bert, [image.captions for image in images], texts)
        return scores

    def signature(self) -> str:
        """Return the names and digests of the models, as `|clip:clip-vit-base-patch32@a63082132ba4`."""
        models = {"clip": self.clip, "bert": self.bert}
        return "".join(f"|{name}:{path.resolve().name}@{_digest(path)}" for name, path in models.items() if path)


def clip_scores(directory: Path, images: Sequence[CaptionedImage], captions: Sequence[str]) -> Scores:
    """Compute CLIPScore and RefCLIPScore (Hessel et al. 2021, https://arxiv.org/abs/2104.08718).

    CLIPScore is 2.5 × max(0, cosine of caption and image). RefCLIPScore is the harmonic mean of it and of the largest
    cosine of the caption and a reference, at least 0.

    Args:
        directory: Directory of a CLIP model and of its processor.
        images: Images of the split; their files must exist.
        captions: Caption of each image; an empty one scores 0.

    Returns:
        Scores (images,) by `CLIPScore`, 0 to 2.5, and `RefCLIPScore`, 0 to 1.43.

    Raises:
        ModuleNotFoundError: If transformers is not installed.
        OSError: If the directory has no such model, or an image cannot be read.
    """
    transformers = _import_transformers()
    import torch  # not a dependency of scoring

    model = transformers.CLIPModel.from_pretrained(directory, local_files_only=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    processor = transformers.CLIPImageProcessor.from_pretrained(directory, local_files_only=True)
    length = model.config.text_config.max_position_embeddings

    def encode_texts(texts: Sequence[str]) -> "torch.Tensor":
        inputs = tokenizer(
            [PROMPT + text for text in texts], padding=True, truncation=True, max_length=length, return_tensors="pt"
        )
        return _unit(model.get_text_features(**inputs))

    clip, reference_clip = [], []
    with torch.inference_mode():
        for first in range(0, len(images), BATCH_SIZE):
            batch, texts = images[first : first + BATCH_SIZE], captions[first : first + BATCH_SIZE]
            pixels = processor([_open(image.path) for image in batch], return_tensors="pt")["pixel_values"]
            of_images = _unit(model.get_image_features(pixel_values=pixels))
            of_captions = encode_texts(texts)
            of_references = encode_texts([text for image in batch for text in image.captions])
            similarity = (of_captions * of_images).sum(1).clamp(min=0)
            counts = [len(image.captions) for image in batch]
            for row, references in enumerate(torch.split(of_references, counts)):
                is_caption = float(bool(texts[row].strip()))
                score = CLIP_WEIGHT * float(similarity[row]) * is_caption
                nearest = max(0.0, float((references @ of_captions[row]).max())) * is_caption
                clip.append(score)
                reference_clip.append(harmonic_mean(score, nearest))
    return {"CLIPScore": np.array(clip), "RefCLIPScore": np.array(reference_clip)}


def harmonic_mean(a: float, b: float) -> float:
    """Return 2ab / (a + b); 0 if both are 0."""
    return 2 * a * b / (a + b) if a + b else 0.0


def bert_scores(
    directory: Path, references: Sequence[Sequence[str]], captions: Sequence[str]
) -> npt.NDArray[np.float64]:
    """Compute BERTScore F1 (Zhang et al. 2020, https://arxiv.org/abs/1904.09675), the largest over the references.

    Precision is the mean, over the tokens of the caption, of the largest cosine with a token of the reference; recall
    is the same from the reference. As in the authors' program, special tokens can be matched, but have no weight.
    Without IDF and without rescaling.

    Args:
        directory: Directory of a text encoder and of its tokenizer.
        references: References of each image.
        captions: Caption of each image; an empty one scores 0.

    Returns:
        Scores (images,), at most 1.

    Raises:
        ModuleNotFoundError: If transformers is not installed.
        OSError: If the directory has no such model.
    """
    transformers = _import_transformers()
    import torch  # not a dependency of scoring

    model = transformers.AutoModel.from_pretrained(directory, local_files_only=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    layer = bert_layer(model.config.model_type, model.config.num_hidden_layers)
    best = []
    with torch.inference_mode():
        for caption, texts in zip(captions, references, strict=True):
            inputs = tokenizer(
                [caption, *texts],
                padding=True,
                truncation=True,
                max_length=min(512, tokenizer.model_max_length),
                return_special_tokens_mask=True,
                return_tensors="pt",
            )
            has_weight = (inputs.pop("special_tokens_mask") == 0) & (inputs["attention_mask"] == 1)
            states = model(**inputs, output_hidden_states=True).hidden_states[layer]
            tokens = torch.nn.functional.normalize(states, dim=-1)
            is_token = inputs["attention_mask"] == 1
            vectors = [row[mask] for row, mask in zip(tokens, is_token, strict=True)]
            weights = [row[mask] for row, mask in zip(has_weight, is_token, strict=True)]
            scores = [
                greedy_f1(vectors[0], vector, weights[0], weight)
                for vector, weight in zip(vectors[1:], weights[1:], strict=True)
            ]
            best.append(max(scores) if caption.strip() else 0.0)
    return np.array(best)


def bert_layer(model_type: str, num_layers: int) -> int:
    """Return the layer of a model that agrees most with people, by the authors' table; else the last one."""
    return BERT_LAYERS.get((model_type, num_layers), num_layers)


def greedy_f1(
    candidate: "torch.Tensor", reference: "torch.Tensor", candidate_weight: "torch.Tensor", weight: "torch.Tensor"
) -> float:
    """Return F1 of the greedy matching of two texts.

    Args:
        candidate: Token embeddings (m, dimensions) of length 1.
        reference: Token embeddings (n, dimensions) of length 1.
        candidate_weight: Whether each token of the candidate counts (m,).
        weight: Whether each token of the reference counts (n,).
    """
    if not candidate_weight.any() or not weight.any():
        return 0.0
    cosine = candidate @ reference.T
    precision = float(cosine.max(1).values[candidate_weight].mean())
    recall = float(cosine.max(0).values[weight].mean())
    return harmonic_mean(precision, recall)


def _import_transformers() -> Any:  # noqa: ANN401
    try:
        import transformers  # optional
    except ImportError as error:
        raise ModuleNotFoundError(f"CLIPScore and BERTScore need transformers. {EXTRA}.") from error
    logging.getLogger("transformers").setLevel(logging.ERROR)  # weights that a metric does not use
    return transformers


def _unit(vectors: Any) -> "torch.Tensor":  # noqa: ANN401
    """Scale vectors (N, dimensions) to length 1; newer versions of transformers wrap them."""
    vectors = getattr(vectors, "pooler_output", vectors)
    unit: torch.Tensor = vectors / vectors.norm(dim=1, keepdim=True)
    return unit


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _digest(directory: Path) -> str:
    """Return the start of the SHA-256 of the weights in a directory, by which models of one name differ."""
    digest = hashlib.sha256()
    for path in sorted([*directory.glob("*.safetensors"), *directory.glob("pytorch_model*.bin")]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]
