"""The model that training trains."""

import copy

import pytest
import torch
from torch import nn

from handler.modeling import NICConfig, build_decoder
from handler.modeling.encoder import Encoder
from handler.preprocessing import Preprocessing
from training.model import CaptionModel, check_size

PREPROCESSING = Preprocessing(64, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0))


def finetuned() -> CaptionModel:
    torch.manual_seed(0)
    encoder = Encoder("test_efficientnet")
    decoder = build_decoder(NICConfig(embed_dim=8, hidden_dim=8), 9, encoder.channels)
    return CaptionModel(encoder, decoder, PREPROCESSING, "blocks.1")


def grouped(model: CaptionModel) -> list[nn.Conv2d]:
    """The grouped convolutions that are trained."""
    layers = [layer for layer in model.encoder.modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1]
    return [layer for layer in layers if layer.weight.requires_grad]


def test_grouped_convolutions_stay_in_full_precision_also_in_a_copy():
    model = finetuned()
    average = copy.deepcopy(model)
    assert grouped(model)
    pictures = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    before = average.grid(pictures)
    with torch.no_grad():
        for layer in grouped(model):
            layer.weight.zero_()
    torch.testing.assert_close(average.grid(pictures), before)  # the copy has weights of its own
    found = []
    for layer in grouped(average):
        layer.register_forward_hook(lambda layer, inputs, output: found.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        average.grid(pictures).sum().backward()
    assert found == [torch.float32] * len(grouped(average))
    assert all(layer.weight.grad is not None for layer in grouped(average))


def test_a_backbone_of_one_size_alone_is_refused_at_another():
    check_size(Encoder("test_efficientnet"), 96)
    with pytest.raises(ValueError, match=r"takes no pictures of 96 pixels a side: .*\(96\) doesn't match"):
        check_size(Encoder("vit_tiny_patch16_224"), 96)
