"""Read the metrics of a server from its Prometheus page."""

from collections import Counter
from dataclasses import dataclass
from urllib.parse import urlsplit

import requests

PREFIX = "captioner_"
TIMEOUT = 5  # seconds


@dataclass(frozen=True)
class MetricsDelta:
    """Counters before and after a measurement."""

    before: dict[str, float]
    after: dict[str, float]

    def delta(self, name: str) -> float:
        """Return the increase of a counter; at least 0, since a restarted server counts from 0 again."""
        return max(0.0, self.after.get(name, 0.0) - self.before.get(name, 0.0))

    def mean(self, histogram: str) -> float | None:
        """Return the mean of the values that a histogram has observed; None if there were none."""
        count = self.delta(f"{histogram}_count")
        return self.delta(f"{histogram}_sum") / count if count else None


def metrics_url(endpoint: str, port: int) -> str:
    """Return the metrics address of TorchServe on the host of an endpoint, a URL or host:port."""
    host = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}").hostname
    return f"http://{host}:{port}"


def read_metrics(url: str | None) -> dict[str, float] | None:
    """Read the metrics of the handler, summed over their labels; None if the page cannot be read."""
    if url is None:
        return None
    metrics: Counter[str] = Counter()
    try:
        response = requests.get(f"{url}/metrics", timeout=TIMEOUT)
        response.raise_for_status()
        for line in response.text.splitlines():
            if line.startswith(PREFIX):
                name, _, value = line.rpartition(" ")
                metrics[name.partition("{")[0]] += float(value)  # type: ignore[assignment]  # a Counter of floats
    except (requests.RequestException, ValueError):
        return None
    return dict(metrics)
