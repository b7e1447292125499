"""`Captioner`: pictures in, captions out, with no server. The TorchServe entry is a thin coat over it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from handler.attribution import input_x_gradient, methods
from handler.backends import ModelSource, build_engine, validate_backend
from handler.bundle import BundleConfig, load_bundle
from handler.errors import BundleError, RequestError
from handler.generation import GenerationConfig, Hypothesis, generate
from handler.generation.beam_search import TokenCallback
from handler.image import MAX_PIXELS, decode_image, to_upright_rgb
from handler.modeling import Decoder
from handler.modeling.layers import grid_shape
from handler.modeling.vocabulary import Vocabulary, detokenize
from handler.parallel import parallel_map

ImageInput = str | Path | bytes | Image.Image


@dataclass(frozen=True)
class Caption:
    """One caption of a picture.

    Attributes:
        text: the sentence.
        score: mean log-probability a token, `<end>` among them; captions of different lengths compare by it.
        tokens: its words.
        token_logprobs: natural log-probability of each word, and last of the sentence's end: one more than `tokens`.
        attributions: (tokens, rows, columns), the weight of each grid cell for each token, each token's sum to 1:
            attention or gradients. None if not requested or if the decoder has no attention.
    """

    text: str
    score: float
    tokens: list[str]
    token_logprobs: list[float]
    attributions: torch.Tensor | None = None


class Captioner:
    """A model bundle ready to caption.

    Args:
        config: the bundle's.
        weights: `encoder.…` and `decoder.…`.
        vocabulary: the bundle's.
        device: where it runs.
        backend: how its encoder runs: `eager`, `compile`, `openvino`, or `auto`, the fastest that is installed.
        precision: `full`, `fast` or `fastest`; see `handler.backends`.
        folder: the bundle's, where there may be an encoder that was converted before.

    Raises:
        BundleError: weights, vocabulary and configuration do not fit one another.
        ValueError: there is no such back end or precision.
        ModuleNotFoundError: the back end is not installed.
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
        folder: Path | None = None,
    ):
        validate_backend(backend, precision)
        self.config, self.vocabulary, self.device = config, vocabulary, torch.device(device)
        source = ModelSource(config, weights, self.device, precision, folder)
        try:
            self.engine = build_engine(source, len(vocabulary), backend)
        except (ValueError, RuntimeError) as error:
            raise BundleError(f"The bundle's weights, vocabulary and configuration do not fit: {error}") from error

    @classmethod
    def load(
        cls, path: str | Path, device: torch.device | str = "cpu", *, backend: str = "eager", precision: str = "full"
    ) -> "Captioner":
        """Loads the bundle in the folder `path`, its digests checked.

        Raises:
            BundleError: a file is missing or differs from what the bundle says.
        """
        folder = Path(path)
        return cls(*load_bundle(folder), device=device, backend=backend, precision=precision, folder=folder)

    @property
    def decoder(self) -> Decoder:
        """The decoder in single precision."""
        return self.engine.decoder

    def caption(
        self,
        images: Sequence[ImageInput],
        options: GenerationConfig | Sequence[GenerationConfig] | None = None,
        *,
        batch_size: int = 16,
    ) -> list[list[Caption]]:
        """Captions pictures.

        Args:
            images: paths, bytes of image files, or PIL images, mixed as you like.
            options: one for all, or one a picture; left out, the bundle's own.
            batch_size: pictures decoded together.

        Returns:
            For each picture its captions, the best first: `result[0][0].text` is the first picture's best sentence.

        Raises:
            RequestError: a picture can't be read (its kind says why); the message names the picture's place.
            OSError: a path can't be opened.
            ValueError: there are not as many options as pictures.
        """
        if options is None or isinstance(options, GenerationConfig):
            options = [options or self.config.decoding] * len(images)
        if len(options) != len(images):
            raise ValueError(f"There are {len(images)} images and {len(options)} options.")
        captions: list[list[Caption]] = []
        for first in range(0, len(images), batch_size):
            pixels = parallel_map(
                partial(self._prepare_placed, images), range(first, min(first + batch_size, len(images)))
            )
            captions += self.caption_pixels(torch.stack(pixels), options[first : first + batch_size])
        return captions

    def _prepare_placed(self, images: Sequence[ImageInput], place: int) -> torch.Tensor:
        try:
            return self.preprocess(images[place])
        except RequestError as error:
            raise type(error)(f"Image {place}: {error}") from error

    def preprocess(self, picture: ImageInput, max_pixels: int = MAX_PIXELS) -> torch.Tensor:
        """A path, an image file's bytes or a PIL image → uint8 pixels (3, size, size).

        Raises:
            RequestError: as `decode_image`.
        """
        if isinstance(picture, str | Path):
            picture = Path(picture).read_bytes()
        preprocessing = self.config.preprocessing
        if isinstance(picture, Image.Image):
            return preprocessing.resize(to_upright_rgb(picture))
        return preprocessing.resize(decode_image(picture, max_pixels, preprocessing.enough))

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 pixels (B, 3, size, size) → grid (B, cells, channels)."""
        return self.engine.encode(pixels)

    def caption_pixels(self, pixels: torch.Tensor, options: Sequence[GenerationConfig]) -> list[list[Caption]]:
        """uint8 pixels (B, 3, size, size) with an option set each → each picture's captions, the best first."""
        return self.caption_features(self.encode(pixels), options)

    def caption_features(
        self,
        grid: torch.Tensor,
        options: Sequence[GenerationConfig],
        on_tokens: Mapping[int, Callable[[list[str]], None]] | None = None,
    ) -> list[list[Caption]]:
        """Grid (B, cells, channels) with an option set each → each picture's captions, the best first.

        `on_tokens` has callbacks by image index, each of which receives after every step all tokens of the best caption
        that are certain; see `generate`.
        """

        def decode_tokens(callback: Callable[[list[str]], None]) -> TokenCallback:
            return lambda ids: callback(self.vocabulary.decode(ids))

        callbacks = {image: decode_tokens(callback) for image, callback in (on_tokens or {}).items()}
        with self.engine.computing():
            generated = generate(self.engine.searcher, grid, options, self.vocabulary, callbacks)
        return [[self._caption(hypothesis) for hypothesis in hypotheses] for hypotheses in generated]

    @property
    def explanation_methods(self) -> tuple[str, ...]:
        """The ways in which this model can explain its words, the one taken by default first."""
        return methods(self.decoder)

    def explain(
        self, picture: ImageInput, options: GenerationConfig | None = None, method: str | None = None
    ) -> list[Caption]:
        """A picture's captions, the best first, each with its `attributions`.

        Args:
            picture: a path, an image file's bytes, or a PIL image.
            options: left out, the bundle's own.
            method: `attention`, where the model has it, or `gradient`; left out, the first of `methods`.

        Raises:
            RequestError: the picture can't be read.
            OSError: the path can't be opened.
            ValueError: the model has no such method.
        """
        method = method or self.explanation_methods[0]
        if method not in self.explanation_methods:
            raise ValueError(f"method is {' or '.join(self.explanation_methods)} for this model, not {method}.")
        options = replace(options or self.config.decoding, attention=method == "attention")
        grid = self.encode(self.preprocess(picture).unsqueeze(0))
        [captions] = self.caption_features(grid, [options])
        return (
            captions
            if options.attention
            else [self.with_gradient_attributions(caption, grid[0]) for caption in captions]
        )

    def with_gradient_attributions(self, caption: Caption, grid: torch.Tensor) -> Caption:
        """A caption of the picture with this grid (cells, channels), with gradients' weights as its attributions."""
        ids = self.vocabulary.encode(caption.tokens)
        weights = input_x_gradient(self.decoder, grid, ids, self.vocabulary)
        return replace(caption, attributions=_over_the_grid(weights))

    def _caption(self, hypothesis: Hypothesis) -> Caption:
        tokens = self.vocabulary.decode(hypothesis.token_ids)
        attributions = None if hypothesis.attention is None else _over_the_grid(hypothesis.attention)
        return Caption(detokenize(tokens), hypothesis.score, tokens, hypothesis.logprobs, attributions)


def _over_the_grid(weights: torch.Tensor) -> torch.Tensor:
    """Weights (tokens, cells) → (tokens, rows, columns)."""
    return weights.unflatten(-1, grid_shape(weights.shape[-1]))
