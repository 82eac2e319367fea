"""The verdict on an Ignition config: schema, unknown keys, rules, and where in the file each finding stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from harness.errors import InvalidIgnition
from harness.ignition.config import Config
from harness.ignition.finding import Finding, Report
from harness.ignition.locate import locate
from harness.ignition.rules import rule_findings
from harness.ignition.schema import unknown_keys, violations, without_nulls


def validate(config: Config) -> Report:
    """Judge a config by the specification it declares.

    Where a value has the wrong type, Ignition reads nothing at all; the rules are then not asked either.
    """
    findings = list(_findings(config))
    places = locate(config.raw.decode())
    findings += [Finding(path, "key is written twice in one object", "warning") for path in places.twice]
    placed = sorted((replace(found, line=places.line(found.path)) for found in findings), key=lambda found: found.line)
    unique = dict.fromkeys(placed)
    return Report(
        errors=tuple(found for found in unique if found.severity == "error"),
        warnings=tuple(found for found in unique if found.severity == "warning"),
    )


def check(config: Config) -> Report:
    """Raise InvalidIgnition, naming the first error and how many there are; otherwise return the report."""
    report = validate(config)
    if report.errors:
        first = report.errors[0]
        line = f" (line {first.line})" if first.line else ""
        more = len(report.errors) - 1
        rest = f"and {more} more {'error' if more == 1 else 'errors'}" if more else ""
        raise InvalidIgnition(first.message, where=f"{config.name}: {first.path}{line}", next_step=rest)
    return report


def _findings(config: Config) -> Iterator[Finding]:
    broken = list(violations(config.document, config.version))
    yield from broken
    yield from unknown_keys(config.document, config.version)
    if not any(found.origin == "type" for found in broken):
        yield from rule_findings(without_nulls(config.document, config.version), config.version)
