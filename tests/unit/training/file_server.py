"""A local HTTP server with faults, and zips to download from it."""

import contextlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Serves `files` by path, records requests, and applies one fault of `faults` per response until none is left."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.faults: list[dict] = []
        self.closing = threading.Event()  # ends silent responses

        class Handler(BaseHTTPRequestHandler):
            file_server = self

            def do_GET(self):
                server = self.file_server
                server.requests.append((self.path, self.headers["Range"]))
                with contextlib.suppress(ConnectionError):
                    respond(self, server.files.get(self.path), **(server.faults.pop(0) if server.faults else {}))

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def bytes_requested(self, path):
        """Return the sum of the lengths of all ranges requested of a path."""
        ranges = [header.removeprefix("bytes=").split("-") for name, header in self.requests if name == path]
        return sum(int(last) + 1 - int(first) for first, last in ranges)

    def close(self):
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()


def respond(handler, body, *, status=None, ranges=True, send=None, body_is=None, location=None, hang=False):
    """Respond to a GET request.

    Args:
        handler: Handler of the request.
        body: The whole file; None: 404.
        status: Send only this status.
        ranges: Support `Range`.
        send: Close the connection after this number of bytes.
        body_is: Send the range of this body instead.
        location: Value of a `Location` header.
        hang: Stay silent after the bytes that were sent.
    """
    body = body_is or body
    if body is None or status:
        handler.send_response(status or 404)
        if location:
            handler.send_header("Location", location)
        handler.end_headers()
        return
    header = handler.headers["Range"] if ranges else None
    first, last = map(int, header.removeprefix("bytes=").split("-")) if header else (0, len(body) - 1)
    handler.send_response(206 if header else 200)
    if header:
        handler.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
    handler.send_header("Content-Length", str(last + 1 - first))
    handler.end_headers()
    handler.wfile.write(body[first : last + 1][:send])
    if hang:
        handler.wfile.flush()
        handler.file_server.closing.wait(30)


def pack(files, compression=zipfile.ZIP_DEFLATED) -> bytes:
    """Pack files, by name or `ZipInfo`, into a zip."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", compression) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return data.getvalue()
