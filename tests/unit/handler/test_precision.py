"""The precision of the encoder: what is offered, what measuring chooses, and what later starts keep."""

import json
from functools import partial

import pytest
import torch

from handler.backends import EncoderBackend, ModelSource, precision
from handler.backends.precision import build_fastest, cache_path, choose, measure, processor_name
from handler.bundle import load_bundle

OFFERED = ["float32", "bfloat16", "int8"]


@pytest.fixture(autouse=True)
def cache_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "captioner"


@pytest.fixture
def source(tiny_bundle):
    config, weights, _ = load_bundle(tiny_bundle)
    return partial(ModelSource, config, weights, torch.device("cpu"))


@pytest.fixture
def measured(monkeypatch):
    """Times of the encoders; the list of what was measured."""
    times, calls = {"float32": 16.0, "bfloat16": 36.0, "int8": 9.0}, []

    def fake(runs):
        for run in runs.values():
            run()
        calls.append(list(runs))
        return {name: times[name] for name in runs}

    monkeypatch.setattr("handler.backends.precision.measure", fake)
    return times, calls


def build(name: str) -> EncoderBackend:
    return EncoderBackend(lambda pixels: pixels, 4, lambda size: [size], name)


def test_choose_takes_a_less_precise_type_only_for_a_gain():
    assert choose({"float32": 11.0, "bfloat16": 20.0}) == "float32"  # instructions that are slow
    assert choose({"float32": 20.0, "bfloat16": 19.5}) == "float32"  # 2.6 % are not worth it
    assert choose({"float32": 21.0, "bfloat16": 20.0, "int8": 19.5}) == "bfloat16"  # 5 %, then 2.6 % more
    assert choose({"float32": 15.9, "bfloat16": 35.9, "int8": 9.4}) == "int8"


def test_measure_takes_turns_and_returns_the_shortest_time(monkeypatch):
    clock, order = [0.0], []
    monkeypatch.setattr("handler.backends.precision.time.perf_counter", lambda: clock[0])
    # Seconds of each call: the first one, which does not count, then three rounds.
    seconds = {"a": iter([9, 0.02, 0.01, 0.03]), "b": iter([9, 0.5, 0.4, 0.6])}

    def run(name):
        order.append(name)
        clock[0] += next(seconds[name])

    assert measure({name: partial(run, name) for name in seconds}, budget=1.0) == {"a": 10.0, "b": 400.0}
    # Rounds of 0.52, 0.41 and 0.63 s: the budget of 1 s is spent after the third.
    assert order == ["a", "b"] * 4


def test_measure_makes_a_few_rounds_beyond_the_budget():
    calls = []
    measure({"a": partial(calls.append, 1)}, budget=0.0)
    assert len(calls) == 1 + precision.MIN_ROUNDS


def test_fast_builds_what_measured_fastest(source, measured):
    encoder = build_fastest(source("fast"), OFFERED, build, "runtime 1")
    assert (encoder.precision, encoder.milliseconds) == ("int8", measured[0])


@pytest.mark.parametrize(("name", "expected"), [("full", "float32"), ("bfloat16", "bfloat16"), ("int8", "int8")])
def test_named_precision_is_built_without_measuring(source, measured, name, expected):
    encoder = build_fastest(source(name), OFFERED, build, "runtime 1")
    assert (encoder.precision, measured[1]) == (expected, [])


def test_precision_that_is_not_offered_raises(source):
    with pytest.raises(ValueError, match="runs in float32, bfloat16 here, not in int8"):
        build_fastest(source("int8"), OFFERED[:2], build, "runtime 1")


def test_second_start_builds_the_kept_choice_only(source, measured):
    built = []
    build_fastest(source("fast"), OFFERED, build, "runtime 1")
    encoder = build_fastest(source("fast"), OFFERED, lambda name: (built.append(name), build(name))[1], "runtime 1")
    assert (built, encoder.precision, encoder.milliseconds) == (["int8"], "int8", measured[0])
    assert len(measured[1]) == 1


@pytest.mark.parametrize("change", ["runtime", "offered", "threads", "processor"])
def test_another_machine_or_runtime_measures_again(source, measured, monkeypatch, change):
    build_fastest(source("fast"), OFFERED, build, "runtime 1")
    if change == "threads":
        monkeypatch.setattr("torch.get_num_threads", lambda: 77)
    if change == "processor":
        monkeypatch.setattr("handler.backends.precision.processor_name", lambda: "another")
    offered = OFFERED[:2] if change == "offered" else OFFERED
    build_fastest(source("fast"), offered, build, "runtime 2" if change == "runtime" else "runtime 1")
    assert len(measured[1]) == 2


@pytest.mark.parametrize("content", ["", "[]", '{"milliseconds": {"int8": "fast"}}', '{"milliseconds": {}}'])
def test_damaged_file_is_measured_again(source, measured, cache_directory, content):
    build_fastest(source("fast"), OFFERED, build, "runtime 1")
    [path] = cache_directory.iterdir()
    path.write_text(content)
    assert build_fastest(source("fast"), OFFERED, build, "runtime 1").precision == "int8"
    assert len(measured[1]) == 2
    assert json.loads(path.read_text())["milliseconds"] == measured[0]


def test_directory_that_cannot_be_written_is_no_error(source, measured, cache_directory):
    cache_directory.parent.write_text("a file in the place of the directory")
    assert build_fastest(source("fast"), OFFERED, build, "runtime 1").precision == "int8"


def test_precision_that_fails_is_left_out(source, measured, caplog):
    def broken(name):
        if name == "int8":
            raise RuntimeError("damaged")
        return build(name)

    encoder = build_fastest(source("fast"), OFFERED, broken, "runtime 1")
    assert (encoder.precision, measured[1]) == ("float32", [["float32", "bfloat16"]])
    assert "does not run in int8" in caplog.text
    with pytest.raises(RuntimeError, match="damaged"):
        build_fastest(source("int8"), OFFERED, broken, "runtime 1")


def test_measuring_leaves_the_global_random_numbers_alone(source, measured):
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    build_fastest(source("fast"), OFFERED, build, "runtime 1")
    assert torch.equal(torch.rand(2), expected)


def test_cache_path_depends_on_the_key(cache_directory):
    path = cache_path({"processor": processor_name(), "threads": 2})
    assert path.parent == cache_directory
    assert path != cache_path({"processor": processor_name(), "threads": 1})


def test_user_without_a_home_directory_measures_at_each_start(source, measured, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")

    def no_home(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.expanduser", no_home)
    for _ in range(2):
        assert build_fastest(source("fast"), OFFERED, build, "runtime 1").precision == "int8"
    assert len(measured[1]) == 2
