"""CPUs that this process may use, and work shared among threads."""

import pytest

from handler.parallel import available_cpus, parallel_map


@pytest.mark.parametrize(
    ("quota", "count"), [("max 100000", 6), ("200000 100000", 2), ("50000 100000", 1), ("900000 100000", 6), ("?", 6)]
)
def test_available_cpus_respects_the_quota_of_the_container(tmp_path, monkeypatch, quota, count):
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    monkeypatch.setattr("handler.parallel.CGROUP", tmp_path / "cpu.max")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)))
    assert available_cpus() == count


def test_parallel_map_keeps_the_order_and_raises_the_first_error(monkeypatch):
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    assert parallel_map(lambda n: n * n, range(20)) == [n * n for n in range(20)]
    with pytest.raises(ZeroDivisionError):
        parallel_map(lambda n: 1 // (n - 4), range(20))
