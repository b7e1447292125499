"""An HTTP server with scripted responses in place of TorchServe."""

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Respond = Callable[[int, bytes], tuple[int, str, object]]


class FakeEndpoint:
    """HTTP server whose responses a function makes from the number and the body of a request.

    Attributes:
        url: Base URL.
        seen: Path, headers and body of each request.
    """

    def __init__(self, respond: Respond):
        self.seen: list[tuple[str, dict, bytes]] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                fake.seen.append((self.path, dict(self.headers), body))
                code, content_type, content = respond(len(fake.seen), body)
                content = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(code)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True, kwargs={"poll_interval": 0.05}).start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()
