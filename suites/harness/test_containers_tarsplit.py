"""tar-split records: what is read from them, and how bad ones are refused."""

import base64
import contextlib
import gzip
import io
import json
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.containers import tarsplit
from harness.containers.tarsplit import crc64, read_tar_split
from harness.errors import DamagedImage


def test_crc64_is_that_of_the_iso_standard():
    assert crc64([b"1234", b"56789"]).hex() == "b90956c775a41001"  # check value of CRC-64/GO-ISO


def tar_split(*lines):
    return [gzip.compress(b"\n".join(json.dumps(line).encode() for line in lines))]


@pytest.mark.parametrize(
    "packed, what",
    [
        ([], "is truncated"),
        ([b"plain text"], "not a sound gzip file"),
        ([gzip.compress(b"{}") + b"more"], "goes on behind its end"),
        (tar_split([]), "line 1 is no tar-split record"),
        (tar_split({"type": 3}), "line 1 has type 3"),
        (tar_split({"type": 1, "size": -1}), "line 1 has type 1 and size -1"),
        (tar_split({"type": 1, "name": "x"}), "the tar header before 'x' is unreadable"),
        ([gzip.compress(bytes(9 * 2**20))], "has a line of more than"),
        (tar_split({"type": 2, "payload": base64.b64encode(bytes(512)).decode()}, {"type": 1}), "is unreadable"),
    ],
)
def test_a_bad_tar_split_is_told_in_words(packed, what):
    with pytest.raises(DamagedImage, match=what):
        list(read_tar_split(packed))


@settings(max_examples=200)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"type": st.integers(1, 2), "size": st.integers(0, 2**70), "payload": st.binary(max_size=1100)}
        ),
        max_size=4,
    )
)
def test_a_random_tar_split_is_read_or_refused(lines):
    coded = [{**line, "payload": base64.b64encode(line["payload"]).decode()} for line in lines]
    with contextlib.suppress(DamagedImage):
        list(read_tar_split(tar_split(*coded)))


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=150)


def read_as(header):
    """What a header of one block says, or the sentence that refuses it."""
    lines = [{"type": 2, "payload": base64.b64encode(header).decode()}, {"type": 1, "name": "x"}]
    try:
        return [part for part in read_tar_split(tar_split(*lines)) if isinstance(part, tarsplit.Member)]
    except DamagedImage as cause:
        return str(cause)


@settings(max_examples=300)
@given(
    name=NAMES,
    target=NAMES,
    kind=st.sampled_from([b"0", b"1", b"2", b"5", b"\0", b"3", b"6", b"7"]),
    numbers=st.lists(st.integers(0, 0o7777777), min_size=4, max_size=4),
    form=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT]),
    harm=st.none() | st.tuples(st.integers(0, 511), st.integers(0, 255), st.booleans()),
)
def test_the_quick_reader_of_headers_agrees_with_tarfile(name, target, kind, numbers, form, harm):
    """On headers as they are written, and with a byte changed: with the checksum mended or without."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target if kind in (b"1", b"2") else ""
    info.mode, info.uid, info.gid, info.mtime = numbers
    try:
        header = bytearray(info.tobuf(form, "utf-8", "surrogateescape")[-512:])
    except ValueError:
        return  # too long for this form
    if harm:
        header[harm[0]] = harm[1]
        if harm[2]:
            header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 256)
    quick = read_as(bytes(header))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tarsplit, "_plain_member", lambda *_: None)
        slow = read_as(bytes(header))
    assert quick == slow


def test_plain_headers_are_read_quickly():
    info = tarfile.TarInfo("srv/file")
    info.mode, info.uid, info.gid, info.mtime = 0o4755, 1000, 1001, 5
    line = tarsplit._Line(1)
    member = tarsplit._plain_member(info.tobuf(tarfile.USTAR_FORMAT), line)
    assert member == tarsplit.Member("srv/file", "file", 0o4755, 1000, 1001, 5, "", 0, b"")


def test_attributes_come_from_pax_headers():
    packed = io.BytesIO()
    value = b"\xff\0=\n"
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("x")
        info.pax_headers = {"SCHILY.xattr.user.note": value.decode("utf-8", "surrogateescape"), "comment": "no"}
        tar.errors = "surrogateescape"
        tar.addfile(info)
    headers = packed.getvalue()[:1536]
    lines = [{"type": 2, "payload": base64.b64encode(headers).decode()}, {"type": 1, "name": "x"}]
    (member,) = (part for part in read_tar_split(tar_split(*lines)) if isinstance(part, tarsplit.Member))
    assert member.xattrs == (("user.note", value),)
