"""Streamed responses: tokens are sent while the caption is generated."""

import json
from collections.abc import Callable, Sequence
from typing import Any


class TokenStream:
    """Send the tokens of a growing caption, each of them once.

    A search that failed starts over and reports its prefixes again, from the first token on.

    Args:
        send: Sends one token.
    """

    def __init__(self, send: Callable[[str], None]) -> None:
        self._send = send
        self.num_sent = 0

    def update(self, prefix: Sequence[str]) -> None:
        """Send the tokens of a prefix of the caption that were not sent before."""
        for token in prefix[self.num_sent :]:
            self._send(token)
            self.num_sent += 1


def format_chunk(event: str, content: dict[str, Any], is_http: bool) -> str:
    """Format a part of a streamed response.

    Over HTTP it is a server-sent event. Over gRPC every part is a message of its own, so it is plain JSON.
    """
    return format_sse(event, content) if is_http else json.dumps(content)


def format_sse(event: str, content: dict[str, Any]) -> str:
    """Format a server-sent event with JSON data."""
    return f"event: {event}\ndata: {json.dumps(content)}\n\n"
