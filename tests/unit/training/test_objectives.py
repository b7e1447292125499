"""The objectives and the model: every decoder learns, and only what is to be learned changes."""

import pytest
import torch
from lightning_fabric import Fabric

from handler.modeling import DECODERS, NICConfig, build_decoder
from handler.modeling.encoder import Encoder
from handler.modeling.vocabulary import build_vocabulary
from handler.preprocessing import Preprocessing
from tests.helpers.bundles import small_config
from training.config import SelfCritical as SelfCriticalConfig
from training.config import TrainingConfig
from training.data.dataset import Batch, collate_captions
from training.model import CaptionModel
from training.objectives import CrossEntropy, SelfCritical
from training.rewards import CombinedReward
from training.rewards.cider_d import CiderD
from training.stages import below, check_split
from training.trainer import ema_update

TEXTS = [["a dog runs", "a brown dog"], ["two cats sleep on a bed"], ["a man"]]
VOCABULARY = build_vocabulary((text for texts in TEXTS for text in texts), 1)
CAPTIONS = [[[*VOCABULARY.encode(text.split()), VOCABULARY.eos_id] for text in texts] for texts in TEXTS]
PREPROCESSING = Preprocessing(64, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))


def built(decoder="soft_attention", finetune_from=None, **settings):
    torch.manual_seed(0)
    sizes = {"embed_dim": 16, "hidden_dim": 16, "ffn_dim": 16, "attention_dim": 8, "num_layers": 1, "num_heads": 2}
    config = TrainingConfig(
        decoder=small_config(decoder, **sizes, dropout=0.1), finetune_from=finetune_from, cached_views=0, **settings
    )
    encoder = Encoder("test_efficientnet")
    model = CaptionModel(
        encoder, build_decoder(config.decoder, len(VOCABULARY), encoder.channels), PREPROCESSING, finetune_from
    )
    return config, model, CrossEntropy(config, model, model, VOCABULARY, Fabric(accelerator="cpu"))


def batch_of(pictures):
    inputs, targets = collate_captions(CAPTIONS, 2, VOCABULARY)
    return Batch(pictures, inputs, targets, [0, 1, 2])


def learn(model, objective, batch, steps, rate):
    """Steps of gradient descent; what was shown at each."""
    optimizer = torch.optim.Adam(model.learned().values(), lr=rate)
    shown = []
    for step in range(steps):
        model.train()
        outcome = objective(batch, step / steps)
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
        shown.append(outcome.shown)
    return shown


@pytest.mark.parametrize(
    "settings", [{}, {"label_smoothing": 0.1, "scheduled_sampling": 0.5}], ids=["plain", "sampled"]
)
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder_learns_its_captions(decoder, settings):
    _, model, objective = built(decoder, doubly_stochastic=0.1, **settings)
    losses = [shown["loss"] for shown in learn(model, objective, batch_of(torch.randn(3, 4, 256)), 100, 0.01)]
    assert losses[0] == pytest.approx(torch.tensor(float(len(VOCABULARY))).log().item(), abs=0.5)  # knows nothing yet
    assert losses[-1] < 0.9
    assert (objective.baseline != 0) == (decoder == "hard_attention")


def test_hard_attentions_baseline_is_the_moving_mean_of_captions_log_probability():
    _, model, objective = built("hard_attention")
    model.train()
    batch = batch_of(torch.randn(3, 4, 256))
    first = objective(batch, 0).shown["loss"] * 18 / 4  # tokens a caption: 18 of 4 captions
    assert sum(len(ids) for texts in CAPTIONS for ids in texts) == 17 + 1
    assert objective.baseline == pytest.approx(-0.1 * first, rel=1e-4)
    second = objective(batch, 0).shown["loss"] * 18 / 4
    assert objective.baseline == pytest.approx(-0.09 * first - 0.1 * second, rel=1e-4)


@pytest.mark.parametrize("baseline", ["leave_one_out", "greedy"])
def test_self_critical_training_raises_the_reward(baseline):
    critical = SelfCriticalConfig(epochs=1, samples=8, temperature=1.0, baseline=baseline)
    _, model, truth = built("transformer", self_critical=critical)
    batch = batch_of(torch.randn(3, 4, 256))
    learn(model, truth, batch, 20, 0.01)
    rewards = [
        shown["reward"]
        for shown in learn(
            model, SelfCritical(truth, CombinedReward(cider_d=(1.0, CiderD(CAPTIONS)))), batch, 60, 0.003
        )
    ]
    assert sum(rewards[-10:]) > 1.15 * sum(rewards[:10])


def test_cross_entropy_mixes_into_self_critical_training():
    critical = SelfCriticalConfig(epochs=1, cross_entropy=0.25)
    _, model, truth = built("nic", self_critical=critical)
    shown = learn(
        model,
        SelfCritical(truth, CombinedReward(cider_d=(1.0, CiderD(CAPTIONS)))),
        batch_of(torch.randn(3, 4, 256)),
        2,
        0.001,
    )
    assert all({"reward", "words", "loss"} <= line.keys() for line in shown)


def test_fine_tuning_changes_the_encoder_from_its_stage_on_and_no_statistics():
    _, model, objective = built(finetune_from="blocks.2")
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
    assert set(model.learned()) == {f"encoder.backbone.{name}" for name in names[first:]} | {
        f"decoder.{name}" for name, _ in model.decoder.named_parameters()
    }


@pytest.mark.parametrize(("encoder", "stage"), [("test_efficientnet", "blocks.2"), ("resnet18", "layer3")])
def test_an_encoder_can_be_cut_before_the_stage_that_is_fine_tuned(encoder, stage):
    encoder = Encoder(encoder)
    decoder = build_decoder(NICConfig(embed_dim=16, hidden_dim=16), len(VOCABULARY), encoder.channels)
    model = CaptionModel(encoder, decoder, PREPROCESSING, stage)
    check_split(encoder, stage, 64)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        cached = below(encoder, stage)(PREPROCESSING.normalize(pixels))
        assert cached.shape[1:] != model.grid(pixels).shape[1:]
        torch.testing.assert_close(model.grid(cached), model.grid(pixels))
    model.grid(cached.clone()).sum().backward()
    learned = {name for name in model.learned() if name.startswith("encoder.")}
    assert learned == {name for name, tensor in encoder.named_parameters("encoder") if tensor.grad is not None}
    assert list(encoder.state_dict()) == list(Encoder(encoder.name).state_dict())  # still whole


def test_what_has_no_part_in_the_grid_is_not_trained():
    """MobileNetV3's last convolution belongs to its classifier."""
    encoder = Encoder("mobilenetv3_small_050")
    decoder = build_decoder(NICConfig(embed_dim=16, hidden_dim=16), len(VOCABULARY), encoder.channels)
    learned = {
        name for name in CaptionModel(encoder, decoder, PREPROCESSING, "blocks.5").learned() if "encoder" in name
    }
    assert learned == {f"encoder.{n}" for n, _ in encoder.named_parameters() if n.startswith("backbone.blocks.5.")}
    assert any(name.startswith("backbone.conv_head.") for name, _ in encoder.named_parameters())


def test_an_encoder_that_does_more_than_its_stages_is_not_cut():
    with pytest.raises(ValueError, match=r"vit_tiny_patch16_224 can't be cut at 'blocks.6' .* set cached_views to 0"):
        check_split(Encoder("vit_tiny_patch16_224"), "blocks.6", 224)


def test_a_frozen_encoder_does_not_change():
    _, model, objective = built()
    before = {name: tensor.clone() for name, tensor in model.encoder.state_dict().items()}
    learn(model, objective, batch_of(torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)), 2, 0.01)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.encoder.state_dict().items())


def test_an_unknown_stage_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"test_efficientnet has no stage 'layer4': choose one of conv_stem"):
        built(finetune_from="layer4")


def test_the_moving_average_forgets_its_first_values():
    averaged, current = [torch.tensor([1.0])], [torch.tensor([3.0])]
    ema_update(0.9)(averaged, current, torch.tensor(1))  # decay 2/11: 1 + 9/11 · 2
    assert averaged[0].item() == pytest.approx(1 + 18 / 11)
    ema_update(0.9)(averaged, [torch.tensor([0.0])], torch.tensor(1000))
    assert averaged[0].item() == pytest.approx(0.9 * (1 + 18 / 11))
