"""Baseline TorchServe handler: the same bundle in plain PyTorch, single precision, one image after another.

It replaces `captioner_service.py` in an archive. The beam search is the one of this project, which makes it faster than
typical handlers.
"""

from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchvision.transforms import v2 as transforms  # type: ignore[import-untyped]

from handler.backends import ModelSource
from handler.bundle import load_bundle
from handler.generation import generate
from handler.modeling import build_decoder
from handler.serving.option_parsing import parse_options


class BaselineService:
    """Handler that TorchServe calls."""

    def initialize(self, context: Any) -> None:  # noqa: ANN401 - TorchServe has no type for it
        """Load the bundle."""
        config, weights, self.vocabulary = load_bundle(Path(context.system_properties["model_dir"]) / "model")
        source = ModelSource(config, weights, torch.device("cpu"), "full")
        encoder = source.build_encoder().encoder
        self.backbone: Any = encoder.backbone.to(memory_format=torch.contiguous_format)
        self.decoder = build_decoder(config.decoder, len(self.vocabulary), encoder.channels).eval()
        self.decoder.load_state_dict(source.state_dict("decoder"))
        self.defaults, preprocessing = config.decoding, config.preprocessing
        self.transform = transforms.Compose(
            [
                transforms.Resize((preprocessing.size,) * 2, transforms.InterpolationMode.BICUBIC),
                transforms.PILToTensor(),
                transforms.ToDtype(torch.float32),
                transforms.Normalize(preprocessing.mean, preprocessing.std),
            ]
        )

    @torch.inference_mode()
    def handle(self, data: list[dict[str, Any]], _context: object) -> list[dict[str, str]]:
        """Caption the rows of a batch, one by one."""
        return [self._caption(row) for row in data]

    def _caption(self, row: dict[str, Any]) -> dict[str, str]:
        fields = {name: value for name, value in row.items() if name not in ("image", "body")}
        options = parse_options(fields, self.defaults)
        image = Image.open(BytesIO(row.get("image") or row["body"])).convert("RGB")
        grid = self.backbone.forward_features(self.transform(image).unsqueeze(0)).flatten(2).transpose(1, 2)
        [[best]] = generate(self.decoder, grid, [options], self.vocabulary)
        return {"caption": " ".join(self.vocabulary.decode(best.token_ids))}
