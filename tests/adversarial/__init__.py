"""What strangers may send: named pictures and requests, made by code, each with what it has to be answered."""

from tests.adversarial.bombs import BOMBS
from tests.adversarial.case import CAPTION, ImageCase, RequestCase
from tests.adversarial.corrupted import CORRUPTED
from tests.adversarial.request_cases import FORMS, REQUEST_CASES
from tests.adversarial.unsupported import UNSUPPORTED
from tests.adversarial.valid import VALID

IMAGE_CASES = [*VALID, *CORRUPTED, *BOMBS, *UNSUPPORTED]


def grpc_cases() -> list[ImageCase | RequestCase]:
    """Those that are sent over gRPC, too: its fields are a form's, and a part of the pictures."""
    return [*FORMS, *VALID[::3], *CORRUPTED[::9], *BOMBS[::5], *UNSUPPORTED[::4]]


__all__ = ["CAPTION", "IMAGE_CASES", "REQUEST_CASES", "ImageCase", "RequestCase", "grpc_cases"]
