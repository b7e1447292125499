"""The load generator sends until the context ends, and waits for all results."""

import itertools
import threading
import time

from deploy.load_generator import LoadGenerator


def test_load_generator_sends_requests_in_order_and_collects_all_results():
    sent = []

    def send(number: int) -> int:
        sent.append(number)
        return 2 * number

    with LoadGenerator(itertools.count(), send, 1) as load:
        load.wait(requests=20)
    assert sent == list(range(len(sent)))
    assert load.results == [2 * number for number in sent]
    assert len(load.results) >= 20
    assert load.started_at < load.finished_at


def test_load_generator_has_one_request_per_client_at_a_time():
    lock, in_flight, peak = threading.Lock(), set(), 0

    def send(number: int) -> None:
        nonlocal peak
        with lock:
            in_flight.add(number)
            peak = max(peak, len(in_flight))
        time.sleep(0.005)
        with lock:
            in_flight.remove(number)

    with LoadGenerator(itertools.count(), send, 3) as load:
        load.wait(requests=30)
    assert peak == 3
    assert not in_flight
