"""Sources of images on the demo page, in a browser: samples, files, clipboard, drag and drop, camera."""

import json
from io import BytesIO

import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.helpers.demo_page import (
    CAT,
    SENT_IMAGE,
    SENT_OPTIONS,
    caption_of,
    caption_sample,
    focused,
    response_shown,
    slide,
)
from tests.helpers.paths import ROOT

EXIF_ORIENTATION = 0x0112  # EXIF tag

# Transfers a file to the page by paste or drag events.
TRANSFER_FILE = """async ([bytes, name, type, kinds]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name, { type }));
  for (const kind of kinds) {
    const event = kind === "paste" ? new ClipboardEvent(kind, { clipboardData: data, bubbles: true, cancelable: true })
      : new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true });
    document.body.dispatchEvent(event);
  }
}"""


def test_every_sample_is_captioned_and_shows_its_credit(visit):
    page = visit()
    samples = json.loads((ROOT / "handler" / "serving" / "demo" / "samples" / "credits.json").read_text())
    assert len(samples) == 6
    for index, sample in enumerate(samples):
        caption_sample(page, index)
        credit = page.inner_text("#credit")
        assert sample["author"] in credit
        assert sample["licence"] in credit
        assert page.locator("#credit a").last.get_attribute("href") == sample["licence_url"]
    assert page.inner_text("#credits").count(" by ") == 6


@pytest.mark.parametrize("kinds", [["paste"], ["dragenter", "dragover", "drop"]])
def test_pasted_or_dropped_file_is_captioned(visit, kinds):
    page = visit()
    with response_shown(page) as response:
        page.evaluate(TRANSFER_FILE, [[*CAT.read_bytes()], "cat.jpg", "image/jpeg", kinds])
    assert caption_of(page) == response["caption"]
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
    with response_shown(page) as response:
        page.keyboard.press("Enter")
    assert caption_of(page) == response["caption"]
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
    with response_shown(page) as response:
        page.set_input_files("#file-input", broken)
    assert response["type"] == "InvalidImage"
    assert page.locator("#error").get_attribute("role") == "alert"
    assert page.inner_text("#error") == response["message"]
    caption = caption_sample(page)["caption"]
    assert page.inner_text("#error") == ""
    with response_shown(page):
        page.set_input_files("#file-input", broken)
    assert caption_of(page) == caption  # the previous result stays
    page.click("#open-options")
    with response_shown(page):
        slide(page, "max_length", 3)  # recaptions the image that is shown
    assert len(caption_of(page).split()) <= 3


def test_file_above_the_limit_is_refused(visit, tmp_path):
    page = visit()
    film = tmp_path / "film.mp4"
    for size, text in ((21e6, "21.0 MB"), (500e6, "500.0 MB")):
        with film.open("wb") as file:
            file.truncate(int(size))
        page.set_input_files("#file-input", film)
        expect(page.locator("#error")).to_contain_text(text)
    assert "The limit is 20.0 MB" in page.inner_text("#error")
    assert page.evaluate(SENT_OPTIONS) == []


def test_large_image_is_scaled_down_before_sending(visit, tmp_path):
    """30 megapixels, rotated by EXIF as phones do it: upright the image is higher than wide."""
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    photo = tmp_path / "photo.jpg"
    Image.linear_gradient("L").resize((6000, 5000)).convert("RGB").save(photo, exif=exif)
    page = visit()
    with response_shown(page) as response:
        page.set_input_files("#file-input", photo)
    assert page.evaluate(SENT_IMAGE) == ["image/jpeg", 853, 1024]
    assert "sent at 853 × 1024" in page.inner_text("#facts")
    assert response["explanation"]["picture"] == {"width": 853, "height": 1024}


def test_format_unknown_to_the_server_is_sent_as_jpeg(visit):
    page, stream = visit(), BytesIO()
    Image.open(CAT).resize((200, 200)).save(stream, "ICO", sizes=[(200, 200)])
    with response_shown(page):
        page.set_input_files(
            "#file-input", {"name": "cat.ico", "mimeType": "image/x-icon", "buffer": stream.getvalue()}
        )
    assert page.evaluate(SENT_IMAGE) == ["image/jpeg", 200, 200]
    assert "sent at" not in page.inner_text("#facts")
