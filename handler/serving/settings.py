"""Settings of the endpoint: the `handler` section of model-config.yaml."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, Self

from handler.backends import validate_backend
from handler.image import MAX_PIXELS

# Settings that TorchServe 0.12 reads beside the section. It ignores others without a word.
TORCHSERVE_COUNTS = ("minWorkers", "maxWorkers", "batchSize", "maxBatchDelay", "responseTimeout", "startupTimeout")
TORCHSERVE_SETTINGS = (
    *TORCHSERVE_COUNTS,
    *("asyncCommunication", "clientTimeoutInMills", "continuousBatching", "deviceIds", "deviceType", "jobQueueSize"),
    *("maxNumSequence", "maxRetryTimeoutInSec", "maxSequenceJobQueueSize", "parallelLevel", "parallelType"),
    *("sequenceBatching", "sequenceMaxIdleMSec", "sequenceTimeoutMSec", "torchrun", "useJobTicket", "useVenv"),
)
TYPE_NAMES: dict[type, str] = {bool: "true or false", int: "an integer", str: "a text"}


@dataclass(frozen=True)
class Settings:
    """Limits and switches of the endpoint.

    Attributes:
        max_pixels: Most pixels (width × height) of all images of a request together, checked before decoding.
        max_bytes: Most bytes of an image file.
        max_images: Most images in a request.
        max_explanations: Most captions explained in a request. Gradients of a 50-token caption take 0.5 s.
        max_batch_size: Most images encoded and decoded together; larger batches of requests are split.
        backend: Runs the encoder, see `handler.backends`.
        precision: Precision of encoder and decoder, see `handler.backends`.
        threads: Threads of a worker; 0 shares the CPUs evenly among the workers.
        cache_entries: Images whose captions are cached; 0 switches the cache off.
        log_captions: Write captions to the log.
        grpc_streaming: Honour `stream` over gRPC. If a client sends `stream` with the unary `Predictions`, TorchServe
            ends the worker, and a handler cannot tell the two calls apart. Switch it on only if all gRPC clients are
            trusted.

    Raises:
        ValueError: If a value has the wrong type or is out of its range, or the backend or precision is unknown.
    """

    max_pixels: int = MAX_PIXELS
    max_bytes: int = 20_000_000
    max_images: int = 32
    max_explanations: int = 10
    max_batch_size: int = 16
    backend: str = "auto"
    precision: str = "fast"
    threads: int = 0
    cache_entries: int = 0
    log_captions: bool = False
    grpc_streaming: bool = False

    @classmethod
    def from_model_config(cls, config: dict[str, Any]) -> Self:
        """Check the content of model-config.yaml and return the settings of its section `handler`.

        Raises:
            ValueError: If a name is unknown, or a value has the wrong type or is out of its range. The message is one
                sentence.
        """
        _check_names(config, ("handler", *TORCHSERVE_SETTINGS), "model-config.yaml")
        for name in TORCHSERVE_COUNTS:
            if name in config:
                _check_type(name, config[name], int)
                if config[name] < 1:
                    raise ValueError(f"{name} must be at least 1, not {config[name]}.")
        section = config.get("handler") or {}
        if not isinstance(section, dict):
            raise ValueError(f"'handler' in model-config.yaml must hold settings, not {section!r}.")
        _check_names(section, [field.name for field in fields(cls)], "'handler' in model-config.yaml")
        return cls(**section)

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_type(field.name, getattr(self, field.name), type(field.default))
        for name in ("max_pixels", "max_bytes", "max_images", "max_explanations", "max_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        for name in ("threads", "cache_entries"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)}.")
        validate_backend(self.backend, self.precision)


def _check_names(section: dict[Any, Any], valid: Collection[str], where: str) -> None:
    """Raise ValueError for the first name that does not exist, with the name that was probably meant."""
    for name in section:
        if name not in valid:
            close = get_close_matches(_plain(str(name)), {_plain(one): one for one in valid}, n=1)
            meant = next((one for one in valid if close and _plain(one) == close[0]), None)
            advice = f"Did you mean '{meant}'?" if meant else f"Valid settings: {', '.join(valid)}."
            raise ValueError(f"Unknown setting '{name}' in {where}. {advice}")


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def _check_type(name: str, value: object, kind: type) -> None:
    if type(value) is not kind:  # not isinstance: True is an int
        found = f"the text '{value}'" if isinstance(value, str) else repr(value)
        raise ValueError(f"{name} must be {TYPE_NAMES[kind]}, not {found}.")


DEFAULT_SETTINGS = Settings()
