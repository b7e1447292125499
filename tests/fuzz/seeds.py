"""Seed inputs of the fuzzer: the small adversarial images, and the bodies of the adversarial requests."""

from tests.adversarial import IMAGE_CASES, REQUEST_CASES

MAX_BYTES = 16_384
SLOW = ("bombs", "slow", "too large", "too many pixels")  # kinds that take long to build or to decode


def seeds(target: str) -> dict[str, bytes]:
    """Return the inputs of a target by name."""
    if target == "image":
        made = {str(case): case.make() for case in IMAGE_CASES if case.kind not in SLOW}
    else:
        bodies = {str(case): case.make() for case in REQUEST_CASES}
        # The target takes its choices from the end of an input: content type, context, and that it is a body.
        made = {name: body + b"\0\0\0" for name, body in bodies.items() if isinstance(body, bytes)}
    return {f"seed-{number:03}": data for number, data in enumerate(made.values()) if 0 < len(data) <= MAX_BYTES}
