"""One HTTP request whose answer is read in pieces: redirects are followed by hand, and never from https to http.

Bytes arrive as the server stores them (no content decoding): digests are published of those. Proxies and certificates
come from the environment, as requests has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

import requests
import urllib3

from harness.errors import BadInput, DownloadFailed

PIECE = 2**16  # bytes read at a time
CONNECTING, STALLING = 20.0, 60.0  # seconds without a connection, without a byte
MOST_REDIRECTS = 5
LONGEST_NAME = 255  # bytes, of a file on Linux
TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,19})-\d{1,19}|\*)/(\d{1,19}|\*)")
UNSATISFIABLE = 416
PAUSE_AT_MOST = 60.0  # seconds that a server may tell us to wait


class Interrupted(Exception):
    """A transfer that broke off and may be tried again; `pause` is how many seconds the server wants us to wait."""

    def __init__(self, what: str, pause: float = 0.0) -> None:
        super().__init__(what)
        self.pause = pause


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said. `start` is where its bytes begin in the file, `total` how large the whole file is."""

    url: str
    status: int
    start: int
    total: int | None
    validator: str  # a strong ETag or a date, empty where there is none
    _response: requests.Response

    def pieces(self) -> Iterator[bytes]:
        """The body. Raises Interrupted where it breaks off."""
        while True:
            try:
                piece: bytes = self._response.raw.read1(PIECE, decode_content=False)
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as cause:
                raise Interrupted(f"broke off ({_reason(cause)})") from cause
            if not piece:
                return
            yield piece


def shown(url: str) -> str:
    """A URL without what may be secret in it: user, password and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def is_url(text: str) -> bool:
    """Whether a user means a URL."""
    return text.lower().startswith(("http://", "https://"))


def checked_url(url: str) -> str:
    """The URL, if it is one that we fetch. Raises BadInput."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        sound = False
    if not sound or not url.isprintable() or " " in url:
        raise BadInput("is not an http or https address", where=repr(url[:200]))
    return url


def file_name(url: str) -> str:
    """The name a file is kept under: the last part of the URL's path. Raises BadInput where that is no file name."""
    name = unquote(urlsplit(checked_url(url)).path.rpartition("/")[2], errors="replace")
    if name in {"", ".", ".."} or "/" in name or not name.isprintable() or len(name.encode()) > LONGEST_NAME - 16:
        raise BadInput("does not end in the name of a file", where=shown(url))
    return name


@contextmanager
def ask(session: requests.Session, url: str, headers: Mapping[str, str]) -> Iterator[Answer]:
    """GET a URL. Raises Interrupted where another try may help, DownloadFailed or BadInput where none will."""
    with _follow(session, url, {"Accept-Encoding": "identity", **headers}) as response:
        status, where = response.status_code, shown(response.url)
        if status in TRY_AGAIN:
            raise Interrupted(f"the server said {status} {response.reason}", _pause(response))
        if status not in {200, 206, UNSATISFIABLE}:
            step = "check the address" if status in {404, 410} else "may it be fetched without logging in?"
            raise DownloadFailed(f"the server said {status} {response.reason}", where=where, next_step=step)
        yield _answer(response, response.url)


@contextmanager
def _follow(session: requests.Session, url: str, headers: Mapping[str, str]) -> Iterator[requests.Response]:
    seen = [checked_url(url)]
    while True:
        try:
            response = session.get(
                seen[-1], headers=headers, stream=True, allow_redirects=False, timeout=(CONNECTING, STALLING)
            )
        except requests.exceptions.SSLError as cause:
            step = "whom do you trust? see REQUESTS_CA_BUNDLE"
            raise DownloadFailed(f"no safe connection: {_reason(cause)}", where=shown(url), next_step=step) from cause
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError) as cause:
            raise BadInput("is not an http or https address", where=shown(url)) from cause
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as cause:
            raise Interrupted(f"cannot be reached ({_reason(cause)})") from cause
        with response:
            if not response.is_redirect:
                yield response
                return
            seen.append(_next_hop(seen[-1], response.headers["Location"], seen))


def _next_hop(here: str, location: str, seen: list[str]) -> str:
    target = urljoin(here, location)
    if len(seen) > MOST_REDIRECTS:
        raise DownloadFailed(f"is redirected more than {MOST_REDIRECTS} times", where=shown(seen[0]))
    if urlsplit(target).scheme != "https" and (urlsplit(here).scheme == "https" or not is_url(target)):
        raise DownloadFailed(f"is redirected to {shown(target)[:200]}, which is not safe", where=shown(here))
    return checked_url(target)


def _answer(response: requests.Response, url: str) -> Answer:
    headers = response.headers
    start, total = 0, None
    if response.status_code == 200 and re.fullmatch(r"\d{1,19}", headers.get("Content-Length", "")):
        total = int(headers["Content-Length"])
    elif response.status_code in {206, UNSATISFIABLE}:
        ranged = CONTENT_RANGE.fullmatch(headers.get("Content-Range", ""))
        if ranged is None and response.status_code == 206:
            raise DownloadFailed("the server sent a part and did not say which", where=shown(url))
        if ranged:
            start, total = int(ranged[1] or 0), int(ranged[2]) if ranged[2] != "*" else None
    tag = headers.get("ETag", "")
    validator = tag if tag.startswith('"') else headers.get("Last-Modified", "")
    return Answer(url, response.status_code, start, total, validator, response)


def _pause(response: requests.Response) -> float:
    wanted = response.headers.get("Retry-After", "")
    return min(float(wanted), PAUSE_AT_MOST) if re.fullmatch(r"\d{1,6}", wanted) else 0.0


def _reason(cause: Any) -> str:
    """The last cause in a chain of wrapped ones, in one short line."""
    while isinstance(cause, BaseException):
        deeper = getattr(cause, "reason", None) or (cause.args[0] if cause.args else None)
        if not isinstance(deeper, BaseException):
            break
        cause = deeper
    return " ".join(str(cause).split())[:160] or type(cause).__name__
