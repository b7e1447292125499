"""Send the requests of a soak test and compare each response with that of the idle server."""

import itertools
import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc
import requests
from requests.adapters import HTTPAdapter

from deploy.load_generator import LoadGenerator
from deploy.soak.request_mix import RequestCase
from deploy.torchserve import ServerError, TorchServe
from eval.grpc_stubs import inference_protos

TIMEOUT = 120  # seconds
OTHER_TOKENS = "streamed tokens differ from the caption"


class ResponseSummary(NamedTuple):
    """What is compared of a response.

    Attributes:
        code: HTTP status; 0 if there was no valid response.
        text: Captions or error types.
    """

    code: int
    text: str


class SoakResult(NamedTuple):
    """Result of one request.

    Attributes:
        kind: Kind of the request.
        outcome: `caption` or `refused` as expected; `wrong`, `5xx` or `lost`.
        at: Time of the response, from `time.perf_counter`.
        seconds: Latency.
        response: Response of the server.
    """

    kind: str
    outcome: str
    at: float
    seconds: float
    response: ResponseSummary


class SoakLoad(LoadGenerator[tuple[int, RequestCase], SoakResult]):
    """Load generator with mixed requests, whose expected responses are recorded first, one by one.

    Args:
        server: Running server.
        cases: Requests, sent in turn.
        num_clients: Number of concurrent requests.

    Raises:
        ServerError: If a request gets an unexpected response from the idle server.
    """

    def __init__(self, server: TorchServe, cases: Sequence[RequestCase], num_clients: int) -> None:
        super().__init__(itertools.cycle(enumerate(cases)), self._send_and_compare, num_clients)
        self.server = server
        self.http = requests.Session()
        self.http.trust_env = False
        self.http.mount("http://", HTTPAdapter(pool_maxsize=num_clients))
        self.messages, services = inference_protos()
        self.channel = grpc.insecure_channel(server.grpc, [("grpc.enable_http_proxy", 0)])
        self.stub = services.InferenceAPIsServiceStub(self.channel)
        self.expected = [self._record_baseline(case) for case in cases]

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.http.close()
        self.channel.close()

    def _record_baseline(self, case: RequestCase) -> ResponseSummary:
        response = self.send(case)
        is_expected = response.code == 200 if case.valid else 400 <= response.code < 500
        if not is_expected:
            raise ServerError(f"The idle server responded to '{case.kind}' with {response.code} {response.text}.")
        return response

    def _send_and_compare(self, numbered: tuple[int, RequestCase]) -> SoakResult:
        number, case = numbered
        start = time.perf_counter()
        response = self.send(case)
        end = time.perf_counter()
        if response == self.expected[number]:
            outcome = "caption" if case.valid else "refused"
        elif response.code == 0:
            outcome = "lost"
        else:
            outcome = "5xx" if response.code >= 500 else "wrong"
        return SoakResult(case.kind, outcome, end, end - start, response)

    def send(self, case: RequestCase) -> ResponseSummary:
        """Send a request and summarize the response."""
        try:
            if not case.target.startswith("/"):
                return self._send_grpc(case)
            response = self.http.post(self.server.inference + case.target, timeout=TIMEOUT, **case.content)
            if response.status_code >= 500:  # the body does not matter
                return ResponseSummary(response.status_code, response.reason)
            if response.headers.get("content-type", "").startswith("text/event-stream"):
                return summarize_stream(response.text)
            return ResponseSummary(response.status_code, summarize_json(response.json()))
        except grpc.RpcError as error:
            return ResponseSummary(0, error.code().name)
        except (requests.RequestException, ValueError, KeyError) as error:  # not a valid response
            return ResponseSummary(0, type(error).__name__)

    def _send_grpc(self, case: RequestCase) -> ResponseSummary:
        request = self.messages.PredictionsRequest(model_name="captioner", input=case.content)
        reply = getattr(self.stub, case.target)(request, timeout=TIMEOUT)
        parts = list(reply) if case.target == "StreamPredictions" else [reply]
        content = json.loads(parts[-1].prediction)
        return ResponseSummary(
            content.get("code", 200), summarize_json(content)
        )  # errors are in the body of an OK call


def summarize_stream(text: str) -> ResponseSummary:
    """Summarize the last event of a stream. The streamed tokens must be those of the caption."""
    *tokens, last = [json.loads(line.removeprefix("data:")) for line in text.splitlines() if line.startswith("data:")]
    if "captions" in last and [part["token"] for part in tokens] != last["captions"][0]["tokens"]:
        return ResponseSummary(200, OTHER_TOKENS)
    return ResponseSummary(last.get("code", 200), summarize_json(last))


def summarize_json(content: dict[str, Any]) -> str:
    """Return the captions and error types of a response. Scores are left out, because batching rounds them."""
    if "outputs" in content:
        return " | ".join(content["outputs"][0]["data"])
    if "predictions" in content:
        return " | ".join(map(summarize_json, content["predictions"]))
    return str(content["type"] if "type" in content else content["caption"])
