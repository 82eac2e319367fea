"""What tests of pulling share: whom to tell, what to pull, and a registry in a bad mood."""

import contextlib
import http.client
import http.server
import threading
from collections import Counter
from dataclasses import dataclass, field

from fixtures.release import DISCOVERY_TAGS
from harness.containers.skopeo import Access
from harness.prestage.archives.pull import Options, Watch
from harness.prestage.archives.wanted import Retries
from harness.prestage.lists.lists import ImageList, Listed, Stage
from harness.prestage.lists.reference import Reference

QUICK = Retries(times=3, first=0.05)


SOON = 120  # seconds


@dataclass
class Heard(Watch):
    """All that was said during a pull."""

    lines: list = field(default_factory=list)
    archives: list = field(default_factory=list)
    bytes: int = 0
    expected: int = 0

    def begun(self, *, total, kept, size):  # noqa: ARG002 - Watch's signature
        self.expected = size

    def moved(self, size):
        self.bytes += size

    def done(self, number, total, reference, size):  # noqa: ARG002
        self.archives.append((number, total))

    def said(self, reference, what):  # noqa: ARG002
        self.lines.append(what)


def listed(*references):
    both = frozenset(Stage)
    return ImageList(tuple(Listed(Reference.parse(str(each)), both) for each in references))


def some(release, count):
    """The first images that both stages need, and as many by tag."""
    digests = [each.reference for each in release.images.images if each.reference.digest][:count]
    return listed(*digests, *DISCOVERY_TAGS[: max(1, count // 3)])


def options(release, **more):
    return Options(access=release.access, **{"retries": QUICK, **more})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@dataclass
class Proxy:
    """Stands before a registry and answers some requests itself: `moods` are status codes, 0 for a cut connection."""

    address: str = ""
    moods: list = field(default_factory=list)
    only: str = ""  # a part of the paths that are answered so
    seen: Counter = field(default_factory=Counter)


@contextlib.contextmanager
def standing_before(release_registry, tls=None):
    made = Proxy()
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            with lock:
                is_odd = made.moods and made.only in self.path and self.path != "/v2/"
                mood = made.moods.pop(0) if is_odd else None
                made.seen[mood] += 1
            if mood == 0:
                self.connection.close()
            elif mood:
                self.answer(mood, b"{}", {})
            else:
                self.pass_on()

        do_HEAD = do_GET  # noqa: N815 - http.server's name

        def pass_on(self):
            connection = http.client.HTTPConnection(release_registry.registry.address)
            headers = {name: ", ".join(self.headers.get_all(name)) for name in self.headers if name != "Host"}
            connection.request(self.command, self.path, headers=headers)
            reply = connection.getresponse()
            kept = {"Content-Type", "Docker-Content-Digest", "Docker-Distribution-Api-Version"}
            self.answer(reply.status, reply.read(), {name: value for name, value in reply.getheaders() if name in kept})
            connection.close()

        def answer(self, status, body, headers):
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        made.address = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


def through(proxy, folder):
    """Access by the proxy alone."""
    conf = folder / "proxy.conf"
    conf.write_text(f'[[registry]]\nprefix = "quay.io"\nlocation = "{proxy.address}/quay.io"\ninsecure = true\n')
    return Access(registries_conf=conf)
