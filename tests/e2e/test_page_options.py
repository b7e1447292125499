"""Options of the demo page in a browser, served by TorchServe."""

from handler.function_words import is_content_word
from tests.helpers.demo_page import (
    SENT_OPTIONS,
    caption_of,
    caption_sample,
    response_shown,
    slide,
)


def test_changed_options_recaption_the_image(visit):
    page = visit()
    caption_sample(page)
    page.click("#open-options")
    with response_shown(page):
        slide(page, "beam_size", 8)
    with response_shown(page) as response:
        slide(page, "num_captions", 6, 9)  # beam_size follows, and both changes are one request
    assert page.evaluate(SENT_OPTIONS)[1:] == [{"beam_size": "8"}, {"beam_size": "9", "num_captions": "9"}]
    assert page.inner_text("#num-changed") == " · 2 changed"
    rows = page.locator("#alternatives label")
    assert rows.count() == 9
    rows.nth(3).click()
    assert caption_of(page) == response["captions"][3]["caption"]
    assert f"−{-response['captions'][3]['score']:.2f}" in rows.nth(3).inner_text()
    assert page.locator("[name=top_p]").is_disabled()
    with response_shown(page) as response:
        slide(page, "temperature", 0.9)
    assert f"seed {response['seed']}" in page.inner_text("#facts")
    assert page.locator("[name=beam_size]").is_disabled()
    with response_shown(page) as repeated:
        slide(page, "seed", response["seed"])
    assert repeated["captions"] == response["captions"]
    with response_shown(page):
        page.click("#reset")
    assert page.evaluate(SENT_OPTIONS)[-1] == {}
    assert page.locator("#reset").is_disabled()
    assert page.locator("#alternatives").is_hidden()


def test_groups_of_beams_always_divide_the_beams(visit):
    page = visit()
    caption_sample(page)
    page.click("#open-options")
    assert page.locator("[name=diversity_penalty]").is_disabled()
    with response_shown(page):
        slide(page, "num_captions", 4)
    with response_shown(page) as response:
        slide(page, "num_beam_groups", 4)  # 5 beams become 8
    assert len({caption["caption"] for caption in response["captions"]}) == 4
    assert not page.locator("[name=diversity_penalty]").is_disabled()
    with response_shown(page):
        slide(page, "beam_size", 6)  # 4 groups become 3
    with response_shown(page):
        slide(page, "temperature", 1)
    assert page.locator("[name=num_beam_groups]").is_disabled()
    assert page.evaluate(SENT_OPTIONS)[1:] == [
        {"num_captions": "4"},
        {"beam_size": "8", "num_captions": "4", "num_beam_groups": "4"},
        {"beam_size": "6", "num_captions": "4", "num_beam_groups": "3"},
        {"beam_size": "6", "num_captions": "4", "temperature": "1"},
    ]


def test_checkbox_of_an_option_is_sent_and_reset(visit):
    page = visit()
    tokens = caption_sample(page)["captions"][0]["tokens"]
    content = [token for token in tokens if is_content_word(token)]
    assert len(content) == len(set(content))  # the default of the shipped model
    page.click("#open-options")
    with response_shown(page):
        page.uncheck("[name=no_repeat_words]")
    assert page.inner_text("#value-no_repeat_words") == "off"
    with response_shown(page):
        page.click("#reset")
    assert page.is_checked("[name=no_repeat_words]")
    assert page.evaluate(SENT_OPTIONS)[1:] == [{"no_repeat_words": "false"}, {}]


def test_option_refused_by_the_server_shows_its_message(visit):
    page = visit(failing=True)
    caption = caption_sample(page)["caption"]
    page.click("#open-options")
    slide(page, "temperature", 1)
    with response_shown(page) as response:
        slide(page, "seed", "4294967296")
    assert response["type"] == "OptionOutOfRange"
    assert page.inner_text("#error") == response["message"]
    assert caption_of(page) == caption  # the previous result stays
