"""Sends the requests of a soak, and holds each answer against what the same request got alone."""

import itertools
import json
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import grpc
import requests
from requests.adapters import HTTPAdapter

from deploy.load_generator import LoadGenerator
from deploy.soak.request_mix import Wish
from deploy.torchserve import ServerError, TorchServe
from eval.grpc_stubs import inference_protos

SECONDS = 120  # that an answer may take
Said = tuple[int, str]  # the code, 0 where no answer came, and the captions or the error's type


class Answered(NamedTuple):
    """What came of one request.

    Attributes:
        kind: the wish's.
        outcome: `caption` or `refused` as it has to be; `wrong`, `5xx` or `lost`.
        at: when it was answered, a time of `perf_counter`.
        seconds: it took.
        said: what was answered.
    """

    kind: str
    outcome: str
    at: float
    seconds: float
    said: Said


class Soak(LoadGenerator[Wish, Answered]):
    """LoadGenerator of a server with mixed requests, which have been answered one by one before.

    Args:
        server: running.
        wishes: asked for in turns.
        callers: requests at once.

    Raises:
        ServerError: alone, a request gets something else than it has to.
    """

    def __init__(self, server: TorchServe, wishes: Sequence[Wish], callers: int):
        super().__init__(itertools.cycle(enumerate(wishes)), self._compare, callers)
        self.server, self.wishes = server, wishes
        self.http = requests.Session()
        self.http.trust_env = False
        self.http.mount("http://", HTTPAdapter(pool_maxsize=callers))
        self.messages, services = inference_protos()
        self.channel = grpc.insecure_channel(server.grpc, [("grpc.enable_http_proxy", 0)])
        self.stub = services.InferenceAPIsServiceStub(self.channel)
        self.expected = [self._learn(wish) for wish in wishes]

    def __exit__(self, *_) -> None:
        super().__exit__()
        self.http.close()
        self.channel.close()

    def _learn(self, wish: Wish) -> Said:
        code, text = self.ask(wish)
        if code != 200 if wish.good else not 400 <= code < 500:
            raise ServerError(f"The request '{wish.kind}' got {code} {text} from a server that did nothing else.")
        return code, text

    def _compare(self, numbered: tuple[int, Wish]) -> Answered:
        number, wish = numbered
        began = time.perf_counter()
        said = self.ask(wish)
        ended = time.perf_counter()
        if said == self.expected[number]:
            outcome = "caption" if wish.good else "refused"
        elif said[0] == 0:
            outcome = "lost"
        else:
            outcome = "5xx" if said[0] >= 500 else "wrong"
        return Answered(wish.kind, outcome, ended, ended - began, said)

    def ask(self, wish: Wish) -> Said:
        """What a request is answered with."""
        try:
            if not wish.to.startswith("/"):
                return self._ask_grpc(wish)
            answer = self.http.post(self.server.inference + wish.to, timeout=SECONDS, **wish.content)
            if answer.status_code >= 500:  # whatever the body is
                return answer.status_code, answer.reason
            if answer.headers.get("content-type", "").startswith("text/event-stream"):
                return _streamed(answer.text)
            return answer.status_code, _said(answer.json())
        except grpc.RpcError as error:
            return 0, error.code().name
        except (requests.RequestException, ValueError, KeyError) as error:  # nothing that could be understood
            return 0, type(error).__name__

    def _ask_grpc(self, wish: Wish) -> Said:
        asked = self.messages.PredictionsRequest(model_name="captioner", input=wish.content)
        reply = getattr(self.stub, wish.to)(asked, timeout=SECONDS)
        parts = list(reply) if wish.to == "StreamPredictions" else [reply]
        content = json.loads(parts[-1].prediction)
        return content.get("code", 200), _said(content)  # where a call is OK, the body tells


def _streamed(text: str) -> Said:
    """A stream's last event; the words before it have to be the caption's."""
    *tokens, last = [json.loads(line.removeprefix("data:")) for line in text.splitlines() if line.startswith("data:")]
    if "captions" in last and [part["token"] for part in tokens] != last["captions"][0]["tokens"]:
        return 200, "other words than the caption's"
    return last.get("code", 200), _said(last)


def _said(content: dict[str, Any]) -> str:
    """What decides whether two answers are the same: captions, errors' types; no numbers, as a batch rounds them."""
    if "outputs" in content:
        return " | ".join(content["outputs"][0]["data"])
    if "predictions" in content:
        return " | ".join(map(_said, content["predictions"]))
    return content["type"] if "type" in content else content["caption"]
