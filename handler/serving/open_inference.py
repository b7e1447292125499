"""The kinds of request, each with an answer of its own shape: one picture, several, the Open Inference Protocol's."""

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from handler.errors import RequestError
from handler.generation import GenerationConfig
from handler.serving.responses import error_to_json


class Explain(NamedTuple):
    """How a picture's captions are to be explained."""

    method: str
    overlay: bool = False  # whether the answer holds the figure


class Item(NamedTuple):
    """One picture to caption."""

    image: bytes
    options: GenerationConfig
    explain: Explain | None = None


Result = dict[str, Any] | RequestError  # a picture's part of the answer's JSON, or what was wrong with it


class Request(ABC):
    """Pictures in the order they came, each with its options or with what is wrong with it.

    Attributes:
        items: one a picture.
        stream: whether the caller wants the words as they come.
    """

    def __init__(self, items: Sequence[Item | RequestError], stream: bool = False):
        self.items, self.stream = list(items), stream

    @abstractmethod
    def answer(self, results: Sequence[Result], model: dict[str, str], request_id: str) -> tuple[int, dict[str, Any]]:
        """What each picture came to → the HTTP code and the answer's JSON.

        Args:
            results: one a picture.
            model: name, version and digest.
            request_id: the server's name for the request.
        """


class SingleImageRequest(Request):
    """One picture, answered with its captions or its error alone."""

    def answer(self, results, model, request_id):
        [result] = results
        if isinstance(result, RequestError):
            return result.code, error_to_json(result) | {"request_id": request_id}
        return 200, result | {"model": model, "request_id": request_id}


class MultiImageRequest(Request):
    """Several pictures, answered in their order; the code is 200 where one at least could be captioned."""

    def answer(self, results, model, request_id):
        predictions = [error_to_json(result) if isinstance(result, RequestError) else result for result in results]
        return _overall_code(results), {"predictions": predictions, "model": model, "request_id": request_id}


class Tensors(Request):
    """The Open Inference Protocol: a BYTES tensor of pictures in, tensors with an element a picture out.

    `caption` holds the sentences, empty where there is none; `response` the JSON text of each picture's whole answer.

    Attributes:
        id: the caller's own name for the request; empty where there is none.
        outputs: names of the tensors that are wanted.
    """

    OUTPUTS = ("caption", "response")

    def __init__(self, items, id: str = "", outputs: Sequence[str] = OUTPUTS):
        super().__init__(items)
        self.id, self.outputs = id, outputs

    def answer(self, results, model, request_id):
        named = {"id": self.id} if self.id else {}
        if (code := _overall_code(results)) != 200:
            first = error_to_json(results[0])
            return code, {"error": first["message"]} | first | named | {"request_id": request_id}
        _, several = MultiImageRequest(self.items).answer(results, model, request_id)
        data = {
            "caption": [prediction.get("caption", "") for prediction in several["predictions"]],
            "response": [json.dumps(prediction) for prediction in several["predictions"]],
        }
        outputs = [
            {"name": name, "datatype": "BYTES", "shape": [len(results)], "data": data[name]} for name in self.outputs
        ]
        return 200, {
            "model_name": model["name"],
            "model_version": model["version"],
            **named,
            "parameters": {"digest": model["digest"], "request_id": request_id},
            "outputs": outputs,
        }


def _overall_code(results: Sequence[Result]) -> int:
    """200 where a picture was captioned, else the first one's error."""
    failed = [result for result in results if isinstance(result, RequestError)]
    return failed[0].code if len(failed) == len(results) else 200
