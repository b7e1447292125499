"""Requests that are malformed, whatever their images are."""

import base64
import gzip
import json
from collections.abc import Callable, Mapping

from tests.adversarial.case import CAPTION, RequestCase
from tests.adversarial.image_parts import small_image

IMAGE = base64.b64encode(small_image("PNG")).decode()
V1, V2 = "/v1/models/captioner:predict", "/v2/models/captioner/infer"
FORM = "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"
WRONG = (7, True, [], ["x"], {}, {"a": 1}, -1.5, 1e308)
BEAMS = {"name": "beam_size", "datatype": "INT32", "shape": [1], "data": [1]}
TENSOR = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [IMAGE]}


def body(**fields) -> Callable[[], bytes]:
    return lambda: json.dumps(fields).encode()


def raw(text: str) -> Callable[[], bytes]:
    return lambda: text.replace("IMAGE", f'"image": "{IMAGE}"').encode()


def form(**fields: bytes) -> Callable[[], Mapping[str, bytes]]:
    return lambda: fields


def request_cases(kind: str, answer: str, made: Mapping[str, Callable], *more: str) -> list[RequestCase]:
    return [RequestCase(kind, name, make, frozenset({answer}), *more) for name, make in made.items()]


def as_torchserve_reads(body: bytes, content_type: str) -> object:
    """Return what the worker of TorchServe makes of a body by its content type; see `otf_message_handler.py`."""
    try:
        if content_type == "application/json":
            return json.loads(body.decode())
        return body.decode() if content_type.startswith("text") else bytearray(body)
    except Exception:
        return bytearray(body)


JSON = [
    *request_cases("JSON", "MalformedJSON", {
        "100,000 lists deep": lambda: b"[" * 100_000 + b"]" * 100_000,
        "100,000 objects deep": lambda: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "an image behind 100,000 lists": raw('{IMAGE, "a": ' + "[" * 100_000 + "]" * 100_000 + "}"),
        "a number of a million digits": raw('{IMAGE, "seed": ' + "9" * 1_000_000 + "}"),
        "cut off": raw("{IMAGE"),
        "not UTF-8": lambda: b'{"image": "\xff\xfe"}',
        "no base64": body(image="not base64!"),
        "base64 with a lone surrogate": raw('{"image": "\\ud800"}'),
        "base64 of emoji": body(image="😀" * 1000),
        "padding alone for base64": body(image="===="),
        "base64 and too much padding": body(image="aGk====="),
        "a URL": body(image="http://169.254.169.254/latest/meta-data"),
        "a URL of a file": body(image="file:///etc/passwd"),
        "a data URL without base64": body(image="data:image/png,abc"),
        "a list": lambda: b"[1, 2, 3]",
        "a text": lambda: b'"hello"',
        "two fields with images": body(image=IMAGE, data=IMAGE),
    }),
    *request_cases("JSON", "EmptyBody", {
        "null": lambda: b"null",
        "an empty object": lambda: b"{}",
        "an empty text": body(image=""),
        "an empty data URL": body(image="data:;base64,"),
        "spaces for base64": body(image=" \n\t "),
        **{f"the image is {json.dumps(wrong)}": body(image=wrong) for wrong in WRONG},
        **{f"the images are {json.dumps(wrong)}": body(images=wrong) for wrong in WRONG if wrong != ["x"]},
    }),
    *request_cases("JSON", "OptionOutOfRange", {
        "NaN": raw('{IMAGE, "temperature": NaN}'),
        "Infinity": raw('{IMAGE, "length_penalty": Infinity}'),
        "-Infinity": raw('{IMAGE, "top_p": -Infinity}'),
        "1e999": raw('{IMAGE, "temperature": 1e999}'),
        "10 to the 400th": raw('{IMAGE, "seed": 1' + "0" * 400 + "}"),
        "4300 digits": raw('{IMAGE, "beam_size": -' + "9" * 4300 + "}"),
        "the second of two values": raw('{IMAGE, "beam_size": 2, "beam_size": 1000}'),
        "a lone surrogate": raw('{IMAGE, "beam_size": "\\udfff"}'),
        "a million letters": body(image=IMAGE, beam_size="a" * 1_000_000),
        "a million digits in a text": body(image=IMAGE, beam_size="9" * 1_000_000),
        "line breaks": body(image=IMAGE, attention="x\r\nSet-Cookie: a=b"),
        **{f"beam_size is {json.dumps(wrong)}": body(image=IMAGE, beam_size=wrong) for wrong in WRONG if wrong != 7},
        **{f"stream is {json.dumps(wrong)}": body(image=IMAGE, stream=wrong) for wrong in WRONG if wrong is not True},
    }),
    *request_cases("JSON", "UnknownOption", {
        "a name that is a lone surrogate": raw('{IMAGE, "\\ud800": 1}'),
        "an empty name": body(image=IMAGE, **{"": 1}),
        "a name of a million letters": body(image=IMAGE, **{"a" * 1_000_000: 1}),
        "names of Python": body(image=IMAGE, __class__="x", __init__={}),
        "10,000 options": body(image=IMAGE, **{f"o{number}": number for number in range(10_000)}),
    }),
    *request_cases("JSON", CAPTION, {
        "the second of two images": raw('{"image": 7, IMAGE}'),
        "base64 in lines": body(image="\r\n".join(IMAGE[at : at + 76] for at in range(0, len(IMAGE), 76))),
        "base64 without padding": body(image=IMAGE.rstrip("=")),
        "spaces around it": raw(" " * 100_000 + "{IMAGE}" + "\n" * 100_000),
        "whole numbers as texts": body(image=IMAGE, beam_size="2", seed="7.0"),
    }),
]  # fmt: skip

SEVERAL = [
    *request_cases("several images", "TooManyImages", {
        "10,000 images": body(images=[IMAGE] * 2000 + [""] * 8000),
        "33 images": body(images=[""] * 33),
    }),
    *request_cases("several images", "EmptyBody", {"32 of nothing": body(images=[None] * 32)}),
    *request_cases("several images", "MalformedJSON", {
        "32 of junk": body(images=["§"] * 32),
        "in two fields": body(images=[1], instances=[1]),
    }),
    *request_cases("several images", CAPTION, {"one among 31 others": body(images=[*WRONG * 3, *[""] * 7, IMAGE])}),
    *request_cases("V1", "EmptyBody", {"no list": body(instances={"image": IMAGE})}, "application/json", V1),
    *request_cases("V1", CAPTION, {"b64": body(instances=[{"b64": IMAGE}])}, "application/json", V1),
    *request_cases("V2", "MalformedJSON", {
        "no list": body(inputs=7),
        "a shape of 10 to the 18th": body(inputs=[TENSOR | {"shape": [10**9, 10**9]}]),
        "a shape of 1000 dimensions": body(inputs=[TENSOR | {"shape": [1] * 1000}]),
        "a negative shape": body(inputs=[TENSOR | {"shape": [-1, -1]}]),
        "a shape of booleans": body(inputs=[TENSOR | {"shape": [True]}]),
        "floats": body(inputs=[TENSOR | {"datatype": "FP32"}]),
        "outputs of no name": body(inputs=[TENSOR], outputs=[{"name": ["caption"]}, 7]),
        "an id that is a list": body(inputs=[TENSOR], id=[1]),
        "parameters that are a list": body(inputs=[TENSOR], parameters=[1]),
    }, "application/json", V2),
    *request_cases("V2", CAPTION, {
        "a shape of -1": body(inputs=[TENSOR | {"shape": -1, "data": IMAGE}]),
        "an option as a tensor": body(inputs=[TENSOR, BEAMS]),
        "an output in binary": body(inputs=[TENSOR], parameters={"binary_data_output": True}),
    }, "application/json", V2),
    *request_cases("V2", "EmptyBody", {"lists 500 deep": raw('{"inputs": [{"datatype": "BYTES", "shape": [1], "data": '
                              + "[" * 500 + "]" * 500 + "}]}")}, "application/json", V2),
]  # fmt: skip

FORMS = [
    *request_cases("forms", "UnknownOption", {
        "weird names": form(**{"image": small_image("PNG"), "../../etc/passwd": b"x"}),
        "a name with line breaks": form(**{"image": small_image("PNG"), "a b;c=d": b"x"}),
        "a name of emoji": form(**{"image": small_image("PNG"), "😀": b"x"}),
    }, FORM),
    *request_cases("forms", "OptionOutOfRange", {
        "bytes for a number": form(image=small_image("PNG"), beam_size=b"\xff\xfe\0"),
        "infinity": form(image=small_image("PNG"), temperature=b"inf"),
        "a number as Python writes it": form(image=small_image("PNG"), seed=b"1_000"),
    }, FORM),
    *request_cases("forms", "MalformedJSON", {
        "broken JSON in a field": form(images=b"[" * 100_000),
        "two images": form(image=small_image("PNG"), data=small_image("PNG")),
    }, FORM),
    *request_cases("forms", "EmptyBody", {"an empty image": form(image=b"", beam_size=b"2")}, FORM),
    *request_cases("forms", "InvalidImage", {"no image": form(image=b"<html>")}, FORM),
    *request_cases("forms", CAPTION, {
        "options": form(image=small_image("PNG"), beam_size=b"2", seed=b"1"),
        "the image under another name": form(file=small_image("PNG")),
        "base64": form(image=IMAGE.encode()),
        "a JSON file": form(data=json.dumps({"image": IMAGE}).encode()),
    }, FORM),
]  # fmt: skip

BODIES = [
    *request_cases("bodies", "UnsupportedMedia", {"a text": lambda: b"hello"}, "text/plain"),
    *request_cases("bodies", "InvalidImage", {"the type of an image, no image": lambda: b"hello"}, "image/jpeg"),
    *request_cases("bodies", "InvalidImage", {"XML": lambda: b"<xml/>"}, "application/xml"),
    *request_cases("bodies", CAPTION, {"a type of 4000 letters": lambda: small_image("PNG")}, "image/" + "x" * 4000),
    *request_cases("bodies", "MalformedJSON", {"an image said to be JSON": lambda: small_image("PNG")}),
    *request_cases(
        "bodies", "MalformedJSON", {"a URL in bytes": lambda: b"http://127.0.0.1:8081/models"}, "image/jpeg"
    ),
    *request_cases("bodies", "UnsupportedMedia", {"a body in gzip": lambda: gzip.compress(body(image=IMAGE)())}),
    # TorchServe parses it as a form; a body that reaches the handler whole is read.
    RequestCase(
        "bodies", "JSON said to be a form", body(image=IMAGE), frozenset({CAPTION, "UnsupportedMedia"}), URLENCODED
    ),
    *(
        case
        for kind in ("application/octet-stream", "application/vnd.api+json", "text/plain")
        for case in request_cases("bodies", CAPTION, {f"JSON said to be {kind}": body(image=IMAGE)}, kind)
    ),
]

REQUEST_CASES = [*JSON, *SEVERAL, *FORMS, *BODIES]
