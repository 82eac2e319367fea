"""What is odd about published metadata: seen in the wild, and worth a word before anybody trusts it.

An oddity is no error: the digests in such a document may still be right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness.release.metadata import Artifact, Metadata, unpacked_name

RHCOS_STREAM = re.compile(r"rhcos-(\d+)\.(\d+)")
RHCOS_RELEASE = re.compile(r"(\d)(\d+)\.")  # 412.86.202210031918-0 belongs to 4.12
# Formats that are packed and yet publish no uncompressed digest: Fedora's gcp, where RHCOS has one.
NEVER_UNPACKED = ("tar.gz",)


def oddities(metadata: Metadata) -> tuple[str, ...]:
    """One sentence for each, in the order of the document; empty for metadata as it should be."""
    found = (_other_release, _mixed_systems, _no_uncompressed, _needless_uncompressed, _half_signed)
    return tuple(sentence for look in found for sentence in look(metadata))


def _other_release(metadata: Metadata) -> Iterator[str]:
    """The installer's rhcos.json of October 2022 says rhcos-4.11 and publishes 412.86.*."""
    stream = RHCOS_STREAM.fullmatch(metadata.stream)
    releases = sorted({artifact.release for artifact in metadata.artifacts})
    if stream is None:
        return
    for release in releases:
        version = RHCOS_RELEASE.match(release)
        if version and version.groups() != stream.groups():
            yield f"the stream is {metadata.stream}, but release {release} is of {version[1]}.{version[2]}"


def _mixed_systems(metadata: Metadata) -> Iterator[str]:
    """OKD's fork of the installer had a Fedora CoreOS disk among RHCOS ones."""
    systems = {artifact: _system(artifact) for artifact in metadata.artifacts}
    names = sorted(set(systems.values()) - {""})
    if len(names) > 1:
        few = min(names, key=lambda name: list(systems.values()).count(name))
        others = ", ".join(name for name in names if name != few)
        for artifact, system in systems.items():
            if system == few:
                yield f"{artifact.name} is {few} among images of {others}"
    for artifact, system in systems.items():
        if system == "rhcos" and "/fedora-coreos" in artifact.location.replace(artifact.name, ""):
            yield f"{artifact.name} lies where Fedora CoreOS is published"


def _system(artifact: Artifact) -> str:
    return next((name for name in ("fedora-coreos", "rhcos", "scos") if artifact.name.startswith(f"{name}-")), "")


def _no_uncompressed(metadata: Metadata) -> Iterator[str]:
    """Stream metadata has an uncompressed digest wherever a file is packed. Release metadata never had any."""
    if metadata.kind != "stream":
        return
    for artifact in metadata.artifacts:
        packed = unpacked_name(artifact.format) != artifact.format and artifact.format not in NEVER_UNPACKED
        if packed and artifact.uncompressed_sha256 is None:
            yield f"{artifact.name} is packed, but no uncompressed SHA-256 is published"


def _needless_uncompressed(metadata: Metadata) -> Iterator[str]:
    """Before RHCOS 4.3, paths lacked the .gz of what they name."""
    for artifact in metadata.artifacts:
        if artifact.uncompressed_sha256 and unpacked_name(artifact.name) == artifact.name:
            yield f"{artifact.name} is packed, but its name does not say so"


def _half_signed(metadata: Metadata) -> Iterator[str]:
    """Fedora signs every file, RHCOS none."""
    unsigned = [artifact for artifact in metadata.artifacts if artifact.signature is None]
    if 0 < len(unsigned) < len(metadata.artifacts):
        yield from (f"{artifact.name} has no signature, others have" for artifact in unsigned)
