"""Projects with external tests, as small as they can be."""

from pathlib import Path


def external_project(folder: Path, tests: dict[str, str], name: str = "proj") -> Path:
    """A project whose tests/kola holds these executables: path -> script without its first line."""
    for path, script in tests.items():
        place = folder / name / "tests/kola" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"#!/bin/bash\n{script}")
        place.chmod(0o755)
    return folder / name


def header(**keys: object) -> str:
    """The lines of a `## kola:` header."""
    return "\n".join(["## kola:", *(f"##   {key}: {value}" for key, value in keys.items()), ""])
