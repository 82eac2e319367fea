"""Where Ignition fetches contents from: URLs, `data:` URLs (RFC 2397) and the hashes that verify them.

The rules are those of Ignition 2.14, whose parsers are Go's `net/url` and a strict reader of data URLs; they were
found by asking `ignition-validate` and are compared with it by the tests.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote_to_bytes

from harness.ignition.finding import Finding
from harness.ignition.spec import Version

CONTENT_LIMIT = 64 * 2**20  # bytes a gzip-compressed data URL may unfold to before we stop believing it
HASH_LENGTHS = {"sha512": 128, "sha256": 64}  # hexadecimal digits

_WORD = r"""[!#-'*+\-.0-9A-Z^-z|~{}]+"""
_TYPE = "(?:application|audio|image|message|multipart|text|video|[xX]-" + _WORD + ")"
_VALUE = rf'(?:{_WORD}|"(?:[ !#-\[\]-~]|\\["\\])*")'
DATA_URL = re.compile(
    rf"data:(?:{_TYPE}/{_WORD})?(?:;(?!base64[,;]){_WORD}={_VALUE})*(?P<base64>;base64)?,(?P<data>.*)", re.DOTALL
)
DATA_CHARACTERS = re.compile(r"(?:[A-Za-z0-9;/?:@&=+$,\-_.!~*'()]|%[0-9A-Fa-f]{2})*")
SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):")
BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
HOST_CHARACTERS = re.compile(r"""(?:[A-Za-z0-9\-_.~!$&'()*+,;=:\[\]<>"]|[^\x00-\x7f]|%25|%[89A-Fa-f][0-9A-Fa-f])*""")
S3_ARN_PARTS = 6


def decode_data_url(url: str) -> bytes:
    """The bytes a `data:` URL carries. Raises ValueError, in words, where Ignition could not read it either."""
    match = DATA_URL.fullmatch(url)
    if match is None:
        raise ValueError("not a data URL (data:[type/subtype][;base64],...)")
    if not match["base64"]:
        if not DATA_CHARACTERS.fullmatch(match["data"]):
            raise ValueError("a data URL has a character that must be percent-encoded")
        return unquote_to_bytes(match["data"])
    try:
        return base64.b64decode(match["data"].encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as cause:
        raise ValueError("a data URL has invalid base64 (padding is required)") from cause


def unfold(content: bytes, compression: str) -> bytes:
    """Undo the `compression` of a resource. Raises ValueError for an unknown or broken one, or one beyond the limit."""
    if not compression:
        return content
    if compression != "gzip":
        raise ValueError(f'unknown compression "{compression}"')
    stream = zlib.decompressobj(wbits=31)
    try:
        plain = stream.decompress(content, CONTENT_LIMIT)
    except zlib.error as cause:
        raise ValueError("contents are not gzip") from cause
    if not stream.eof:
        raise ValueError(f"gzip contents are truncated or unfold to more than {CONTENT_LIMIT:,} bytes")
    return plain


def url_problem(url: str, version: Version) -> str:
    """What is wrong with a source URL, or an empty string."""
    if not _is_parsable(url):
        return "unable to parse URL"
    match = SCHEME.match(url)
    scheme = match[1].lower() if match else ""
    if scheme not in schemes(version):
        return f'URL scheme "{scheme}" is not one of {", ".join(schemes(version))}'
    if scheme == "data":
        try:
            decode_data_url(url)
        except ValueError as cause:
            return str(cause)
    query = url.partition("#")[0].partition("?")[2]
    if scheme in {"s3", "arn"} and parse_qs(query, keep_blank_values=True).get("versionId", ["x"])[0] == "":
        return "the versionId of an S3 object is empty"
    if scheme == "arn" and not _is_s3_arn(url.partition("?")[0]):
        return "not the ARN of an S3 object"
    return ""


def schemes(version: Version) -> tuple[str, ...]:
    """The URL schemes a specification knows."""
    known = ["http", "https", "tftp", "s3", "data"]
    if version >= (3, 2):
        known.append("gs")
    if version >= (3, 4):
        known.append("arn")
    return tuple(known)


def hash_problem(text: str, version: Version) -> str:
    """What is wrong with a verification hash (`sha512-<hex>`), or an empty string."""
    function, dash, digits = text.partition("-")
    if not dash:
        return "malformed hash: expected <function>-<hexadecimal digits>"
    known = ("sha512", "sha256") if version >= (3, 1) else ("sha512",)
    if function not in known:
        return f'unrecognized hash function "{function}" (known: {", ".join(known)})'
    if len(digits) != HASH_LENGTHS[function]:
        return f"a {function} has {HASH_LENGTHS[function]} hexadecimal digits, found {len(digits)}"
    return ""


def resource_findings(path: str, resource: Mapping[str, Any], version: Version, *, needed: bool) -> Iterator[Finding]:
    """Judge an object with `source`, `compression`, `verification` and `httpHeaders`."""
    source = resource.get("source", "")
    problem = url_problem(source, version) if source else ""
    if problem:
        yield Finding(f"{path}.source", problem)
    if needed and not source:
        yield Finding(f"{path}.source", "source is required")
    if resource.get("compression", "") not in {"", "gzip"}:
        yield Finding(f"{path}.compression", f'compression "{resource["compression"]}" is not gzip')
    if (digest := resource.get("verification", {}).get("hash")) is not None:
        if problem := hash_problem(digest, version):
            yield Finding(f"{path}.verification.hash", problem)
        if "source" not in resource and version[0] > 2:
            yield Finding(f"{path}.verification.hash", "a hash needs a source")
    yield from _header_findings(path, resource)


def _header_findings(path: str, resource: Mapping[str, Any]) -> Iterator[Finding]:
    headers = resource.get("httpHeaders", [])
    scheme = SCHEME.match(resource.get("source", ""))
    if headers and (scheme is None or scheme[1].lower() not in {"http", "https"}):
        yield Finding(f"{path}.httpHeaders", "HTTP headers need an http or https source")
    for index, header in enumerate(headers):
        if not header.get("name"):
            yield Finding(f"{path}.httpHeaders[{index}].name", "an HTTP header needs a name")


def _is_parsable(url: str) -> bool:
    if any(character < " " or character == "\x7f" for character in url):
        return False
    rest, _, fragment = url.partition("#")
    match = SCHEME.match(rest)
    if BAD_ESCAPE.search(fragment) or rest.startswith(":"):
        return False
    rest = rest[match.end() :] if match else rest
    rest = rest.partition("?")[0]
    if not rest.startswith("/"):
        return True  # opaque, as data: URLs are
    if not rest.startswith("//"):
        return not BAD_ESCAPE.search(rest)
    authority, _, path = rest[2:].partition("/")
    return not BAD_ESCAPE.search(path) and _is_authority(authority)


def _is_authority(authority: str) -> bool:
    user, at, host = authority.rpartition("@")
    if at and (BAD_ESCAPE.search(user) or not re.fullmatch(r"[A-Za-z0-9\-._:~!$&'()*+,;=%@]*", user)):
        return False
    if host.startswith("["):
        closing = host.rfind("]")
        port = host[closing + 1 :]
        return closing > 0 and bool(re.fullmatch(r"(?::\d*)?", port)) and bool(HOST_CHARACTERS.fullmatch(host))
    port_mark = host.rfind(":")
    if port_mark >= 0 and not re.fullmatch(r"\d*", host[port_mark + 1 :], re.ASCII):
        return False
    return bool(HOST_CHARACTERS.fullmatch(host))


def _is_s3_arn(arn: str) -> bool:
    parts = arn.split(":", 5)
    if len(parts) != S3_ARN_PARTS or parts[2] != "s3":
        return False
    kind, _, rest = parts[5].partition("/")
    if kind == "accesspoint":
        rest = rest.partition("/")[2]
    return bool(kind and rest)
