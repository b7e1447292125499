"""Limits of a soak test: allowed growth and slowdown, and the failures that follow from them."""

from typing import Any

MIN_LATENCY_SECONDS = 600.0  # seconds; latency is not judged in a shorter test
MAX_SLOWDOWN = 1.5  # allowed ratio of the median latencies of the last and the first third
# A figure grows if its median rises from the first to the last third of the judged time by more than the first number
# an hour and by more than the second in total.
GROWTH_LIMITS = {
    "worker_mb": (20.0, 16.0),
    "worker_files": (2.0, 8.0),
    "worker_threads": (2.0, 4.0),
    "jvm_files": (4.0, 16.0),
    "jvm_threads": (4.0, 16.0),
    "children": (1.0, 1.0),
}  # jvm_mb is shown but not judged: Java fills its heap before it collects garbage


def failures(content: dict[str, Any]) -> list[str]:
    """List what is wrong with a soak test, one sentence each."""
    outcomes = content["outcomes"]
    sentences = [f"{outcomes[name]} responses were {name}." for name in ("wrong", "5xx", "lost") if outcomes.get(name)]
    if content["workers"] != 1:
        sentences.append(f"There were {content['workers']} workers, one after another.")
    if content["unready"]:
        sentences.append(f"No worker was READY in {content['unready']} samples.")
    for name, (per_hour, minimum) in GROWTH_LIMITS.items():
        growth = content["growth"][name]
        rise = growth["last"] - growth["first"]
        if rise > minimum and rise > per_hour * growth["hours"]:
            sentences.append(
                f"{name} grows: from {growth['first']:.1f} to {growth['last']:.1f} in {growth['hours']:.2f} hours."
            )
    first, last = content["latency_ms"].values()
    is_long = content["seconds"] >= MIN_LATENCY_SECONDS
    if is_long and first and last and last["p50"] > MAX_SLOWDOWN * first["p50"]:
        sentences.append(f"Responses get slower: median from {first['p50']:.0f} ms to {last['p50']:.0f} ms.")
    return sentences
