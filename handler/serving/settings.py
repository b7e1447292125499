"""Settings of the endpoint: the `handler` section of model-config.yaml."""

from dataclasses import dataclass

from handler.backends import validate_backend
from handler.image import MAX_PIXELS


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
        ValueError: If a value is out of its range, or the backend or precision is unknown.
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

    def __post_init__(self) -> None:
        for name in ("max_pixels", "max_bytes", "max_images", "max_explanations", "max_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if self.threads < 0:
            raise ValueError(f"threads must be at least 0, not {self.threads}.")
        validate_backend(self.backend, self.precision)


DEFAULT_SETTINGS = Settings()
