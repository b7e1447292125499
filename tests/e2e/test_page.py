"""The demo page in a real browser, from a real TorchServe: Debian's chromium, with a camera that films nothing."""

import json
import os
import shlex
import shutil
import subprocess
from contextlib import contextmanager
from io import BytesIO

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from deploy.testing import isolated_server
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.paths import PHOTOS, ROOT
from tests.helpers.servers import kill, packed

CAT, PHOTOGRAPHER = (ROOT / "samples" / "photos" / name for name in ("cat.jpg", "photographer.jpg"))
LAPTOP = {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"}
DARK = LAPTOP | {"color_scheme": "dark"}
PHONE = {"viewport": {"width": 320, "height": 640}, "has_touch": True, "is_mobile": True}
FAKE_CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
EXIF_ORIENTATION = 0x0112  # EXIF's tag

# Keeps what the page sends, as playwright can't read forms with files, and what its policy refused.
RECORD_REQUESTS = """
window.sent = [];
window.refused = [];
document.addEventListener("securitypolicyviolation", (event) => refused.push(event.violatedDirective));
const send = window.fetch;
window.fetch = (url, request) => {
  sent.push(Object.fromEntries(request.body));
  return send(url, request);
};
"""
SENT_OPTIONS = "sent.map(({ image, ...options }) => options)"
SENT_IMAGE = """async () => {
  const { image } = sent.at(-1);
  const { width, height } = await createImageBitmap(image);
  return [image.type, width, height];
}"""
# Shade of the picture: the least and the greatest, and where in the picture, 0 to 1, the least is.
OVERLAY_OPACITY = """() => {
  const canvas = document.getElementById("overlay");
  const { width, height } = canvas;
  const alpha = canvas.getContext("2d").getImageData(0, 0, width, height).data.filter((_, i) => i % 4 === 3);
  const [least, greatest] = [Math.min(...alpha), Math.max(...alpha)];
  const at = alpha.indexOf(least);
  return { least, greatest, x: ((at % width) + 0.5) / width, y: (Math.floor(at / width) + 0.5) / height };
}"""
# Hands files to the page as a clipboard or a drag would.
TRANSFER_FILE = """async ([bytes, name, type, kinds]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name, { type }));
  for (const kind of kinds) {
    const event = kind === "paste" ? new ClipboardEvent(kind, { clipboardData: data, bubbles: true, cancelable: true })
      : new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
    document.body.dispatchEvent(event);
  }
}"""
SMALL_TARGETS = """() => [...document.querySelectorAll("button, input, #alternatives label")]
  .filter((one) => one.checkVisibility() && one.type !== "range" && one.type !== "radio")
  .map((one) => [one.id || one.textContent, one.getBoundingClientRect()])
  .filter(([, box]) => Math.min(box.width, box.height) < 43.9)
  .map(([name, box]) => `${name} ${box.width} × ${box.height}`)"""


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        missing = "needs Debian's chromium on PATH"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", *FAKE_CAMERA])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, endpoint):
    """Opens the page; what it complains of, asks for elsewhere, or is refused by its policy fails the test.

    Answers with an error are logged by the browser itself; only where they are expected, `failing` lets them pass.
    """
    contexts, complaints, asked = [], [], []

    def open_page(settings=LAPTOP, url=endpoint, failing=False, **more):
        context = browser.new_context(**({"reduced_motion": "reduce"} | settings | more))
        contexts.append(context)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        context.add_init_script(RECORD_REQUESTS)
        page = context.new_page()

        def heard(message):
            if message.type == "error" and not (failing and message.text.startswith("Failed to load resource")):
                complaints.append(message.text)

        page.on("console", heard)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(url)
        return page

    yield open_page
    origin = endpoint.split("/predictions")[0]
    assert [url for url in asked if not url.startswith((f"{origin}/", "data:", f"blob:{origin}/"))] == []
    assert complaints == []
    for context in contexts:
        for page in context.pages:
            assert page.evaluate("window.refused ?? []") == []
        context.close()


@contextmanager
def response_shown(page):
    """The JSON that what is done meanwhile is answered with, once the page shows it."""
    answer = {}
    with page.expect_response("**/explanations/**") as info:
        yield answer
    answer |= info.value.json()
    expect(page.locator("main")).not_to_have_attribute("data-busy", "")


def caption_of(page) -> str:
    return " ".join(page.locator(".word").all_inner_texts())


def caption_sample(page, index=0) -> dict:
    with response_shown(page) as answer:
        page.locator("#samples button").nth(index).click()
    assert caption_of(page) == answer["caption"]
    return answer


def slide(page, name, *values):
    """Moves a slider from value to value, faster than the page asks for new captions."""
    move = """(slider, values) => values.forEach((value) => {
      slider.value = value;
      slider.dispatchEvent(new Event("input", { bubbles: true }));
    })"""
    page.locator(f"[name={name}]").evaluate(move, values)


def stop_time(page):
    """From here on it passes only as a test lets it."""
    page.clock.install(time=0)
    page.clock.pause_at(1000)


def focused(page) -> str:
    return page.evaluate("document.activeElement.id || document.activeElement.textContent")


def press_until(page, key, there):
    for _ in range(30):
        page.keyboard.press(key)
        if page.evaluate(f"document.activeElement.matches({json.dumps(there)})"):
            return
    pytest.fail(f"{key} does not lead to {there}")


def test_file_is_captioned(visit):
    page = visit()
    with response_shown(page) as answer:
        page.set_input_files("#file-input", CAT)
    assert caption_of(page) == answer["caption"] == page.inner_text("#caption-text")
    assert page.inner_text("#status") == f"Caption: {answer['caption']}"
    assert page.evaluate(SENT_OPTIONS) == [{}]
    assert page.evaluate(SENT_IMAGE) == ["image/jpeg", 451, 300]  # the file as it is
    assert page.get_by_alt_text("Image: cat.jpg").is_visible()
    box = page.locator("#image").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(451 / 300, rel=0.01)
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]


def test_word_hovered_or_pinned_shows_its_attention_map(visit):
    page = visit()
    answer = caption_sample(page)
    words, size = answer["captions"][0]["words"], answer["explanation"]["picture"]
    for index, word in enumerate(words):
        page.locator(".word").nth(index).hover()
        shade, peak = page.evaluate(OVERLAY_OPACITY), word["peak"]
        assert shade["least"] == 0
        assert shade["greatest"] > 100
        assert peak["x"] <= shade["x"] * size["width"] <= peak["x"] + peak["width"]
        assert peak["y"] <= shade["y"] * size["height"] <= peak["y"] + peak["height"]
        detail = page.inner_text("#word-details")
        assert word["token"] in detail
        assert f"{word['entropy']:.1f} bits" in detail
    page.mouse.move(5, 5)
    assert page.evaluate(OVERLAY_OPACITY)["greatest"] == 0
    page.locator(".word").nth(1).click()
    page.mouse.move(5, 5)  # pinned, it stays
    assert page.evaluate(OVERLAY_OPACITY)["greatest"] > 100
    assert page.locator(".word[aria-pressed=true]").inner_text() == words[1]["token"]


def test_overlay_fades_to_the_next_word(visit):
    page = visit(reduced_motion="no-preference")
    caption_sample(page)
    stop_time(page)
    page.locator(".word").first.hover()
    shades = []
    for _ in range(3):
        shades.append(page.evaluate(OVERLAY_OPACITY)["greatest"])
        page.clock.run_for(150)
    assert shades[0] < shades[1] < shades[2]
    assert shades[2] > 100


def test_keyboard_reaches_every_control(visit):
    page = visit()
    press_until(page, "Tab", "#choose-image")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    # Keys that a test presses are no user's to chromium, which opens a chooser for users alone.
    page.evaluate("document.getElementById('file-input').onclick = () => { window.opened = true; return false; }")
    page.keyboard.press("Enter")
    assert page.evaluate("window.opened")
    press_until(page, "Tab", "#samples button")
    with response_shown(page) as answer:
        page.keyboard.press("Enter")
    tokens = answer["captions"][0]["tokens"]
    press_until(page, "Tab", ".word")
    assert focused(page) == tokens[0]
    assert page.evaluate(OVERLAY_OPACITY)["greatest"] > 100
    for key, index in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", -1), ("ArrowRight", -1)):
        page.keyboard.press(key)
        assert focused(page) == page.inner_text(".word.active") == page.inner_text("#word-details b") == tokens[index]
    page.keyboard.press("Enter")
    assert page.locator(".word.active").get_attribute("aria-pressed") == "true"
    page.keyboard.press("Escape")
    assert page.locator(".word[aria-pressed=true]").count() == 0
    page.keyboard.press("Tab")  # the words are one stop
    assert focused(page) == "play"
    assert page.evaluate(OVERLAY_OPACITY)["greatest"] == 0
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
    assert page.inner_text(".word.active") == words[1]  # a pause leaves it lit, and the play goes on from it
    page.click("#play")
    page.clock.run_for(900 * len(words))
    assert page.inner_text("#play") == "Play"
    assert page.locator(".word.active").count() == 0


def test_changed_options_recaption_the_image(visit):
    page = visit()
    caption_sample(page)
    page.click("#open-options")
    with response_shown(page):
        slide(page, "beam_size", 8)
    with response_shown(page) as answer:
        slide(page, "num_captions", 6, 9)  # more than the beam, which gives way; and both changes are one request
    assert page.evaluate(SENT_OPTIONS)[1:] == [{"beam_size": "8"}, {"beam_size": "9", "num_captions": "9"}]
    assert page.inner_text("#num-changed") == " · 2 changed"
    rows = page.locator("#alternatives label")
    assert rows.count() == 9
    rows.nth(3).click()
    assert caption_of(page) == answer["captions"][3]["caption"]
    assert f"−{-answer['captions'][3]['score']:.2f}" in rows.nth(3).inner_text()
    assert page.locator("[name=top_p]").is_disabled()
    with response_shown(page) as answer:
        slide(page, "temperature", 0.9)
    assert f"seed {answer['seed']}" in page.inner_text("#facts")
    assert page.locator("[name=beam_size]").is_disabled()
    with response_shown(page) as drawn:
        slide(page, "seed", answer["seed"])
    assert drawn["captions"] == answer["captions"]
    with response_shown(page):
        page.click("#reset")
    assert page.evaluate(SENT_OPTIONS)[-1] == {}
    assert page.locator("#reset").is_disabled()
    assert page.locator("#alternatives").is_hidden()


def test_option_refused_by_the_server_shows_its_message(visit):
    page = visit(failing=True)
    said = caption_sample(page)["caption"]
    page.click("#open-options")
    slide(page, "temperature", 1)
    with response_shown(page) as answer:
        slide(page, "seed", "4294967296")
    assert answer["type"] == "OptionOutOfRange"
    assert page.inner_text("#error") == answer["message"]
    assert caption_of(page) == said  # the last result stays


@pytest.mark.parametrize("index", range(6))
def test_sample_shows_its_credit(visit, index):
    page = visit()
    caption_sample(page, index)
    samples = json.loads((ROOT / "handler" / "serving" / "demo" / "samples" / "credits.json").read_text())
    credit = page.inner_text("#credit")
    assert samples[index]["author"] in credit
    assert samples[index]["licence"] in credit
    assert page.locator("#credit a").last.get_attribute("href") == samples[index]["licence_url"]
    assert page.inner_text("#credits").count(" by ") == 6


@pytest.mark.parametrize("kinds", [["paste"], ["dragenter", "dragover", "drop"]])
def test_pasted_or_dropped_file_is_captioned(visit, kinds):
    page = visit()
    with response_shown(page) as answer:
        page.evaluate(TRANSFER_FILE, [[*CAT.read_bytes()], "cat.jpg", "image/jpeg", kinds])
    assert caption_of(page) == answer["caption"]
    assert page.locator("#drop-hint").is_hidden()


def test_drag_shows_the_drop_hint(visit):
    page = visit()
    for kinds, visible in ((["dragenter", "dragover"], True), (["dragleave"], False)):
        page.evaluate(TRANSFER_FILE, [[0], "a.jpg", "image/jpeg", kinds])
        assert page.locator("#drop-hint").is_visible() == visible


def test_camera_photo_is_captioned(visit):
    page = visit()
    page.click("#take-photo")
    page.wait_for_selector("#shutter:enabled")
    assert focused(page) == "shutter"
    with response_shown(page) as answer:
        page.keyboard.press("Enter")
    assert caption_of(page) == answer["caption"]
    assert page.locator("#camera").is_hidden()
    assert page.evaluate("document.getElementById('camera-preview').srcObject") is None
    refuse = "Promise.reject(new DOMException('', 'NotAllowedError'))"
    page.evaluate(f"() => {{ navigator.mediaDevices.getUserMedia = () => {refuse}; }}")
    page.click("#take-photo")
    expect(page.locator("#camera-error")).to_have_text("The browser is not allowed to use the camera.")
    page.keyboard.press("Escape")
    page.evaluate("() => { navigator.mediaDevices.enumerateDevices = async () => []; }")
    with page.expect_file_chooser() as chooser:  # where a phone opens its own camera
        page.click("#take-photo")
    assert chooser.value.element.get_attribute("capture") == "environment"


def test_corrupted_file_shows_the_message_of_the_server(visit):
    page = visit(failing=True)
    broken = {"name": "broken.jpg", "mimeType": "image/jpeg", "buffer": CAT.read_bytes()[:200]}
    with response_shown(page) as answer:
        page.set_input_files("#file-input", broken)
    assert answer["type"] == "InvalidImage"
    assert page.locator("#error").get_attribute("role") == "alert"
    assert page.inner_text("#error") == answer["message"]
    said = caption_sample(page)["caption"]
    assert page.inner_text("#error") == ""
    with response_shown(page):
        page.set_input_files("#file-input", broken)
    assert caption_of(page) == said  # the last result stays
    page.click("#open-options")
    with response_shown(page):
        slide(page, "max_length", 3)  # of the picture that is shown
    assert len(caption_of(page).split()) <= 3


def test_file_above_the_limit_is_refused(visit, tmp_path):
    page = visit()
    film = tmp_path / "film.mp4"
    for size, said in ((21e6, "21.0 MB"), (500e6, "500.0 MB")):
        with film.open("wb") as file:
            file.truncate(int(size))
        page.set_input_files("#file-input", film)
        expect(page.locator("#error")).to_contain_text(said)
    assert "The limit is 20.0 MB" in page.inner_text("#error")
    assert page.evaluate(SENT_OPTIONS) == []


def test_large_image_is_scaled_down_before_sending(visit, tmp_path):
    """30 megapixels, lying on its side as phones save them: upright it is higher than wide."""
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    photo = tmp_path / "photo.jpg"
    Image.linear_gradient("L").resize((6000, 5000)).convert("RGB").save(photo, exif=exif)
    page = visit()
    with response_shown(page) as answer:
        page.set_input_files("#file-input", photo)
    assert page.evaluate(SENT_IMAGE) == ["image/jpeg", 853, 1024]
    assert "sent at 853 × 1024" in page.inner_text("#facts")
    assert answer["explanation"]["picture"] == {"width": 853, "height": 1024}


def test_format_unknown_to_the_server_is_sent_as_jpeg(visit):
    page, stream = visit(), BytesIO()
    Image.open(CAT).save(stream, "AVIF")
    with response_shown(page):
        page.set_input_files("#file-input", {"name": "cat.avif", "mimeType": "image/avif", "buffer": stream.getvalue()})
    assert page.evaluate(SENT_IMAGE) == ["image/jpeg", 451, 300]
    assert "sent at" not in page.inner_text("#facts")


def test_late_response_is_discarded(visit):
    page = visit()
    held = []
    page.route("**/explanations/captioner", lambda route: held.append(route), times=1)
    page.locator("#samples button").first.click()
    expect(page.locator("#waiting")).to_be_visible()
    with page.expect_event("requestfailed"):  # its caller gave it up
        said = caption_sample(page, 3)["caption"]
    [route] = held
    route.abort()
    page.wait_for_timeout(100)
    assert caption_of(page) == said
    assert page.inner_text("#error") == ""


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        ({"status": 503, "body": ""}, "The server is busy"),
        ({"status": 413, "body": ""}, "The file is larger than the server accepts."),
        ({"status": 500, "json": {"code": 500, "type": "InternalError", "message": "A fault."}}, "A fault."),
        ({"status": 200, "body": "<p>a proxy’s"}, "a response that this page cannot read (200)"),
        (None, "The server cannot be reached"),
    ],
)
def test_failed_request_shows_an_error_and_can_be_retried(visit, failure, says):
    page = visit(failing=True)
    page.route(
        "**/explanations/*", lambda route: route.fulfill(**failure) if failure else route.abort(), times=1
    )  # fmt: skip
    page.locator("#samples button").first.click()
    expect(page.locator("#error p")).to_contain_text(says)
    assert page.locator("#waiting").is_hidden()
    retry = page.get_by_role("button", name="Try again")
    if failure and failure["status"] == 413:  # it would be no smaller
        assert retry.count() == 0
        return
    with response_shown(page) as answer:
        retry.click()
    assert caption_of(page) == answer["caption"]
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
    caption_sample(page, 3)  # without another word
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    assert page.locator("#token-field").input_value() == ""
    page.click("#copy-curl")
    assert "Bearer $TOKEN" in page.evaluate("navigator.clipboard.readText()")


def test_page_works_with_token_authorization_of_torchserve(browser, tmp_path_factory):
    """TorchServe wants a token for the page, too: as a proxy would, the test adds it to that request alone."""
    folder = tmp_path_factory.mktemp("authorized")
    packed(write_tiny_bundle(folder / "bundle"), folder / "model_store")
    server = isolated_server(folder, folder / "model_store", folder, disable_token_authorization="false")  # noqa: S106
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
        for text, says in (
            ("wrong", "requires a token"),
            (token["Authorization"][7:], "wrong or has expired"),
        ):
            expect(page.locator("#token-reason")).to_contain_text(says)
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
    with response_shown(page) as answer:
        page.set_input_files("#file-input", photo)
    page.click("#copy-curl")
    expect(page.locator("#copy-curl")).to_have_text("copied")
    command = page.evaluate("navigator.clipboard.readText()")
    options = [word for word in shlex.split(command) if "=" in word][1:]
    assert options == ["max_length=7", "temperature=1.5", f"seed={answer['seed']}"]
    done = subprocess.run(["bash", "-c", f"{command} -s"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["caption"] == answer["caption"], command
    page.click("#copy-caption")
    expect(page.locator("#copy-caption")).to_have_text("copied")
    assert page.evaluate("navigator.clipboard.readText()") == answer["caption"]
    page.click("#copy-json")
    expect(page.locator("#copy-json")).to_have_text("copied")
    assert json.loads(page.evaluate("navigator.clipboard.readText()")) == answer


def test_copied_curl_command_of_a_sample_runs_in_the_project(visit):
    page = visit()
    said = caption_sample(page)["caption"]
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error()); }")  # as without HTTPS
    page.click("#copy-curl")
    command = page.evaluate("navigator.clipboard.readText()")
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert json.loads(done.stdout)["caption"] == said
    assert command.count("-F") == 1


def test_gradient_explanation_is_named_in_the_hint(visit):
    page = visit()

    def pretend(route):
        response = route.fetch()
        answer = response.json()
        route.fulfill(response=response, json=answer | {"explanation": answer["explanation"] | {"method": "gradient"}})

    page.route("**/explanations/*", pretend)
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


def states(page):
    """Goes through what the page can look like."""
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
    yield "trouble"
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
