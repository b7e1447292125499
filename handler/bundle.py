"""Model bundle: the directory that holds a model. Training writes it, the handler reads it, the archive packs it.

This version writes format 2. It also reads format 1, see `handler.bundle_format1`.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from handler.bundle_format1 import translate_decoder, translate_weights
from handler.errors import BundleError
from handler.files import atomic_write_text
from handler.generation import GenerationConfig
from handler.modeling import DecoderConfig, decoder_config
from handler.modeling.vocabulary import Vocabulary
from handler.preprocessing import Preprocessing

CONFIG, WEIGHTS, VOCABULARY = "captioner.json", "model.safetensors", "vocabulary.txt"
FORMAT = 2
READABLE_FORMATS = (1, FORMAT)
# Fields of decoders that were added later, with the values of bundles that lack them.
ADDED_FIELDS = {
    "soft_attention": {"vector_gate": True},
    "hard_attention": {"vector_gate": True},
    "transformer": {"encoder_norm": False},
}


@dataclass(frozen=True)
class BundleConfig:
    """Content of `captioner.json`.

    Attributes:
        encoder: timm model.
        preprocessing: From image to encoder input.
        decoder: Architecture and sizes of the decoder.
        decoding: Default generation options of a request.
        files: Digests of weights and vocabulary by file name, `{"sha256": …, "bytes": …}`.
        card: Model card, for people: training data, terms, limits, and scores with their signatures.
        digest: `sha256:…` over all of `captioner.json` but the card, i.e. over what decides a caption. It is computed
            from the fields in the file: a field that a later version adds, or renames, does not change it.
    """

    encoder: str
    preprocessing: Preprocessing
    decoder: DecoderConfig
    decoding: GenerationConfig
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    digest: str = ""


def save_bundle(
    directory: str | Path, config: BundleConfig, weights: dict[str, torch.Tensor], vocabulary: Vocabulary
) -> None:
    """Write a bundle; `captioner.json` comes last, so an interrupted write never looks like a bundle.

    Matrices are stored as float16. Vectors stay float32: they are small, and float16 would lose the small variances of
    batch normalization.

    Args:
        directory: Directory to write to; created if missing.
        config: Its `files` are filled in here.
        weights: Tensors named `encoder.…` and `decoder.…`.
        vocabulary: Vocabulary of the decoder.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / CONFIG).unlink(missing_ok=True)
    half_weights = {
        name: tensor.detach().cpu().half().contiguous() if tensor.ndim > 1 else tensor.detach().cpu().contiguous()
        for name, tensor in weights.items()
    }
    save_file(half_weights, directory / WEIGHTS)
    vocabulary.save(directory / VOCABULARY)
    config_dict = asdict(config) | {"files": {name: _file_digest(directory / name) for name in (WEIGHTS, VOCABULARY)}}
    del config_dict["digest"]
    _write_config(directory, {"format": FORMAT} | config_dict)


def update_card(directory: Path, entries: dict[str, Any]) -> None:
    """Add entries to the model card; the digest does not change."""
    content = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    content["card"] |= entries
    _write_config(directory, content)


def verify_bundle(directory: Path) -> BundleConfig:
    """Parse `captioner.json` and check size and SHA-256 of the other files, without loading them.

    Raises:
        BundleError: If a file is missing or differs from its entry, or `captioner.json` is invalid.
    """
    return _verify(directory)[0]


def load_bundle(directory: Path) -> tuple[BundleConfig, dict[str, torch.Tensor], Vocabulary]:
    """Verify and load a bundle.

    Returns:
        The config, the weights as float32, and the vocabulary.

    Raises:
        BundleError: As `verify_bundle`, or if the vocabulary is invalid, or a weight is NaN or infinite.
    """
    config, version = _verify(directory)
    try:
        vocabulary = Vocabulary.load(directory / VOCABULARY)
    except ValueError as error:
        raise BundleError(f"{directory / VOCABULARY}: {error}") from error
    weights = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in load_file(directory / WEIGHTS).items()
    }
    for name, tensor in weights.items():
        if not tensor.isfinite().all():
            raise BundleError(f"{directory / WEIGHTS}: '{name}' has values that are NaN or infinite. Train it anew.")
    return config, translate_weights(weights) if version == 1 else weights, vocabulary


def _verify(directory: Path) -> tuple[BundleConfig, int]:
    """Verify a bundle; returns its config and its format."""
    for name in (CONFIG, WEIGHTS, VOCABULARY):
        if not (directory / name).is_file():
            raise BundleError(f"{directory} is no model bundle: {name} is missing.")
    try:
        content = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        version = content["format"]
        if version not in READABLE_FORMATS:
            raise BundleError(
                f"{directory / CONFIG} has format {version}, but this version reads formats 1 to {FORMAT}."
            )
        config = _parse_config(content, version)
        files = {name: config.files[name] for name in (WEIGHTS, VOCABULARY)}
        for name, expected in files.items():
            actual = _file_digest(directory / name)
            for key in ("bytes", "sha256"):
                if actual[key] != expected.get(key):
                    raise BundleError(
                        f"{directory / name} is not the file that {CONFIG} was written with: "
                        f"{key} {actual[key]}, expected {expected.get(key)}."
                    )
    except KeyError as error:
        raise BundleError(f"{directory / CONFIG} has no field {error}.") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise BundleError(f"{directory / CONFIG} cannot be read: {str(error).rstrip('.')}.") from error
    return config, version


def _parse_config(content: dict[str, Any], version: int) -> BundleConfig:
    """Parse the content of `captioner.json`; its digest is over the fields as they are in the file."""
    hashed_fields = {name: value for name, value in content.items() if name != "card"}
    digest = "sha256:" + hashlib.sha256(json.dumps(hashed_fields, sort_keys=True).encode()).hexdigest()
    preprocessing = content["preprocessing"]
    decoder = translate_decoder(content["decoder"]) if version == 1 else content["decoder"]
    decoder = ADDED_FIELDS.get(str(decoder.get("name")), {}) | decoder
    parsed = {
        "preprocessing": Preprocessing(
            **preprocessing | {name: tuple(preprocessing[name]) for name in ("mean", "std")}
        ),
        "decoder": decoder_config(**decoder),
        "decoding": GenerationConfig(**content["decoding"]),
        "digest": digest,
    }
    return BundleConfig(**{name: value for name, value in content.items() if name != "format"} | parsed)


def _write_config(directory: Path, content: dict[str, Any]) -> None:
    atomic_write_text(directory / CONFIG, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _file_digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}
