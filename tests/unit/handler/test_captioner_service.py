"""The TorchServe entry point, with a real context of TorchServe."""

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


def make_context(directory, **settings):
    write_tiny_bundle(directory / "model")
    manifest = {"model": {"modelName": "captioner", "modelVersion": "1.0"}}
    settings = {"handler": {"max_pixels": 300_000} | settings}
    metrics = MetricsCacheYamlImpl(str(TORCHSERVES_METRICS))
    return Context(
        "captioner", str(directory), manifest, 3, None, "0.12.0", metrics=metrics, model_yaml_config=settings
    )


@pytest.fixture
def context(tmp_path):
    return make_context(tmp_path)


@pytest.fixture
def service(context):
    service = CaptionerService()
    service.initialize(context)
    return service


def handle(service, context, items):
    """Return status and response of each request, given its fields and headers."""
    context.request_ids = {index: f"id-{index}" for index in range(len(items))}
    context.request_processor = [RequestProcessor(headers) for _, headers in items]
    responses = service.handle([fields for fields, _ in items], context)
    return [
        (context.get_response_status(index)[0] or 200, json.loads(response)) for index, response in enumerate(responses)
    ]


HTTP = {"Host": "x"}


def test_handle_sets_status_and_content_type_of_each_request(service, context):
    items = [
        ({"body": bytearray(SMALL)}, HTTP | {"Content-Type": "image/jpeg"}),
        ({"body": bytearray(b"broken")}, HTTP),
        ({"image": bytearray(SMALL)}, {"image": {"content-type": "image/jpeg"}}),  # gRPC has no headers
        ({}, HTTP | {"describe": "True"}),
        ({"image": bytearray(SMALL), "beam": bytearray(b"4")}, HTTP),
    ]
    responses = handle(service, context, items)
    assert [code for code, _ in responses] == [200, 422, 200, 200, 400]
    assert [body.get("type") for _, body in responses] == [None, "InvalidImage", None, None, "UnknownOption"]
    assert [body.get("request_id") for _, body in responses] == ["id-0", "id-1", "id-2", None, "id-4"]
    assert responses[0][1]["caption"] == responses[2][1]["caption"]
    assert [context.get_response_content_type(index) for index in range(5)] == ["application/json"] * 5
    ends = [context.get_response_headers(index).get("ts_stream_next") for index in range(5)]
    assert ends == [None, None, "false", None, None]


def test_handle_returns_the_demo_page_and_a_figure(service, context):
    requests = [
        ({"body": b""}, HTTP | {"Accept": "text/html"}),
        ({"body": bytearray(SMALL)}, HTTP | {"explain": "True", "Accept": "image/png"}),
    ]
    context.request_ids = {0: "a", 1: "b"}
    context.request_processor = [RequestProcessor(headers) for _, headers in requests]
    page, figure = service.handle([fields for fields, _ in requests], context)
    assert page.startswith("<!doctype html>")
    assert "default-src 'none'" in context.get_response_headers(0)["Content-Security-Policy"]
    assert context.get_response_content_type(0) == "text/html; charset=utf-8"
    assert figure.startswith(b"\x89PNG")
    assert context.get_response_content_type(1) == "image/png"


def test_initialize_with_an_unknown_setting_raises(tmp_path):
    with pytest.raises(ValueError, match="max_pixel"):
        CaptionerService().initialize(make_context(tmp_path, max_pixel=7))


def test_initialize_of_a_model_that_cannot_caption_raises(tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no caption")

    monkeypatch.setattr("handler.backends.engine.generate", broken)
    with pytest.raises(RuntimeError, match="no caption"):
        CaptionerService().initialize(make_context(tmp_path))


@pytest.mark.parametrize("entries", [0, 4])
def test_initialize_warms_up_the_sizes_of_the_backend(tmp_path, monkeypatch, entries):
    sizes = []
    real = Captioner.encode
    monkeypatch.setattr(Captioner, "encode", lambda self, pixels: (sizes.append(len(pixels)), real(self, pixels))[1])
    CaptionerService().initialize(make_context(tmp_path, cache_entries=entries))
    assert sizes == [3, 1]  # a full batch, then a single image


def lines(caplog):
    """Return the JSON records of the log."""
    return [json.loads(record.message) for record in caplog.records if record.message.startswith("{")]


def test_log_has_one_record_per_request_without_client_text(service, context, caplog):
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


def test_log_has_captions_if_configured(tmp_path, caplog):
    caplog.set_level("INFO")
    context = make_context(tmp_path, log_captions=True)
    service = CaptionerService()
    service.initialize(context)
    [(_, body)] = handle(service, context, [({"body": bytearray(SMALL)}, HTTP)])
    assert lines(caplog)[0]["captions"] == [body["caption"]]


def test_metrics_count_images_and_stages(service, context, caplog):
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


def test_metrics_start_at_zero_for_every_outcome(context, caplog):
    caplog.set_level("INFO")
    CaptionerService().initialize(context)
    for outcome in ("ok", "cached", "InternalError", "TooManyPixels"):
        assert f"[METRICS]captioner_images_total.Count:0|#ModelName:captioner,Outcome:{outcome}|" in caplog.text
