"""What of a prestage folder is done, written down archive by archive, so that a later run need not read them again.

An archive has its name only when it is complete, so a run that was killed leaves nothing half done. What this file
adds is that nobody has touched the archive since: it has still the size and the time of its last change that were
noted. Any other archive is read and verified anew before it counts. The last line may be torn; it is then ignored.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

NAME: Final = ".pulled.jsonl"
LARGEST: Final = 64 * 2**20  # bytes


class Done(msgspec.Struct, frozen=True):
    """An archive that was complete: `sha256` (hex) and `size` of its file, `digest` of the manifest in it.

    `mtime` is in ns. `with_all` says whether a list would have been pulled with all its images.
    """

    archive: str
    size: int
    mtime: int
    sha256: str
    digest: str
    with_all: bool


@dataclass(frozen=True, slots=True)
class Journal:
    """The journal of a folder."""

    folder: Path

    def read(self) -> dict[str, Done]:
        """What was noted last of each archive that is still as it was then."""
        path = self.folder / NAME
        found: dict[str, Done] = {}
        if not path.is_file() or path.stat().st_size > LARGEST:
            return found
        with path.open("rb") as lines:
            for line in lines:
                try:
                    done = msgspec.json.decode(line, type=Done)
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                    continue
                found[done.archive] = done
        return {name: done for name, done in found.items() if self._is_untouched(done)}

    def note(self, archive: Path, *, sha256: str, digest: str, with_all: bool) -> Done:
        """Write down that an archive is complete."""
        status = archive.stat()
        done = Done(archive.name, status.st_size, status.st_mtime_ns, sha256, digest, with_all)
        with (self.folder / NAME).open("ab") as lines:
            lines.write(msgspec.json.encode(done) + b"\n")
        return done

    def rewrite(self, done: dict[str, Done]) -> None:
        """Forget all but this."""
        lines = b"".join(msgspec.json.encode(each) + b"\n" for each in done.values())
        aside = self.folder / f"{NAME}.new"
        aside.write_bytes(lines)
        aside.rename(self.folder / NAME)

    def _is_untouched(self, done: Done) -> bool:
        if "/" in done.archive:
            return False
        try:
            status = (self.folder / done.archive).lstat()
        except (OSError, ValueError):
            return False
        return (status.st_size, status.st_mtime_ns) == (done.size, done.mtime)
