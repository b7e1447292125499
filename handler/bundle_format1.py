"""Translation of model bundles of format 1, which named fields and weights differently, to format 2."""

from typing import Any

import torch

from handler.modeling import DECODERS

# Format 1 had one set of fields for all decoders: those that an architecture does not have are dropped.
FIELDS = {
    "name": ("name",),
    "embed_size": ("embed_dim",),
    "hidden_size": ("hidden_dim", "ffn_dim"),  # of an LSTM, of a Transformer
    "attention_size": ("attention_dim",),
    "layers": ("num_layers",),
    "grid_layers": ("num_encoder_layers",),
    "heads": ("num_heads",),
    "dropout": ("dropout",),
    "tie_embeddings": ("tie_embeddings",),
}

# Parts of the names of decoder weights, format 1 → format 2; replaced one after another.
WEIGHTS = {
    "words.embedding": "embedding",
    "words.output": "embedding.output_weight",
    "words.bias": "embedding.output_bias",
    "image": "image_proj",
    "project": "input_proj",
    "to_embed": "output_proj",
    "attention.key": "attention.key_proj",
    "attention.query": "attention.query_proj",
    "attention.compare": "attention.score_proj",
    "grid_layers": "encoder_layers",
    "own.query": "self_attn.q_proj",
    "own.memory": "self_attn.kv_proj",
    "own_norm": "self_attn_norm",
    "own_out": "self_attn_out",
    "cross.query": "cross_attn.q_proj",
    "cross.memory": "cross_attn.kv_proj",
    "cross_norm": "cross_attn_norm",
    "cross_out": "cross_attn_out",
    "feed": "ffn",
}


def translate_decoder(fields: dict[str, Any]) -> dict[str, Any]:
    """Translate the decoder fields of `captioner.json`.

    Args:
        fields: As format 1 has them; an unknown one is kept, and `decoder_config` rejects it.
    """
    name = fields.get("name")
    valid = DECODERS[name].config_class.__dataclass_fields__ if name in DECODERS else {}
    translated = {}
    for field, value in fields.items():
        for new in FIELDS.get(field, ()):
            if new in valid:
                translated[new] = value
        if field not in FIELDS or not valid:
            translated[field] = value
    return translated


def translate_weights(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the weights of the decoder; those of the encoder have the same names in both formats."""
    return {_translate_key(key) if key.startswith("decoder.") else key: tensor for key, tensor in weights.items()}


def _translate_key(key: str) -> str:
    dotted = f".{key}."
    for old, new in WEIGHTS.items():
        dotted = dotted.replace(f".{old}.", f".{new}.")
    return dotted[1:-1]
