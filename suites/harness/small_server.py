"""A web server on loopback whose manners a test chooses: it cuts connections, lies about lengths, forgets ranges."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Manners:
    """How one request is answered."""

    status: int = 0  # instead of content
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None  # bytes of the body, then the connection ends
    length: int | None = None  # a wrong Content-Length
    knows_ranges: bool = True
    says_length: bool = True
    etag: str | None = None  # instead of the served one
    ignores_if_range: bool = False
    pause: float = 0.0  # seconds between pieces of 64 KiB
    encoding: str = ""


@dataclass
class Served:
    """What the server serves, how it answers the next requests (`script`, then plainly), and what it was asked."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    etag: str = '"one"'
    script: list[Manners] = field(default_factory=list)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    @property
    def ranges(self) -> list[str]:
        """The Range header of each request, empty where it had none."""
        return [headers.get("Range", "") for _, headers in self.asked]


@contextmanager
def small_server() -> Iterator[Served]:
    served = Served()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            answer(self, served)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()


def answer(request: BaseHTTPRequestHandler, served: Served) -> None:
    served.asked.append((request.path, dict(request.headers)))
    manners = served.script.pop(0) if served.script else Manners()
    content = served.files.get(request.path.partition("?")[0])
    if manners.status or content is None:
        request.send_response(manners.status or 404)
        for name, value in {"Content-Length": "0", **manners.headers}.items():
            request.send_header(name, value)
        request.end_headers()
        return
    etag = served.etag if manners.etag is None else manners.etag
    start = wanted_start(request, etag, manners)
    if start and start >= len(content):
        request.send_response(416)
        request.send_header("Content-Range", f"bytes */{len(content)}")
        request.send_header("Content-Length", "0")
        request.end_headers()
        return
    body = content[start:]
    request.send_response(206 if start else 200)
    if start:
        request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    if etag:
        request.send_header("ETag", etag)
    if manners.encoding:
        request.send_header("Content-Encoding", manners.encoding)
    if manners.says_length:
        request.send_header("Content-Length", str(manners.length if manners.length is not None else len(body)))
    request.end_headers()
    send(request, body[: manners.cut_after], manners.pause)


def wanted_start(request: BaseHTTPRequestHandler, etag: str, manners: Manners) -> int:
    wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
    condition = request.headers.get("If-Range")
    if not wanted or not manners.knows_ranges:
        return 0
    if condition and condition != etag and not manners.ignores_if_range:
        return 0
    return int(wanted[1])


def send(request: BaseHTTPRequestHandler, body: bytes, pause: float) -> None:
    try:
        for start in range(0, len(body), 2**16):
            request.wfile.write(body[start : start + 2**16])
            time.sleep(pause)
    except OSError:
        pass  # the client has enough
