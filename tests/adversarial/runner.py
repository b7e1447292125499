"""Run the cases against a server, each beside a valid image, and report the responses."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import grpc
import requests

from deploy.torchserve import TorchServe, is_jvm
from eval.grpc_stubs import inference_protos
from tests.adversarial import CAPTION, IMAGE_CASES, REQUEST_CASES
from tests.adversarial.case import ImageCase, RequestCase

TRACES = (b"Traceback", b'File "', b"java.lang", b"io.netty", b"org.pytorch", b"site-packages")
TIMEOUT = 60  # seconds: that of the server, after which it would end the worker
ALL_CASES = (*IMAGE_CASES, *REQUEST_CASES)
Case = ImageCase | RequestCase


class CaseResult(NamedTuple):
    """The response to a case.

    Attributes:
        case: The case.
        code: HTTP status; over gRPC the code in the body.
        outcome: `caption`, or the error type.
        seconds: Time until the response.
        leaks: Whether the response shows a stack trace or a path of the server.
        neighbour: Caption of the valid image that was sent at the same time.
    """

    case: Case
    code: int
    outcome: str
    seconds: float
    leaks: bool
    neighbour: str


@dataclass
class RunReport:
    """The responses to all cases.

    Attributes:
        results: In the order in which the cases were sent.
        deaths: Workers that ended.
        before: Peak memory of a worker before the first case, in MB.
        peak: Peak memory of a worker after the last case, in MB.
    """

    results: list[CaseResult] = field(default_factory=list)
    deaths: int = 0
    before: int = 0
    peak: int = 0

    def table(self) -> str:
        """Return a Markdown table with a row for each kind."""
        kinds = list(dict.fromkeys(result.case.kind for result in self.results))
        lines = ["| kind | sent | captioned | refused (4xx) | 5xx | longest response |", "|---|---|---|---|---|---|"]
        for kind in [*kinds, "all"]:
            results = [result for result in self.results if kind in ("all", result.case.kind)]
            counts = [sum(result.code // 100 == hundred for result in results) for hundred in (2, 4, 5)]
            longest = max(result.seconds for result in results)
            lines.append(f"| {kind} | {len(results)} | {' | '.join(map(str, counts))} | {longest:.2f} s |")
        slowest = max(self.results, key=lambda result: result.seconds)
        captions = " / ".join(sorted({result.neighbour for result in self.results}))
        memory = f"Worker memory: {self.before} MB before, {self.peak} MB at most. Workers that ended: {self.deaths}."
        return "\n".join([
            *lines,
            "",
            f"Longest response: '{slowest.case}'. Captions of the valid images: {captions}.",
            memory,
        ])  # fmt: skip

    def faults(self) -> list[str]:
        """Return a sentence for each fault."""
        faults = [f"'{result.case}' was answered with {result.code}." for result in self.results if result.code >= 500]
        faults += [
            f"The response to '{result.case}' shows server internals." for result in self.results if result.leaks
        ]
        if len({result.neighbour for result in self.results}) > 1:
            faults.append("The valid images did not all get the same caption.")
        if self.deaths:
            faults.append(f"{self.deaths} workers ended.")
        return faults


def run_cases(
    server: TorchServe,
    valid_image: bytes,
    grpc_cases: Sequence[Case] = (),
    cases: Sequence[Case] = ALL_CASES,
) -> RunReport:
    """Send `cases` over REST and `grpc_cases` over gRPC, each at the same time as a valid image."""
    report, before = RunReport(before=peak_memory(server)), workers(server)
    with requests.Session() as session, ThreadPoolExecutor(1) as pool, grpc.insecure_channel(server.grpc) as channel:
        send_grpc = _grpc_sender(channel)
        for case in cases:
            neighbour = pool.submit(_caption, server.inference, valid_image)
            report.results.append(_run(case, lambda case: _send_rest(session, server.inference, case), neighbour))
        for case in grpc_cases:
            neighbour = pool.submit(_caption, server.inference, valid_image)
            report.results.append(_run(case, send_grpc, neighbour))
    report.deaths, report.peak = len(before - workers(server)), peak_memory(server)
    return report


def _run(case: Case, send: Callable[[Case], tuple[int, bytes]], neighbour: Future[str]) -> CaseResult:
    start = time.perf_counter()
    try:
        code, body = send(case)
    except (requests.RequestException, grpc.RpcError) as error:  # no response, or none in time
        error.add_note(f"It was sent: {case}.")
        raise
    seconds = time.perf_counter() - start
    leaks = any(trace in body for trace in TRACES)
    return CaseResult(case, code, _outcome(code, body), seconds, leaks, neighbour.result())


def _send_rest(session: requests.Session, address: str, case: Case) -> tuple[int, bytes]:
    body = case.make()
    url = f"{address}{case.path if isinstance(case, RequestCase) else '/predictions/captioner'}"
    if isinstance(body, Mapping):
        response = session.post(url, files=[(name, (None, value)) for name, value in body.items()], timeout=TIMEOUT)
    else:
        content_type = case.content_type if isinstance(case, RequestCase) else "image/jpeg"  # for any format
        response = session.post(url, data=body, headers={"Content-Type": content_type}, timeout=TIMEOUT)
    return response.status_code, response.content


def _grpc_sender(channel: grpc.Channel) -> Callable[[Case], tuple[int, bytes]]:
    messages, services = inference_protos()
    stub = services.InferenceAPIsServiceStub(channel)

    def send(case: Case) -> tuple[int, bytes]:
        body = case.make()
        fields = {name: bytes(value) for name, value in (body if isinstance(body, dict) else {"body": body}).items()}
        request = messages.PredictionsRequest(model_name="captioner", input=fields)
        prediction = stub.Predictions(request, timeout=TIMEOUT).prediction
        return json.loads(prediction).get("code", 200), prediction

    return send


def _caption(address: str, image: bytes) -> str:
    response = requests.post(f"{address}/predictions/captioner", data=image, timeout=TIMEOUT).json()
    return response.get("caption", response.get("type"))


def _outcome(code: int, body: bytes) -> str:
    """Return `caption` or the error type; TorchServe refuses a body that is too large without any."""
    if not body and code == 413:
        return "TooLarge"
    response = json.loads(body)
    parts = response.get("predictions", [response])
    if code == 200:
        return CAPTION if any("caption" in part for part in parts) or "outputs" in response else "?"
    return next(part["type"] for part in parts)


def workers(server: TorchServe) -> set[int]:
    """Return the process IDs of the workers of a server."""
    return {process.pid for process in server.processes() if not is_jvm(process)}


def peak_memory(server: TorchServe) -> int:
    """Return the peak resident memory of a worker since its start, in MB."""
    return max(_peaks(server))


def _peaks(server: TorchServe) -> Iterator[int]:
    for pid in workers(server):
        [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
        yield int(line.split()[1]) // 1024
