"""The demo page in a browser, served by TorchServe: captions, errors, tokens and copied commands."""

import json
import shlex
import shutil
import subprocess

import pytest
import requests
from playwright.sync_api import expect

from deploy.isolated_server import isolated_server
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.demo_page import (
    CAT,
    OVERLAY_OPACITY,
    SENT_IMAGE,
    SENT_OPTIONS,
    caption_of,
    caption_sample,
    focused,
    response_shown,
    slide,
)
from tests.helpers.paths import PHOTOS, ROOT
from tests.helpers.servers import kill, packed


def stop_time(page):
    """Stop the clock of the page; `page.clock.run_for` advances it."""
    page.clock.install(time=0)
    page.clock.pause_at(1000)


def press_until(page, key, selector):
    for _ in range(30):
        page.keyboard.press(key)
        if page.evaluate(f"document.activeElement.matches({json.dumps(selector)})"):
            return
    pytest.fail(f"{key} does not reach {selector}")


def test_file_is_captioned(visit):
    page = visit()
    with response_shown(page) as response:
        page.set_input_files("#file-input", CAT)
    assert caption_of(page) == response["caption"] == page.inner_text("#caption-text")
    assert page.inner_text("#status") == f"Caption: {response['caption']}"
    assert page.evaluate(SENT_OPTIONS) == [{}]
    assert page.evaluate(SENT_IMAGE) == ["image/jpeg", 451, 300]  # the file as it is
    assert page.get_by_alt_text("Image: cat.jpg").is_visible()
    box = page.locator("#image").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(451 / 300, rel=0.01)
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def test_word_hovered_or_pinned_shows_its_attention_map(visit):
    page = visit()
    response = caption_sample(page)
    words, size = response["captions"][0]["words"], response["explanation"]["picture"]
    for index, word in enumerate(words):
        page.locator(".word").nth(index).hover()
        opacity, peak = page.evaluate(OVERLAY_OPACITY), word["peak"]
        assert opacity["min"] == 0
        assert opacity["max"] > 100
        assert peak["x"] <= opacity["x"] * size["width"] <= peak["x"] + peak["width"]
        assert peak["y"] <= opacity["y"] * size["height"] <= peak["y"] + peak["height"]
        detail = page.inner_text("#word-details")
        assert word["token"] in detail
        assert f"{word['entropy']:.1f} bits" in detail
    page.mouse.move(5, 5)
    assert page.evaluate(OVERLAY_OPACITY)["max"] == 0
    page.locator(".word").nth(1).click()
    page.mouse.move(5, 5)  # pinned, it stays
    assert page.evaluate(OVERLAY_OPACITY)["max"] > 100
    assert page.locator(".word[aria-pressed=true]").inner_text() == words[1]["token"]


def test_overlay_fades_to_the_next_word(visit):
    page = visit(reduced_motion="no-preference")
    caption_sample(page)
    stop_time(page)
    page.locator(".word").first.hover()
    opacities = []
    for _ in range(3):
        opacities.append(page.evaluate(OVERLAY_OPACITY)["max"])
        page.clock.run_for(150)
    assert opacities[0] < opacities[1] < opacities[2]
    assert opacities[2] > 100


def test_keyboard_reaches_every_control(visit):
    page = visit()
    press_until(page, "Tab", "#choose-image")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    # Chromium opens a file chooser for real key presses only, so the test records the click.
    page.evaluate("document.getElementById('file-input').onclick = () => { window.opened = true; return false; }")
    page.keyboard.press("Enter")
    assert page.evaluate("window.opened")
    press_until(page, "Tab", "#samples button")
    with response_shown(page) as response:
        page.keyboard.press("Enter")
    tokens = response["captions"][0]["tokens"]
    press_until(page, "Tab", ".word")
    assert focused(page) == tokens[0]
    assert page.evaluate(OVERLAY_OPACITY)["max"] > 100
    for key, index in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", -1), ("ArrowRight", -1)):
        page.keyboard.press(key)
        assert focused(page) == page.inner_text(".word.active") == page.inner_text("#word-details b") == tokens[index]
    page.keyboard.press("Enter")
    assert page.locator(".word.active").get_attribute("aria-pressed") == "true"
    page.keyboard.press("Escape")
    assert page.locator(".word[aria-pressed=true]").count() == 0
    page.keyboard.press("Tab")  # the words are one stop
    assert focused(page) == "play"
    assert page.evaluate(OVERLAY_OPACITY)["max"] == 0
    press_until(page, "Shift+Tab", "#open-options")
    page.keyboard.press("Enter")
    assert focused(page) == "options-heading"
    page.keyboard.press("Escape")
    assert focused(page) == "open-options"
    press_until(page, "Tab", "#open-card")
    page.keyboard.press("Enter")
    assert page.locator("#card").is_visible()
    page.keyboard.press("Escape")
    assert focused(page) == "open-card"


def test_play_button_plays_and_pauses_the_words(visit):
    page = visit()
    words = caption_sample(page)["captions"][0]["tokens"]
    stop_time(page)
    page.click("#play")
    page.mouse.move(5, 5)
    assert page.inner_text("#play") == "Pause"
    assert page.inner_text(".word.active") == words[0]
    page.clock.run_for(950)
    assert page.inner_text(".word.active") == words[1]
    page.click("#play")
    page.mouse.move(5, 5)
    page.clock.run_for(5000)
    assert page.inner_text("#play") == "Play"
    assert page.inner_text(".word.active") == words[1]  # a pause keeps it active, and playback resumes from it
    page.click("#play")
    page.clock.run_for(900 * len(words))
    assert page.inner_text("#play") == "Play"
    assert page.locator(".word.active").count() == 0


def test_late_response_is_discarded(visit):
    page = visit()
    held = []
    page.route("**/explanations/captioner", lambda route: held.append(route), times=1)
    page.locator("#samples button").first.click()
    expect(page.locator("#waiting")).to_be_visible()
    with page.expect_event("requestfailed"):  # the page aborts it
        caption = caption_sample(page, 3)["caption"]
    [route] = held
    route.abort()
    page.wait_for_timeout(100)
    assert caption_of(page) == caption
    assert page.inner_text("#error") == ""


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        ({"status": 503, "body": ""}, "The server is busy"),
        (
            {"status": 413, "body": ""},
            "more than the server or a proxy before it accepts (max_request_size of TorchServe",
        ),
        ({"status": 500, "json": {"code": 500, "type": "InternalError", "message": "A fault."}}, "A fault."),
        ({"status": 200, "body": "<p>a proxy’s"}, "a response that this page cannot read (200)"),
        (None, "The server cannot be reached"),
    ],
)
def test_failed_request_shows_an_error_and_can_be_retried(visit, failure, text):
    page = visit(failing=True)

    def fail(route):
        route.fulfill(**failure) if failure else route.abort()

    page.route("**/explanations/*", fail, times=1)
    page.locator("#samples button").first.click()
    expect(page.locator("#error p")).to_contain_text(text)
    assert page.locator("#waiting").is_hidden()
    retry = page.get_by_role("button", name="Try again")
    if failure and failure["status"] == 413:  # a retry cannot help
        assert retry.count() == 0
        return
    with response_shown(page) as response:
        retry.click()
    assert caption_of(page) == response["caption"]
    assert page.inner_text("#error") == ""


def test_token_is_requested_and_kept_in_memory_only(visit):
    page = visit(failing=True)
    refusal = {"code": 400, "type": "InvalidKeyException", "message": "Token is missing."}

    def guard(route):
        allowed = route.request.headers.get("authorization") == "Bearer right"
        route.continue_() if allowed else route.fulfill(status=400, json=refusal)

    page.route("**/explanations/*", guard)
    page.locator("#samples button").first.click()
    dialog, reason = page.locator("#token"), page.locator("#token-reason")
    expect(reason).to_contain_text("requires a token")
    page.click("#token-cancel")
    expect(page.locator("#error")).to_contain_text("requires a token")
    page.get_by_role("button", name="Try again").click()
    expect(dialog).to_be_visible()
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(reason).to_contain_text("wrong or has expired")
    page.keyboard.type(" right ")
    page.keyboard.press("Enter")
    expect(page.locator("main")).not_to_have_attribute("data-busy", "")
    assert caption_of(page)
    caption_sample(page, 3)  # without asking again
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    assert page.locator("#token-field").input_value() == ""
    page.click("#copy-curl")
    assert "Bearer $TOKEN" in page.evaluate("navigator.clipboard.readText()")


def test_page_works_with_token_authorization_of_torchserve(browser, tmp_path_factory):
    """TorchServe requires a token for the page, too; the test adds it to this request only, as a proxy would."""
    directory = tmp_path_factory.mktemp("authorized")
    packed(write_tiny_bundle(directory / "bundle"), directory / "model_store")
    server = isolated_server(directory, directory / "model_store", directory, disable_token_authorization="false")  # noqa: S106
    page = browser.new_page()
    try:
        server.start()
        token = server.authorization("inference")
        assert server.caption(PHOTOS[0])["caption"]
        refused = requests.post(f"{server.inference}/predictions/captioner", data=b"x", timeout=30)
        assert (refused.status_code, refused.json()["type"]) == (400, "InvalidKeyException")
        page.route("**/predictions/captioner", lambda route: route.continue_(headers=route.request.headers | token))
        page.goto(f"{server.inference}/predictions/captioner")
        page.locator("#samples button").first.click()
        for text, reason in (
            ("wrong", "requires a token"),
            (token["Authorization"][7:], "wrong or has expired"),
        ):
            expect(page.locator("#token-reason")).to_contain_text(reason)
            page.fill("#token-field", text)
            page.keyboard.press("Enter")
        expect(page.locator(".word").first).to_be_visible()
    finally:
        page.close()
        kill(server)


def test_copied_curl_command_gives_the_same_caption(visit, tmp_path):
    page = visit()
    page.click("#open-options")
    slide(page, "temperature", 1.5)
    slide(page, "max_length", 7)
    photo = tmp_path / 'it\'s a "cat"; $(exit 1), `x` \\ 1.jpg'
    shutil.copy(CAT, photo)
    with response_shown(page) as response:
        page.set_input_files("#file-input", photo)
    page.click("#copy-curl")
    expect(page.locator("#copy-curl")).to_have_text("copied")
    command = page.evaluate("navigator.clipboard.readText()")
    options = [word for word in shlex.split(command) if "=" in word][1:]
    assert options == ["max_length=7", "temperature=1.5", f"seed={response['seed']}"]
    done = subprocess.run(["bash", "-c", f"{command} -s"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["caption"] == response["caption"], command
    page.click("#copy-caption")
    expect(page.locator("#copy-caption")).to_have_text("copied")
    assert page.evaluate("navigator.clipboard.readText()") == response["caption"]
    page.click("#copy-json")
    expect(page.locator("#copy-json")).to_have_text("copied")
    assert json.loads(page.evaluate("navigator.clipboard.readText()")) == response


def test_copied_curl_command_of_a_sample_runs_in_the_project(visit):
    page = visit()
    caption = caption_sample(page)["caption"]
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error()); }")  # as without HTTPS
    page.click("#copy-curl")
    command = page.evaluate("navigator.clipboard.readText()")
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["caption"] == caption
    assert command.count("-F") == 1


def test_gradient_explanation_is_named_in_the_hint(visit):
    page = visit()

    def replace_method(route):
        response = route.fetch()
        body = response.json()
        body["explanation"]["method"] = "gradient"
        route.fulfill(response=response, json=body)

    page.route("**/explanations/*", replace_method)
    caption_sample(page)
    page.mouse.move(5, 5)
    assert "the maps are gradients" in page.inner_text("#word-details")


def test_page_of_a_version_requests_that_version(visit, endpoint):
    page = visit(url=f"{endpoint}/1.0")
    with page.expect_request("**/explanations/captioner/1.0"):
        page.locator("#samples button").first.click()
    expect(page.locator(".word").first).to_be_visible()


def test_page_without_javascript_names_the_shell_command(visit):
    page = visit(java_script_enabled=False)
    assert "curl -T photo.jpg" in page.inner_text("noscript")
