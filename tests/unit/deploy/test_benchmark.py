"""Variants of an archive, what is recommended of them, and the table."""

import zipfile

import pytest
import torch
import yaml

from deploy.archive import build_archive
from deploy.benchmark.__main__ import recommended
from deploy.benchmark.measure import Measured, table
from deploy.benchmark.profile_stages import count_operations
from deploy.benchmark.variants import BASELINE, VARIANTS, Variant, grid, repack
from eval.load_test import Load
from handler.parallel import available_cpus, parallel_map


def test_a_variants_archive(tiny_bundle, tmp_path):
    archive = build_archive(tiny_bundle, tmp_path / "captioner.mar")
    repack(archive, tmp_path / "other.mar", Variant("x", {"batchSize": 3, "handler.backend": "eager"}, BASELINE.entry))
    with zipfile.ZipFile(archive) as before, zipfile.ZipFile(tmp_path / "other.mar") as after:
        assert before.namelist() == after.namelist()
        different = {name for name in before.namelist() if before.read(name) != after.read(name)}
        assert different == {"model-config.yaml", "captioner_service.py"}
        assert after.read("captioner_service.py") == BASELINE.entry.read_bytes()
        settings = yaml.safe_load(after.read("model-config.yaml"))
        assert settings["batchSize"] == 3
        assert settings["handler"] | {"backend": "auto"} == yaml.safe_load(before.read("model-config.yaml"))["handler"]
    with pytest.raises(KeyError, match="backends"):
        repack(archive, tmp_path / "other.mar", Variant("x", {"handler.backends": "eager"}))


@pytest.mark.parametrize("variant", [*VARIANTS.values(), *grid()])
def test_every_variants_settings_are_there(tiny_bundle, tmp_path, variant):
    archive = tmp_path / "captioner.mar"
    with zipfile.ZipFile(archive, "w") as made:
        made.write("handler/model-config.yaml", "model-config.yaml")
    assert repack(archive, archive, variant) == archive


def measured(name: str, at_one: tuple[float, float], at_eight: tuple[float, float]) -> Measured:
    """With captions a second and milliseconds for one caller and for eight."""
    loads = {
        callers: [Load("x", "closed", callers, throughput=rate, latency_ms={"p50": ms, "p95": 2 * ms})]
        for callers, (rate, ms) in ((1, at_one), (8, at_eight))
    }
    return Measured(name, 2.0, 500.0, loads)


def test_what_is_recommended():
    """Within a twentieth of the most captions a second, the quickest for one caller."""
    found = [
        measured("slow", (5, 30), (10, 800)),
        measured("most", (10, 40), (100, 80)),
        measured("about as many", (20, 20), (96, 90)),
        measured("too few", (30, 10), (94, 60)),
    ]
    assert recommended(found, 8).variant == "about as many"
    found[1].in_process += [125, 124, 200]
    rows = table(found, [1, 8]).splitlines()
    assert rows[3].startswith("| most | 2.0 | 500 | 10.0 | 2.00 | 40 | 1.33 | 80 | 100.0 | 10.00 | 80 | 0.10 | 160 |")
    assert rows[3].endswith(" 125.0 | 80% |")
    assert rows[2].endswith(" – | – |")


@pytest.mark.parametrize(
    ("quota", "count"), [("max 100000", 6), ("200000 100000", 2), ("50000 100000", 1), ("900000 100000", 6), ("?", 6)]
)
def test_a_containers_share_of_the_cores(tmp_path, monkeypatch, quota, count):
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr("handler.parallel.CGROUP", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)))
    assert available_cpus() == count


def test_threads_keep_the_order_and_the_first_error(monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    assert parallel_map(lambda n: n * n, range(20)) == [n * n for n in range(20)]
    with pytest.raises(ZeroDivisionError):
        parallel_map(lambda n: 1 // (n - 4), range(20))


def test_an_encoders_work():
    """A convolution of 3 → 8 channels, 3 × 3, with stride 2 on 64 × 64 takes 2 · 27 · 8 · 32² = 442,368 operations."""
    counted = count_operations(torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.zeros(1, 3, 64, 64))
    assert counted == 442_368
