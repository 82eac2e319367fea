"""Names of container images as lists of a release have them: pull specs (distribution, reference.go).

A pull spec here names its registry, and either a tag or a digest: with neither it would quietly mean `latest`, and
skopeo refuses both together. Its archive is called as the scripts of telco labs and factory-precaching-cli call it:
the last part of the name, ':' as '_'. Registry and namespace are lost by that, so two images can want one archive.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.containers.registry import LONGEST_REFERENCE, REFERENCE
from harness.errors import BadInput

LONGEST_ARCHIVE = 240  # bytes of a stem: a file name has 255, of which the ending and our own marks take a few
ENDINGS = (".tgz", ".tar.gz", ".tar", ".gz")  # of archives; the longer ones first
DIGEST_HEX = re.compile(r"[0-9a-f]{64}")
SHOWN = 160  # characters of what is wrong


@dataclass(frozen=True, slots=True)
class Reference:
    """One pull spec: `registry` is host[:port], `digest` is sha256:<hex>; of tag and digest one is empty."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a pull spec. Raises BadInput that says which part of it is wrong."""
        match = REFERENCE.fullmatch(text) if len(text) <= LONGEST_REFERENCE else None
        if match is None:
            what, next_step = _complaint(text)
            raise BadInput(what, where=_shown(text), next_step=next_step)
        if bool(match["tag"]) == bool(match["digest"]):
            what = "has a tag and a digest" if match["tag"] else "has neither tag nor digest"
            remedy = "remove the tag: skopeo takes one of them" if match["tag"] else "write :latest if that is meant"
            raise BadInput(what, where=_shown(text), next_step=remedy)
        registry, _, repository = match["name"].partition("/")
        reference = cls(registry, repository, match["tag"] or "", match["digest"] or "")
        if len(reference.archive) > LONGEST_ARCHIVE:
            raise BadInput(f"gives an archive a name of more than {LONGEST_ARCHIVE} bytes", where=_shown(text))
        return reference

    @property
    def name(self) -> str:
        """Registry and repository: what all versions of an image have in common."""
        return f"{self.registry}/{self.repository}"

    @property
    def basename(self) -> str:
        """The last part of the repository."""
        return self.repository.rpartition("/")[2]

    @property
    def archive(self) -> str:
        """The stem of its archive: `ocp-v4.0-art-dev@sha256_<hex>`, `assisted-installer-agent_latest`."""
        return f"{self.basename}{self._version}".replace(":", "_")

    @property
    def _version(self) -> str:
        return f"@{self.digest}" if self.digest else f":{self.tag}"

    def __str__(self) -> str:
        return f"{self.name}{self._version}"


def is_archive_name(text: str) -> bool:
    """Whether a text is what an archive is called (`...@sha256_<hex>.tgz`): no pull spec ends or is written so."""
    return text.endswith(ENDINGS) or "@sha256_" in text


def meant_by(text: str) -> Reference | None:
    """The pull spec that became the name of an archive; None where that cannot be told."""
    stem = next((text.removesuffix(ending) for ending in ENDINGS if text.endswith(ending)), text)
    name, mark, version = stem.partition("@sha256_")
    if not mark:
        name, _, version = stem.rpartition("_")
    try:
        return Reference.parse(f"{name}@sha256:{version}" if mark else f"{name}:{version}")
    except BadInput:
        return None


def _complaint(text: str) -> tuple[str, str]:
    """What is wrong with a text that is no pull spec, and what to do."""
    example = "as quay.io/me/image@sha256:<64 hex digits> or :tag"
    if not text:
        return "is empty", example
    if len(text) > LONGEST_REFERENCE:
        return f"is longer than {LONGEST_REFERENCE} characters", example
    if "://" in text:
        return "is a URL or has a transport", "write the name alone, without docker:// or https://"
    name, at, digest = text.partition("@")
    if at:
        problem = _digest_problem(digest)
        if problem:
            return problem, "copy the pull spec again"
    if name.count("/") == 0 or REFERENCE.fullmatch(f"quay.io/{name}"):
        return "names no registry", example
    if name != name.lower() and REFERENCE.fullmatch(name.lower()):
        return "has capital letters in its name", "registries want lower case"
    return "is not a pull spec", example


def _digest_problem(digest: str) -> str:
    algorithm, colon, digits = digest.partition(":")
    if algorithm != "sha256" or not colon:
        return f"has a digest that does not begin with sha256: ({algorithm[:20]!r})"
    if DIGEST_HEX.fullmatch(digits):
        return ""
    if DIGEST_HEX.fullmatch(digits.lower()):
        return "has a digest in capital letters"
    if len(digits) != 64:
        return f"has a digest of {len(digits)} characters, a SHA-256 has 64"
    return "has a digest with characters that are not hexadecimal"


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")
