"""Bulk captioning but for Ray: what is found and read, what the folder of captions holds, what is refused."""

import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from deploy.batch.__main__ import main
from deploy.batch.results import Results
from deploy.batch.sources import Folder, ParquetFiles, Source
from deploy.batch.storage import MAX_BYTES, BatchJobError
from handler.bundle import load_bundle
from handler.errors import RequestError
from handler.generation import GenerationConfig
from tests.helpers.paths import PHOTOS

PHOTO = PHOTOS[0].read_bytes()


def read_all(source: Source, done: set[str] = frozenset()) -> dict[str, object]:
    """Each picture's name with its bytes or the type of its error."""
    found = {}
    for rows, images in source.read(source.left(done)):
        for name, image in zip(rows["picture"].to_pylist(), images, strict=True):
            assert name not in found
            found[name] = image.type if isinstance(image, RequestError) else image
    return found


def test_a_folder_has_all_that_lies_in_it(tmp_path):
    for name in ("one.jpg", "deep/er/one.jpg", "deep/B.JPEG", "c.webp", "empty.gif", "notes.txt", "one.jpg.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"" if name == "empty.gif" else name.encode())
    os.mkfifo(tmp_path / "pipe.jpg")
    source = Folder(str(tmp_path))
    found = {name: name.encode() for name in ("one.jpg", "deep/er/one.jpg", "deep/B.JPEG", "c.webp")}
    assert read_all(source) == found | {"empty.gif": b""}
    assert source.count == 5
    assert read_all(source, {"one.jpg", "c.webp", "empty.gif"}).keys() == {"deep/er/one.jpg", "deep/B.JPEG"}


def test_a_file_that_cant_be_read_is_an_error_in_its_place(tmp_path):
    for name in ("a.jpg", "gone.jpg", "huge.jpg", "z.jpg"):
        (tmp_path / name).write_bytes(PHOTO)
    source = Folder(str(tmp_path))
    (tmp_path / "gone.jpg").unlink()
    os.truncate(tmp_path / "huge.jpg", MAX_BYTES + 1)
    assert read_all(source) == {"a.jpg": PHOTO, "gone.jpg": "Unreadable", "huge.jpg": "TooLarge", "z.jpg": PHOTO}


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([PHOTO, b"no", None], [PHOTO, b"no", "Unreadable"]),
        (["a.jpg", "gone.jpg", "{folder}/a.jpg", "file://{folder}/a.jpg"], [PHOTO, "Unreadable", PHOTO, PHOTO]),
        (["nothing://here/a.jpg", "/dev/zero"], ["Unreadable", "Unreadable"]),
        (
            [{"bytes": PHOTO, "path": "x.jpg"}, {"bytes": None, "path": "a.jpg"}, {"bytes": None, "path": None}, None],
            [PHOTO, PHOTO, "Unreadable", "Unreadable"],
        ),
        ([1, 2], ["Unreadable", "Unreadable"]),
    ],
)
def test_a_column_holds_bytes_or_paths_or_both(tmp_path, cells, expected):
    (tmp_path / "a.jpg").write_bytes(PHOTO)
    cells = [cell.replace("{folder}", str(tmp_path)) if isinstance(cell, str) else cell for cell in cells]
    pq.write_table(pa.table({"image": cells}), tmp_path / "data.parquet")
    found = read_all(ParquetFiles(str(tmp_path), "image", []))
    assert found == {f"data.parquet#{row}": value for row, value in enumerate(expected)}


def write_shards(folder: Path) -> None:
    """Two files of ten pictures each in groups of four rows, and one that breaks off."""
    for shard in range(2):
        (folder / f"{shard}").mkdir(parents=True)
        rows = range(10 * shard, 10 * shard + 10)
        table = pa.table({"id": list(rows), "image": [b"%d" % row for row in rows], "other": [0.5] * 10})
        pq.write_table(table, folder / f"{shard}" / "data.parquet", row_group_size=4)
    (folder / "cut.parquet").write_bytes((folder / "0" / "data.parquet").read_bytes()[:-20])


def test_rows_keep_their_columns_and_are_read_once(tmp_path):
    write_shards(tmp_path)
    source = ParquetFiles(str(tmp_path), "image", ["id"])
    pieces = list(source.read(source.left({"0/data.parquet#1", *(f"1/data.parquet#{row}" for row in range(4))})))
    kept = {row["picture"]: row["id"] for rows, _ in pieces for row in rows.to_pylist()}
    expected = {f"0/data.parquet#{row}": row for row in range(10) if row != 1}
    assert kept == expected | {f"1/data.parquet#{row}": 10 + row for row in range(4, 10)} | {"cut.parquet": None}
    images = [image for _, images in pieces for image in images if isinstance(image, bytes)]
    assert sorted(map(int, images)) == [0, *range(2, 10), *range(14, 20)]
    assert source.count == 21
    assert not len(source.left(set(kept) | {f"{n}/data.parquet#{row}" for n in range(2) for row in range(4)}))


def test_a_damaged_part_costs_its_own_rows_alone(tmp_path):
    path = tmp_path / "data.parquet"
    images = [os.urandom(3000) for _ in range(6)]
    pq.write_table(pa.table({"id": range(6), "image": images}), path, row_group_size=2, compression="zstd")
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(1)
    begin = chunk.dictionary_page_offset or chunk.data_page_offset
    with path.open("r+b") as file:
        file.seek(begin)
        file.write(b"\xff" * 2000)
    source = ParquetFiles(str(path), "image", ["id"])
    found = read_all(source)
    assert found == {
        f"data.parquet#{row}": "InvalidParquet" if row in (2, 3) else image for row, image in enumerate(images)
    }
    assert [row for rows, _ in source.read(source.left(set())) for row in rows["id"].to_pylist()] == list(range(6))


def write_captions(path: Path, *pictures: str) -> None:
    pq.write_table(pa.table({"picture": list(pictures), "error_type": [None] * len(pictures)}), path)


def test_what_counts_is_written_whole_and_once(tmp_path):
    results = Results(str(tmp_path / "captions"), {"model": "sha256:1"})
    folder = tmp_path / "captions"
    assert results.done() == set()
    write_captions(folder / "a.parquet", "1", "2")
    write_captions(folder / "b.parquet", "2", "3")
    (folder / "c.parquet").write_bytes((folder / "a.parquet").read_bytes()[:-10])
    assert results.done() == {"1", "2", "3"}
    assert sorted(pq.read_table(folder)["picture"].to_pylist()) == ["1", "2", "3"]
    assert results.outcomes() == {None: 3}


def test_a_folder_holds_captions_of_one_kind(tmp_path):
    Results(str(tmp_path / "captions"), {"model": "sha256:1", "beam_size": 3})
    Results(str(tmp_path / "captions"), {"model": "sha256:1", "beam_size": 3})
    with pytest.raises(BatchJobError, match="beam_size is 3 there and 5 here"):
        Results(str(tmp_path / "captions"), {"model": "sha256:1", "beam_size": 5})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(BatchJobError, match="holds something else"):
        Results(str(tmp_path / "other"), {})


def test_one_job_at_a_time_writes(tmp_path):
    results = Results(str(tmp_path), {})
    with results.alone(), pytest.raises(BatchJobError, match="Another job writes"), Results(str(tmp_path), {}).alone():
        pass
    with results.alone():
        pass


def test_a_batch_beyond_the_memory_is_captioned_by_halves(tiny_bundle, monkeypatch):
    """Memory for two pictures at once, and none for the third."""
    from deploy.batch import job  # here, as it imports Ray

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
        {"picture": list("abcdef"), "pixels": [*content, None], "error_type": errors, "error_message": errors}
    )
    rows = actor(batch).to_pylist()
    assert sizes == [5, 2, 3, 1, 2]
    assert [row["caption"] for row in rows] == [*expected[:2], None, *expected[3:], None]
    assert [row["error_type"] for row in rows] == [None, None, "OutOfMemory", None, None, "InvalidImage"]
    assert "too little memory" in rows[2]["error_message"]
    monkeypatch.setattr(actor.captioner, "caption_pixels", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        actor(batch)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{}/none", "{}/out"], "is no folder"),
        (["{}/empty", "{}/out"], "There are no pictures in .*empty: it needs files that end in .*.jpg"),
        (["{}/empty", "{}/out", "--image-column", "image"], "There is no Parquet file"),
        (["{}/data.parquet", "{}/out"], "is no folder; of Parquet files say with --image-column"),
        (
            ["{}/data.parquet", "{}/out", "--image-column", "picture"],
            "no column 'picture' at .*: choose among image, id",
        ),
        (["{}/data.parquet", "{}/out", "--image-column", "image", "--keep", "size"], "no column 'size'"),
        (["{}/data.parquet", "{}/out", "--image-column", "image", "--keep", "caption"], "No column 'caption' can be"),
        (["{}/pictures", "{}/out", "--keep", "id"], "--keep is for Parquet files"),
        (["{}/pictures", "{}/out", "--options", "beam_size"], "written name=value, not 'beam_size'"),
        (["{}/pictures", "{}/out", "--options", "beam_size=11"], "beam_size must be an integer from 1 to 10"),
        (["{}/pictures", "{}/out", "--options", "attention=true"], "attention is not written"),
        (["{}/pictures", "{}/data.parquet/out"], "can't be written"),
        (["{}/pictures", "{}/pictures"], "holds something else"),
        (["{}/pictures", "{}/out", "--address", "127.0.0.1:1"], "Ray does not answer: .*refused"),
        (["nothing://bucket/pictures", "{}/out"], "can't be read"),
    ],
)
def test_what_cant_be_done_is_one_sentence(tmp_path, monkeypatch, tiny_bundle, arguments, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(PHOTO)
    pq.write_table(pa.table({"image": [PHOTO], "id": [1]}), tmp_path / "data.parquet")
    places = [argument.replace("{}", str(tmp_path)) for argument in arguments]
    monkeypatch.setattr(sys, "argv", ["bulk", *places, "--model", str(tiny_bundle)])
    with pytest.raises(SystemExit, match=said) as stopped:
        main()
    assert "\n" not in str(stopped.value)
