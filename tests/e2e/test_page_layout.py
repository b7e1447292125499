"""Accessibility and layout of every state of the demo page, in a browser."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.helpers.demo_page import DARK, LAPTOP, PHONE, caption_sample, response_shown, slide

# Controls smaller than 44 CSS pixels, which fingers miss.
# A radio button or a checkbox is a small target, but its label is a part of it.
TARGETS = (
    "button, input:not([type=range], [type=radio], [type=checkbox]), #alternatives label, label:has(~ [type=checkbox])"
)
SMALL_TARGETS = f"""() => [...document.querySelectorAll("{TARGETS}")]
  .filter((control) => control.checkVisibility())
  .map((control) => [control.id || control.textContent, control.getBoundingClientRect()])
  .filter(([, box]) => Math.min(box.width, box.height) < 43.9)
  .map(([name, box]) => `${{name}} ${{box.width}} × ${{box.height}}`)"""


def states(page):
    """Put the page into each of its states and yield their names."""
    yield "empty"
    caption_sample(page)
    yield "a caption"
    page.locator(".word").nth(1).click()
    yield "a word pinned"
    page.click("#open-options")
    with response_shown(page):
        slide(page, "beam_size", 4)
        slide(page, "num_captions", 4)
    yield "options and alternatives"
    page.click("#close-options")
    with response_shown(page):
        page.set_input_files("#file-input", {"name": "x.jpg", "mimeType": "image/jpeg", "buffer": b"x"})
    yield "an error"
    page.click("#open-card")
    yield "the model card"
    page.keyboard.press("Escape")
    page.click("#take-photo")
    page.wait_for_selector("#shutter:enabled")
    yield "the camera"
    page.keyboard.press("Escape")
    page.route("**/explanations/*", lambda route: route.fulfill(status=401, body=""))
    page.locator("#samples button").first.click()
    expect(page.locator("#token")).to_be_visible()
    yield "the token"


@pytest.mark.parametrize("settings", [LAPTOP, DARK, PHONE], ids=["light", "dark", "phone"])
def test_axe_finds_no_violations(visit, settings):
    page, axe = visit(settings, failing=True), Axe()
    for state in states(page):
        found = axe.run(page)
        assert found.violations_count == 0, f"{state}: {found.generate_report()}"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phone_layout_fits_and_targets_are_large_enough(visit, scheme):
    page = visit(PHONE, failing=True, color_scheme=scheme)
    for state in states(page):
        assert page.evaluate("document.documentElement.scrollWidth") <= 320, state
        assert page.evaluate(SMALL_TARGETS) == [], state
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(250, 248, 244)") == (scheme == "light")
