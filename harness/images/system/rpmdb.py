"""rpm's sqlite database: header blobs in the table Packages, read from bytes.

The bytes come from an image, so SQLite sees them in memory, read-only, with limits on rows, sizes and steps; only a
database with a write-ahead log goes through a folder of its own, because SQLite replays a log into files.
"""

from __future__ import annotations

import sqlite3
import struct
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.errors import DamagedImage

MAGIC = b"SQLite format 3\0"
VERSIONS = slice(18, 20)  # in SQLite's header: 2 asks for a write-ahead log, 1 does without
LARGEST_BLOB = 64 * 2**20  # bytes of one header
MOST_PACKAGES = 100_000
MOST_ENTRIES = 65_536  # tags of one header: rpm's own limit
STEPS = 10_000  # of SQLite's machine between two looks at the count
MOST_LOOKS = 100_000  # a billion steps: seconds
INT32, STRING = 4, 6
TAGS: Final = {1000: "name", 1001: "version", 1002: "release", 1003: "epoch", 1022: "arch", 1008: "installed"}


@dataclass(frozen=True, slots=True)
class Header:
    """What we read of one package's header; `arch` is empty for a key (gpg-pubkey)."""

    name: str
    version: str
    release: str
    epoch: int | None = None
    arch: str = ""
    installed: int | None = None  # seconds since the epoch

    @property
    def full_version(self) -> str:
        """As rpm prints it: epoch:version-release.

        >>> Header("bash", "5.2", "1.fc40", 1).full_version
        '1:5.2-1.fc40'
        """
        prefix = "" if self.epoch is None else f"{self.epoch}:"
        return f"{prefix}{self.version}-{self.release}"


def read_headers(database: bytes, log: bytes, where: str) -> Iterator[Header]:
    """The headers of all packages; `log` is the write-ahead log beside the file, or nothing.

    Raises DamagedImage for what SQLite or rpm would refuse, or what takes too long.
    """
    if not database.startswith(MAGIC):
        raise DamagedImage("is no SQLite database", where=where)
    try:
        with _opened(database, log) as connection:
            _limit(connection)
            is_table = connection.execute("SELECT type FROM sqlite_master WHERE name = 'Packages'").fetchone()
            if is_table != ("table",):
                raise DamagedImage("is an SQLite database without rpm's table Packages", where=where)
            rows = connection.execute("SELECT blob FROM Packages ORDER BY hnum LIMIT ?", (MOST_PACKAGES,))
            for (blob,) in rows:
                yield parse_header(blob, where)
    except (sqlite3.Error, OverflowError) as cause:
        raise DamagedImage(f"cannot be read as rpm's database: {cause}", where=where) from cause


@contextmanager
def _opened(database: bytes, log: bytes) -> Iterator[sqlite3.Connection]:
    if not log:
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.deserialize(database[: VERSIONS.start] + b"\1\1" + database[VERSIONS.stop :])
            yield connection
        return
    with tempfile.TemporaryDirectory(prefix="image-harness-rpmdb-") as folder:
        path = Path(folder) / "rpmdb.sqlite"
        path.write_bytes(database)
        path.with_name(f"{path.name}-wal").write_bytes(log)
        with closing(sqlite3.connect(path)) as connection:
            yield connection


def _limit(connection: sqlite3.Connection) -> None:
    """Nothing in a schema runs, nothing grows without bound, and nothing takes for ever."""
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute("PRAGMA query_only = ON")
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_BLOB)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    looks = iter(range(MOST_LOOKS))
    connection.set_progress_handler(lambda: int(next(looks, None) is None), STEPS)


def parse_header(blob: object, where: str) -> Header:
    """One header as rpm keeps it: counts of entries and of bytes, sixteen bytes an entry, then the data, big-endian."""
    if not isinstance(blob, bytes) or len(blob) < 8:
        raise DamagedImage("holds a package without a header", where=where)
    count, size = struct.unpack_from(">II", blob)
    start = 8 + count * 16
    if count > MOST_ENTRIES or start + size > len(blob):
        raise DamagedImage(f"a package's header claims {count:,} entries and {size:,} bytes", where=where)
    texts: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for tag, kind, offset, number in struct.iter_unpack(">IIII", blob[8:start]):
        name = TAGS.get(tag)
        if name is None or not number:
            continue
        if offset > size:
            raise DamagedImage(f"a package's header has its {name} outside", where=where)
        at = start + offset
        if kind == STRING:
            end = blob.find(b"\0", at, start + size)
            texts[name] = blob[at : end if end >= 0 else start + size].decode("utf-8", "replace")
        elif kind == INT32 and offset + 4 <= size:
            numbers[name] = struct.unpack_from(">I", blob, at)[0]
    if "name" not in texts:
        raise DamagedImage("holds a package without a name", where=where)
    known = {key: texts.get(key, "") for key in ("name", "version", "release", "arch")}
    return Header(**known, epoch=numbers.get("epoch"), installed=numbers.get("installed"))
