"""What strangers may send: named pictures and requests, made by code, each with what it has to be answered."""

from .asks import ASKS, FORMS
from .bombs import BOMBS
from .case import CAPTION, Ask, Case
from .damaged import DAMAGED
from .fine import FINE
from .foreign import FOREIGN

PICTURES = [*FINE, *DAMAGED, *BOMBS, *FOREIGN]


def over_grpc() -> list[Case | Ask]:
    """Those that are sent over gRPC, too: its fields are a form's, and a part of the pictures."""
    return [*FORMS, *FINE[::3], *DAMAGED[::9], *BOMBS[::5], *FOREIGN[::4]]


__all__ = ["ASKS", "CAPTION", "PICTURES", "Ask", "Case", "over_grpc"]
