"""Transports of the client, REST and gRPC: send requests, parse responses, classify failures."""

import json
import time
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn, Protocol
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError

from eval.grpc_stubs import inference_protos

if TYPE_CHECKING:
    import grpc

ResponseBody = dict[str, Any]
BUSY_CODES = {502, 503, 504}  # HTTP status of a server, or of a proxy before it, that cannot accept the request now
MAX_RESPONSE = 64 * 2**20  # bytes
READ_SIZE = 2**16  # bytes
MAX_REQUEST = 40 * 2**20  # bytes; max_request_size of the shipped configuration
DEFAULT_ENDPOINTS = {"rest": "http://127.0.0.1:8080", "grpc": "127.0.0.1:7070"}


class EndpointError(Exception):
    """The endpoint refused a request, failed or is unreachable.

    Attributes:
        code: HTTP status; 0 if there was no response.
        type: Error type, e.g. `InvalidImage`.
        request_id: Request id of the server; empty if there is none.
    """

    def __init__(self, code: int, type: str, message: str, request_id: str = "") -> None:
        super().__init__(message)
        self.code, self.type, self.request_id = code, type, request_id


class Busy(EndpointError):
    """The endpoint cannot accept the request now; a retry may succeed."""


class Unreachable(Busy):
    """No connection to the endpoint."""


class Transport(Protocol):
    """One protocol to reach an endpoint."""

    def predict(self, image: bytes, options: Mapping[str, object]) -> ResponseBody:
        """Send an image and return the response."""

    def stream(self, image: bytes, options: Mapping[str, object]) -> Iterator[ResponseBody]:
        """Send an image and yield the chunks of a streamed response."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


class Rest:
    """HTTP transport. Without options the image is the request body, with options it is part of a form."""

    def __init__(self, endpoint: str, model: str, timeout: float, token: str | None, concurrency: int) -> None:
        if "://" not in endpoint:
            endpoint = f"http://{endpoint}"
        parts = urlsplit(endpoint)
        self.url = endpoint if parts.path.strip("/") else f"{endpoint.rstrip('/')}/predictions/{model}"
        self.timeout = timeout
        self.session = requests.Session()
        # Loopback addresses must not go through a proxy from the environment.
        self.session.trust_env = parts.hostname not in ("localhost", "127.0.0.1", "::1")
        self.session.mount(f"{parts.scheme}://", HTTPAdapter(pool_maxsize=max(concurrency, 1)))
        if token := clean_token(token):
            self.session.headers["Authorization"] = f"Bearer {token}"

    def predict(self, image: bytes, options: Mapping[str, object]) -> ResponseBody:
        """Send an image and return the response."""
        deadline = time.monotonic() + self.timeout
        with self._post(image, options) as response:
            return _parse_response(_parse_body(response, self._read(response, deadline)))

    def stream(self, image: bytes, options: Mapping[str, object]) -> Iterator[ResponseBody]:
        """Send an image and yield the server-sent events of the response."""
        deadline = time.monotonic() + self.timeout
        with self._post(image, options) as response:
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                yield _parse_response(_parse_body(response, self._read(response, deadline)))
                return
            try:
                for line in response.iter_lines():
                    if line.startswith(b"data:"):
                        yield _parse_chunk(_parse_json(line[5:]))
            except requests.RequestException as error:
                raise EndpointError(0, "Broken", f"The connection was lost during the stream: {error}.") from error

    def close(self) -> None:
        """Close all connections."""
        self.session.close()

    def _read(self, response: requests.Response, deadline: float) -> bytes:
        """Read the response body, with limits on the total time and size: read timeouts apply to single reads."""
        body = bytearray()
        try:
            while chunk := response.raw.read1(READ_SIZE, decode_content=True):
                body += chunk
                if time.monotonic() > deadline:
                    raise self._timeout_error()
                if len(body) > MAX_RESPONSE:
                    raise EndpointError(0, "TooLong", f"The response has more than {MAX_RESPONSE} bytes.")
        except ReadTimeoutError as error:
            raise self._timeout_error() from error
        except HTTPError as error:
            raise Busy(0, "Broken", f"The connection to {self.url} was lost.") from error
        return bytes(body)

    def _timeout_error(self) -> EndpointError:
        return EndpointError(504, "Timeout", f"No response within {self.timeout:g} seconds.")

    def _post(self, image: bytes, options: Mapping[str, object]) -> requests.Response:
        body: dict[str, Any] = {"data": image, "headers": {"Content-Type": "application/octet-stream"}}
        if options:
            body = {"files": {"image": ("image", image)}, "data": _format_options(options)}
        try:
            return self.session.post(self.url, timeout=self.timeout, stream=True, **body)
        except requests.ReadTimeout as error:
            raise self._timeout_error() from error
        except requests.ConnectionError as error:
            cause = error.args[0] if error.args else None
            if isinstance(cause, ProtocolError) and len(image) > MAX_REQUEST:  # TorchServe closes it without reading on
                raise _too_large(len(image)) from error
            if isinstance(cause, ProtocolError):  # the server was reached; this image may have made it fail
                raise Busy(0, "Broken", f"The connection to {self.url} was lost.") from error
            raise Unreachable(0, "Unreachable", f"Cannot connect to {self.url}.") from error
        except (requests.RequestException, UnicodeError) as error:
            raise EndpointError(0, "Unsendable", f"Cannot send a request to {self.url}: {error}.") from error


class Grpc:
    """gRPC transport. The image and the options are fields of a map of bytes."""

    def __init__(self, endpoint: str, model: str, timeout: float, token: str | None, concurrency: int) -> None:  # noqa: ARG002 - one channel serves all requests
        self.messages, services = inference_protos()
        import grpc

        self.grpc, self.model, self.timeout = grpc, model, timeout
        token = clean_token(token)
        self.metadata = [("authorization", f"Bearer {token}")] if token else []
        self.target = endpoint.partition("://")[2] or endpoint
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", MAX_RESPONSE),
            ("grpc.max_send_message_length", MAX_RESPONSE),
        ]
        if self.target.startswith(("localhost", "127.0.0.1", "[::1]")):
            options.append(("grpc.enable_http_proxy", 0))
        self.channel = grpc.insecure_channel(self.target, options)
        self.stub = services.InferenceAPIsServiceStub(self.channel)

    def predict(self, image: bytes, options: Mapping[str, object]) -> ResponseBody:
        """Send an image and return the response."""
        try:
            reply = self.stub.Predictions(self._request(image, options), timeout=self.timeout, metadata=self.metadata)
        except self.grpc.RpcError as error:
            raise self._to_endpoint_error(error, len(image)) from error
        return _parse_response(_parse_json(reply.prediction))

    def stream(self, image: bytes, options: Mapping[str, object]) -> Iterator[ResponseBody]:
        """Send an image and yield the messages of the response."""
        request = self._request(image, options)
        try:
            for reply in self.stub.StreamPredictions(request, timeout=self.timeout, metadata=self.metadata):
                yield _parse_chunk(_parse_json(reply.prediction))
        except self.grpc.RpcError as error:
            raise self._to_endpoint_error(error, len(image)) from error

    def close(self) -> None:
        """Close the channel."""
        self.channel.close()

    def _request(self, image: bytes, options: Mapping[str, object]) -> object:
        fields = {"image": image} | {name: value.encode() for name, value in _format_options(options).items()}
        return self.messages.PredictionsRequest(model_name=self.model, input=fields)

    def _to_endpoint_error(self, error: "grpc.RpcError", size: int) -> EndpointError:
        status, details = error.code(), (error.details() or "").partition("\n")[0]  # Java class names follow
        if status is self.grpc.StatusCode.DEADLINE_EXCEEDED:
            return EndpointError(504, "Timeout", f"No response within {self.timeout:g} seconds.")
        if status is self.grpc.StatusCode.UNAVAILABLE:
            return Unreachable(0, "Unreachable", f"Cannot connect to {self.target}.")
        if status in (self.grpc.StatusCode.RESOURCE_EXHAUSTED, self.grpc.StatusCode.CANCELLED) and size > MAX_REQUEST:
            return _too_large(size)
        # TorchServe has no separate status for a full queue, only this message.
        if status is self.grpc.StatusCode.RESOURCE_EXHAUSTED or "no worker" in details:
            return Busy(503, "Busy", details)
        return EndpointError(0, status.name, details)


def clean_token(token: str | None) -> str:
    """Return a token without white space around it, which files and variables add; empty if there is none.

    Raises:
        ValueError: If a header cannot carry it. The message does not contain it.
    """
    token = (token or "").strip()
    if not all("!" <= character <= "~" for character in token):
        raise ValueError("The token has a space, a line break or another character that no header can carry.")
    return token


def _too_large(size: int) -> EndpointError:
    return EndpointError(
        413,
        "TooLarge",
        f"The request has {size / 1e6:.1f} MB, more than the server or a proxy before it accepts. "
        "Send a smaller image, or raise max_request_size in config.properties, which is "
        f"{MAX_REQUEST / 1e6:.1f} MB as shipped.",
    )


def _format_options(options: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in options.items()}


def _parse_json(text: bytes) -> object:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise EndpointError(0, "NoJSON", "The response is not valid JSON.") from error


def _refuse_constant(constant: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python accepts and JSON does not."""
    raise ValueError(constant)


def _parse_body(response: requests.Response, body: bytes) -> object:
    """Parse the JSON of a response; refusals by TorchServe or a proxy may have none.

    Raises:
        EndpointError: If the response is an HTTP error that is not in the JSON format of the endpoint.
    """
    if response.status_code in BUSY_CODES:
        reason = _server_message(body)  # e.g. that no worker of the model runs
        raise Busy(response.status_code, "Busy", f"The endpoint is busy (HTTP {response.status_code}){reason}.")
    if response.status_code == HTTPStatus.REQUEST_ENTITY_TOO_LARGE and not _server_message(body):
        raise _too_large(int(response.request.headers.get("Content-Length", 0)))
    refused = EndpointError(response.status_code, response.reason or "Refused", f"HTTP {response.status_code}.")
    if not response.ok and not response.headers.get("content-type", "").startswith("application/json"):
        raise refused
    content = _parse_json(body)
    if not response.ok and not (isinstance(content, dict) and "code" in content):  # JSON of another server
        raise refused
    return content


def _server_message(body: bytes) -> str:
    """Return the message of an error of TorchServe or of the endpoint, after a colon; empty if there is none."""
    try:
        message = json.loads(body)["message"]
    except (ValueError, RecursionError, TypeError, KeyError):
        return ""
    return f": {message.strip().rstrip('.')}" if isinstance(message, str) and message.strip() else ""


def _parse_chunk(content: object) -> ResponseBody:
    """Validate a chunk of a stream: a token, or the whole response."""
    return content if isinstance(content, dict) and "token" in content else _parse_response(content)


def _parse_response(content: object) -> ResponseBody:
    """Validate a response. gRPC has no status codes for errors of the model, so that only the JSON tells them apart.

    Raises:
        EndpointError: If the response describes an error or holds no caption.
    """
    if isinstance(content, dict) and {"code", "type", "message"} <= content.keys():
        code = content["code"] if isinstance(content["code"], int) else 0
        raise EndpointError(code, str(content["type"]), str(content["message"]), str(content.get("request_id", "")))
    if isinstance(content, dict) and isinstance(content.get("caption"), str):
        caption = content["caption"].encode("utf-8", "replace").decode("utf-8")  # replaces lone surrogates
        captions = content.get("captions")
        valid = isinstance(captions, list) and all(isinstance(candidate, dict) for candidate in captions)
        return content | {"caption": caption} | ({} if valid or captions is None else {"captions": []})
    raise EndpointError(0, "NoCaption", "The response holds no caption.")
