"""The captioning actor of a batch job, without a running Ray."""

import ast

import pyarrow as pa
import pytest
import torch

from deploy.batch import job
from handler.bundle import load_bundle
from handler.generation import GenerationConfig
from tests.helpers.paths import PHOTOS, ROOT


def test_caption_pixels_out_of_memory_captions_in_halves(tiny_bundle, monkeypatch):
    """There is memory for two images at once, and none for the third."""
    monkeypatch.setattr(job.ray, "get", lambda _: (load_bundle(tiny_bundle), {}))
    actor = job.CaptionPixels([None], GenerationConfig(beam_size=1), 1, "cpu", "full")
    pixels = [actor.captioner.preprocess(photo) for photo in PHOTOS[:5]]
    expected = [captions[0].text for captions in actor.captioner.caption(PHOTOS[:5], GenerationConfig(beam_size=1))]
    caption_pixels, sizes = actor.captioner.caption_pixels, []

    def limited(stacked, options):
        sizes.append(len(stacked))
        if len(stacked) > 2 or any(torch.equal(one, pixels[2]) for one in stacked):
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory")
        return caption_pixels(stacked, options)

    monkeypatch.setattr(actor.captioner, "caption_pixels", limited)
    content = [one.numpy().tobytes() for one in pixels]
    errors = pa.array([None] * 5 + ["InvalidImage"], pa.string())
    batch = pa.table(
        {"image": list("abcdef"), "pixels": [*content, None], "error_type": errors, "error_message": errors}
    )
    rows = actor(batch).to_pylist()
    assert sizes == [5, 2, 3, 1, 2]
    assert [row["caption"] for row in rows] == [*expected[:2], None, *expected[3:], None]
    assert [row["error_type"] for row in rows] == [None, None, "OutOfMemory", None, None, "InvalidImage"]
    assert "too little memory" in rows[2]["error_message"]
    monkeypatch.setattr(actor.captioner, "caption_pixels", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        actor(batch)


def imported_modules(module: str) -> set[str]:
    """Return the modules of this project that are loaded with a module, not counting imports inside functions."""
    pending, seen = [module], set()
    while pending:
        name = pending.pop()
        path = ROOT.joinpath(*name.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name in seen or not file.is_file():  # another package's, or a name in a module
            continue
        seen.add(name)
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ImportFrom):
                pending += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                pending += [alias.name for alias in node.names]
    return seen


def test_job_imports_only_packages_that_are_sent_to_a_cluster():
    modules = imported_modules("deploy.batch.job")
    assert {"deploy.batch.ray_session", "deploy.batch.sources", "handler.captioner"} <= modules
    assert {module.split(".")[0] for module in modules} == {"deploy", "handler"}
