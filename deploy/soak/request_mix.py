"""Requests of a soak test: every protocol with random options, and one invalid request in ten."""

import gzip
import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

PREDICT, EXPLAIN = "/predictions/captioner", "/explanations/captioner"
INVALID_SHARE = 0.1  # of all requests
INVALID_PREFIX = "invalid: "  # of the kind of an invalid request
Content = tuple[str, dict[str, Any]]  # target and content of a `RequestCase`


class RequestCase(NamedTuple):
    """One request, which may be sent many times.

    Attributes:
        kind: E.g. `form`; for a request that must be refused, `invalid: …`.
        target: HTTP path or gRPC method.
        content: Keyword arguments of `requests.post`, or gRPC fields.
    """

    kind: str
    target: str
    content: dict[str, Any]

    @property
    def valid(self) -> bool:
        """Whether the expected response is a caption."""
        return not self.kind.startswith(INVALID_PREFIX)


def sample_requests(images: Sequence[bytes], count: int, random: Random) -> list[RequestCase]:
    """Sample requests; every kind occurs if there are enough.

    Args:
        images: Encoded images.
        count: Number of requests.
        random: Source of options, images and order.
    """
    num_invalid = max(1, round(INVALID_SHARE * count))
    cases = [_sample(VALID, number, images, random) for number in range(count - num_invalid)]
    cases += [_sample(INVALID, number, images, random) for number in range(num_invalid)]
    random.shuffle(cases)
    return cases


def _sample(
    kinds: Mapping[str, Callable[[bytes, Random], Content]], number: int, images: Sequence[bytes], random: Random
) -> RequestCase:
    kind = list(kinds)[number % len(kinds)]
    return RequestCase(kind, *kinds[kind](random.choice(images), random))


def sample_options(random: Random) -> dict[str, Any]:
    """Sample some generation options."""
    values = {
        "beam_size": random.randint(1, 5),
        "max_length": random.randint(5, 20),
        "length_penalty": round(random.uniform(0, 2), 2),
        "no_repeat_ngram": random.randint(0, 3),
        "no_repeat_words": random.random() < 0.5,
        "attention": random.random() < 0.5,
    }
    options = {name: value for name, value in values.items() if random.random() < 0.5}
    kind = random.random()
    if kind < 0.2:
        options |= {"beam_size": 4, "num_beam_groups": random.choice([2, 4]), "num_captions": 4}
    elif kind < 0.4:
        options |= {"temperature": 0.8, "top_p": 0.9, "seed": random.randrange(2**32), "num_captions": 3}
    return options


def _form(image: bytes, options: dict[str, Any]) -> dict[str, Any]:
    return {"files": {"image": image}, "data": _to_strings(options)}


def _to_strings(options: dict[str, Any]) -> dict[str, str]:
    return {name: json.dumps(value) for name, value in options.items()}


def _grpc_fields(image: bytes, options: dict[str, Any]) -> dict[str, bytes]:
    return {"image": image} | {name: text.encode() for name, text in _to_strings(options).items()}


def _json(image: bytes, random: Random) -> bytes:
    return json.dumps({"image": _base64(image)} | sample_options(random)).encode()


def _base64(image: bytes) -> str:
    return b64encode(image).decode()


def _several(image: bytes, random: Random) -> Content:
    encoded = _base64(image)
    images = [encoded, {"image": encoded} | sample_options(random), _base64(b"not an image"), encoded]
    return PREDICT, {"json": {"images": images[: random.randint(2, 4)]}}


def _v2_tensor(image: bytes, random: Random) -> Content:
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [_base64(image)]}
    return "/v2/models/captioner/infer", {"json": {"inputs": [tensor], "parameters": sample_options(random)}}


def _v2_with_a_broken_image(image: bytes, _random: Random) -> Content:
    """Send an image and a broken one as the samples of KServe do, and an option as a tensor."""
    images = {"name": "any", "shape": [-1], "datatype": "BYTES", "data": [_base64(image), _base64(image[:500])]}
    beams = {"name": "beam_size", "shape": [1], "datatype": "INT32", "data": [2]}
    return "/v2/models/captioner/infer", {"json": {"id": "7", "inputs": [images, beams]}}


def _v2_of_another_shape(image: bytes, _random: Random) -> Content:
    tensor = {"name": "image", "shape": [3], "datatype": "BYTES", "data": [_base64(image)]}
    return "/v2/models/captioner/infer", {"json": {"inputs": [tensor]}}


def _v1_broken(image: bytes, _random: Random) -> Content:
    return "/v1/models/captioner:predict", {"json": {"instances": [{"b64": _base64(image[:500])}]}}


def _v1_instances(image: bytes, _random: Random) -> Content:
    return "/v1/models/captioner:predict", {"json": {"instances": [{"b64": _base64(image)}] * 2}}


def _typed(data: bytes, content_type: str) -> dict[str, Any]:
    return {"data": data, "headers": {"Content-Type": content_type}}


VALID: dict[str, Callable[[bytes, Random], Content]] = {
    "raw": lambda image, _: (PREDICT, {"data": image}),
    "form": lambda image, random: (PREDICT, _form(image, sample_options(random))),
    "JSON": lambda image, random: (PREDICT, _typed(_json(image, random), "application/json")),
    "stream": lambda image, random: (PREDICT, _form(image, sample_options(random) | {"stream": True})),
    "gRPC": lambda image, random: ("Predictions", _grpc_fields(image, sample_options(random))),
    "several": _several,
    "V1": _v1_instances,
    "V2": _v2_tensor,
    "V2, one broken": _v2_with_a_broken_image,
    "JSON over gRPC": lambda image, random: ("Predictions", {"data": _json(image, random)}),
    "explanation": lambda image, _: (EXPLAIN, {"data": image}),
    "gRPC stream": lambda image, random: ("StreamPredictions", _grpc_fields(image, sample_options(random))),
}
INVALID: dict[str, Callable[[bytes, Random], Content]] = {
    "invalid: not an image": lambda _, random: (PREDICT, {"data": random.randbytes(1000)}),
    "invalid: truncated": lambda image, _: (PREDICT, {"data": image[: len(image) // 2]}),
    "invalid: over gRPC": lambda *_: ("Predictions", {"image": b"not an image"}),
    "invalid: option": lambda image, _: (PREDICT, _form(image, {"beams": 3})),
    "invalid: value": lambda image, _: (PREDICT, {"json": {"image": _base64(image), "beam_size": 11}}),
    "invalid: JSON": lambda *_: (PREDICT, _typed(b'{"image": ', "application/json")),
    "invalid: V1": _v1_broken,
    "invalid: V2": _v2_of_another_shape,
    "invalid: URL": lambda *_: (PREDICT, {"json": {"url": "https://host/photo.jpg"}}),
    "invalid: gzip": lambda image, _: (PREDICT, _typed(gzip.compress(image), "image/jpeg")),
    "invalid: text": lambda *_: (PREDICT, _typed(b"a dog", "text/plain")),
    "invalid: no image": lambda *_: (PREDICT, {"files": {"beam_size": (None, "3")}}),
}
