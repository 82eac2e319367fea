"""Disks in kola's words: what they mean, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import BadInput
from harness.machine.hardware.disks import Disk

GIB = 2**30
WORDS = {
    "5G": Disk(5 * GIB),
    "64M": Disk(2**26),
    "8T": Disk(2**43),
    "5G:virtio": Disk(5 * GIB),
    "5G:nvme": Disk(5 * GIB, "nvme"),
    "5G:channel=nvme": Disk(5 * GIB, "nvme"),
    "5G:4k": Disk(5 * GIB, sectors="4k"),
    "5G:512e": Disk(5 * GIB, sectors="512e"),
    "5G:mpath": Disk(5 * GIB, "scsi", is_multipath=True),
    "5G:mpath,wwn=1": Disk(5 * GIB, "scsi", is_multipath=True, wwn=1),
    "5G:mpath,channel=scsi": Disk(5 * GIB, "scsi", is_multipath=True),
    "5G:wwn=81985529216486895": Disk(5 * GIB, "scsi", wwn=0x123456789ABCDEF),
    "5G:wwn=0x0123456789abcdef": Disk(5 * GIB, "scsi", wwn=0x123456789ABCDEF),
    "1G:nvme,4k,serial=scratch-1": Disk(GIB, "nvme", "4k", serial="scratch-1"),
}
REFUSED = {
    "": "cannot be a size",
    "5": "cannot be a size",
    "G": "cannot be a size",
    "-5G": "cannot be a size",
    "5.5G": "cannot be a size",
    "0G": "cannot be a size",
    "\N{ARABIC-INDIC DIGIT FIVE}G": "cannot be a size",
    "5g": "cannot be a size",
    "1K": "cannot be had",
    "1025K": "cannot be had",
    "9T": "cannot be had",
    "999999999999999T": "cannot be had",
    "5G:": "nothing follows the colon",
    "5G:foo": "unknown disk option 'foo'",
    "5G:mpath,": "unknown disk option ''",
    "5G:512": "unknown disk option '512'",
    "5G:4k=yes": "unknown disk option",
    "5G:4k,512e": "repeats or contradicts",
    "5G:mpath,mpath": "repeats or contradicts",
    "5G:nvme,scsi": "repeats or contradicts",
    "5G:channel=ide": "unknown bus 'ide'",
    "5G:nvme,mpath": "two paths cannot be on nvme",
    "5G:virtio,wwn=1": "a WWN cannot be on virtio",
    "5G:wwn=": "cannot be a WWN",
    "5G:wwn=0": "cannot be a WWN",
    "5G:wwn=-1": "cannot be a WWN",
    "5G:wwn=0xg": "cannot be a WWN",
    "5G:wwn=18446744073709551616": "more than 64 bits",
    "5G:serial=": "serial of a disk is empty",
    "5G:serial=a b": "cannot be a serial",
    "5G:serial=" + "x" * 21: "cannot be a serial",
}


@pytest.mark.parametrize("text", WORDS)
def test_a_disk_is_what_the_words_say(text):
    assert Disk.parse(text) == WORDS[text]


@pytest.mark.parametrize("text", REFUSED)
def test_nonsense_is_refused_in_one_line(text):
    with pytest.raises(BadInput, match=REFUSED[text]) as refusal:
        Disk.parse(text)
    assert len(str(refusal.value).splitlines()) == 1


@given(st.text(max_size=40) | st.from_regex(r"[0-9]{1,4}[KMGT](:[a-z0-9=,]{0,30})?", fullmatch=True))
def test_whatever_is_typed_is_a_disk_or_refused(text):
    try:
        said = Disk.parse(text).describe()
    except BadInput as refusal:
        said = str(refusal)
    assert len(said.splitlines()) == 1


def test_a_disk_tells_what_is_not_usual_about_it():
    assert Disk.parse("5G").describe() == "5G virtio disk"
    assert Disk.parse("1536M:mpath,512e,serial=a,wwn=16").describe() == (
        "1536M scsi disk with two paths (512e, serial a, wwn 0x10)"
    )
