"""Weights of float16, for GPUs: of single precision they would be converted anew at every step."""

import copy

from torch import nn

from handler.modeling import Decoder


def halve_weights(decoder: Decoder) -> Decoder:
    """A copy of a decoder for inference under autocast, its weights in float16, but for those that normalise."""
    decoder = copy.deepcopy(decoder).eval()
    for module in decoder.modules():
        if not isinstance(module, nn.LayerNorm):  # autocast computes those in single precision
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.half()
    return decoder
