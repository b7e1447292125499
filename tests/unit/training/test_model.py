"""The trained model, and encoders split before a stage."""

import copy

import pytest
import torch
from torch import nn

from handler.modeling import NICConfig, build_decoder
from handler.modeling.encoder import Encoder
from handler.preprocessing import Preprocessing
from training.model import CaptionModel, check_size, check_split, frozen_part

PREPROCESSING = Preprocessing(64, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))


def build(stage: str = "blocks.1") -> CaptionModel:
    torch.manual_seed(0)
    encoder = Encoder("test_efficientnet")
    decoder = build_decoder(NICConfig(embed_dim=8, hidden_dim=8), 9, encoder.channels)
    return CaptionModel(encoder, decoder, PREPROCESSING, stage)


def grouped(model: CaptionModel) -> list[nn.Conv2d]:
    """Return the grouped convolutions that are trained."""
    layers = [layer for layer in model.encoder.modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1]
    return [layer for layer in layers if layer.weight.requires_grad]


def test_model_grouped_convolutions_stay_in_float32_also_in_a_copy():
    model = build()
    average = copy.deepcopy(model)
    assert grouped(model)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    before = average.encode(images)
    with torch.no_grad():
        for layer in grouped(model):
            layer.weight.zero_()
    torch.testing.assert_close(average.encode(images), before)  # the copy has its own weights
    dtypes = []
    for layer in grouped(average):
        layer.register_forward_hook(lambda layer, inputs, output: dtypes.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        average.encode(images).sum().backward()
    assert dtypes == [torch.float32] * len(grouped(average))
    assert all(layer.weight.grad is not None for layer in grouped(average))


def test_check_size_backbone_of_a_fixed_size_is_refused_at_another():
    check_size(Encoder("test_efficientnet"), 96)
    with pytest.raises(ValueError, match=r"does not accept images of 96 pixels a side: .*\(96\) doesn't match"):
        check_size(Encoder("vit_tiny_patch16_224"), 96)


@pytest.mark.parametrize(("encoder", "stage"), [("test_efficientnet", "blocks.2"), ("resnet18", "layer3")])
def test_model_split_before_the_unfrozen_stage_equals_the_whole_encoder(encoder, stage):
    encoder = Encoder(encoder)
    decoder = build_decoder(NICConfig(embed_dim=16, hidden_dim=16), 9, encoder.channels)
    model = CaptionModel(encoder, decoder, PREPROCESSING, stage)
    check_split(encoder, stage, 64)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        cached = frozen_part(encoder, stage)(PREPROCESSING.normalize(pixels))
        assert cached.shape[1:] != model.encode(pixels).shape[1:]
        torch.testing.assert_close(model.encode(cached), model.encode(pixels))
    model.encode(cached.clone()).sum().backward()
    trainable = {name for name in model.trainable_parameters() if name.startswith("encoder.")}
    assert trainable == {name for name, tensor in encoder.named_parameters("encoder") if tensor.grad is not None}
    assert list(encoder.state_dict()) == list(Encoder(encoder.name).state_dict())  # unchanged


def test_model_parameters_without_influence_on_the_grid_are_not_trained():
    encoder = Encoder("mobilenetv3_small_050")  # its last convolution belongs to the classifier
    decoder = build_decoder(NICConfig(embed_dim=16, hidden_dim=16), 9, encoder.channels)
    trainable = {
        name
        for name in CaptionModel(encoder, decoder, PREPROCESSING, "blocks.5").trainable_parameters()
        if "encoder" in name
    }
    assert trainable == {f"encoder.{n}" for n, _ in encoder.named_parameters() if n.startswith("backbone.blocks.5.")}
    assert any(name.startswith("backbone.conv_head.") for name, _ in encoder.named_parameters())


def test_check_split_encoder_with_steps_between_stages_is_refused():
    with pytest.raises(
        ValueError, match=r"vit_tiny_patch16_224 cannot be split at 'blocks.6' .* set num_cached_views to 0"
    ):
        check_split(Encoder("vit_tiny_patch16_224"), "blocks.6", 224)


def test_model_unknown_stage_lists_available_ones():
    with pytest.raises(ValueError, match=r"test_efficientnet has no stage 'layer4': choose one of conv_stem"):
        build("layer4")
