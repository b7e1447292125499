"""Scenarios for two servers behind a proxy under load, and what the clients observe."""

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
CANARY = 10  # percent of the requests
ROUNDS = 3  # rounds of the throughput comparison
MAX_DEVIATIONS = 3.29  # standard deviations of the canary share; exceeded by chance once in a thousand


@dataclass
class ScenarioResult:
    """Observations of the clients.

    Attributes:
        name: Name of the scenario.
        seconds: Duration.
        requests: Number of requests.
        slowest: Longest time that a client waited for a caption, in seconds, including retries.
        versions: Number of captions by model version.
        proxy_retries: Number of retries by the proxy.
        client_errors: Number of failed first attempts of the clients by error.
        lost: Number of requests that never got a caption.
        wrong: Number of captions that differ from those without load.
        figures: Further measurements by name.
        failure: What is wrong; empty if all is well.
    """

    name: str
    seconds: float = 0.0
    requests: int = 0
    slowest: float = 0.0
    versions: Counter[str] = field(default_factory=Counter)
    proxy_retries: int = 0
    client_errors: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    wrong: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    failure: str = ""

    @property
    def throughput(self) -> float:
        """Captions per second."""
        return self.versions.total() / self.seconds

    def __add__(self, other: "ScenarioResult") -> "ScenarioResult":
        """Combine two runs of the same scenario."""
        return ScenarioResult(
            self.name,
            self.seconds + other.seconds,
            self.requests + other.requests,
            max(self.slowest, other.slowest),
            self.versions + other.versions,
            self.proxy_retries + other.proxy_retries,
            self.client_errors + other.client_errors,
            self.lost + other.lost,
            self.wrong + other.wrong,
            self.figures | other.figures,
            self.failure or other.failure,
        )


class Scenarios:
    """All scenarios, run one after another.

    Args:
        cluster: Running cluster that serves version `OLD`.
        new: Archive of version `NEW`.
        images: Encoded images by name.
        num_clients: Number of concurrent requests.
        seconds: Duration of a scenario without events.
        canary: Minimum number of requests in the canary scenario.
    """

    def __init__(
        self, cluster: Cluster, new: Path, images: dict[str, bytes], num_clients: int, seconds: float, canary: int
    ) -> None:
        self.cluster, self.proxy, self.new = cluster, cluster.proxy, new
        self.images, self.num_clients, self.seconds, self.canary = images, num_clients, seconds, canary
        self.expected: dict[str, dict[str, str]] = {}
        self.results: list[ScenarioResult] = []

    def run(self) -> list[ScenarioResult]:
        """Run all scenarios."""
        self.record_expected("one")
        self.throughput()
        self.run_scenario("over gRPC", self.use_grpc, protocol="grpc")
        self.run_scenario("a server killed", partial(self.kill, lambda _: True), may_fail=True)
        self.run_scenario("a worker killed", partial(self.kill, lambda process: not is_jvm(process)), may_fail=True)
        self.run_scenario("upgrade of server two", self.upgrade_two)
        self.run_scenario(f"canary of {CANARY} %", self.count_canary)
        self.run_scenario("roll-back", self.roll_back)
        self.run_scenario("upgrade of server one", self.upgrade_one)
        return self.results

    def record_expected(self, name: str) -> None:
        """Record the captions of a server, bypassing the proxy, as the expected ones of its version."""
        with Client(self.cluster.servers[name].inference) as client:
            for image, content in self.images.items():
                response = client.caption(content)
                self.expected.setdefault(response["model"]["version"], {})[image] = response["caption"]

    def run_scenario(
        self,
        name: str,
        action: Callable[[Traffic, ScenarioResult], None],
        endpoint: str | None = None,
        protocol: str = "rest",
        num_clients: int | None = None,
        may_fail: bool = False,
    ) -> ScenarioResult:
        """Run an action under load and append the result.

        Args:
            name: Name of the scenario.
            action: Adds its measurements and failures to the result.
            endpoint: Endpoint of the clients; default: the proxy.
            protocol: `rest` or `grpc`.
            num_clients: Number of concurrent requests, if not the default.
            may_fail: Whether first attempts may fail if a retry succeeds.
        """
        endpoint = endpoint or (self.proxy.rest if protocol == "rest" else self.proxy.grpc)
        result, retries_before = ScenarioResult(name), self._proxy_retries()
        with Traffic(endpoint, self.images, self.expected, num_clients or self.num_clients, protocol) as traffic:
            action(traffic, result)
        result.seconds = traffic.finished_at - traffic.started_at
        result.requests, result.lost, result.wrong = len(traffic.results), traffic.lost, traffic.wrong
        result.slowest = max(one.seconds for one in traffic.results)
        result.versions, result.client_errors = traffic.versions, traffic.errors
        result.proxy_retries = self._proxy_retries() - retries_before
        if result.lost or result.wrong:
            result.failure = f"{result.lost} lost, {result.wrong} wrong"
        elif result.client_errors and not may_fail:
            result.failure = "first attempts failed"
        figures = f"{result.requests} requests, {result.throughput:.1f} captions/s"
        print(f"{name}: {figures}, {result.failure or 'passed'}", file=sys.stderr, flush=True)
        self.results.append(result)
        return result

    def _proxy_retries(self) -> int:
        return sum(int(self.proxy.statistics("BACKEND", backend)["wretr"]) for backend in BACKENDS)

    def throughput(self) -> None:
        """Compare one server, one behind the proxy, and two: in turn, so that other load affects all alike.

        There are twice the usual clients, so that two servers have as full batches as one.
        """

        def wait(traffic: Traffic, _: ScenarioResult) -> None:
            traffic.wait(self.seconds / ROUNDS)

        direct, num_clients, rounds = self.cluster.servers["one"].inference, 2 * self.num_clients, []
        for _ in range(ROUNDS):
            self.proxy.drain("two")
            one = self.run_scenario("one server", wait, direct, num_clients=num_clients)
            behind = self.run_scenario("one behind the proxy", wait, num_clients=num_clients)
            self.proxy.enable("two")
            two = self.run_scenario("two behind the proxy", wait, num_clients=num_clients)
            rounds.append([one, behind, two])
        self.results = [sum(results[1:], results[0]) for results in zip(*rounds, strict=True)]

    def use_grpc(self, traffic: Traffic, _: ScenarioResult) -> None:
        """Request every image once."""
        traffic.wait(requests=len(self.images))

    def kill(self, is_target: Callable[[psutil.Process], bool], traffic: Traffic, result: ScenarioResult) -> None:
        """Kill server two or its worker, and restart what TorchServe does not restart, like a supervisor."""
        server = self.cluster.servers["two"]
        traffic.wait(requests=2 * self.num_clients)
        start = time.perf_counter()
        for process in server.processes():
            if is_target(process):
                os.kill(process.pid, signal.SIGKILL)
        self._wait_until(lambda: not self.proxy.up("two"))
        result.figures["out of the proxy after s"] = time.perf_counter() - start
        if not any(is_jvm(process) for process in server.processes()):
            self.cluster.serve("two", server.archive)
        self._wait_until(lambda: self.proxy.up("two"))
        result.figures["recovered after s"] = time.perf_counter() - start
        traffic.wait(requests=2 * self.num_clients)

    def upgrade_two(self, _: Traffic, result: ScenarioResult) -> None:
        """Give server two the new version, record its captions, and enable it with a small weight as a canary."""
        start = time.perf_counter()
        self.proxy.drain("two")
        self.cluster.serve("two", self.new)
        self.record_expected("two")
        self.proxy.set_weights(one=100 - CANARY, two=CANARY)
        self.proxy.enable("two")
        result.figures["replaced in s"] = time.perf_counter() - start

    def count_canary(self, traffic: Traffic, result: ScenarioResult) -> None:
        """Compare the share of the new version with its weight."""
        traffic.wait(self.seconds, self.canary)
        total, share = len(traffic.results), CANARY / 100
        observed = sum(one.version == NEW for one in traffic.results[:total])
        margin = MAX_DEVIATIONS * math.sqrt(total * share * (1 - share))
        result.figures |= {f"captions by {NEW}": observed, "of": total, "expected": total * share, "±": margin}
        if abs(observed - total * share) > margin:
            result.failure = f"{observed} of {total} is not {CANARY} %"

    def roll_back(self, traffic: Traffic, result: ScenarioResult) -> None:
        """Set the weight of the canary to 0."""
        traffic.wait(requests=5 * self.num_clients)
        self.proxy.set_weights(one=100, two=0)
        rolled_back_at = time.perf_counter()
        traffic.wait(requests=5 * self.num_clients)
        by_new = [one for one in list(traffic.results) if one.version == NEW]
        result.figures[f"last caption by {NEW} after s"] = max([0.0, *(one.at - rolled_back_at for one in by_new)])
        if late := sum(one.started_at > rolled_back_at for one in by_new):
            result.failure = f"{late} captions by {NEW} for requests after the roll-back"

    def upgrade_one(self, traffic: Traffic, result: ScenarioResult) -> None:
        """Give server two its full weight, and then server one the new version, too."""
        self.proxy.set_weights(one=100, two=100)
        traffic.wait(requests=2 * self.num_clients)
        start = time.perf_counter()
        self.cluster.replace("one", self.new)
        enabled_at = time.perf_counter()
        result.figures["replaced in s"] = enabled_at - start
        traffic.wait(requests=5 * self.num_clients)
        results = list(traffic.results)
        late = sum(one.version == OLD and one.started_at > enabled_at for one in results)
        if late or {one.version for one in results} != {OLD, NEW}:
            result.failure = f"{OLD} and {NEW} did not both respond, or {OLD} did after the upgrade"

    def _wait_until(self, condition: Callable[[], bool], seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise ServerError(f"The proxy did not see server two's state change in {seconds:g} seconds.")
            time.sleep(0.02)
