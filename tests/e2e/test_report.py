"""The HTML report in a browser, opened from disk, and the runs behind it."""

import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.helpers.paths import ROOT

PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def runs(server, tmp_path_factory):
    """A run over REST, one over gRPC, one with shorter captions, and a comparison."""
    results = tmp_path_factory.mktemp("results")

    def call(module, *arguments):
        command = [sys.executable, "-m", module, *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr

    runs = [
        ["--run", "rest", "--endpoint", server.inference],
        ["--run", "grpc", "--endpoint", server.grpc, "--protocol", "grpc", "--no-meteor"],
        ["--run", "short", "--endpoint", server.inference, "max_length=4"],
    ]
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda run: call("eval.run", "samples", "photos", "--results", results, *run), runs))
    report = ["--report", results / "comparison.html"]
    call("eval.compare", results / "rest", results / "short", "samples", "photos", *report)
    return results


@pytest.fixture
def open_report(browser):
    """Open a report. Errors of its script and requests for anything but the file fail the test."""
    contexts, errors, urls = [], [], []

    def open_page(path, **settings):
        context = browser.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: urls.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    assert errors == []
    assert [url for url in urls if not url.startswith(("file:", "data:"))] == []
    for context in contexts:
        context.close()


def test_run_over_rest_and_grpc_gives_equal_captions(runs):
    captions = [json.loads((runs / name / "captions.json").read_text()) for name in ("rest", "grpc")]
    assert captions[0] == captions[1]
    assert len(captions[0]) == 7


def test_run_report_shows_scores_and_images(runs, open_report):
    page = open_report(runs / "rest" / "report.html")
    content = json.loads((runs / "rest" / "scores.json").read_text())
    assert page.title() == "rest"
    assert page.locator("#signature").inner_text() == content["signature"]
    cells = page.locator("#scores tbody tr").all_inner_texts()
    assert [cell.split("\t")[0] for cell in cells] == list(content["scores"])
    assert cells[-1].split("\t")[1] == f"{100 * content['scores']['CIDEr']:.1f}"
    measures = {text.split("\t")[0]: text.split("\t")[1:] for text in page.locator("#measures tr").all_inner_texts()}
    assert measures["measure"] == ["captions", "people"]
    pair = content["measures"]["words_used"]
    assert measures["words used"] == [f"{pair['model']:.0f}", f"{pair['people']:.0f}"]
    assert page.locator("#runs tbody tr").count() == len(content["overused"])
    assert page.locator("#warnings li").all_inner_texts() == content["warnings"]
    assert page.locator("#charts figure").count() == 3
    assert page.locator("#images > li").count() == 7
    loaded = page.eval_on_selector_all("#images img", "all => all.map(i => i.complete && i.naturalWidth > 50)")
    assert loaded == [True] * 7

    def ciders():
        texts = page.locator("#images .numbers").all_inner_texts()
        return [float(re.search(r"CIDEr ([\d.]+)", text)[1]) for text in texts]

    assert ciders() == sorted(ciders(), reverse=True)
    page.select_option("#order", "worst first")
    assert ciders() == sorted(ciders())
    captions = [one["caption"] for one in json.loads((runs / "rest" / "captions.json").read_text())]
    page.fill("#search", captions[0])
    assert page.locator("#images .caption").first.inner_text() == captions[0]
    page.fill("#search", "no such words")
    assert page.locator("#count").inner_text() == "0 of 7 images"
    page.fill("#search", "")
    page.select_option("#filter", "failed")
    assert page.locator("#images > li").count() == 0


def test_comparison_report_shows_differences_and_images(runs, open_report):
    page = open_report(runs / "comparison.html")
    assert page.title() == "rest and short"
    assert page.locator("#scores tbody tr").count() == 7
    titles = page.locator("#measures th").all_inner_texts()
    assert titles == ["measure", "rest", "short", "people", "95 % interval"]
    assert page.locator("#warnings-heading").is_hidden()
    page.select_option("#order", "largest loss first")
    changes = [float(text) for text in page.locator("#images .numbers span").all_inner_texts()]
    assert changes == sorted(changes)
    page.select_option("#filter", "worse")
    data = json.loads(page.locator("#data").text_content())
    worse = sum(image["change"] < 0 for image in data["images"])  # one may be shown as -0.00
    assert page.locator("#images > li").count() == worse >= sum(change < 0 for change in changes)


@pytest.mark.parametrize("name", ["rest/report.html", "comparison.html"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_layout_fits_the_screen(runs, open_report, name, scheme):
    page = open_report(runs / name, viewport=PHONE, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")


def test_caption_with_markup_stays_text(runs, open_report, tmp_path):
    """The caption would end the script element or start another one."""
    from eval.data import read_split
    from eval.metrics import compute_metrics
    from eval.report import write_run
    from eval.results import read_results

    images = read_split(ROOT / "samples", "photos")
    evil = (
        "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\"> $data ${js} $$"
    )
    captions = read_results(runs / "rest" / "captions.json") | {images[0].id: evil}
    measured = compute_metrics({image.id: image.captions for image in images}, captions, meteor=False)
    content = json.loads((runs / "rest" / "scores.json").read_text())
    log = {image.id: {"at": 1.0, "seconds": 0.1} for image in images}
    write_run(tmp_path / "evil.html", "evil </title>", content, images, captions, measured, log)
    page = open_report(tmp_path / "evil.html")
    assert page.title() == "evil </title>"
    page.fill("#search", "</script>")
    assert page.locator("#images .caption").inner_text() == evil
