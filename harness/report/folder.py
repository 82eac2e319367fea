"""The folder a run leaves behind, and how everybody who takes part in the run writes into it.

    reports/latest -> 2026-11-21T070800Z
    reports/2026-11-21T070800Z/
        index.html  junit.xml  run.json
        facts/NAME.json            what fixtures contribute, from any process: `image-...` and `host`
        machines/NAME/             console.log, journal.txt, timeline.json of each machine

A fact whose name starts with `image-` is an ImageFacts; the fact `host` is a mapping of words to words (accelerator,
QEMU version, ...). `timeline.json` is a list of `{"name", "seconds"}` in order of time.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from harness.errors import BadInput
from harness.report.verdict import ImageFacts, MachineLogs, Stage
from harness.store import replacing

PAGE, JUNIT, DATA = "index.html", "junit.xml", "run.json"
FACTS, MACHINES, LATEST = "facts", "machines", "latest"
TIMELINE, CONSOLE = "timeline.json", "console.log"
RUN_NAME = "%Y-%m-%dT%H%M%SZ"  # in UTC; a second run of that second gets `.2`
IMAGE_PREFIX, HOST = "image-", "host"


def create_run_folder(reports: Path, now: datetime | None = None) -> Path:
    """A new folder named after the time in UTC. Raises BadInput where it cannot be made."""
    stem = (now or datetime.now(UTC)).astimezone(UTC).strftime(RUN_NAME)
    for attempt in range(1, 1000):
        folder = reports / (stem if attempt == 1 else f"{stem}.{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if reports.is_dir():
                continue
            raise BadInput("is not a folder", where=str(reports), next_step="choose another with --reports") from None
        except OSError as cause:
            raise BadInput(
                f"no report can be written: {cause.strerror}",
                where=str(reports),
                next_step="choose another folder with --reports",
            ) from cause
        return folder
    raise BadInput("too many runs in one second", where=str(reports))


def point_latest(run: Path) -> None:
    """Let `latest` beside a run folder name it: at every moment the link is there and leads to a finished report."""
    link = run.parent / LATEST
    if link.exists() and not link.is_symlink():
        raise BadInput("is in the way: it should be a link to the newest report", where=str(link))
    aside = run.parent / f".{LATEST}.{os.getpid()}"
    aside.unlink(missing_ok=True)
    aside.symlink_to(run.name)
    aside.rename(link)


def discard_if_empty(run: Path) -> None:
    """Remove the folder of a run that ran nothing; whatever somebody wrote into it stays."""
    try:
        run.rmdir()
        run.parent.rmdir()
    except OSError:
        return


def contribute(run: Path, name: str, data: object) -> None:
    """Leave a fact for the report: dataclasses or plain values. Any process may, the last word wins."""
    with replacing(run / FACTS / f"{_file_name(name)}.json") as target:
        target.write_bytes(msgspec.json.format(msgspec.json.encode(data)))


def images_of(run: Path) -> tuple[ImageFacts, ...]:
    """The images under test, by the names of their facts."""
    facts = sorted((run / FACTS).glob(f"{IMAGE_PREFIX}*.json"))
    return tuple(msgspec.json.decode(fact.read_bytes(), type=ImageFacts) for fact in facts)


def host_of(run: Path) -> dict[str, str]:
    """What was contributed about the host."""
    fact = run / FACTS / f"{HOST}.json"
    return msgspec.json.decode(fact.read_bytes(), type=dict[str, str]) if fact.exists() else {}


def machine_folder(run: Path, name: str) -> Path:
    """Where a machine of this name keeps its logs; made when missing."""
    folder = run / MACHINES / _file_name(name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def new_machine_folder(run: Path, name: str) -> Path:
    """The same for a machine that may not be the first of its name: the second is called `NAME-2`."""
    for number in range(1, 10_000):
        folder = run / MACHINES / _file_name(name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise BadInput(f"too many machines are called {name}", where=str(run))


def machines_of(run: Path) -> tuple[MachineLogs, ...]:
    """What the machines of a run left, by name."""
    folders = (folder for folder in sorted((run / MACHINES).glob("*")) if folder.is_dir())
    return tuple(_logs(run, folder) for folder in folders)


def _logs(run: Path, folder: Path) -> MachineLogs:
    files = tuple(str(path.relative_to(run)) for path in sorted(folder.rglob("*")) if path.is_file())
    timeline = folder / TIMELINE
    stages = msgspec.json.decode(timeline.read_bytes(), type=tuple[Stage, ...]) if timeline.exists() else ()
    return MachineLogs(folder.name, files, stages, _kept_from(run, folder))


def _kept_from(run: Path, folder: Path) -> str:
    """When the machine was booted, if its console fell silent before this run began; first boots are kept."""
    console = folder / CONSOLE
    try:
        began = datetime.strptime(run.name.partition(".")[0], RUN_NAME).replace(tzinfo=UTC)
        booted = datetime.fromtimestamp(console.stat().st_mtime, UTC)
    except (ValueError, OSError):
        return ""
    return f"{booted:%Y-%m-%d %H:%M} UTC" if booted < began else ""


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.=+-]+", "-", name).strip("-.")[:120] or "unnamed"
