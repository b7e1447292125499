"""The TorchServe entry on one batch, with TorchServe's own context."""

import json
from pathlib import Path

import pytest
import ts
from ts.context import Context, RequestProcessor
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

from handler.captioner import Captioner
from handler.captioner_service import CaptionerService
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.paths import PHOTOS

SMALL = next(photo for photo in PHOTOS if photo.stem == "cat").read_bytes()
TORCHSERVES_METRICS = Path(ts.__file__).parent / "configs" / "metrics.yaml"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def make_context(folder, **settings):
    write_tiny_bundle(folder / "model")
    manifest = {"model": {"modelName": "captioner", "modelVersion": "1.0"}}
    settings = {"handler": {"max_pixels": 300_000} | settings}
    return Context(
        "captioner", str(folder), manifest, 3, None, "0.12.0",
        metrics=MetricsCacheYamlImpl(str(TORCHSERVES_METRICS)), model_yaml_config=settings,
    )  # fmt: skip


@pytest.fixture
def context(tmp_path):
    return make_context(tmp_path)


@pytest.fixture
def service(context):
    service = CaptionerService()
    service.initialize(context)
    return service


def handle(service, context, items):
    """Rows with their headers → each row's status and answer."""
    context.request_ids = {place: f"id-{place}" for place in range(len(items))}
    context.request_processor = [RequestProcessor(headers) for _, headers in items]
    answers = service.handle([row for row, _ in items], context)
    return [(context.get_response_status(place)[0] or 200, json.loads(answer)) for place, answer in enumerate(answers)]


HTTP = {"Host": "x"}


def test_each_row_has_its_own_status_and_type(service, context):
    items = [
        ({"body": bytearray(SMALL)}, HTTP | {"Content-Type": "image/jpeg"}),
        ({"body": bytearray(b"broken")}, HTTP),
        ({"image": bytearray(SMALL)}, {"image": {"content-type": "image/jpeg"}}),  # gRPC has no headers
        ({}, HTTP | {"describe": "True"}),
        ({"image": bytearray(SMALL), "beam": bytearray(b"4")}, HTTP),
    ]
    answers = handle(service, context, items)
    assert [code for code, _ in answers] == [200, 422, 200, 200, 400]
    assert [body.get("type") for _, body in answers] == [None, "InvalidImage", None, None, "UnknownOption"]
    assert [body.get("request_id") for _, body in answers] == ["id-0", "id-1", "id-2", None, "id-4"]
    assert answers[0][1]["caption"] == answers[2][1]["caption"]
    assert [context.get_response_content_type(place) for place in range(5)] == ["application/json"] * 5
    ends = [context.get_response_headers(place).get("ts_stream_next") for place in range(5)]
    assert ends == [None, None, "false", None, None]


def test_the_page_comes_with_its_policy_and_a_figure_as_bytes(service, context):
    rows = [
        ({"body": b""}, HTTP | {"Accept": "text/html"}),
        ({"body": bytearray(SMALL)}, HTTP | {"explain": "True", "Accept": "image/png"}),
    ]
    context.request_ids = {0: "a", 1: "b"}
    context.request_processor = [RequestProcessor(headers) for _, headers in rows]
    page, figure = service.handle([row for row, _ in rows], context)
    assert page.startswith("<!doctype html>")
    assert "default-src 'none'" in context.get_response_headers(0)["Content-Security-Policy"]
    assert context.get_response_content_type(0) == "text/html; charset=utf-8"
    assert figure.startswith(b"\x89PNG")
    assert context.get_response_content_type(1) == "image/png"


def test_a_setting_that_there_is_not_stops_the_load(tmp_path):
    with pytest.raises(TypeError, match="max_pixel"):
        CaptionerService().initialize(make_context(tmp_path, max_pixel=7))


def test_a_model_that_cant_caption_is_not_ready(tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no caption")

    monkeypatch.setattr("handler.backends.engine.generate", broken)
    with pytest.raises(RuntimeError, match="no caption"):
        CaptionerService().initialize(make_context(tmp_path))


@pytest.mark.parametrize("entries", [0, 4])
def test_the_sizes_that_the_backend_names_are_warmed_up(tmp_path, monkeypatch, entries):
    sizes = []
    real = Captioner.encode
    monkeypatch.setattr(Captioner, "encode", lambda self, pixels: (sizes.append(len(pixels)), real(self, pixels))[1])
    CaptionerService().initialize(make_context(tmp_path, cache_entries=entries))
    assert sizes == [3, 1]  # a full batch, then a single image


def lines(caplog):
    """The log's lines that are JSON."""
    return [json.loads(record.message) for record in caplog.records if record.message.startswith("{")]


def test_one_line_of_json_a_request_without_what_the_caller_wrote(service, context, caplog):
    caplog.set_level("INFO")
    hostile = "x\n[METRICS]a.Count:1|#b:c"
    items = [
        ({"body": bytearray(SMALL)}, HTTP | {"TraceParent": TRACE}),
        ({"body": bytearray(SMALL), hostile: bytearray(b"1")}, HTTP | {"traceparent": hostile}),
        ({"body": {"images": ["§", ""]}}, HTTP | {"content-type": "application/json"}),
        ({}, HTTP | {"describe": "True"}),
    ]
    handle(service, context, items)
    first, second, third = lines(caplog)
    assert (first["request_id"], first["protocol"], first["code"], first["outcomes"]) == ("id-0", "http", 200, ["ok"])
    assert first["traceparent"] == TRACE
    assert first["image_bytes"] == len(SMALL)
    assert first["batch_images"] == 1
    assert first["decode_ms"] > 0
    assert first["encode_ms"] > 0
    assert first["search_ms"] > 0
    assert (second["code"], second["outcomes"]) == (400, ["UnknownOption"])
    assert "traceparent" not in second
    assert third["outcomes"] == ["MalformedJSON", "EmptyBody"]
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("handler")]
    assert not any(hostile in line or "captions" in line for line in logged)


def test_captions_are_logged_only_where_asked_for(tmp_path, caplog):
    caplog.set_level("INFO")
    context = make_context(tmp_path, log_captions=True)
    service = CaptionerService()
    service.initialize(context)
    [(_, body)] = handle(service, context, [({"body": bytearray(SMALL)}, HTTP)])
    assert lines(caplog)[0]["captions"] == [body["caption"]]


def test_metrics(service, context, caplog):
    caplog.set_level("INFO")
    handle(service, context, [({"body": bytearray(SMALL)}, HTTP)] * 2 + [({"body": bytearray(b"x")}, HTTP)])
    found = {}
    for record in caplog.records:
        if record.getMessage().startswith("[METRICS]captioner_"):
            name, _, rest = record.getMessage()[9:].partition(":")
            value, _, dimensions = rest.partition("|#")
            found.setdefault((name, dimensions.partition("|")[0]), []).append(float(value))
    assert found["captioner_images_total.Count", "ModelName:captioner,Outcome:ok"] == [2]
    assert found["captioner_images_total.Count", "ModelName:captioner,Outcome:InvalidImage"] == [1]
    assert found["captioner_batch_images.Count", "ModelName:captioner"] == [2]
    for stage, count in (("request", 3), ("decode", 3), ("encode", 1), ("search", 1)):
        assert len(found[f"captioner_{stage}_seconds.Seconds", "ModelName:captioner"]) == count
    assert not any("cache" in name for name, _ in found)
    [memory] = found["captioner_memory_bytes.Bytes", "ModelName:captioner"]
    assert memory > 1e7


def test_every_outcome_is_counted_from_nought(context, caplog):
    caplog.set_level("INFO")
    CaptionerService().initialize(context)
    for outcome in ("ok", "cached", "InternalError", "TooManyPixels"):
        assert f"[METRICS]captioner_images_total.Count:0|#ModelName:captioner,Outcome:{outcome}|" in caplog.text
