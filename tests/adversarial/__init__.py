"""What strangers may send: named pictures and requests, made by code, each with what it has to be answered."""

from .bombs import BOMBS
from .case import CAPTION, Ask, Case
from .corrupted import DAMAGED
from .request_cases import ASKS, FORMS
from .unsupported import FOREIGN
from .valid import FINE

PICTURES = [*FINE, *DAMAGED, *BOMBS, *FOREIGN]


def over_grpc() -> list[Case | Ask]:
    """Those that are sent over gRPC, too: its fields are a form's, and a part of the pictures."""
    return [*FORMS, *FINE[::3], *DAMAGED[::9], *BOMBS[::5], *FOREIGN[::4]]


__all__ = ["ASKS", "CAPTION", "PICTURES", "Ask", "Case", "over_grpc"]
