"""The container that each platform is shipped in, and how qemu-img is told to write it.

Facts (table C1): coreos-assembler's platform.*.ipp.yaml and osbuild's stages org.osbuild.qemu and
org.osbuild.tar; what the results look like is in C4 and C5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from harness.errors import BadInput

Container = Literal["raw", "qcow2", "vmdk", "vhd", "vhdx", "ova", "tar.gz"]


@dataclass(frozen=True, slots=True)
class Shape:
    """A way to write a disk: `options` go to qemu-img convert; for an OVA they are those of the disk inside."""

    container: Container
    suffix: str
    options: tuple[str, ...] = ()
    adapter: str = "lsilogic"  # of an OVA's disk
    hardware: int = 0  # the virtual hardware version that an OVA asks for


QCOW2: Final = Shape("qcow2", "qcow2", ("-O", "qcow2", "-o", "compat=1.1"))
NUTANIX: Final = Shape("qcow2", "qcow2", ("-c", "-O", "qcow2", "-o", "compat=1.1"))
VMDK: Final = Shape(
    "vmdk", "vmdk", ("-c", "-O", "vmdk", "-o", "adapter_type=lsilogic,compat6,subformat=streamOptimized")
)
VMDK_SPARSE: Final = Shape(
    "vmdk", "vmdk", ("-O", "vmdk", "-o", "adapter_type=lsilogic,compat6,subformat=monolithicSparse")
)
VHD: Final = Shape("vhd", "vhd", ("-O", "vpc", "-o", "subformat=fixed,force_size"))
VHD_DYNAMIC: Final = Shape("vhd", "vhd", ("-O", "vpc", "-o", "subformat=dynamic,force_size"))
VHDX: Final = Shape("vhdx", "vhdx", ("-O", "vhdx"))
GCP: Final = Shape("tar.gz", "tar.gz")
VMWARE: Final = Shape("ova", "ova", VMDK.options, "lsilogic", 17)
VIRTUALBOX: Final = Shape("ova", "ova", ("-c", "-O", "vmdk", "-o", "subformat=streamOptimized"), "ide", 4)
RAW: Final = Shape("raw", "raw")

PLATFORMS: Final[Mapping[str, Shape]] = {
    **dict.fromkeys(
        ("qemu", "openstack", "aliyun", "digitalocean", "exoscale", "ibmcloud", "oraclecloud", "proxmoxve"), QCOW2
    ),
    "nutanix": NUTANIX,
    "aws": VMDK,
    **dict.fromkeys(("azure", "azurestack"), VHD),
    "hyperv": VHDX,
    "gcp": GCP,
    "vmware": VMWARE,
    "virtualbox": VIRTUALBOX,
    **dict.fromkeys(("metal", "vultr", "hetzner", "applehv"), RAW),
}
FORMATS: Final[Mapping[str, Shape]] = {
    "raw": RAW,
    "qcow2": QCOW2,
    "vmdk": VMDK,
    "vmdk-sparse": VMDK_SPARSE,
    "vhd": VHD,
    "vhd-dynamic": VHD_DYNAMIC,
    "vhdx": VHDX,
    "ova": VMWARE,
    "tar.gz": GCP,
}


def shape_of(name: str) -> Shape:
    """The shape of a platform or format. Raises BadInput naming those there are."""
    found = PLATFORMS.get(name) or FORMATS.get(name)
    if found is None:
        raise BadInput(
            f"{name!r} is neither a platform nor a format that we write",
            next_step=f"platforms: {', '.join(PLATFORMS)}; formats: {', '.join(FORMATS)}",
        )
    return found
