"""Ports that are free, for servers of one's own."""

import random
import socket


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, below those that the system hands out to clients."""
    free = []
    while len(free) < count:
        port = random.randrange(20_000, 32_000)  # noqa: S311
        with socket.socket() as probe:
            if port not in free and probe.connect_ex(("127.0.0.1", port)) != 0:
                free.append(port)
    return free
