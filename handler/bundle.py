"""The model bundle: a folder that holds a model, written by training, read by the handler, packed into the archive."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from handler.errors import BundleError
from handler.files import atomic_write_text
from handler.generation import GenerationConfig
from handler.modeling import DecoderConfig
from handler.modeling.vocabulary import Vocabulary
from handler.preprocessing import Preprocessing

CONFIG, WEIGHTS, VOCABULARY = "captioner.json", "model.safetensors", "vocabulary.txt"
FORMAT = 1


@dataclass(frozen=True)
class BundleConfig:
    """What `captioner.json` says.

    Attributes:
        encoder: a timm model's name.
        preprocessing: from picture to the encoder's input.
        decoder: architecture and sizes.
        decoding: what a request gets where it asks for nothing else.
        files: for the weights and the vocabulary, `{"sha256": …, "bytes": …}`.
        card: for people: what the model was trained on, its terms, limits, and scores with their signatures.
        digest: `sha256:…` over all that `captioner.json` says but for the card: what decides a caption. It is filled in
            when a bundle is read; settings that a later version adds do not change it.
    """

    encoder: str
    preprocessing: Preprocessing
    decoder: DecoderConfig
    decoding: GenerationConfig
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    digest: str = ""


def save_bundle(
    folder: str | Path, config: BundleConfig, weights: dict[str, torch.Tensor], vocabulary: Vocabulary
) -> None:
    """Writes a bundle; `captioner.json` comes last, so that a broken-off write is never taken for a bundle.

    Matrices are stored in half precision. Vectors stay in single precision: they are few, and a batch norm's small
    variances would be lost in half.

    Args:
        folder: made where it is missing.
        config: its `files` are filled in here.
        weights: `encoder.…` and `decoder.…`.
        vocabulary: the decoder's.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    halved = {
        name: tensor.detach().cpu().half().contiguous() if tensor.ndim > 1 else tensor.detach().cpu().contiguous()
        for name, tensor in weights.items()
    }
    save_file(halved, folder / WEIGHTS)
    vocabulary.save(folder / VOCABULARY)
    described = asdict(config) | {"files": {name: _fingerprint(folder / name) for name in (WEIGHTS, VOCABULARY)}}
    described.pop("digest")
    _write_config(folder, {"format": FORMAT} | described)


def update_card(folder: Path, entries: dict[str, Any]) -> None:
    """Adds entries to a bundle's model card; its digest stays, as the card decides no caption."""
    content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    content["card"] |= entries
    _write_config(folder, content)


def verify_bundle(folder: Path) -> BundleConfig:
    """Reads `captioner.json` and holds the other two files against it, without loading them.

    Raises:
        BundleError: a file is missing, `captioner.json` can't be understood, or a size or digest differs (the message
            names both).
    """
    for name in (CONFIG, WEIGHTS, VOCABULARY):
        if not (folder / name).is_file():
            raise BundleError(f"{folder} is no model bundle: {name} is missing.")
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        decisive = {name: value for name, value in content.items() if name != "card"}
        digest = "sha256:" + hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()
        version = content.pop("format")
        if version != FORMAT:
            raise BundleError(f"{folder / CONFIG} has format {version}, this version reads format {FORMAT}.")
        preprocessing = content["preprocessing"]
        for name in ("mean", "std"):
            preprocessing[name] = tuple(preprocessing[name])
        config = BundleConfig(
            **content
            | {
                "preprocessing": Preprocessing(**preprocessing),
                "decoder": DecoderConfig(**content["decoder"]),
                "decoding": GenerationConfig(**content["decoding"]),
                "digest": digest,
            }
        )
        expected = {name: config.files[name] for name in (WEIGHTS, VOCABULARY)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{folder / CONFIG} can't be understood: {error}.") from error
    for name, wanted in expected.items():
        found = _fingerprint(folder / name)
        for what in ("bytes", "sha256"):
            if found[what] != wanted.get(what):
                raise BundleError(
                    f"{folder / name} is not the file that {CONFIG} was written with: "
                    f"{what} {found[what]} there, {wanted.get(what)} in {CONFIG}."
                )
    return config


def load_bundle(folder: Path) -> tuple[BundleConfig, dict[str, torch.Tensor], Vocabulary]:
    """Checks and loads a bundle.

    Returns:
        Its configuration, its weights in single precision, and its vocabulary.

    Raises:
        BundleError: as `verify_bundle`, or the vocabulary is no vocabulary.
    """
    config = verify_bundle(folder)
    try:
        vocabulary = Vocabulary.load(folder / VOCABULARY)
    except ValueError as error:
        raise BundleError(f"{folder / VOCABULARY}: {error}") from error
    weights = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in load_file(folder / WEIGHTS).items()
    }
    return config, weights, vocabulary


def _write_config(folder: Path, content: dict[str, Any]) -> None:
    atomic_write_text(folder / CONFIG, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}
