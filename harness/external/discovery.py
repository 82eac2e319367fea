"""Finding external tests: which files of a folder are tests, what belongs to them, and what they are called.

As kola has it: below `tests/kola` of a project every file that others may execute is a test. `data` beside it is handed
to it, `config.ign` or `config.bu` is the config that its guest boots with, `kola.json` stands for the headers of those
that have none.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import BadInput
from harness.external.metadata import Metadata, read_header, read_kola_json
from harness.ignition.butane.translate import Options, translate
from harness.ignition.config import Config, read_config
from harness.ignition.validate import check

USUAL_PLACE = ("tests", "kola")
DATA, CONFIG, BUTANE, KOLA_JSON = "data", "config.ign", "config.bu", "kola.json"
ONLY_TEST = "test.sh"  # in a folder of its own it is called by the folder's name
DEFAULT_MINUTES = 10  # kola's


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder with tests; `prefix` begins their names. `forgotten` are scripts that nobody may execute."""

    path: Path
    prefix: str
    executables: tuple[Path, ...]
    folders: tuple[Path, ...]
    forgotten: tuple[Path, ...]

    def name_of(self, executable: Path) -> str:
        """kola's name of a test."""
        is_only = executable.name == ONLY_TEST and len(self.executables) == 1
        return self.prefix if is_only else f"{self.prefix}.{executable.name}"


@dataclass(frozen=True, slots=True)
class ExternalTest:
    """An executable with all that belongs to it."""

    name: str
    path: Path
    metadata: Metadata = field(default_factory=Metadata)
    data: Path | None = None
    config: Path | None = None  # Ignition's, or Butane's

    def ignition(self) -> Config | None:
        """The config that its guest boots with; Butane's is translated, with local files from its folder.

        Raises BadInput, and InvalidIgnition for a config that breaks its specification.
        """
        if self.config is None:
            return None
        if self.config.name == BUTANE:
            return translate(self.config, options=Options(files_dir=self.config.parent)).config
        config = read_config(self.config)
        check(config)
        return config

    @property
    def seconds(self) -> float:
        """How long it may run."""
        return 60.0 * (self.metadata.minutes or DEFAULT_MINUTES)

    def obstacle(self, *, architecture: str, distro: str, tags: frozenset[str] = frozenset()) -> str:
        """Why it cannot or must not run here, under QEMU; empty where it can. `tags` are those that were asked for."""
        told = self.metadata
        for what, scope, here in (
            ("architectures", told.architectures, architecture),
            ("platforms", told.platforms, "qemu"),
            ("distros", told.distros, distro),
        ):
            if not scope.admits(here):
                return f"meant for {what} {scope}, and this is {here}"
        if told.unsupported:
            return f"asks for what the harness cannot give yet: {', '.join(told.unsupported)}"
        if told.required_tag and told.required_tag not in tags:
            return f"runs only when asked for: --tag {told.required_tag}"
        return ""


def root_of(given: Path) -> Folder:
    """The folder of tests that a user means: a project with tests/kola, that folder, or any other.

    Raises BadInput for what is no folder.
    """
    if not given.is_dir():
        raise BadInput("is not a folder", where=str(given), next_step="name a project, or a folder of executables")
    path = Path(os.path.abspath(given))  # noqa: PTH100  links are kept: names come from what the user sees
    if path.joinpath(*USUAL_PLACE).is_dir():
        path = path.joinpath(*USUAL_PLACE)
    project = path.parents[1] if path.parts[-2:] == USUAL_PLACE else path
    return look_into(path, f"ext.{project.name}")


def look_into(path: Path, prefix: str) -> Folder:
    """A folder's tests and folders, each by name. Raises BadInput where it cannot be read."""
    executables, folders, forgotten = [], [], []
    try:
        for entry in sorted(path.iterdir(), key=lambda entry: entry.name):
            if entry.is_dir():
                if entry.name != DATA and not entry.is_symlink():
                    folders.append(entry)
            elif not entry.is_file() or entry.name in {CONFIG, BUTANE, KOLA_JSON}:
                continue
            elif entry.stat().st_mode & stat.S_IXOTH:
                executables.append(entry)
            elif _has_shebang(entry):
                forgotten.append(entry)
    except OSError as cause:
        raise BadInput(f"cannot be read: {cause.strerror}", where=str(path)) from cause
    return Folder(path, prefix, tuple(executables), tuple(folders), tuple(forgotten))


def read_test(folder: Folder, executable: Path) -> ExternalTest:
    """One test of a folder. Raises BadInput naming file and line of a header that is wrong."""
    metadata = read_header(executable)
    if metadata is None:
        shared = folder.path / KOLA_JSON
        metadata = read_kola_json(shared) if shared.is_file() else Metadata()
    data = folder.path / DATA
    configs = [path for name in (CONFIG, BUTANE) if (path := folder.path / name).is_file()]
    if len(configs) > 1:
        raise BadInput(f"has {CONFIG} and {BUTANE}", where=str(folder.path), next_step="remove the one that is stale")
    return ExternalTest(
        folder.name_of(executable),
        executable,
        metadata,
        data.resolve() if data.is_dir() else None,
        configs[0] if configs else None,
    )


def readable_tests(folder: Folder) -> Iterator[ExternalTest]:
    """All tests in and below a folder; those whose headers are wrong are left out."""
    for executable in folder.executables:
        try:
            yield read_test(folder, executable)
        except BadInput:
            continue
    for below in folder.folders:
        yield from readable_tests(look_into(below, f"{folder.prefix}.{below.name}"))


def _has_shebang(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"#!"
