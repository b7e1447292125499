"""Atomic writes, locks and `name=value` arguments."""

import pytest

from eval.files import atomic_path, atomic_write_text, file_lock, parse_key_values


def test_atomic_write_text_replaces_a_file(tmp_path):
    path = tmp_path / "a.txt"
    for text in ("one", "zwölf"):
        atomic_write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_path_failure_leaves_the_file_unchanged(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("before")

    def fail():
        with atomic_path(path) as partial:
            partial.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_file_lock_held_twice_raises(tmp_path):
    with file_lock(tmp_path / "lock"), pytest.raises(BlockingIOError), file_lock(tmp_path / "lock"):
        pass
    with file_lock(tmp_path / "lock", wait=True):
        pass


def test_parse_key_values_splits_at_the_first_equals_sign():
    assert parse_key_values(["beam_size=3", "a=b=c", "empty="]) == {"beam_size": "3", "a": "b=c", "empty": ""}


@pytest.mark.parametrize("text", ["beam_size", "=3", ""])
def test_parse_key_values_without_name_or_value_raises(text):
    with pytest.raises(ValueError, match=f"Options are written as name=value, not '{text}'"):
        parse_key_values([text])
