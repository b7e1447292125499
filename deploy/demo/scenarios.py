"""What is done to two servers behind a proxy while callers ask, and what the callers see of it."""

import math
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil

from deploy.demo.cluster import Cluster
from deploy.demo.traffic import Traffic
from deploy.haproxy.proxy import BACKENDS
from deploy.torchserve import ServerError, is_jvm
from eval.client import Client

OLD, NEW = "1.0", "2.0"
CANARY = 10  # percent
ROUNDS = 3  # of what is compared side by side
DEVIATIONS = 3.29  # of a canary's share from its weight: by chance once in a thousand


@dataclass
class Scene:
    """What callers saw.

    Attributes:
        name: of the scene.
        seconds: it lasted.
        requests: made in it.
        slowest: seconds that a caller waited for an answer at most, with all tries.
        versions: captions by the version that gave them.
        by_proxy: tries that the proxy made again.
        by_callers: first tries that failed at the caller, by what they said.
        lost: requests that never got a caption.
        wrong: captions that the version does not give undisturbed.
        figures: what else was measured.
        fault: what is not as it has to be; empty where all is well.
    """

    name: str
    seconds: float = 0.0
    requests: int = 0
    slowest: float = 0.0
    versions: Counter[str] = field(default_factory=Counter)
    by_proxy: int = 0
    by_callers: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    wrong: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    fault: str = ""

    @property
    def throughput(self) -> float:
        """Captions a second."""
        return self.versions.total() / self.seconds

    def __add__(self, other: "Scene") -> "Scene":
        """The same scene, played twice."""
        return Scene(
            self.name,
            self.seconds + other.seconds,
            self.requests + other.requests,
            max(self.slowest, other.slowest),
            self.versions + other.versions,
            self.by_proxy + other.by_proxy,
            self.by_callers + other.by_callers,
            self.lost + other.lost,
            self.wrong + other.wrong,
            self.figures | other.figures,
            self.fault or other.fault,
        )


class Scenes:
    """The scenes, one after another.

    Args:
        cluster: running, with `OLD` in both servers.
        new: the archive of `NEW`.
        pictures: name → an image file's bytes.
        callers: requests at once.
        seconds: a scene without events lasts.
        canary: requests that the canary is counted over, at least.
    """

    def __init__(
        self, cluster: Cluster, new: Path, pictures: dict[str, bytes], callers: int, seconds: float, canary: int
    ):
        self.cluster, self.proxy, self.new = cluster, cluster.proxy, new
        self.pictures, self.callers, self.seconds, self.canary = pictures, callers, seconds, canary
        self.expected: dict[str, dict[str, str]] = {}
        self.scenes: list[Scene] = []

    def run(self) -> list[Scene]:
        """Plays them all."""
        self.learn("one")
        self.throughput()
        self.play("over gRPC", lambda traffic, scene: traffic.wait(requests=len(self.pictures)), protocol="grpc")
        self.play("a server killed", partial(self.kill, lambda process: True), may_fail=True)
        self.play("a worker killed", partial(self.kill, lambda process: not is_jvm(process)), may_fail=True)
        self.play("upgrade of server two", self.upgrade_two)
        self.play(f"canary of {CANARY} %", self.count_canary)
        self.play("roll-back", self.roll_back)
        self.play("upgrade of server one", self.upgrade_one)
        return self.scenes

    def learn(self, name: str) -> None:
        """Asks a server, past the proxy, what its version says of each picture."""
        with Client(self.cluster.servers[name].inference) as client:
            for picture, content in self.pictures.items():
                answer = client.caption(content)
                self.expected.setdefault(answer["model"]["version"], {})[picture] = answer["caption"]

    def play(
        self,
        name: str,
        act: Callable[[Traffic, Scene], None],
        endpoint: str | None = None,
        protocol: str = "rest",
        callers: int | None = None,
        may_fail: bool = False,
    ) -> Scene:
        """Does something while callers ask, and adds a scene.

        Args:
            name: of the scene.
            act: adds what it measured and what it found amiss to the scene.
            endpoint: the proxy's where it is left out.
            protocol: `rest` or `grpc`.
            callers: requests at once, where not as ever.
            may_fail: whether a first try may, as long as a further one succeeds.
        """
        endpoint = endpoint or (self.proxy.rest if protocol == "rest" else self.proxy.grpc)
        scene, before = Scene(name), self._retries()
        with Traffic(endpoint, self.pictures, self.expected, callers or self.callers, protocol) as traffic:
            act(traffic, scene)
        scene.seconds = traffic.ended - traffic.began
        scene.requests, scene.lost, scene.wrong = len(traffic.answered), traffic.lost, traffic.wrong
        scene.slowest = max(one.seconds for one in traffic.answered)
        scene.versions, scene.by_callers = traffic.versions, traffic.errors
        scene.by_proxy = self._retries() - before
        if scene.lost or scene.wrong:
            scene.fault = f"{scene.lost} lost, {scene.wrong} wrong"
        elif scene.by_callers and not may_fail:
            scene.fault = "tries failed"
        told = f"{scene.requests} requests, {scene.throughput:.1f} captions/s"
        print(f"{name}: {told}, {scene.fault or 'as it should be'}", file=sys.stderr, flush=True)
        self.scenes.append(scene)
        return scene

    def _retries(self) -> int:
        return sum(int(self.proxy.statistics("BACKEND", backend)["wretr"]) for backend in BACKENDS)

    def throughput(self) -> None:
        """One server, one behind the proxy, two: in turns, so that what else the machine does meets them all alike.

        With twice the callers, so that two servers have as full batches as one.
        """

        def wait(traffic: Traffic, scene: Scene) -> None:
            traffic.wait(self.seconds / ROUNDS)

        direct, callers, rounds = self.cluster.servers["one"].inference, 2 * self.callers, []
        for _ in range(ROUNDS):
            self.proxy.drain("two")
            one = self.play("one server", wait, direct, callers=callers)
            behind = self.play("one behind the proxy", wait, callers=callers)
            self.proxy.admit("two")
            rounds.append([one, behind, self.play("two behind the proxy", wait, callers=callers)])
        self.scenes = [sum(scenes[1:], scenes[0]) for scenes in zip(*rounds, strict=True)]

    def kill(self, whom: Callable[[psutil.Process], bool], traffic: Traffic, scene: Scene) -> None:
        """Kills server two, or its worker, and starts anew what does not come back by itself, as a supervisor would."""
        server = self.cluster.servers["two"]
        traffic.wait(requests=2 * self.callers)
        began = time.perf_counter()
        for process in server.processes():
            if whom(process):
                os.kill(process.pid, signal.SIGKILL)
        self._until(lambda: not self.proxy.up("two"))
        scene.figures["out of the proxy after s"] = time.perf_counter() - began
        if not any(is_jvm(process) for process in server.processes()):
            self.cluster.serve("two", server.archive)
        self._until(lambda: self.proxy.up("two"))
        scene.figures["whole again after s"] = time.perf_counter() - began
        traffic.wait(requests=2 * self.callers)

    def upgrade_two(self, traffic: Traffic, scene: Scene) -> None:
        """Gives server two the new version, asks it past the proxy, and then lets it have a small share: a canary."""
        began = time.perf_counter()
        self.proxy.drain("two")
        self.cluster.serve("two", self.new)
        self.learn("two")
        self.proxy.weigh(one=100 - CANARY, two=CANARY)
        self.proxy.admit("two")
        scene.figures["replaced in s"] = time.perf_counter() - began

    def count_canary(self, traffic: Traffic, scene: Scene) -> None:
        """Holds the versions' counts against the weights."""
        traffic.wait(self.seconds, self.canary)
        total, share = len(traffic.answered), CANARY / 100
        seen = sum(one.version == NEW for one in traffic.answered[:total])
        margin = DEVIATIONS * math.sqrt(total * share * (1 - share))
        scene.figures |= {f"answered by {NEW}": seen, "of": total, "expected": total * share, "±": margin}
        if abs(seen - total * share) > margin:
            scene.fault = f"{seen} of {total} is not {CANARY} %"

    def roll_back(self, traffic: Traffic, scene: Scene) -> None:
        """Takes the canary's share away."""
        traffic.wait(requests=5 * self.callers)
        self.proxy.weigh(one=100, two=0)
        ordered = time.perf_counter()
        traffic.wait(requests=5 * self.callers)
        new = [one for one in list(traffic.answered) if one.version == NEW]
        scene.figures[f"last answer of {NEW} after s"] = max([0.0, *(one.at - ordered for one in new)])
        if late := sum(one.began > ordered for one in new):
            scene.fault = f"{late} answers of {NEW} to what was asked after the order"

    def upgrade_one(self, traffic: Traffic, scene: Scene) -> None:
        """Gives server two its full share, and then server one the new version, too."""
        self.proxy.weigh(one=100, two=100)
        traffic.wait(requests=2 * self.callers)
        began = time.perf_counter()
        self.cluster.replace("one", self.new)
        admitted = time.perf_counter()
        scene.figures["replaced in s"] = admitted - began
        traffic.wait(requests=5 * self.callers)
        answered = list(traffic.answered)
        late = sum(one.version == OLD and one.began > admitted for one in answered)
        if late or {one.version for one in answered} != {OLD, NEW}:
            scene.fault = f"{OLD} and {NEW} did not both answer, or {OLD} after its end"

    def _until(self, true: Callable[[], bool], seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline:
                raise ServerError(f"The proxy did not see server two's state change in {seconds:g} seconds.")
            time.sleep(0.02)
