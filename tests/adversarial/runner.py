"""All cases against one running server, each beside a good picture, and what came of them."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
TIMEOUT = 60  # seconds: the server's own, after which it would end the worker


class CaseResult(NamedTuple):
    """What a case came to.

    Attributes:
        case: the one.
        code: HTTP's; over gRPC the body's.
        outcome: `caption`, or the type of the error.
        seconds: until it was answered.
        leaks: whether the answer shows a stack trace, or a path of the server's.
        neighbour: what the good picture beside it got.
    """

    case: ImageCase | RequestCase
    code: int
    outcome: str
    seconds: float
    leaks: bool
    neighbour: str


@dataclass
class RunReport:
    """What all cases came to.

    Attributes:
        came: in the order in which they were sent.
        deaths: workers that ended.
        before: memory that a worker had at most before, in MB.
        peak: and after.
    """

    came: list[CaseResult] = field(default_factory=list)
    deaths: int = 0
    before: int = 0
    peak: int = 0

    def table(self) -> str:
        """Markdown: a row for each kind."""
        kinds = list(dict.fromkeys(one.case.kind for one in self.came))
        lines = ["| kind | tried | captioned | refused (4xx) | 5xx | longest answer |", "|---|---|---|---|---|---|"]
        for kind in [*kinds, "all"]:
            own = [one for one in self.came if kind in ("all", one.case.kind)]
            counts = [sum(one.code // 100 == hundred for one in own) for hundred in (2, 4, 5)]
            longest = max(one.seconds for one in own)
            lines.append(f"| {kind} | {len(own)} | {' | '.join(map(str, counts))} | {longest:.2f} s |")
        longest = max(self.came, key=lambda one: one.seconds)
        said = " / ".join(sorted({one.neighbour for one in self.came}))
        return "\n".join([
            *lines,
            "",
            f"The longest answer was that to '{longest.case}'. The good pictures beside them got: {said}.",
            f"Memory of a worker: {self.before} MB before, {self.peak} MB at most. Workers that ended: {self.deaths}.",
        ])  # fmt: skip

    def faults(self) -> list[str]:
        """What must not be, a sentence each."""
        wrong = [f"'{one.case}' was answered with {one.code}." for one in self.came if one.code >= 500]
        wrong += [f"The answer to '{one.case}' shows the server's inside." for one in self.came if one.leaks]
        if len({one.neighbour for one in self.came}) > 1:
            wrong.append("The good pictures beside them did not all get the same caption.")
        if self.deaths:
            wrong.append(f"{self.deaths} workers ended.")
        return wrong


def run_cases(
    server: TorchServe,
    good: bytes,
    grpc_cases: Sequence[ImageCase | RequestCase] = (),
    cases=(*IMAGE_CASES, *REQUEST_CASES),
) -> RunReport:
    """Sends cases over REST, then some over gRPC, each together with a good picture."""
    found, before = RunReport(before=memory(server)), workers(server)
    messages, services = inference_protos()
    with requests.Session() as session, ThreadPoolExecutor(1) as beside, grpc.insecure_channel(server.grpc) as channel:
        stub = services.InferenceAPIsServiceStub(channel)

        def ask_rest(case) -> tuple[int, bytes]:
            answer = _post(session, server.inference, case)
            return answer.status_code, answer.content

        def ask_grpc(case) -> tuple[int, bytes]:
            made = case.make()
            fields = {
                name: bytes(value) for name, value in (made if isinstance(made, dict) else {"body": made}).items()
            }
            message = messages.PredictionsRequest(model_name="captioner", input=fields)
            answer = stub.Predictions(message, timeout=TIMEOUT).prediction
            return json.loads(answer).get("code", 200), answer

        for case, ask in [*((case, ask_rest) for case in cases), *((case, ask_grpc) for case in grpc_cases)]:
            neighbour = beside.submit(_caption, server.inference, good)
            began = time.perf_counter()
            try:
                code, body = ask(case)
            except (requests.RequestException, grpc.RpcError) as error:  # no answer, or none in time
                error.add_note(f"It was sent: {case}.")
                raise
            seconds = time.perf_counter() - began
            leaks = any(trace in body for trace in TRACES)
            found.came.append(CaseResult(case, code, _outcome(code, body), seconds, leaks, neighbour.result()))
    found.deaths, found.peak = len(before - workers(server)), memory(server)
    return found


def _post(session: requests.Session, address: str, case: ImageCase | RequestCase) -> requests.Response:
    made = case.make()
    url = f"{address}{case.path if isinstance(case, RequestCase) else '/predictions/captioner'}"
    if isinstance(made, Mapping):
        return session.post(url, files=[(name, (None, value)) for name, value in made.items()], timeout=TIMEOUT)
    content_type = case.content_type if isinstance(case, RequestCase) else "image/jpeg"  # whatever it is
    return session.post(url, data=made, headers={"Content-Type": content_type}, timeout=TIMEOUT)


def _caption(address: str, picture: bytes) -> str:
    answer = requests.post(f"{address}/predictions/captioner", data=picture, timeout=TIMEOUT).json()
    return answer.get("caption", answer.get("type"))


def _outcome(code: int, body: bytes) -> str:
    """As an answer has it; where TorchServe itself refuses, which has no words for it, the type is ours."""
    if not body and code == 413:
        return "TooLarge"
    answer = json.loads(body)
    parts = answer.get("predictions", [answer])
    if code == 200:
        return CAPTION if any("caption" in part for part in parts) or "outputs" in answer else "?"
    return next(part["type"] for part in parts)


def workers(server: TorchServe) -> set[int]:
    """Process numbers of its workers."""
    return {process.pid for process in server.processes() if not is_jvm(process)}


def memory(server: TorchServe) -> int:
    """What a worker had at most since it started, in MB, as Linux counts it."""
    return max(_peaks(server))


def _peaks(server: TorchServe) -> Iterator[int]:
    for pid in workers(server):
        [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
        yield int(line.split()[1]) // 1024
