"""Building blocks of JSON Schema for the OpenAPI document."""

from collections.abc import Iterable
from typing import Any

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
INTEGER: Schema = {"type": "integer"}
SAMPLE_PNG = (  # one grey pixel
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNoAAAAggCB2kUIOwAAAABJRU5ErkJggg=="
)
BASE64: Schema = {"type": "string", "contentEncoding": "base64", "minLength": 1, "examples": [SAMPLE_PNG]}


def ref(name: str) -> Schema:
    """Refer to a schema of the document's components."""
    return {"$ref": f"#/components/schemas/{name}"}


def refs(names: Iterable[str]) -> dict[str, Schema]:
    """Map each name to a reference to the schema of that name."""
    return {name: ref(name) for name in names}


def object_of(properties: dict[str, Schema], *optional: str, closed: bool = True) -> Schema:
    """Describe an object.

    Args:
        properties: Schema of each property.
        optional: Properties that may be missing; the others are required.
        closed: Forbid further properties.
    """
    required = [name for name in properties if name not in optional]
    schema = {"type": "object", "properties": properties, "required": required}
    return schema | ({"additionalProperties": False} if closed else {})


def array_of(items: Schema, **bounds: int) -> Schema:
    """Describe an array. `bounds` are `minItems` and `maxItems`."""
    return {"type": "array", "items": items} | bounds


def nullable(schema: Schema) -> Schema:
    """Allow null beside a schema."""
    return {"anyOf": [schema, {"type": "null"}]}
