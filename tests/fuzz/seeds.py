"""Where the fuzzer begins: the small ones of the hostile pictures, and bodies of the hostile requests."""

from tests.adversarial import IMAGE_CASES, REQUEST_CASES

MAX_BYTES = 16_384
SLOW = ("bombs", "slow", "too large", "too many pixels")  # kinds that take long to make, or to try


def seeds(target: str) -> dict[str, bytes]:
    """Name → input, for a target."""
    if target == "image":
        made = {str(case): case.make() for case in IMAGE_CASES if case.kind not in SLOW}
    else:
        bodies = {str(ask): ask.make() for ask in REQUEST_CASES}
        # What is picked comes from an input's end: the content type, what is asked for, and that it is a body.
        made = {name: body + b"\0\0\0" for name, body in bodies.items() if isinstance(body, bytes)}
    return {f"seed-{number:03}": data for number, data in enumerate(made.values()) if 0 < len(data) <= MAX_BYTES}
