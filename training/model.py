"""What training trains: an encoder, frozen or from a stage on, and a decoder, called as one."""

from types import MethodType

import torch
from torch import nn

from handler.modeling import Decoder, TeacherForcingOutput
from handler.modeling.encoder import Encoder
from handler.preprocessing import Preprocessing
from training.stages import above


def forward_float32(layer: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """A layer's forward pass: on a CPU a grouped convolution's gradient takes four times as long in bfloat16."""
    if inputs.device.type != "cpu":
        return type(layer).forward(layer, inputs)
    with torch.autocast("cpu", enabled=False):
        return type(layer).forward(layer, inputs.float())


def check_size(encoder: Encoder, size: int) -> None:
    """Sees that an encoder takes pictures of `size` pixels a side.

    Raises:
        ValueError: it does not, as a ViT whose places are learned.
    """
    device = next(encoder.parameters()).device
    try:
        with torch.inference_mode():
            encoder(torch.zeros(1, 3, size, size, device=device))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise ValueError(f"{encoder.name} takes no pictures of {size} pixels a side: {error}") from error


class CaptionModel(nn.Module):
    """Pictures and captions → the logits of each next token.

    Batch normalisation keeps the statistics that the encoder came with: a step's few pictures would spoil them.

    Args:
        encoder: with its pretrained weights.
        decoder: freshly initialised.
        preprocessing: normalises pixels.
        finetune_from: the backbone's stage from which on it is trained; none: frozen.

    Raises:
        ValueError: the backbone has no such stage.
    """

    def __init__(
        self, encoder: Encoder, decoder: Decoder, preprocessing: Preprocessing, finetune_from: str | None = None
    ):
        super().__init__()
        self.encoder, self.decoder = encoder.eval().requires_grad_(False), decoder
        self.preprocessing, self.finetune_from = preprocessing, finetune_from
        if finetune_from:
            names = [name for name, _ in encoder.backbone.named_parameters()]  # in the order that pixels pass them
            first = next((i for i, name in enumerate(names) if name.startswith(f"{finetune_from}.")), None)
            if first is None:
                stages = dict.fromkeys(name.rsplit(".", 2)[0] for name in names)
                raise ValueError(f"{encoder.name} has no stage '{finetune_from}': choose one of {', '.join(stages)}.")
            for name, parameter in encoder.backbone.named_parameters():
                parameter.requires_grad_(names.index(name) >= first)
            for parameter in self._beside_the_grid():
                parameter.requires_grad_(False)
            for layer in encoder.backbone.modules():
                if isinstance(layer, nn.Conv2d) and layer.groups > 1 and layer.weight.requires_grad:
                    layer.forward = MethodType(forward_float32, layer)  # copied with the layer

    def _beside_the_grid(self) -> list[nn.Parameter]:
        """What of the stages to be trained has no part in the grid, such as a classifier's own layers.

        It would get no gradient, and several processes would wait for one.
        """
        learned = [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]
        size = self.preprocessing.size
        grid = self.encoder(torch.zeros(1, 3, size, size, device=learned[0].device))
        gradients = torch.autograd.grad(grid.sum(), learned, allow_unused=True)
        return [parameter for parameter, gradient in zip(learned, gradients, strict=True) if gradient is None]

    def train(self, mode: bool = True) -> "CaptionModel":
        super().train(mode)
        self.encoder.eval()
        return self

    def grid(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures → grids (B, cells, C).

        Args:
            pictures: uint8 pixels (B, 3, size, size), or what the frozen part gives, cached: grids (B, cells, C), or
                where the encoder is fine-tuned from a stage on, what that is given, (B, cells, channels).
        """
        if pictures.dtype == torch.uint8:
            return self.encoder(self.preprocessing.normalize(pictures))
        if self.finetune_from:
            return above(self.encoder, self.finetune_from, pictures.float())
        return pictures.float()

    def forward(self, pictures: torch.Tensor, tokens: torch.Tensor) -> TeacherForcingOutput:
        """Teacher forcing; tokens (B, K, T) from `<start>` on."""
        return self.decoder(self.grid(pictures), tokens)

    def learned(self) -> dict[str, torch.Tensor]:
        """The tensors that training changes, by name: the frozen ones are known from where they came."""
        return {name: tensor for name, tensor in self.named_parameters() if tensor.requires_grad}
