"""Numbers that handling a batch yields, for metrics and the log."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class RequestStats:
    """What is known about an inference request after its response.

    Attributes:
        request_id: Request id assigned by the server.
        is_http: True for HTTP, False for gRPC.
        status: HTTP status code of the response.
        outcomes: `ok`, `cached` or an error type for each image.
        captions: Best caption of each image; empty for an error.
        image_bytes: Bytes of all image files together.
        decode_seconds: Time to read and decode the images.
        streamed: True if the response was sent in parts.
        traceparent: `traceparent` header, not validated; empty if missing.
    """

    request_id: str
    is_http: bool
    status: int
    outcomes: list[str]
    captions: list[str]
    image_bytes: int
    decode_seconds: float
    streamed: bool
    traceparent: str


@dataclass
class BatchStats:
    """What is known about a batch of requests.

    Attributes:
        requests: One entry per inference request.
        batch_sizes: Images captioned together, one entry per run of the model.
        encode_seconds: Time in the encoder, one entry per run.
        search_seconds: Time in the search, one entry per run.
        cache_hits: Images found in the cache.
        cache_misses: Images looked up in the cache and not found.
        seconds: Time to handle the batch.
    """

    requests: list[RequestStats] = field(default_factory=list)
    batch_sizes: list[int] = field(default_factory=list)
    encode_seconds: list[float] = field(default_factory=list)
    search_seconds: list[float] = field(default_factory=list)
    cache_hits: int = 0
    cache_misses: int = 0
    seconds: float = 0.0
