"""The requests of a soak: every way to ask, with options drawn by chance, and one in ten that has to be refused."""

import json
from base64 import b64encode
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, NamedTuple

PREDICT, EXPLAIN = "/predictions/captioner", "/explanations/captioner"
BAD = 0.1  # of all requests


class Wish(NamedTuple):
    """One request, which may be sent many times.

    Attributes:
        kind: such as `form`; of one that has to be refused `bad: …`.
        to: HTTP's path, or gRPC's method.
        content: HTTP's body in `requests`' words, or gRPC's fields.
    """

    kind: str
    to: str
    content: dict[str, Any]

    @property
    def good(self) -> bool:
        """Whether a caption is due."""
        return not self.kind.startswith("bad: ")


def draw_wishes(pictures: Sequence[bytes], count: int, random: Random) -> list[Wish]:
    """So many requests; each kind is among them, in turns, where there are enough.

    Args:
        pictures: image files.
        count: of requests.
        random: what options, pictures and order come from.
    """
    bad = max(1, round(BAD * count))
    wishes = [_draw(GOOD, number, pictures, random) for number in range(count - bad)]
    wishes += [_draw(REFUSED, number, pictures, random) for number in range(bad)]
    random.shuffle(wishes)
    return wishes


def _draw(kinds: dict[str, Callable], number: int, pictures: Sequence[bytes], random: Random) -> Wish:
    kind = list(kinds)[number % len(kinds)]
    return Wish(kind, *kinds[kind](random.choice(pictures), random))


def draw_options(random: Random) -> dict[str, Any]:
    """Options of a request, a few of all that there are."""
    drawn = {
        "beam_size": random.randint(1, 5),
        "max_length": random.randint(5, 20),
        "length_penalty": round(random.uniform(0, 2), 2),
        "no_repeat_ngram": random.randint(0, 3),
        "attention": random.random() < 0.5,
    }
    chosen = {name: value for name, value in drawn.items() if random.random() < 0.5}
    if random.random() < 0.2:
        chosen |= {"temperature": 0.8, "top_p": 0.9, "seed": random.randrange(2**32), "num_captions": 3}
    return chosen


def _form(image: bytes, options: dict[str, Any]) -> dict[str, Any]:
    return {"files": {"image": image}, "data": _texts(options)}


def _texts(options: dict[str, Any]) -> dict[str, str]:
    return {name: json.dumps(value) for name, value in options.items()}


def _fields(image: bytes, options: dict[str, Any]) -> dict[str, bytes]:
    return {"image": image} | {name: text.encode() for name, text in _texts(options).items()}


def _text(image: bytes) -> str:
    return b64encode(image).decode()


def _several(image: bytes, random: Random) -> tuple[str, dict]:
    images = [_text(image), {"image": _text(image)} | draw_options(random), _text(b"no picture"), _text(image)]
    return PREDICT, {"json": {"images": images[: random.randint(2, 4)]}}


def _tensor(image: bytes, random: Random) -> tuple[str, dict]:
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [_text(image)]}
    return "/v2/models/captioner/infer", {"json": {"inputs": [tensor], "parameters": draw_options(random)}}


GOOD: dict[str, Callable[[bytes, Random], tuple[str, dict]]] = {
    "raw": lambda image, random: (PREDICT, {"data": image}),
    "form": lambda image, random: (PREDICT, _form(image, draw_options(random))),
    "JSON": lambda image, random: (PREDICT, {"json": {"image": _text(image)} | draw_options(random)}),
    "stream": lambda image, random: (PREDICT, _form(image, draw_options(random) | {"stream": True})),
    "gRPC": lambda image, random: ("Predictions", _fields(image, draw_options(random))),
    "several": _several,
    "V1": lambda image, random: ("/v1/models/captioner:predict", {"json": {"instances": [{"b64": _text(image)}] * 2}}),
    "V2": _tensor,
    "explanation": lambda image, random: (EXPLAIN, {"data": image}),
    "gRPC stream": lambda image, random: ("StreamPredictions", _fields(image, draw_options(random))),
}
REFUSED: dict[str, Callable[[bytes, Random], tuple[str, dict]]] = {
    "bad: no picture": lambda image, random: (PREDICT, {"data": random.randbytes(1000)}),
    "bad: cut off": lambda image, random: (PREDICT, {"data": image[: len(image) // 2]}),
    "bad: over gRPC": lambda image, random: ("Predictions", {"image": b"no picture"}),
    "bad: option": lambda image, random: (PREDICT, _form(image, {"beams": 3})),
    "bad: value": lambda image, random: (PREDICT, {"json": {"image": _text(image), "beam_size": 11}}),
    "bad: JSON": lambda image, random: (
        PREDICT,
        {"data": b'{"image": ', "headers": {"Content-Type": "application/json"}},
    ),
    "bad: text": lambda image, random: (PREDICT, {"data": b"a dog", "headers": {"Content-Type": "text/plain"}}),
    "bad: empty": lambda image, random: (PREDICT, {"files": {"beam_size": (None, "3")}}),
}
