"""`/explanations` of a running endpoint: raw, as a form, in lists, as a figure, and in one batch with captions."""

import base64
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import pytest
import requests
from jsonschema_rs import Draft202012Validator
from PIL import Image

from tests.helpers.commands import run_module_in_process
from tests.helpers.paths import PHOTOS

IMAGE = PHOTOS[0].read_bytes()


@pytest.fixture(scope="module")
def explanations(server) -> str:
    return f"{server.inference}/explanations/captioner"


def test_raw_body_and_form_give_the_same_explanation(explanations, endpoint):
    raw = requests.post(explanations, data=IMAGE, headers={"Content-Type": "image/jpeg"}, timeout=60)
    form = requests.post(explanations, files={"image": IMAGE}, data={"method": "attention"}, timeout=60).json()
    document = requests.get(endpoint, headers={"Accept": "application/json"}, timeout=30).json()
    schema = {"$ref": "#/components/schemas/Explanations", "components": document["components"]}
    body = raw.json()
    for response in (body, form):
        Draft202012Validator(schema).validate(response)
    assert raw.status_code == 200
    assert body["captions"][0]["words"] == form["captions"][0]["words"]
    plain = requests.post(endpoint, files={"image": IMAGE}, data={"attention": "true"}, timeout=60).json()
    assert body["caption"] == plain["caption"]
    for word, grid in zip(body["captions"][0]["words"], plain["captions"][0]["attention"], strict=True):
        for row, expected in zip(word["weights"], grid, strict=True):
            assert row == pytest.approx(expected, abs=1e-4)
    with Image.open(PHOTOS[0]) as image:
        assert body["explanation"]["picture"] == {"width": image.width, "height": image.height}


def test_list_and_figure_of_explanations(explanations):
    encoded = base64.b64encode(IMAGE).decode()
    request = {"images": [{"image": encoded, "method": "gradient"}, "AAAA"], "beam_size": 1}
    body = requests.post(explanations, json=request, timeout=60).json()
    assert [one.get("type", "") for one in body["predictions"]] == ["", "InvalidImage"]
    assert body["predictions"][0]["explanation"]["method"] == "gradient"
    figure = requests.post(explanations, data=IMAGE, headers={"Accept": "image/png"}, timeout=60)
    assert figure.headers["content-type"] == "image/png"
    with Image.open(BytesIO(figure.content)) as image:
        assert image.format == "PNG"
        assert image.width > 1000


def test_explanations_and_captions_in_one_batch_get_their_own_responses(explanations, endpoint):
    """TorchServe puts both into one batch, and each request gets its kind of response."""

    def ask(number: int) -> dict:
        url = explanations if number % 2 else endpoint
        return requests.post(url, data=PHOTOS[number % len(PHOTOS)].read_bytes(), timeout=120).json()

    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(ask, range(24)))
    for number, response in enumerate(responses):
        assert ("explanation" in response) == bool(number % 2)
    for one, other in zip(responses, responses[7:], strict=False):  # the same photo in the other kind of request
        assert one["caption"] == other["caption"]


def test_bad_request_gives_the_errors_of_captions(explanations):
    bad = requests.post(explanations, data=b"no image", headers={"Content-Type": "image/jpeg"}, timeout=60)
    assert (bad.status_code, bad.json()["type"]) == (422, "InvalidImage")
    odd = requests.post(explanations, files={"image": IMAGE}, data={"method": "magic"}, timeout=60)
    assert (odd.status_code, odd.json()["message"]) == (
        400,
        "method must be attention or gradient for this model, not magic.",
    )


@pytest.mark.slow
def test_faithfulness_on_the_samples_is_higher_for_largest_weights():
    """Log-probabilities drop more if the cells with the largest weights are hidden than those with the smallest."""
    code, output, errors = run_module_in_process("eval.faithfulness", "pretrained", "samples", "photos", "--images", 4)
    assert code == 0, errors
    rows = [line.split(" | ") for line in output.splitlines()[2:]]
    assert [row[0] for row in rows] == ["| attention", "| gradient"]
    for _, largest, _, smallest, _ in rows:
        assert float(largest) > float(smallest)
