"""The archives that some platforms want a disk in: VMware's OVA, Google's tar.gz. Same disk, same bytes.

Facts C5 and C1: an OVA is a ustar archive of coreos.ovf and disk.vmdk in this order, owned by 0/0; Google's is an old
GNU tar with one sparse member, disk.raw, packed by `gzip -9`. Times are zero, and gzip notes neither time nor name.
"""

from __future__ import annotations

import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final
from xml.sax.saxutils import escape

from harness.errors import BadInput, HarnessError, ToolFailed
from harness.images.edits.shapes import Shape
from harness.images.partitions.layout import Layout
from harness.images.system.stamps import read_os_release
from harness.images.system.tree import open_system
from harness.tools import find_tool

TEMPLATE = Path(__file__).with_name("vmware.ovf")
OVF, VMDK, GCP_DISK = "coreos.ovf", "disk.vmdk", "disk.raw"
LARGEST_MEMBER = 8 * 2**30 - 1  # bytes: eleven octal digits
# VMware's names of guest systems, by ID of os-release (vSphere API, VirtualMachineGuestOsIdentifier).
OS_TYPES: Final = {"fedora": "fedora64Guest", "rhcos": "rhel8_64Guest", "rhel": "rhel8_64Guest"}
OTHER_SYSTEM = "otherLinux64Guest"
CONTROLLERS: Final = {
    "lsilogic": ("VirtualSCSI", 6),
    "ide": ("PIIX4", 5),
}  # subtype and resource type (DMTF DSP1043) of the disk's controller
TAR_OPTIONS: Final = (
    "--format=oldgnu", "--sparse", "--hole-detection=raw", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner",
    "--mode=0644", "--no-acls", "--no-selinux", "--no-xattrs",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Guest:
    """What an OVF says of the system inside: VMware's name of it, and its own."""

    os_type: str = OTHER_SYSTEM
    name: str = "Linux"


def guest_of(layout: Layout) -> Guest:
    """By the image's os-release; of an image whose root cannot be read nothing more is said than that it is Linux."""
    try:
        os_release = read_os_release(open_system(layout))
    except HarnessError:
        return Guest()
    kind = OS_TYPES.get(os_release.get("ID", ""), OTHER_SYSTEM)
    return Guest(kind, os_release.get("PRETTY_NAME") or os_release.get("NAME") or "Linux")


def write_ova(vmdk: Path, capacity: int, shape: Shape, guest: Guest, target: Path) -> None:
    """Put a VMDK of a disk of `capacity` bytes into an OVA. Raises BadInput for one too large for ustar."""
    size = vmdk.stat().st_size
    if size > LARGEST_MEMBER:
        raise BadInput(f"its VMDK has {size:,} bytes, more than an OVA holds", next_step="sparsify the image first")
    ovf = ovf_text(size, capacity, shape, guest).encode()
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as archive:
        description = target.with_name(OVF)
        description.write_bytes(ovf)
        for name, path in ((OVF, description), (VMDK, vmdk)):
            member = tarfile.TarInfo(name)
            member.size, member.mode = path.stat().st_size, 0o644
            with path.open("rb") as content:
                archive.addfile(member, content)


def ovf_text(vmdk_size: int, capacity: int, shape: Shape, guest: Guest) -> str:
    """The description of a machine with the disk (DMTF DSP0243, OVF 1.1)."""
    subtype, kind = CONTROLLERS[shape.adapter]
    controller = [
        f"<rasd:ResourceSubType>{subtype}</rasd:ResourceSubType>",
        f"<rasd:ResourceType>{kind}</rasd:ResourceType>",
    ]
    is_vmware = shape.adapter == "lsilogic"
    return Template(TEMPLATE.read_text()).substitute(
        vmdk_size=vmdk_size,
        capacity=capacity,
        name="coreos",
        os_type=guest.os_type,
        description=escape(guest.name),
        system_type=f"vmx-{shape.hardware:02}" if is_vmware else f"virtualbox-{shape.hardware / 2:.1f}",
        controller="\n".join(" " * 8 + line for line in controller),
        network_card="VmxNet3" if is_vmware else "E1000",
    )


def write_gcp(folder: Path, target: Path) -> None:
    """Pack `disk.raw` of a folder as Google Compute Engine wants it. Holes are looked for in the bytes themselves."""
    argv = [find_tool("tar"), *TAR_OPTIONS, "-cf", "-", GCP_DISK]
    with (
        target.open("wb") as packed,
        subprocess.Popen(argv, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as tar,
        subprocess.Popen(
            [find_tool("gzip"), "-9", "-n"], stdin=tar.stdout, stdout=packed, stderr=subprocess.PIPE
        ) as gzip,
    ):
        if tar.stdout:
            tar.stdout.close()  # gzip has it: tar is to notice when gzip ends
        said = [(each, each.stderr.read() if each.stderr else b"") for each in (tar, gzip)]
    for each, words in said:
        if each.returncode:
            name = "tar" if each is tar else "gzip"
            raise ToolFailed(f"{name} exited with {each.returncode}: {words.decode(errors='replace').strip()[:300]}")
