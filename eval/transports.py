"""The ways to reach an endpoint, REST and gRPC: what is sent, and how its answers and failures are understood."""

import json
import time
from collections.abc import Iterator
from typing import Any, Protocol
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, ProtocolError, ReadTimeoutError

from eval.grpc_stubs import inference_protos

Answer = dict[str, Any]
BUSY = {502, 503, 504}  # the server, or a proxy before it, can't take the request now
MAX_MESSAGE = 64 * 2**20  # bytes of an answer
DEFAULTS = {"rest": "http://127.0.0.1:8080", "grpc": "127.0.0.1:7070"}


class EndpointError(Exception):
    """The endpoint refused a request, or can't be reached.

    Attributes:
        code: as HTTP's; 0 where there was no answer at all.
        type: the endpoint's name for it, such as `InvalidImage`.
        request_id: the server's name for the request; empty where there is none.
    """

    def __init__(self, code: int, type: str, message: str, request_id: str = ""):
        super().__init__(message)
        self.code, self.type, self.request_id = code, type, request_id


class Busy(EndpointError):
    """The endpoint can't take the request now; it is worth another try."""


class Unreachable(Busy):
    """Nobody is there, or not yet."""


class Transport(Protocol):
    """One way to reach an endpoint."""

    def ask(self, image: bytes, options: dict[str, Any]) -> Answer:
        """The endpoint's answer to a picture."""

    def stream(self, image: bytes, options: dict[str, Any]) -> Iterator[Answer]:
        """The parts of a streamed answer."""

    def close(self) -> None:
        """Gives connections back."""


class Rest:
    """Over HTTP: a picture without options as the body, one with options as a form."""

    def __init__(self, endpoint: str, model: str, timeout: float, token: str | None, concurrency: int):
        if "://" not in endpoint:
            endpoint = f"http://{endpoint}"
        parts = urlsplit(endpoint)
        self.url = endpoint if parts.path.strip("/") else f"{endpoint.rstrip('/')}/predictions/{model}"
        self.timeout = timeout
        self.session = requests.Session()
        # A proxy that the machine uses for the world has no business with loopback.
        self.session.trust_env = parts.hostname not in ("localhost", "127.0.0.1", "::1")
        self.session.mount(f"{parts.scheme}://", HTTPAdapter(pool_maxsize=max(concurrency, 1)))
        if token:
            self.session.headers["Authorization"] = f"Bearer {token}"

    def ask(self, image: bytes, options: dict[str, Any]) -> Answer:
        deadline = time.monotonic() + self.timeout
        with self._post(image, options) as response:
            return _answer(_parsed(response, self._read(response, deadline)))

    def stream(self, image: bytes, options: dict[str, Any]) -> Iterator[Answer]:
        deadline = time.monotonic() + self.timeout
        with self._post(image, options) as response:
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                yield _answer(_parsed(response, self._read(response, deadline)))
                return
            try:
                for line in response.iter_lines():
                    if line.startswith(b"data:"):
                        yield _part(_json(line[5:]))
            except requests.RequestException as error:
                raise EndpointError(0, "Broken", f"The stream broke off: {error}.") from error

    def close(self) -> None:
        self.session.close()

    def _read(self, response: requests.Response, deadline: float) -> bytes:
        """The answer's body. A server that sends a byte now and then, or without an end, is not waited for."""
        body = bytearray()
        try:
            while part := response.raw.read1(65_536, decode_content=True):
                body += part
                if time.monotonic() > deadline:
                    raise self._late()
                if len(body) > MAX_MESSAGE:
                    raise EndpointError(0, "TooLong", f"The answer has more than {MAX_MESSAGE} bytes.")
        except ReadTimeoutError as error:
            raise self._late() from error
        except HTTPError as error:
            raise Busy(0, "Broken", f"The connection to {self.url} broke off.") from error
        return bytes(body)

    def _late(self) -> EndpointError:
        return EndpointError(504, "Timeout", f"No answer came in {self.timeout:g} seconds.")

    def _post(self, image: bytes, options: dict[str, Any]) -> requests.Response:
        body: dict[str, Any] = {"data": image, "headers": {"Content-Type": "application/octet-stream"}}
        if options:
            body = {"files": {"image": ("image", image)}, "data": _as_texts(options)}
        try:
            return self.session.post(self.url, timeout=self.timeout, stream=True, **body)
        except requests.ReadTimeout as error:
            raise self._late() from error
        except requests.ConnectionError as error:
            cause = error.args[0] if error.args else None
            if isinstance(cause, ProtocolError):  # somebody was there; it may be this very picture that is too much
                raise Busy(0, "Broken", f"The connection to {self.url} broke off.") from error
            raise Unreachable(0, "Unreachable", f"{self.url} can't be reached.") from error
        except (requests.RequestException, UnicodeError) as error:
            raise EndpointError(0, "Unsendable", f"{self.url} can't be asked: {error}.") from error


class Grpc:
    """Over gRPC: the picture and its options as a map of bytes."""

    def __init__(self, endpoint: str, model: str, timeout: float, token: str | None, concurrency: int):
        self.messages, services = inference_protos()
        import grpc

        self.grpc, self.model, self.timeout = grpc, model, timeout
        self.metadata = [("authorization", f"Bearer {token}")] if token else []
        self.target = endpoint.partition("://")[2] or endpoint
        options = [("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_send_message_length", MAX_MESSAGE)]
        if self.target.startswith(("localhost", "127.0.0.1", "[::1]")):
            options.append(("grpc.enable_http_proxy", 0))
        self.channel = grpc.insecure_channel(self.target, options)
        self.stub = services.InferenceAPIsServiceStub(self.channel)

    def ask(self, image: bytes, options: dict[str, Any]) -> Answer:
        try:
            reply = self.stub.Predictions(self._request(image, options), timeout=self.timeout, metadata=self.metadata)
        except self.grpc.RpcError as error:
            raise self._error(error) from error
        return _answer(_json(reply.prediction))

    def stream(self, image: bytes, options: dict[str, Any]) -> Iterator[Answer]:
        request = self._request(image, options)
        try:
            for reply in self.stub.StreamPredictions(request, timeout=self.timeout, metadata=self.metadata):
                yield _part(_json(reply.prediction))
        except self.grpc.RpcError as error:
            raise self._error(error) from error

    def close(self) -> None:
        self.channel.close()

    def _request(self, image: bytes, options: dict[str, Any]):
        fields = {"image": image} | {name: value.encode() for name, value in _as_texts(options).items()}
        return self.messages.PredictionsRequest(model_name=self.model, input=fields)

    def _error(self, error) -> EndpointError:
        status, details = error.code(), (error.details() or "").partition("\n")[0]  # then come names of Java's classes
        if status is self.grpc.StatusCode.DEADLINE_EXCEEDED:
            return EndpointError(504, "Timeout", f"No answer came in {self.timeout:g} seconds.")
        if status is self.grpc.StatusCode.UNAVAILABLE:
            return Unreachable(0, "Unreachable", f"{self.target} can't be reached.")
        # TorchServe's word for a full queue; it has no status of its own for it.
        if status is self.grpc.StatusCode.RESOURCE_EXHAUSTED or "no worker" in details:
            return Busy(503, "Busy", details)
        return EndpointError(0, status.name, details)


def _as_texts(options: dict[str, Any]) -> dict[str, str]:
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in options.items()}


def _json(text: bytes) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise EndpointError(0, "NoJSON", "The answer is no JSON.") from error


def _refuse(constant: str) -> None:
    """NaN and the like are no JSON, though Python takes them for it."""
    raise ValueError(constant)


def _parsed(response: requests.Response, body: bytes) -> Any:
    """The answer's JSON; TorchServe's own refusals may have none."""
    if response.status_code in BUSY:
        raise Busy(response.status_code, "Busy", f"The endpoint has no room for the request ({response.status_code}).")
    if not response.ok and not response.headers.get("content-type", "").startswith("application/json"):
        raise EndpointError(response.status_code, response.reason or "Refused", f"HTTP {response.status_code}.")
    content = _json(body)
    if not response.ok and not (isinstance(content, dict) and "code" in content):  # another's captioner
        raise EndpointError(response.status_code, response.reason or "Refused", f"HTTP {response.status_code}.")
    return content


def _part(content: Any) -> Answer:
    """A part of a stream, checked: a token, or the whole answer."""
    return content if isinstance(content, dict) and "token" in content else _answer(content)


def _answer(content: Any) -> Answer:
    """An answer, checked: a caption or an error. Over gRPC nothing else tells the two apart.

    Raises:
        EndpointError: it is an error.
    """
    if isinstance(content, dict) and {"code", "type", "message"} <= content.keys():
        code = content["code"] if isinstance(content["code"], int) else 0
        raise EndpointError(code, str(content["type"]), str(content["message"]), str(content.get("request_id", "")))
    if isinstance(content, dict) and isinstance(content.get("caption"), str):
        caption = content["caption"].encode("utf-8", "replace").decode("utf-8")  # half a character is none
        captions = content.get("captions")
        whole = isinstance(captions, list) and all(isinstance(one, dict) for one in captions)
        return content | {"caption": caption} | ({} if whole or captions is None else {"captions": []})
    raise EndpointError(0, "NoCaption", "The answer holds no caption.")
