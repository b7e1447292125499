"""The encoder: grids of convolutional backbones, of transformers, and of those with channels last."""

import pytest
import torch
from torch import nn

from handler.modeling.encoder import Encoder, NormalizedEncoder
from handler.preprocessing import Preprocessing


class FakeBackbone(nn.Module):
    """Returns features that are set before."""

    num_prefix_tokens = 1

    def __init__(self, features: torch.Tensor, **attributes: str) -> None:
        super().__init__()
        self.features = features
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.features


CELLS = torch.arange(2 * 6 * 3).view(2, 6, 3)  # 2 images, 2 × 3 cells, 3 channels


@pytest.mark.parametrize(
    "backbone",
    [
        FakeBackbone(CELLS.view(2, 2, 3, 3).permute(0, 3, 1, 2)),
        FakeBackbone(CELLS.view(2, 2, 3, 3), output_fmt="NHWC"),
        FakeBackbone(torch.cat([torch.full((2, 1, 3), -1), CELLS], 1)),
    ],
    ids=["channels first", "channels last", "class token"],
)
def test_encoder_returns_cells_row_by_row(backbone):
    encoder = Encoder("test_efficientnet")
    encoder.backbone = backbone
    assert torch.equal(encoder(torch.zeros(2, 3, 8, 8)), CELLS)


@torch.inference_mode()
def test_normalized_encoder_equals_normalizing_and_encoding():
    encoder = Encoder("test_efficientnet").eval()
    preprocessing = Preprocessing(64, (120.0, 110.0, 100.0), (60.0, 50.0, 40.0))
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    grid = NormalizedEncoder(encoder, preprocessing)(pixels)
    assert grid.shape == (2, 4, encoder.channels)
    torch.testing.assert_close(grid, encoder(preprocessing.normalize(pixels)))


def test_encoder_with_an_unknown_model_raises():
    with pytest.raises(ValueError, match=r"Unknown timm model 'resnet'\. List the valid ones"):
        Encoder("resnet")
