"""Image sources of a batch job: every image is listed and read once, and an error takes the place of its image."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deploy.batch.sources import ImageFolder, ImageSource, ParquetFiles
from deploy.batch.storage import MAX_BYTES
from handler.errors import RequestError
from tests.helpers.paths import PHOTOS

PHOTO = PHOTOS[0].read_bytes()


def read_all(source: ImageSource, done: set[str] = frozenset()) -> dict[str, object]:
    """Return each image's name with its bytes or the type of its error."""
    images_by_name = {}
    for rows, images in source.read(source.remaining(done)):
        for name, image in zip(rows["image"].to_pylist(), images, strict=True):
            assert name not in images_by_name
            images_by_name[name] = image.type if isinstance(image, RequestError) else image
    return images_by_name


def test_image_folder_lists_images_at_any_depth(tmp_path):
    for name in ("one.jpg", "deep/er/one.jpg", "deep/B.JPEG", "c.webp", "empty.gif", "notes.txt", "one.jpg.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"" if name == "empty.gif" else name.encode())
    os.mkfifo(tmp_path / "pipe.jpg")
    source = ImageFolder(str(tmp_path))
    expected = {name: name.encode() for name in ("one.jpg", "deep/er/one.jpg", "deep/B.JPEG", "c.webp")}
    assert read_all(source) == expected | {"empty.gif": b""}
    assert source.count == 5
    assert read_all(source, {"one.jpg", "c.webp", "empty.gif"}).keys() == {"deep/er/one.jpg", "deep/B.JPEG"}


def test_image_folder_with_names_of_any_bytes_yields_a_row_for_each(tmp_path):
    """Linux allows all bytes but the slash and zero in a name; text in Arrow is UTF-8."""
    names = {
        b"\xff.jpg": "\\xff.jpg",
        "é.jpg".encode(): "é.jpg",
        b"a\nb.png": "a\nb.png",
        b"\xfe/x y.gif": "\\xfe/x y.gif",
    }
    for name in names:
        path = tmp_path / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name)
    source = ImageFolder(str(tmp_path))
    assert read_all(source) == {shown: name for name, shown in names.items()}
    assert read_all(source, {"\\xff.jpg", "é.jpg", "\\xfe/x y.gif"}) == {"a\nb.png": b"a\nb.png"}
    assert ImageFolder(str(tmp_path / os.fsdecode(b"\xfe"))).count == 1


@pytest.mark.parametrize("suffix", [".heic", ".HEIF", ".avif", ".tif", ".TIFF", ".jfif", ".webp"])
def test_image_folder_lists_every_format(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(b"x")
    assert ImageFolder(str(tmp_path)).count == 1


def test_image_folder_with_unreadable_files_yields_errors_in_their_place(tmp_path):
    for name in ("a.jpg", "gone.jpg", "huge.jpg", "z.jpg"):
        (tmp_path / name).write_bytes(PHOTO)
    source = ImageFolder(str(tmp_path))
    (tmp_path / "gone.jpg").unlink()
    os.truncate(tmp_path / "huge.jpg", MAX_BYTES + 1)
    assert read_all(source) == {"a.jpg": PHOTO, "gone.jpg": "Unreadable", "huge.jpg": "TooLarge", "z.jpg": PHOTO}


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([PHOTO, b"no", None], [PHOTO, b"no", "Unreadable"]),
        (["a.jpg", "gone.jpg", "{directory}/a.jpg", "file://{directory}/a.jpg"], [PHOTO, "Unreadable", PHOTO, PHOTO]),
        (["nothing://here/a.jpg", "/dev/zero"], ["Unreadable", "Unreadable"]),
        (
            [{"bytes": PHOTO, "path": "x.jpg"}, {"bytes": None, "path": "a.jpg"}, {"bytes": None, "path": None}, None],
            [PHOTO, PHOTO, "Unreadable", "Unreadable"],
        ),
        ([1, 2], ["Unreadable", "Unreadable"]),
    ],
    ids=["bytes", "paths", "no files", "structs", "numbers"],
)
def test_parquet_column_holds_bytes_paths_or_structs(tmp_path, cells, expected):
    (tmp_path / "a.jpg").write_bytes(PHOTO)
    cells = [cell.replace("{directory}", str(tmp_path)) if isinstance(cell, str) else cell for cell in cells]
    pq.write_table(pa.table({"image": cells}), tmp_path / "data.parquet")
    images = read_all(ParquetFiles(str(tmp_path), "image", []))
    assert images == {f"data.parquet#{row}": value for row, value in enumerate(expected)}


def write_shards(directory: Path) -> None:
    """Write two files of ten images in row groups of four, and a truncated one."""
    for shard in range(2):
        (directory / f"{shard}").mkdir(parents=True)
        rows = range(10 * shard, 10 * shard + 10)
        table = pa.table({"id": list(rows), "image": [b"%d" % row for row in rows], "other": [0.5] * 10})
        pq.write_table(table, directory / f"{shard}" / "data.parquet", row_group_size=4)
    (directory / "cut.parquet").write_bytes((directory / "0" / "data.parquet").read_bytes()[:-20])


def test_parquet_rows_keep_their_columns_and_are_read_once(tmp_path):
    write_shards(tmp_path)
    source = ParquetFiles(str(tmp_path), "image", ["id"])
    done = {"0/data.parquet#1", *(f"1/data.parquet#{row}" for row in range(4))}
    chunks = list(source.read(source.remaining(done)))
    kept = {row["image"]: row["id"] for rows, _ in chunks for row in rows.to_pylist()}
    expected = {f"0/data.parquet#{row}": row for row in range(10) if row != 1}
    assert kept == expected | {f"1/data.parquet#{row}": 10 + row for row in range(4, 10)} | {"cut.parquet": None}
    images = [image for _, images in chunks for image in images if isinstance(image, bytes)]
    assert sorted(map(int, images)) == [0, *range(2, 10), *range(14, 20)]
    assert source.count == 21
    assert not len(source.remaining(set(kept) | {f"{n}/data.parquet#{row}" for n in range(2) for row in range(4)}))


def test_damaged_parquet_page_costs_only_its_own_rows(tmp_path):
    path = tmp_path / "data.parquet"
    images = [os.urandom(3000) for _ in range(6)]
    pq.write_table(pa.table({"id": range(6), "image": images}), path, row_group_size=2, compression="zstd")
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(1)
    with path.open("r+b") as file:
        file.seek(chunk.dictionary_page_offset or chunk.data_page_offset)
        file.write(b"\xff" * 2000)
    source = ParquetFiles(str(path), "image", ["id"])
    assert read_all(source) == {
        f"data.parquet#{row}": "InvalidParquet" if row in (2, 3) else image for row, image in enumerate(images)
    }
    chunks = source.read(source.remaining(set()))
    assert [row for rows, _ in chunks for row in rows["id"].to_pylist()] == list(range(6))
