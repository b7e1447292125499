"""Helpers of the browser tests of the demo page."""

from contextlib import contextmanager

from playwright.sync_api import expect

from tests.helpers.paths import ROOT

CAT = ROOT / "samples" / "photos" / "cat.jpg"
LAPTOP = {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"}
DARK = LAPTOP | {"color_scheme": "dark"}
PHONE = {"viewport": {"width": 320, "height": 640}, "has_touch": True, "is_mobile": True}
FAKE_CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]

# Records the forms that the page sends, as playwright cannot read forms with files, and policy violations.
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
# Opacity of the overlay: minimum, maximum, and the position of the minimum in the image, 0 to 1.
OVERLAY_OPACITY = """() => {
  const canvas = document.getElementById("overlay");
  const { width, height } = canvas;
  const alpha = canvas.getContext("2d").getImageData(0, 0, width, height).data.filter((_, i) => i % 4 === 3);
  const [min, max] = [Math.min(...alpha), Math.max(...alpha)];
  const at = alpha.indexOf(min);
  return { min, max, x: ((at % width) + 0.5) / width, y: (Math.floor(at / width) + 0.5) / height };
}"""


@contextmanager
def response_shown(page):
    """Yield a dict that receives the JSON response to the request of the block, once the page shows it."""
    response: dict = {}
    with page.expect_response("**/explanations/**") as info:
        yield response
    response |= info.value.json()
    expect(page.locator("main")).not_to_have_attribute("data-busy", "")


def caption_of(page) -> str:
    return " ".join(page.locator(".word").all_inner_texts())


def caption_sample(page, index=0) -> dict:
    with response_shown(page) as response:
        page.locator("#samples button").nth(index).click()
    assert caption_of(page) == response["caption"]
    return response


def slide(page, name, *values):
    """Move a slider from value to value, faster than the page requests new captions."""
    move = """(slider, values) => values.forEach((value) => {
      slider.value = value;
      slider.dispatchEvent(new Event("input", { bubbles: true }));
    })"""
    page.locator(f"[name={name}]").evaluate(move, values)


def focused(page) -> str:
    return page.evaluate("document.activeElement.id || document.activeElement.textContent")
