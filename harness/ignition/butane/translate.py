r"""Butane to Ignition: the built-in translator, from a file's bytes to a config that our own validator accepts.

>>> made = translate(b"variant: fcos\nversion: 1.4.0\n")
>>> made.output
b'{"ignition":{"version":"3.3.0"}}\n'
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import BadInput, InvalidIgnition
from harness.ignition.butane.boot_device import boot_device, grub_users
from harness.ignition.butane.convert import Converter
from harness.ignition.butane.dialect import Dialect
from harness.ignition.butane.document import SIZE_LIMIT, read_document
from harness.ignition.butane.doubts import doubts
from harness.ignition.butane.encode import Places, document_of, json_bytes, yaml_bytes
from harness.ignition.butane.fault import Fault, Mark, Remark
from harness.ignition.butane.files import FilesDir
from harness.ignition.butane.merge import merged
from harness.ignition.butane.mounts import mount_units
from harness.ignition.butane.openshift import check_openshift, cipher_added, left_out, machine_config
from harness.ignition.butane.reader import Node, read_dialect, read_fields
from harness.ignition.butane.trees import with_trees
from harness.ignition.config import SIZE_LIMIT as OUTPUT_LIMIT
from harness.ignition.config import Config, read_config
from harness.ignition.finding import Finding
from harness.ignition.validate import validate

BUILT_IN = "the built-in translator"


@dataclass(frozen=True, slots=True)
class Options:
    """What butane's options of the same names do; `raw` gives an Ignition config where a MachineConfig is usual."""

    files_dir: Path | None = None
    strict: bool = False
    pretty: bool = False
    raw: bool = False


@dataclass(frozen=True, slots=True)
class Translation:
    """What a config became: the bytes to write, the Ignition config in them, and where its parts come from."""

    name: str
    output: bytes
    config: Config
    dialect: Dialect
    translator: str
    remarks: tuple[Remark, ...] = ()
    places: Places = field(default_factory=dict)

    def mark(self, path: str) -> Mark:
        """The place in the Butane config of a JSON path, or of its nearest parent that has one."""
        while path not in self.places and path:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.places.get(path, Mark(1, 1))


def translate(source: Path | bytes, name: str = "", options: Options | None = None) -> Translation:
    """Translate a config from a file or from its bytes; `name` is what messages call it.

    Raises BadInput for a path that cannot be read and InvalidIgnition, with line, column and one cause, for a config
    that cannot be translated or whose result breaks its specification; with `strict`, also for the first doubt.
    """
    chosen = options or Options()
    raw, name = _read(source, name)
    made, findings = examine(raw, name, chosen)
    if findings:
        first = findings[0]
        more = len(findings) - 1
        rest = f"and {more} more {'error' if more == 1 else 'errors'}" if more else ""
        raise _refusal(name, Fault(f"{first.message} ({first.path})", made.mark(first.path), rest))
    if chosen.strict and made.remarks:
        remark = made.remarks[0]
        raise _refusal(name, Fault(remark.message, remark.at, "only a warning without --strict"))
    return made


def examine(raw: bytes, name: str, options: Options) -> tuple[Translation, list[Finding]]:
    """A translation, and the errors that our validator finds in its result, in the order of the config.

    Raises InvalidIgnition for what cannot be translated at all.
    """
    try:
        made = _translated(raw, name, options)
    except Fault as fault:
        raise _refusal(name, fault) from fault
    report = validate(made.config)
    warnings = [Remark(made.mark(found.path), f"{found.message} ({found.path})") for found in report.warnings]
    remarks = tuple(sorted({*made.remarks, *warnings}, key=lambda remark: (remark.at, remark.message)))
    whole = Translation(name, made.output, made.config, made.dialect, made.translator, remarks, made.places)
    return whole, sorted(report.errors, key=lambda found: made.mark(found.path))


def _translated(raw: bytes, name: str, options: Options) -> Translation:
    document = read_document(raw)
    dialect = read_dialect(document)
    config = read_fields(document, dialect)
    remarks = list(doubts(config, dialect))
    if dialect.is_openshift:
        check_openshift(config, dialect)
        remarks += left_out(config) if options.raw else []
    if dialect.variant == "rhcos":
        remarks.append(Remark(config.value["variant"].at, "rhcos has become openshift; Butane no longer translates it"))
    ignition = _ignition(config, dialect, options)
    plain, places = document_of(ignition, dialect.spec)
    body = json_bytes(plain, is_pretty=options.pretty)
    if len(body) > OUTPUT_LIMIT:
        raise Fault(f"the result is larger than {OUTPUT_LIMIT:,} bytes", config.at, "fetch large contents by source")
    output = yaml_bytes(machine_config(config, plain)) if dialect.is_openshift and not options.raw else body
    return Translation(name, output, read_config(body, name), dialect, BUILT_IN, tuple(remarks), places)


def _ignition(config: Node, dialect: Dialect, options: Options) -> Node:
    """Sugar is what a config's own entries are merged into, so that they can change all of it."""
    converter = Converter(dialect, FilesDir(options.files_dir))
    ignition = converter.config(config)
    if (units := mount_units(config, dialect)) is not None:
        ignition = merged(units, ignition)
    ignition = with_trees(ignition, config, converter)
    for sugar in (boot_device(config, dialect), grub_users(config, converter)):
        if sugar is not None:
            ignition = merged(sugar, ignition)
    return cipher_added(ignition, config, dialect) if dialect.is_openshift else ignition


def _read(source: Path | bytes, name: str) -> tuple[bytes, str]:
    if isinstance(source, bytes):
        return source, name or "Butane config"
    name = name or os.fspath(source)
    try:
        if not source.is_file():
            raise BadInput("is not a regular file" if source.exists() else "does not exist", where=name)
        with source.open("rb") as stream:
            return stream.read(SIZE_LIMIT + 1), name
    except OSError as cause:
        raise BadInput(f"cannot be read: {cause.strerror}", where=name) from cause


def _refusal(name: str, fault: Fault) -> InvalidIgnition:
    return InvalidIgnition(" ".join(fault.what.split()), where=f"{name}:{fault.at}", next_step=fault.next_step)
