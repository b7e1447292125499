"""Make the 8-bit encoder of a bundle by post-training quantization with NNCF.

The ranges of the activations are measured on images, which should be those of the training. Weights have a scale per
channel. Accurate bias correction removes the mean error that the rounding of a layer leaves (Nagel et al. 2019,
https://arxiv.org/abs/1906.04721, section 4.2).
"""

import importlib.util
import logging
from pathlib import Path

import torch

from eval.image_files import find_images
from handler.backends import ModelSource
from handler.backends.openvino import INT8, convert, converted_path, import_openvino, number_operations, save_converted
from handler.bundle import load_bundle
from handler.image import MAX_PIXELS, decode_image

NUM_IMAGES = 300


def quantize_encoder(bundle: Path, images: str) -> Path:
    """Make the 8-bit encoder of a bundle and store it in its directory.

    Args:
        bundle: Bundle directory.
        images: Directory of image files, or a pattern; `NUM_IMAGES` of them are used, evenly spaced.

    Returns:
        Path of the encoder.

    Raises:
        BundleError: If the bundle is incomplete or damaged.
        FileNotFoundError: If there is no image.
        RequestError: If an image cannot be decoded.
        ModuleNotFoundError: If NNCF or OpenVINO is not installed.
    """
    paths = find_images([images])
    if not importlib.util.find_spec("nncf"):
        raise ModuleNotFoundError("NNCF makes 8-bit encoders and is not installed: pip install -e '.[quantize]'.")
    import_openvino()  # before NNCF, which imports it with its telemetry
    import nncf

    nncf.set_log_level(logging.WARNING)
    config, weights, _ = load_bundle(bundle)
    source = ModelSource(config, weights, torch.device("cpu"), "full", bundle)
    preprocessing, step = config.preprocessing, max(1, len(paths) // NUM_IMAGES)
    pixels = [
        preprocessing.resize(decode_image(Path(path).read_bytes(), MAX_PIXELS, preprocessing.min_decode_side))
        for path in paths[::step][:NUM_IMAGES]
    ]
    quantized = nncf.quantize(
        convert(source),
        nncf.Dataset([image.unsqueeze(0).numpy() for image in pixels]),
        preset=nncf.QuantizationPreset.MIXED,  # unsigned after activations that are never negative
        fast_bias_correction=False,
        subset_size=len(pixels),
    )
    number_operations(quantized)
    path = converted_path(source, INT8)
    save_converted(quantized, path)
    return path
