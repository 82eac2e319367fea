"""Every failure a user can meet, as one type each: what went wrong, where, and what to do next.

The message is the product: it is printed as one line by the command line and as the cause line of a report.
Nothing here imports anything else of the harness.
"""

from __future__ import annotations

from typing import ClassVar, Literal

VerdictClass = Literal["infra", "boot", "image", "test"]


class HarnessError(Exception):
    """Base of all errors a user can meet.

    `what` says what is wrong, `where` names the file, partition or tool, `next_step` says what to do.
    """

    verdict_class: ClassVar[VerdictClass] = "infra"
    exit_code: ClassVar[int] = 2
    retry_helps: ClassVar[bool] = True  # False where the same would fail the same way again

    def __init__(self, what: str, *, where: str = "", next_step: str = "") -> None:
        self.what = what
        self.where = where
        self.next_step = next_step
        line = f"{where}: {what}" if where else what
        super().__init__(f"{line} ({next_step})" if next_step else line)


class BadInput(HarnessError):
    """A path, option or configuration file the user gave cannot be used."""

    retry_helps: ClassVar[bool] = False


class DamagedImage(HarnessError):
    """An image contradicts its own format: truncated, corrupt or hostile."""

    verdict_class = "image"


class UnsupportedImage(HarnessError):
    """An image is sound as far as we can tell, but wears a format or feature we do not read."""

    verdict_class = "image"


class MissingFile(HarnessError):
    """A path inside an image does not exist or is not of the kind asked for; the message shows what is there."""

    verdict_class = "image"


class InvalidIgnition(HarnessError):
    """An Ignition config breaks its specification; `where` is the file and the JSON path."""

    retry_helps: ClassVar[bool] = False


class MissingTool(HarnessError):
    """A host program is not installed; the next step names its package."""

    retry_helps: ClassVar[bool] = False


class ToolFailed(HarnessError):
    """A host program ran and failed; the message carries the last lines it printed."""


class DownloadFailed(HarnessError):
    """Something could not be fetched, or what came is not what was published."""


class DamagedArtifact(HarnessError):
    """An OCI artifact contradicts itself or what it is named by: truncated, corrupt or hostile."""


class RegistryFailed(HarnessError):
    """A registry cannot be reached, refuses us, or does not have what was asked for."""


class BuildFailed(HarnessError):
    """A reference image could not be built."""


class StoreError(HarnessError):
    """The store cannot be used: no space, no permission, or an entry that is not what it claims."""


class ExternalTestFailed(HarnessError):
    """An external test ran in its guest and failed; the message says how and what it said last."""

    verdict_class = "image"


class MachineFailed(HarnessError):
    """QEMU did not start, died or does not answer: our fault or the host's, never the image's."""


class MachineLost(HarnessError):
    """A machine that several checks share was lost by an earlier one: the rest of them were never made."""

    retry_helps: ClassVar[bool] = False

    def __init__(self, what: str, *, where: str = "", next_step: str = "", culprit: str = "") -> None:
        """`culprit` is the check that lost it."""
        super().__init__(what, where=where, next_step=next_step)
        self.culprit = culprit


class GuestBroken(HarnessError):
    """A line appeared that proves the guest broken, on its console or in its journal, while a check ran on it."""

    verdict_class = "image"


class BootFailed(HarnessError):
    """A machine started but its guest never came up; the message carries the console line that proves it."""

    verdict_class = "boot"


class GuestLost(HarnessError):
    """A guest that had come up stopped, hangs or shut us out: its own doing, so it speaks against the image."""

    verdict_class = "image"


class NotInGuest(HarnessError):
    """A guest lacks something that a test asks of it; such a test can only be skipped."""

    verdict_class = "test"


class DeadlinePassed(HarnessError):
    """Something that had to happen in time did not; the message says what was awaited and what was seen last."""

    verdict_class: ClassVar[VerdictClass] = "boot"


class HostTooBusy(DeadlinePassed):
    """The same on a host with far more to do than it can: that says nothing about the image."""

    verdict_class = "infra"
