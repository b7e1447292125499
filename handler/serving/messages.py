"""Messages of the endpoint: the raw request, the inference request parsed from it, and the response."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from handler.errors import RequestError
from handler.generation import GenerationConfig

JSON, HTML, PNG, EVENT_STREAM = "application/json", "text/html", "image/png", "text/event-stream"


class RawRequest(NamedTuple):
    """A request as TorchServe hands it over.

    Attributes:
        fields: Body or form fields, as `parse_request` takes them.
        headers: HTTP headers, names in lower case; empty for gRPC.
        id: Request id assigned by the server.
        send_chunk: Sends a part of a streamed response.
    """

    fields: Mapping[str, object]
    headers: Mapping[str, str]
    id: str
    send_chunk: Callable[[str], None]

    @property
    def is_http(self) -> bool:
        """Return True for HTTP, False for gRPC.

        gRPC requests have no headers. `Host` proves nothing, because HTTP/1.0 clients may omit it.
        """
        return bool(self.headers)

    @property
    def is_open_inference_grpc(self) -> bool:
        """Return True for `ModelInfer` of the Open Inference Protocol: of gRPC calls, it alone has a parsed body."""
        return not self.is_http and isinstance(self.fields.get("body"), dict)

    @property
    def is_explanation(self) -> bool:
        """Return True if the request came to `/explanations`."""
        return self.headers.get("explain") == "True"

    @property
    def is_description(self) -> bool:
        """Return True for TorchServe's "describe model" call, which asks for the model card."""
        return self.headers.get("describe") == "True"

    @property
    def is_get(self) -> bool:
        """Return True for a GET request.

        TorchServe does not expose the HTTP method, so this is inferred from the missing body and content type.
        """
        has_body = any(self.fields.values()) or "content-type" in self.headers
        return self.is_http and not self.is_explanation and not has_body

    def preferred_media_type(self, *media_types: str) -> str | None:
        """Return the one of these media types that the `Accept` header names first; None if it names none."""
        accept = self.headers.get("accept", "").lower()
        named = (media_type for media_type in media_types if media_type in accept)
        return min(named, key=accept.index, default=None)


class ExplainOptions(NamedTuple):
    """How to explain the captions of an image.

    Attributes:
        method: Name of the method, see `Captioner.explanation_methods`.
        overlay: Add the figure to the response.
    """

    method: str
    overlay: bool = False


class ImageRequest(NamedTuple):
    """An image to caption.

    Attributes:
        image: Bytes of the image file.
        options: Generation options.
        explain: Explanation options; None if only captions are requested.
    """

    image: bytes
    options: GenerationConfig
    explain: ExplainOptions | None = None

    @property
    def seed(self) -> int | None:
        """Seed of the sampled captions; None for beam search."""
        return self.options.seed if self.options.do_sample else None


@dataclass(frozen=True)
class InferenceRequest:
    """The images of a request, in their order.

    Attributes:
        images: One entry per image; an error stands in the place of an image that cannot be captioned.
        stream: Send tokens as soon as they are certain.
    """

    images: Sequence[ImageRequest | RequestError]
    stream: bool = False


class SingleImageRequest(InferenceRequest):
    """One image; the response is its captions or its error."""


class MultiImageRequest(InferenceRequest):
    """A list of images; the response is a list of captions or errors."""


@dataclass(frozen=True)
class Response:
    """The response to a request.

    Attributes:
        body: Text or bytes; the last part of a streamed response.
        status: HTTP status code.
        content_type: HTTP content type.
        headers: Further HTTP headers. They must be constants: client text in a header can end a TorchServe worker.
    """

    body: str | bytes
    status: int = 200
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
