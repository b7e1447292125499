"""The OpenAPI document agrees with what requests are checked against."""

import json
import re

import pytest

from handler.errors import REQUEST_ERRORS
from handler.generation import GENERATION_OPTIONS, GenerationConfig
from handler.serving.image_parsing import ParseContext
from handler.serving.openapi import openapi
from handler.serving.settings import Settings
from tests.helpers.raw_requests import MODEL

DEFAULTS = GenerationConfig(beam_size=3, max_length=9)
DOCUMENT = openapi(MODEL, ParseContext(DEFAULTS, Settings(max_images=4, max_explanations=2), ("attention", "gradient")))
SCHEMAS = DOCUMENT["components"]["schemas"]


def test_openapi_defines_every_schema_that_it_refers_to():
    references = set(re.findall(r"#/components/schemas/(\w+)", json.dumps(DOCUMENT)))
    assert references <= SCHEMAS.keys()


@pytest.mark.parametrize("option", GENERATION_OPTIONS.values(), ids=lambda option: option.name)
def test_openapi_describes_each_option_with_the_default_of_the_model(option):
    schema = SCHEMAS[option.name]
    assert schema["description"] == option.help
    assert schema.get("default") == getattr(DEFAULTS, option.name)
    bounds = schema["anyOf"][1] if option.allow_zero else schema
    assert bounds["type"] == {int: "integer", float: "number", bool: "boolean"}[option.type]
    assert (bounds.get("minimum"), bounds.get("maximum")) == (option.min, option.max)


@pytest.mark.parametrize("name", ["One", "Item", "Several", "Parameters", "ExplainOne", "ExplainItem"])
def test_openapi_accepts_every_option_in_every_request(name):
    alternatives = SCHEMAS[name].get("oneOf", [SCHEMAS[name]])
    assert all(schema["properties"].keys() >= GENERATION_OPTIONS.keys() for schema in alternatives)


def test_openapi_bounds_lists_by_the_settings():
    [images, instances] = SCHEMAS["Several"]["oneOf"]
    assert images["properties"]["images"]["maxItems"] == instances["properties"]["instances"]["maxItems"] == 4
    assert SCHEMAS["ExplainSeveral"]["oneOf"][0]["properties"]["images"]["maxItems"] == 2
    tensor = SCHEMAS["InferenceRequest"]["properties"]["inputs"]["items"]
    assert tensor["properties"]["data"]["anyOf"][1]["maxItems"] == 4


def test_openapi_lists_every_error():
    assert SCHEMAS["Error"]["properties"]["type"]["enum"] == [error.__name__ for error in REQUEST_ERRORS]
    responses = DOCUMENT["paths"]["/predictions/captioner"]["post"]["responses"]
    assert responses.keys() == {str(error.code) for error in REQUEST_ERRORS} | {"200", "503"}
    assert all(error.__name__ in responses[str(error.code)]["description"] for error in REQUEST_ERRORS)
