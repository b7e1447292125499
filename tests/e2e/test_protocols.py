"""Every protocol of a running endpoint: equal captions, mixed batches, errors, metrics, and the OpenAPI document."""

import base64
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from io import BytesIO

import pytest
import requests
from jsonschema_rs import Draft202012Validator
from PIL import Image

from eval.client import Client
from eval.transports import EndpointError
from tests.helpers.paths import PHOTOS
from tests.helpers.polling import eventually

IMAGES = [photo.read_bytes() for photo in PHOTOS]
IMAGE = IMAGES[0]
ENCODED = base64.b64encode(IMAGE).decode()
OPTIONS = {"beam_size": 4, "num_captions": 3, "length_penalty": 0.9, "max_length": 12}
OPTIONS |= {"num_beam_groups": 2, "diversity_penalty": 0.7, "no_repeat_words": True}


@pytest.fixture(scope="module")
def rest(server):
    with Client(server.inference, concurrency=16) as client:
        yield client


@pytest.fixture(scope="module")
def grpc(server):
    with Client(server.grpc, protocol="grpc", concurrency=16) as client:
        yield client


@pytest.fixture(scope="module")
def document(endpoint):
    return requests.get(endpoint, headers={"Accept": "application/json"}, timeout=30).json()


def tensor(*images: str) -> dict:
    return {"name": "image", "datatype": "BYTES", "shape": [len(images)], "data": list(images)}


def events(response: requests.Response) -> list[tuple[str, dict]]:
    """Return the events of a stream as (name, data)."""
    parts = [part.split("\n") for part in response.text.strip().split("\n\n")]
    assert all(name.startswith("event: ") and data.startswith("data: ") for name, data in parts)
    return [(name[7:], json.loads(data[6:])) for name, data in parts]


def test_caption_and_score_over_every_protocol_are_equal(server, endpoint, rest, grpc, document):
    texts = {name: json.dumps(value) for name, value in OPTIONS.items()}
    form = requests.post(endpoint, files={"image": IMAGE}, data=texts, timeout=60).json()
    native = requests.post(endpoint, json={"image": ENCODED} | OPTIONS, timeout=60).json()
    several = requests.post(endpoint, json={"images": [ENCODED]} | OPTIONS, timeout=60).json()
    v1 = requests.post(
        f"{server.inference}/v1/models/captioner:predict",
        json={"instances": [{"image": ENCODED} | OPTIONS]},
        timeout=60,
    ).json()
    v2 = requests.post(
        f"{server.inference}/v2/models/captioner/infer",
        json={"id": "mine", "inputs": [tensor(ENCODED)], "parameters": OPTIONS}, timeout=60,
    ).json()  # fmt: skip
    stream = requests.post(endpoint, files={"image": IMAGE}, data=texts | {"stream": "true"}, timeout=60)
    *tokens, (name, last) = events(stream)
    assert v2["id"] == "mine"
    assert name == "response"
    found = {
        "form": form,
        "json": native,
        "images": several["predictions"][0],
        "v1": v1["predictions"][0],
        "v2": json.loads(v2["outputs"][1]["data"][0]),
        "stream": last,
        "client": rest.caption(IMAGE, **OPTIONS),
        "grpc": grpc.caption(IMAGE, **OPTIONS),
        "grpc stream": list(grpc.stream(IMAGE, **OPTIONS))[-1],
    }
    for way, response in found.items():
        assert [c["tokens"] for c in response["captions"]] == [c["tokens"] for c in form["captions"]], way
        for left, right in zip(response["captions"], form["captions"], strict=True):
            assert left["score"] == pytest.approx(right["score"], abs=1e-4)
    assert [token["token"] for _, token in tokens] == form["captions"][0]["tokens"]
    assert rest.caption(IMAGE)["caption"] == grpc.caption(IMAGE)["caption"]  # the raw body
    # The responses match the OpenAPI document.
    for path, response in (
        ("/predictions/captioner", form),
        ("/predictions/captioner", several),
        ("/v1/models/captioner:predict", v1),
        ("/v2/models/captioner/infer", v2),
    ):
        schema = document["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        Draft202012Validator(schema | {"components": document["components"]}).validate(response)


def test_list_with_bad_images_gives_captions_and_errors_in_order(endpoint, grpc_client, served):
    """One request, over REST and gRPC, with five valid images and three bad ones."""
    stream = BytesIO()
    Image.new("1", (10_000, 6_000)).save(stream, "PNG")
    good = IMAGES[:5]
    expected = [captions[0].text for captions in served.caption(good)]
    images = [good[0], b"no image", good[1], good[2], stream.getvalue(), good[3], good[4][:900], good[4]]
    body = {"images": [base64.b64encode(image).decode() for image in images]}
    over_rest = requests.post(endpoint, json=body, timeout=60)
    over_grpc = json.loads(grpc_client("Predictions", images=json.dumps(body["images"]).encode()).prediction)
    assert over_rest.status_code == 200
    for response in (over_rest.json(), over_grpc):
        found = response["predictions"]
        assert [one["caption"] for one in found if "caption" in one] == expected
        assert [(place, one["code"], one["type"]) for place, one in enumerate(found) if "code" in one] == [
            (1, 422, "InvalidImage"), (4, 413, "TooManyPixels"), (6, 422, "InvalidImage"),
        ]  # fmt: skip


def random_options(source: random.Random) -> dict:
    options = {"num_captions": source.randint(1, 3), "min_length": source.randint(1, 6)}
    options |= {"max_length": source.randint(8, 16), "no_repeat_ngram": source.choice([0, 0, 2, 3])}
    options |= {"no_repeat_words": source.choice([True, False])}
    if source.random() < 0.4:
        # Above 1, so many words are about as likely that the rounding of a batch can choose another one.
        options |= {"temperature": round(source.uniform(0.3, 1.0), 2), "seed": source.randrange(2**32)}
        return options | {"top_p": round(source.uniform(0.5, 1), 2)}
    options |= {"length_penalty": round(source.uniform(0, 1.5), 2)}
    if source.random() < 0.3:
        groups, penalty = source.choice([2, 3]), round(source.uniform(0, 2), 2)
        return options | {"beam_size": 2 * groups, "num_beam_groups": groups, "diversity_penalty": penalty}
    return options | {"beam_size": source.randint(3, 10)}


@pytest.mark.parametrize(("which", "count"), [("server_with_streaming", 200), ("server", 40)])
def test_mixed_concurrent_requests_get_the_tokens_that_each_gets_alone(request, which, count):
    """Requests with random options, over REST, gRPC and as streams, which TorchServe puts into common batches."""
    server, source = request.getfixturevalue(which), random.Random(4)
    with Client(server.inference, concurrency=16) as rest, Client(server.grpc, protocol="grpc", concurrency=16) as grpc:

        def ask(image: bytes, options: dict, way: str) -> dict:
            if way == "stream":
                *tokens, response = rest.stream(image, **options)
                assert [part["token"] for part in tokens] == response["captions"][0]["tokens"]
                return response
            return (rest if way == "rest" else grpc).caption(image, **options)

        requests = [
            (source.choice(IMAGES), random_options(source), source.choice(["rest", "grpc", "stream"]))
            for _ in range(count)
        ]
        with ThreadPoolExecutor(16) as pool:
            responses = list(pool.map(lambda one: ask(*one), requests))
        for (image, options, _), response in zip(requests, responses, strict=True):
            alone = rest.caption(image + b"\0", **options)  # a byte more, and no cache knows it
            assert [c["tokens"] for c in response["captions"]] == [c["tokens"] for c in alone["captions"]], options


def test_stream_arrives_in_parts_beside_plain_requests(endpoint, rest):
    expected = rest.caption(IMAGES[1])["caption"]
    with ThreadPoolExecutor(4) as pool:
        plain = [pool.submit(rest.caption, IMAGES[1]) for _ in range(6)]
        fields = {"stream": "true", "beam_size": "1"}
        with requests.post(endpoint, files={"image": IMAGE}, data=fields, stream=True, timeout=60) as response:
            assert response.headers["content-type"] == "text/event-stream"
            parts = list(response.iter_content(None))
        assert [future.result()["caption"] for future in plain] == [expected] * 6
    assert len(parts) > 3
    assert b"".join(parts).count(b"event: token") == len(rest.caption(IMAGE, beam_size=1)["captions"][0]["tokens"])


def test_stream_of_a_bad_image_is_a_plain_error(endpoint, grpc):
    response = requests.post(endpoint, files={"image": b"no image"}, data={"stream": "true"}, timeout=60)
    assert (response.status_code, response.json()["type"]) == (422, "InvalidImage")
    with pytest.raises(EndpointError) as caught:
        list(grpc.stream(b"no image"))
    assert (caught.value.code, caught.value.type) == (422, "InvalidImage")


@pytest.fixture(autouse=True)
def same_workers(server, server_with_streaming):
    """No worker ends during a test of this file."""

    def workers():
        return {process.pid for one in (server, server_with_streaming) for process in one.processes()}

    before = workers()
    assert len(before) == 4  # a JVM and a worker each
    yield
    assert workers() == before


def test_grpc_streaming_that_is_off_answers_once(server, grpc_client, rest):
    """Either could end a worker: a stream without an end, or parts sent to a client that waits for one message."""
    expected = rest.caption(IMAGE)["caption"]
    for fields in ({"image": IMAGE}, {"image": IMAGE, "stream": b"true"}):
        messages = list(grpc_client("StreamPredictions", **fields))
        assert [json.loads(message.prediction)["caption"] for message in messages] == [expected]
        assert json.loads(grpc_client("Predictions", **fields).prediction)["caption"] == expected


def test_clients_that_disconnect_leave_the_worker_alive(server, endpoint, grpc_client, rest):
    fields = {"stream": "true", "beam_size": "1", "max_length": "50", "min_length": "50"}
    for _ in range(3):
        with requests.post(endpoint, files={"image": IMAGE}, data=fields, stream=True, timeout=60) as response:
            next(response.iter_content(None))
        calls = [grpc_client("StreamPredictions", image=IMAGE) for _ in range(3)]
        for call in calls:
            call.cancel()
    assert rest.caption(IMAGE)["caption"]


def test_grpc_streaming_that_is_on_sends_a_message_for_each_token(server_with_streaming):
    with Client(server_with_streaming.grpc, protocol="grpc") as grpc, Client(server_with_streaming.inference) as rest:
        expected = rest.caption(IMAGE, beam_size=1)
        *tokens, last = grpc.stream(IMAGE, beam_size=1)
        assert [part["token"] for part in tokens] == expected["captions"][0]["tokens"]
        assert last["caption"] == expected["caption"]
        assert list(rest.stream(IMAGE, beam_size=1))[:-1] == tokens
        with pytest.raises(EndpointError, match="not an image in a known format"):
            list(grpc.stream(b"no image"))


def metrics(server) -> dict[str, float]:
    """Return the metrics of the handler as Prometheus reads them."""
    text = requests.get(f"{server.metrics}/metrics", timeout=10).text
    rows = [line.rpartition(" ") for line in text.splitlines() if line.startswith("captioner_")]
    return {re.sub('Hostname="[^"]*",', "", name): float(value) for name, _, value in rows}


@contextmanager
def grows(server, **expected: dict[str, int]) -> Iterator[None]:
    """Assert that metrics grow by the expected counts within a block, by name and label.

    TorchServe reads them from the output of its worker, shortly after the responses: metrics of earlier requests have
    to be settled before the block, and those of the block are waited for.
    """
    names = {
        f'captioner_{name}{{ModelName="captioner",{label}}}': count
        for name, counts in expected.items()
        for label, count in counts.items()
    }

    def read() -> dict[str, float]:
        found = metrics(server)
        return {name: found.get(name, 0) for name in names}

    before, earlier = read(), None
    while before != earlier:
        time.sleep(0.5)
        before, earlier = read(), before
    yield
    eventually(lambda: read() == {name: before[name] + count for name, count in names.items()}, pause=0.1)


def logged(server, text: str) -> str:
    """Wait for the line of the worker log that contains a text, and return it."""

    def lines() -> list[str]:
        return [line for line in (server.logs / "model_log.log").read_text().splitlines() if text in line]

    eventually(lines)
    [line] = lines()
    return line.partition(" MODEL_LOG - ")[2]


def test_repeated_request_is_a_cache_hit_and_captions_are_logged(server_with_streaming):
    with (
        Client(server_with_streaming.inference) as rest,
        grows(server_with_streaming, cache_lookups_total={'Result="hit",': 2, 'Result="miss",': 1}),
    ):
        responses = [rest.caption(IMAGES[2], beam_size=2) for _ in range(3)]
    assert len({response["request_id"] for response in responses}) == 3
    assert responses[0]["captions"] == responses[1]["captions"]
    assert json.loads(logged(server_with_streaming, responses[0]["request_id"]))["captions"] == [
        responses[0]["caption"]
    ]


def test_metrics_of_a_batch_count_its_images_and_stages(server_with_streaming):
    stages = {"decode": 2, "encode": 1, "search": 1}
    with grows(
        server_with_streaming,
        images_total={'Outcome="ok",': 1, 'Outcome="InvalidImage",': 1},
        batch_images_sum={"": 1},
        **{f"{stage}_seconds_count": {"": count} for stage, count in stages.items()},
    ):
        for data in (IMAGES[3], b"x"):  # an image that is not in the cache
            requests.post(f"{server_with_streaming.inference}/predictions/captioner", data=data, timeout=60)


def test_log_has_a_line_for_each_request_and_no_caption_by_default(server, endpoint):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    responses = [
        requests.post(endpoint, data=data, headers={"Traceparent": trace}, timeout=60) for data in (IMAGE, b"x")
    ]
    for response, outcome in zip(responses, ("ok", "InvalidImage"), strict=True):
        line = json.loads(logged(server, f'"request_id": "{response.headers["x-request-id"]}"'))
        assert (line["outcomes"], line["traceparent"], line["code"]) == ([outcome], trace, response.status_code)
    assert responses[0].json()["caption"] not in (server.logs / "model_log.log").read_text()


def test_openapi_document_holds_for_generated_requests(server_with_streaming, tmp_path):
    """Schemathesis generates valid and invalid requests from the document, and checks each response against it."""
    page = f"{server_with_streaming.inference}/predictions/captioner"
    document = requests.get(page, headers={"Accept": "application/json"}, timeout=30)
    (tmp_path / "openapi.json").write_bytes(document.content)
    settings = tmp_path / "schemathesis.toml"
    settings.write_text("[checks.negative_data_rejection]\nexpected-statuses = [400, 413, 415, 422]\n")
    checks = (
        "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
        "response_schema_conformance,negative_data_rejection"
    )
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", settings, "run", tmp_path / "openapi.json"]
    command += ["--url", server_with_streaming.inference, "--checks", checks, "--exclude-method", "PUT"]
    command += ["--max-examples", "25", "--seed", "1", "--workers", "1", "--suppress-health-check", "all"]
    command += ["--continue-on-failure", "--no-color"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    [counted] = [line for line in done.stdout.splitlines() if "generated" in line and "passed" in line]
    assert int(counted.split()[0].replace(",", "")) >= 2000, counted
