"""Zips are unpacked completely, resumed, and refused if they would do harm."""

import zipfile

import pytest

from tests.unit.training.file_server import pack
from training.data.unpack import unpack

LIMIT = 1_000_000


def tree(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def link(name, target="/etc"):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, 0o120777 << 16
    return {info: target}


def test_unpack_writes_matching_files_only(tmp_path):
    (tmp_path / "a.zip").write_bytes(pack({"v/": b"", "v/a.jpg": b"a", "w/b.jpg": b"b", "v/c.txt": b"c"}))
    assert unpack(tmp_path / "a.zip", "v/*.jpg", tmp_path / "out", LIMIT) == {"v/a.jpg": 1}
    assert tree(tmp_path / "out") == {"v/a.jpg": b"a"}


def test_unpack_again_writes_only_missing_and_truncated_files(tmp_path):
    files = {f"v/{i}.jpg": bytes([i]) * 10 for i in range(3)}
    (tmp_path / "a.zip").write_bytes(pack(files))
    unpack(tmp_path / "a.zip", "v/*.jpg", tmp_path / "out", LIMIT)
    complete = (tmp_path / "out" / "v" / "0.jpg").stat().st_mtime_ns
    (tmp_path / "out" / "v" / "1.jpg").write_bytes(b"cut")
    (tmp_path / "out" / "v" / "2.jpg").unlink()
    unpack(tmp_path / "a.zip", "v/*.jpg", tmp_path / "out", LIMIT)
    assert tree(tmp_path / "out") == files
    assert (tmp_path / "out" / "v" / "0.jpg").stat().st_mtime_ns == complete


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"v/../../out.jpg": b"x"}, "'v/../../out.jpg', which leads out of the directory"),
        ({"../out.jpg": b"x"}, "which leads out"),
        ({"/out.jpg": b"x"}, "which leads out"),
        ({"v/..\\..\\out.jpg": b"x"}, "which leads out"),
        (link("v/out.jpg"), "'v/out.jpg', which is not a regular file"),
        ({"v/b.jpg": bytes(2_000_000)}, r"would unpack to 2,000,001 bytes; the limit is 1,000,000"),
        ({f"v/{i}.jpg": bytes(20_000) for i in range(60)}, r"would unpack to 1,200,001 bytes"),
    ],
)
def test_unpack_harmful_zip_is_refused_before_anything_is_written(tmp_path, files, message):
    (tmp_path / "a.zip").write_bytes(pack({"v/a.jpg": b"a"} | files))
    directory = tmp_path / "outer" / "inner"
    directory.mkdir(parents=True)
    with pytest.raises(ValueError, match=message):
        unpack(tmp_path / "a.zip", "v/*.jpg", directory, LIMIT)
    assert not tree(tmp_path / "outer")


@pytest.mark.parametrize(("declared", "message"), [(1000, "Bad CRC-32"), (4_000_000, "is shorter than declared")])
def test_unpack_zip_with_a_false_size_is_refused(tmp_path, declared, message):
    packed = pack({"v/a.jpg": bytes(3_000_000)})
    sizes = [size.to_bytes(4, "little") for size in (3_000_000, declared)]
    (tmp_path / "a.zip").write_bytes(packed.replace(*sizes))
    with pytest.raises(ValueError, match=rf"a\.zip cannot be unpacked: .*{message}"):
        unpack(tmp_path / "a.zip", "v/*.jpg", tmp_path / "out", max_bytes=4_000_000)
    assert all(len(content) <= 3_000_000 for content in tree(tmp_path / "out").values())


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"<html>", "cannot be unpacked: File is not a zip file"), (pack({"w/a.jpg": b""}), r"holds no v/\*\.jpg")],
)
def test_unpack_without_matching_files_is_refused(tmp_path, content, message):
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        unpack(tmp_path / "a.zip", "v/*.jpg", tmp_path, LIMIT)
