"""In-process captioning API. The TorchServe handler is a thin wrapper around `Captioner`."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from handler.attribution import explanation_methods, input_x_gradient
from handler.backends import ModelSource, build_engine, validate_backend
from handler.bundle import BundleConfig, load_bundle
from handler.errors import BundleError, RequestError
from handler.generation import GenerationConfig, Hypothesis
from handler.image import MAX_PIXELS, decode_image, to_upright_rgb
from handler.modeling import Decoder
from handler.modeling.layers import grid_shape
from handler.modeling.vocabulary import Vocabulary, detokenize
from handler.parallel import parallel_map

ImageInput = str | Path | bytes | Image.Image  # a path, the bytes of an image file, or a PIL image


@dataclass(frozen=True)
class Caption:
    """One caption of an image.

    Attributes:
        text: The sentence.
        score: Mean log-probability of the tokens, `<end>` included; comparable across lengths.
        tokens: The words of the sentence.
        token_logprobs: Natural log-probability of each token, then that of `<end>`: one more than `tokens`.
        attributions: (tokens, rows, columns), the weight of each grid cell for each token, each token's sum to 1:
            attention or gradients. None if not requested or if the decoder has no attention.
    """

    text: str
    score: float
    tokens: list[str]
    token_logprobs: list[float]
    attributions: torch.Tensor | None = None


class Captioner:
    """A model bundle, ready to caption images.

    Args:
        config: Configuration of the bundle.
        weights: Tensors named `encoder.…` and `decoder.…`.
        vocabulary: Vocabulary of the bundle.
        device: Device to run on.
        backend: Backend of the encoder: `eager`, `compile`, `openvino`, or `auto`, the fastest that is installed.
        precision: `full`, `fast`, `fastest`, or the precision of the encoder; see `handler.backends.engine`.
        directory: Directory of the bundle, which may hold a converted encoder; None if unknown.

    Raises:
        BundleError: If weights, vocabulary and configuration do not fit together.
        ValueError: If the backend or the precision is unknown.
        ModuleNotFoundError: If the backend is not installed.
    """

    def __init__(
        self,
        config: BundleConfig,
        weights: dict[str, torch.Tensor],
        vocabulary: Vocabulary,
        device: torch.device | str = "cpu",
        *,
        backend: str = "eager",
        precision: str = "full",
        directory: Path | None = None,
    ) -> None:
        validate_backend(backend, precision)
        self.config, self.vocabulary, self.device = config, vocabulary, torch.device(device)
        model_source = ModelSource(config, weights, self.device, precision, directory)
        try:
            self.engine = build_engine(model_source, vocabulary, backend)
        except (ValueError, RuntimeError) as error:
            raise BundleError(f"The bundle's weights, vocabulary and configuration do not fit: {error}") from error

    @classmethod
    def load(
        cls, path: str | Path, device: torch.device | str = "cpu", *, backend: str = "eager", precision: str = "full"
    ) -> "Captioner":
        """Load the bundle in the directory `path` and verify its digests; for the other arguments see the class.

        Raises:
            BundleError: If a file is missing, or its SHA-256 differs from the one in the bundle's configuration.
        """
        directory = Path(path)
        return cls(*load_bundle(directory), device=device, backend=backend, precision=precision, directory=directory)

    @property
    def decoder(self) -> Decoder:
        """The decoder in float32."""
        return self.engine.decoder

    def caption(
        self,
        images: Sequence[ImageInput],
        options: GenerationConfig | Sequence[GenerationConfig] | None = None,
        *,
        batch_size: int = 16,
    ) -> list[list[Caption]]:
        """Caption images.

        Args:
            images: Paths, bytes of image files or PIL images, in any mixture.
            options: Decoding options for all images, or one for each; default: those of the bundle.
            batch_size: Number of images that are captioned together.

        Returns:
            For each image its captions, best first: `result[0][0].text` is the best sentence of the first image.

        Raises:
            RequestError: If an image cannot be decoded; the class says why, and the message names the image's index.
            OSError: If a path cannot be read.
            ValueError: If there are not as many options as images.
        """
        if options is None or isinstance(options, GenerationConfig):
            options = [options or self.config.decoding] * len(images)
        if len(options) != len(images):
            raise ValueError(f"There are {len(images)} images and {len(options)} options.")
        captions: list[list[Caption]] = []
        for first in range(0, len(images), batch_size):
            indices = range(first, min(first + batch_size, len(images)))
            pixels = parallel_map(partial(self._preprocess_at, images), indices)
            captions += self.caption_pixels(torch.stack(pixels), options[first : first + batch_size])
        return captions

    def _preprocess_at(self, images: Sequence[ImageInput], index: int) -> torch.Tensor:
        try:
            return self.preprocess(images[index])
        except RequestError as error:
            raise type(error)(f"Image {index}: {error}") from error

    def preprocess(self, image: ImageInput, max_pixels: int = MAX_PIXELS) -> torch.Tensor:
        """Decode and resize an image to uint8 pixels (3, size, size).

        Raises:
            RequestError: As `decode_image`.
            OSError: If the path cannot be read.
        """
        if isinstance(image, str | Path):
            image = Path(image).read_bytes()
        preprocessing = self.config.preprocessing
        if isinstance(image, Image.Image):
            return preprocessing.resize(to_upright_rgb(image))
        return preprocessing.resize(decode_image(image, max_pixels, preprocessing.min_decode_side))

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Encode uint8 pixels (B, 3, size, size) to a grid (B, cells, C)."""
        return self.engine.encode(pixels)

    def caption_pixels(self, pixels: torch.Tensor, options: Sequence[GenerationConfig]) -> list[list[Caption]]:
        """Caption uint8 pixels (B, 3, size, size), with the options of each; best captions first."""
        return self.caption_features(self.encode(pixels), options)

    def caption_features(
        self,
        grid: torch.Tensor,
        options: Sequence[GenerationConfig],
        on_tokens: Mapping[int, Callable[[list[str]], None]] | None = None,
    ) -> list[list[Caption]]:
        """Caption a grid (B, cells, C).

        Args:
            grid: Features of B images, as `encode` returns them.
            options: Decoding options of each image.
            on_tokens: Callbacks by image index. After each step a callback receives all tokens that its best caption
                certainly begins with; see `handler.generation.generate`.

        Returns:
            For each image its captions, best first.

        Raises:
            RuntimeError: If the score of a caption is NaN or infinite, which no response can express.
        """

        def decode_tokens(callback: Callable[[list[str]], None]) -> Callable[[list[int]], None]:
            return lambda token_ids: callback(self.vocabulary.decode(token_ids))

        callbacks = {image: decode_tokens(callback) for image, callback in (on_tokens or {}).items()}
        generated = self.engine.generate(grid, options, callbacks)
        if not all(math.isfinite(hypothesis.score) for hypotheses in generated for hypothesis in hypotheses):
            raise RuntimeError("The model gives scores that are NaN or infinite.")
        return [[self._to_caption(hypothesis) for hypothesis in hypotheses] for hypotheses in generated]

    @property
    def explanation_methods(self) -> tuple[str, ...]:
        """Methods that can explain this model's captions: `attention` or `gradient`, the default first."""
        return explanation_methods(self.decoder)

    def explain(
        self, image: ImageInput, options: GenerationConfig | None = None, method: str | None = None
    ) -> list[Caption]:
        """Caption an image, with the `attributions` of each caption.

        Args:
            image: A path, the bytes of an image file, or a PIL image.
            options: Decoding options; default: those of the bundle.
            method: One of `explanation_methods`; default: the first one.

        Returns:
            The captions, best first.

        Raises:
            RequestError: If the image cannot be decoded.
            OSError: If the path cannot be read.
            ValueError: If the model does not have the method.
        """
        method = method or self.explanation_methods[0]
        if method not in self.explanation_methods:
            raise ValueError(f"method must be {' or '.join(self.explanation_methods)} for this model, not {method}.")
        options = replace(options or self.config.decoding, attention=method == "attention")
        grid = self.encode(self.preprocess(image).unsqueeze(0))
        [captions] = self.caption_features(grid, [options])
        if method == "attention":
            return captions
        return [self.with_gradient_attributions(caption, grid[0]) for caption in captions]

    def with_gradient_attributions(self, caption: Caption, grid: torch.Tensor) -> Caption:
        """Return a caption of the image with this grid (cells, C) with gradients as its attributions."""
        token_ids = self.vocabulary.encode(caption.tokens)
        weights = input_x_gradient(self.decoder, grid, token_ids, self.vocabulary)
        return replace(caption, attributions=_over_the_grid(weights))

    def _to_caption(self, hypothesis: Hypothesis) -> Caption:
        tokens = self.vocabulary.decode(hypothesis.token_ids)
        attributions = None if hypothesis.attention is None else _over_the_grid(hypothesis.attention)
        return Caption(detokenize(tokens), hypothesis.score, tokens, hypothesis.logprobs, attributions)


def _over_the_grid(weights: torch.Tensor) -> torch.Tensor:
    """Weights (tokens, cells) → (tokens, rows, columns)."""
    return weights.reshape(len(weights), *grid_shape(weights.shape[-1]))
