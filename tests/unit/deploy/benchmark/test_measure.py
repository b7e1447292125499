"""The recommended variant, and the table of all variants."""

from deploy.benchmark.__main__ import recommended
from deploy.benchmark.measure import VariantResult, to_markdown
from eval.load_test import LoadResult


def variant_result(name: str, one: tuple[float, float], eight: tuple[float, float]) -> VariantResult:
    """Build a result from captions per second and milliseconds with one client and with eight."""
    loads = {
        clients: [LoadResult("x", "closed", clients, throughput=rate, latency_ms={"p50": ms, "p95": 2 * ms})]
        for clients, (rate, ms) in ((1, one), (8, eight))
    }
    return VariantResult(name, 2.0, 500.0, loads)


RESULTS = [
    variant_result("slow", (5, 30), (10, 800)),
    variant_result("highest", (10, 40), (100, 80)),
    variant_result("nearly as high", (20, 20), (96, 90)),
    variant_result("too low", (30, 10), (94, 60)),
]


def test_recommended_has_the_lowest_latency_among_nearly_the_highest_throughputs():
    assert recommended(RESULTS, 8).variant == "nearly as high"


def test_to_markdown_compares_with_the_first_variant_and_with_one_process():
    RESULTS[1].in_process[:] = [125, 124, 200]
    rows = to_markdown(RESULTS, [1, 8]).splitlines()
    assert rows[3].startswith(
        "| highest | 2.0 | 500 | 10.0 | 2.00 | 40 | 1.33 | 80 | 100.0 | 10.00 | 80 | 0.10 | 160 |"
    )
    assert rows[3].endswith(" 125.0 | 80% |")
    assert rows[2].endswith(" – | – |")
