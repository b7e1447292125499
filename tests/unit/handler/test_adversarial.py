"""Every adversarial image and request through the parser and the decoder, within limits of time and memory."""

import pytest

from handler.captioner import Captioner
from handler.errors import RequestError
from handler.generation import GenerationConfig
from handler.image import decode_image
from handler.serving.endpoint import Endpoint
from handler.serving.image_parsing import ParseContext
from handler.serving.messages import InferenceRequest
from handler.serving.parsing import parse_request
from tests.adversarial import CAPTION, IMAGE_CASES, REQUEST_CASES
from tests.adversarial.image_parts import before_image
from tests.adversarial.request_cases import as_torchserve_reads
from tests.adversarial.resource_limit import resource_limit
from tests.helpers.paths import PHOTOS, ROOT
from tests.helpers.raw_requests import MODEL, raw_request, respond

# Valid images of 49 megapixels take most: 2 s and 330 MB on two cores.
SECONDS = 6  # of CPU time, for a request with one image
MEMORY = 500  # MB more than before
pytestmark = [
    pytest.mark.adversarial,
    pytest.mark.filterwarnings("ignore"),  # Pillow warns thousands of times
]
REGRESSIONS = sorted((ROOT / "tests" / "fuzz" / "regressions").glob("*/*"))


@pytest.fixture
def endpoint(tiny_bundle):
    return Endpoint(Captioner.load(tiny_bundle), MODEL)


def outcomes(request: InferenceRequest) -> list[str]:
    """`caption` or the type of its error for each image of a request."""
    results = []
    for item in request.images:
        try:
            if isinstance(item, RequestError):
                raise item
            assert decode_image(item.image).mode == "RGB"
            results.append(CAPTION)
        except RequestError as error:
            results.append(error.type if error.code < 500 else "?")
    return results


@pytest.mark.parametrize("case", IMAGE_CASES, ids=str)
def test_adversarial_image_has_an_expected_outcome(case):
    data = case.make()
    with resource_limit(SECONDS) as used:
        [outcome] = outcomes(parse_request({"body": data}, "image/jpeg", ParseContext(GenerationConfig())))
    assert outcome in case.answers
    assert used.seconds < SECONDS
    assert used.memory < MEMORY


@pytest.mark.parametrize("case", REQUEST_CASES, ids=str)
def test_adversarial_request_has_an_expected_outcome(case):
    made = case.make()
    with resource_limit(SECONDS) as used:
        row = made if isinstance(made, dict) else {"body": as_torchserve_reads(made, case.content_type)}
        results = outcomes(parse_request(row, case.content_type, ParseContext(GenerationConfig())))
    assert (CAPTION if CAPTION in results else results[0]) in case.answers
    assert used.seconds < SECONDS
    assert used.memory < MEMORY


def test_adversarial_cases_have_unique_names():
    names = [str(case) for case in [*IMAGE_CASES, *REQUEST_CASES]]
    assert len(names) == len(set(names)) > 300


def test_refused_images_are_released_from_memory(endpoint):
    """The traceback of an error refers to the frames that opened the image."""
    data = before_image(b"!\xf9\x04\x08\0\0\0\0", (13_000, 13_000))  # 170 MB as soon as it is opened
    with resource_limit(SECONDS) as used:
        responses = respond(endpoint, *[raw_request({"body": bytearray(data)})] * 8)
    assert [status for status, _ in responses] == [413] * 8
    assert used.memory < MEMORY


def test_adversarial_images_do_not_change_the_captions_of_their_batch(endpoint):
    """A valid image before and one behind them, as TorchServe hands them over together."""
    valid = PHOTOS[0].read_bytes()
    small = [case for case in IMAGE_CASES if case.kind not in ("too large", "slow", "bombs")]

    def captions(*images: bytes) -> list[str]:
        _, stats = endpoint.handle_batch([raw_request({"body": image}) for image in images])
        return [request.captions[0] for request in stats.requests]

    [expected] = captions(valid)
    for first in range(0, len(small), 18):  # a third of them
        results = captions(valid, *(case.make() for case in small[first : first + 6]), valid)
        assert results[0] == results[-1] == expected != ""


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_input_that_the_fuzzer_found_is_handled(path):
    from tests.fuzz import image, request

    {"image": image, "request": request}[path.parent.name].target(path.read_bytes())
