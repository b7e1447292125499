"""Objectives: every decoder learns, and only the trainable parameters change."""

import math

import pytest
import torch
from lightning_fabric import Fabric

from handler.modeling import DECODERS, build_decoder
from handler.modeling.encoder import Encoder
from handler.modeling.vocabulary import build_vocabulary
from handler.preprocessing import Preprocessing
from tests.helpers.bundles import small_config
from training.config import SelfCriticalConfig, TrainingConfig
from training.data.dataset import CaptionBatch, collate_captions
from training.model import CaptionModel
from training.objectives import CrossEntropyObjective, SelfCriticalObjective, sample_captions
from training.rewards import CiderD, CombinedReward, NgramOveruse

TEXTS = [["a dog runs", "a brown dog"], ["two cats sleep on a bed"], ["a man"]]
VOCABULARY = build_vocabulary((text for texts in TEXTS for text in texts), 1)
CAPTIONS = [[[*VOCABULARY.encode(text.split()), VOCABULARY.eos_id] for text in texts] for texts in TEXTS]
REWARD = CombinedReward(cider_d=(1.0, CiderD(CAPTIONS)))
PREPROCESSING = Preprocessing(64, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))


def build(decoder="soft_attention", unfreeze_from=None, **settings):
    torch.manual_seed(0)
    sizes = {"embed_dim": 16, "hidden_dim": 16, "ffn_dim": 16, "attention_dim": 8, "num_layers": 1, "num_heads": 2}
    config = TrainingConfig(
        decoder=small_config(decoder, **sizes, dropout=0.1), unfreeze_from=unfreeze_from, num_cached_views=0, **settings
    )
    encoder = Encoder("test_efficientnet")
    model = CaptionModel(
        encoder, build_decoder(config.decoder, len(VOCABULARY), encoder.channels), PREPROCESSING, unfreeze_from
    )
    return model, CrossEntropyObjective(config, model, model, VOCABULARY, Fabric(accelerator="cpu"))


def batch_of(images):
    inputs, targets = collate_captions(CAPTIONS, 2, VOCABULARY)
    return CaptionBatch(images, inputs, targets, [0, 1, 2])


def learn(model, objective, batch, steps, rate):
    """Run steps of gradient descent; return the metrics of each."""
    optimizer = torch.optim.Adam(model.trainable_parameters().values(), lr=rate)
    metrics = []
    for step in range(steps):
        model.train()
        output = objective(batch, step / steps)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        metrics.append(output.metrics)
    return metrics


@pytest.mark.parametrize(
    "settings", [{}, {"label_smoothing": 0.1, "scheduled_sampling": 0.5}], ids=["plain", "sampled"]
)
@pytest.mark.parametrize("decoder", DECODERS)
def test_cross_entropy_every_decoder_learns_its_captions(decoder, settings):
    model, objective = build(decoder, doubly_stochastic_weight=0.1, **settings)
    losses = [metrics["loss"] for metrics in learn(model, objective, batch_of(torch.randn(3, 4, 256)), 50, 0.02)]
    assert losses[0] == pytest.approx(torch.tensor(float(len(VOCABULARY))).log().item(), abs=0.5)  # uniform at first
    assert losses[-1] < losses[0] / 2
    assert math.isfinite(objective.baseline) == (decoder == "hard_attention")


def test_cross_entropy_hard_attention_baseline_is_moving_mean_of_log_probability():
    model, objective = build("hard_attention")
    model.train()
    batch = batch_of(torch.randn(3, 4, 256))
    first = objective(batch, 0).metrics["loss"] * 18 / 4  # 18 tokens in 4 captions
    assert sum(len(ids) for texts in CAPTIONS for ids in texts) == 17 + 1
    assert objective.baseline == pytest.approx(-first, rel=1e-4)  # it starts at the first mean
    second = objective(batch, 0).metrics["loss"] * 18 / 4
    assert objective.baseline == pytest.approx(-0.9 * first - 0.1 * second, rel=1e-4)


@pytest.mark.parametrize("baseline", ["leave_one_out", "greedy"])
def test_self_critical_training_raises_the_reward(baseline):
    critical = SelfCriticalConfig(epochs=1, samples=8, temperature=1.0, baseline=baseline)
    model, cross_entropy = build("transformer", self_critical=critical)
    batch = batch_of(torch.randn(3, 4, 256))
    learn(model, cross_entropy, batch, 20, 0.01)
    objective = SelfCriticalObjective(cross_entropy, REWARD)
    rewards = [metrics["reward"] for metrics in learn(model, objective, batch, 40, 0.005)]
    assert sum(rewards[-10:]) > 1.15 * sum(rewards[:10])


def test_self_critical_with_cross_entropy_reports_both():
    critical = SelfCriticalConfig(epochs=1, cross_entropy=0.25)
    model, cross_entropy = build("nic", self_critical=critical)
    objective = SelfCriticalObjective(cross_entropy, REWARD)
    metrics = learn(model, objective, batch_of(torch.randn(3, 4, 256)), 2, 0.001)
    assert all({"reward", "words", "loss"} <= line.keys() for line in metrics)


def test_self_critical_restored_state_continues_the_counts_of_greedy_captions():
    critical = SelfCriticalConfig(epochs=1, samples=20, temperature=0.1)  # samples are near the greedy captions
    _, cross_entropy = build("nic", self_critical=critical)
    batch = batch_of(torch.randn(3, 4, 256))

    def objective():
        return SelfCriticalObjective(cross_entropy, CombinedReward(overuse=(-1.0, NgramOveruse(CAPTIONS, [0, 0, 1]))))

    def step(objective):
        torch.manual_seed(1)
        return objective(batch, 0).metrics

    first = objective()
    assert step(first)["reward"] == 0  # nothing is counted yet
    cross_entropy.baseline = -3.0
    state = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    restored, other = objective(), objective()
    cross_entropy.baseline = 0.0
    restored.load_state_dict(state)
    assert cross_entropy.baseline == -3
    expected = step(first)
    assert expected["reward"] < 0
    assert step(restored) == expected
    assert step(other) != expected


def test_self_critical_counts_the_greedy_caption_of_each_image():
    model, cross_entropy = build("nic", self_critical=SelfCriticalConfig(epochs=1, samples=7, temperature=1.0))
    batch = batch_of(torch.randn(3, 4, 256))
    overuse = NgramOveruse(CAPTIONS, [0, 0, 1])
    SelfCriticalObjective(cross_entropy, CombinedReward(overuse=(-1.0, overuse)))(batch, 0)
    greedy = sample_captions(
        model.decoder,
        model.encode(batch.images),
        cross_entropy.vocabulary,
        samples=1,
        temperature=0,
        max_length=cross_entropy.config.max_length,
    )
    # one caption an image: its trigrams, two fewer than its tokens, in the group of the image
    lengths = [max(0, len(ids) - 2) for (ids,) in greedy]
    assert [len(window) for window in overuse.state_dict().values()] == [lengths[0] + lengths[1], lengths[2]]
    assert sum(lengths) > 0


def test_training_changes_the_encoder_from_the_unfrozen_stage_on():
    model, objective = build(unfreeze_from="blocks.2")
    before = {name: tensor.clone() for name, tensor in model.encoder.backbone.state_dict().items()}
    pixels = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    learn(model, objective, batch_of(pixels), 2, 0.01)
    changed = {
        name for name, tensor in model.encoder.backbone.state_dict().items() if not torch.equal(tensor, before[name])
    }
    parameters = dict(model.encoder.backbone.named_parameters())
    names = list(parameters)
    first = next(i for i, name in enumerate(names) if name.startswith("blocks.2."))
    assert changed == set(names[first:])
    assert 0 < first < len(names)
    assert set(model.trainable_parameters()) == {f"encoder.backbone.{name}" for name in names[first:]} | {
        f"decoder.{name}" for name, _ in model.decoder.named_parameters()
    }


def test_training_does_not_change_a_frozen_encoder():
    model, objective = build()
    before = {name: tensor.clone() for name, tensor in model.encoder.state_dict().items()}
    learn(model, objective, batch_of(torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)), 2, 0.01)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.encoder.state_dict().items())
