"""The watch of a server: when it starts it again, and when it ends."""

import pytest

from deploy.torchserve import JVM_CLASS, WORKER_SCRIPT, ServerError
from deploy.watch import Watch


class FakeProcess:
    def __init__(self, pid: int, command: str):
        self.pid, self.command = pid, command

    def cmdline(self) -> list[str]:
        return [self.command]


class FakeServer:
    """A server whose processes a test sets; a start gives it another JVM and a worker."""

    def __init__(self, *commands: str):
        self.commands, self.first_pid, self.num_starts = list(commands), 10, 0

    def processes(self) -> list[FakeProcess]:
        return [FakeProcess(self.first_pid + index, command) for index, command in enumerate(self.commands)]

    def start(self) -> None:
        self.num_starts += 1
        self.commands, self.first_pid = [JVM_CLASS, WORKER_SCRIPT], 20


@pytest.fixture
def clock(monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr("deploy.watch.time.monotonic", lambda: seconds[0])
    return seconds


def test_watch_starts_a_server_that_has_given_up_its_workers(clock):
    server = FakeServer(JVM_CLASS, WORKER_SCRIPT)
    watch = Watch(server, given_up_seconds=120)
    server.commands = [JVM_CLASS]
    for clock[0] in (5.0, 100.0, 119.0):  # TorchServe may start a worker yet
        assert watch.check()
        assert server.num_starts == 0
    clock[0] = 121.0
    assert watch.check()
    assert server.num_starts == 1
    clock[0] = 126.0
    assert watch.check()  # the server that it started is still its own
    assert server.num_starts == 1


def test_watch_waits_anew_after_each_worker(clock):
    server = FakeServer(JVM_CLASS)
    watch = Watch(server, given_up_seconds=120)
    for clock[0], worker in ((100.0, [WORKER_SCRIPT]), (150.0, []), (219.0, [])):  # 119 seconds after the last worker
        server.commands = [JVM_CLASS, *worker]
        assert watch.check()
    assert server.num_starts == 0


def test_watch_ends_with_its_server(clock):
    server = FakeServer(JVM_CLASS)
    watch = Watch(server)
    server.first_pid = 30  # stopped, and started by somebody else
    assert not watch.check()
    server.commands = []
    assert not watch.check()
    assert not Watch(server).check()


def test_watch_ends_if_the_server_cannot_be_started(clock, capsys):
    class Broken(FakeServer):
        def start(self):
            raise ServerError("Port 8080 is taken.")

    watch = Watch(Broken(JVM_CLASS), given_up_seconds=1)
    clock[0] = 2.0
    assert not watch.check()
    assert "Port 8080 is taken." in capsys.readouterr().err
