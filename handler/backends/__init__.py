"""Backends and precisions that a bundle's model runs with."""

from handler.backends.engine import (
    BACKENDS,
    PRECISIONS,
    EncodeFn,
    EncoderBackend,
    Engine,
    ModelSource,
    build_engine,
    cpu_supports_bfloat16,
    validate_backend,
)

__all__ = [
    "BACKENDS",
    "PRECISIONS",
    "EncodeFn",
    "EncoderBackend",
    "Engine",
    "ModelSource",
    "build_engine",
    "cpu_supports_bfloat16",
    "validate_backend",
]
