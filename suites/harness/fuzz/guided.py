"""Fuzzing guided by coverage: `python -m suites.harness.fuzz.guided recipe|plan FOLDER [libFuzzer's options]`.

Needs atheris, which is nobody's dependency: `pip install atheris`. FOLDER keeps what reached new code; an accident is
written there as `crash-...`, and given as the last argument it happens again.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["harness"]):
    import harness.delta  # noqa: F401  first, so that all of it is instrumented
    from suites.harness.fuzz import recipes


def seeds(kind: str) -> list[bytes]:
    """Sound ones, to begin with."""
    if kind == "recipe":
        return [recipes.sound_recipe(), bytes([3]) + bytes(range(64))]
    found = [plan for plan, _ in recipes.sound_plans().values()]
    return [*found, *map(recipes.body_of, found), *(bytes([number]) for number in range(len(found)))]


def main(kind: str, folder: Path, *options: str) -> None:
    """Fuzz until an option or an accident ends it."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(kind)):
        (folder / f"sound-{number}").write_bytes(seed)
    work = {"recipe": recipes.try_recipe, "plan": recipes.try_plan}[kind]
    bounds = ["-max_len=8192", "-timeout=20", "-rss_limit_mb=1024", f"-artifact_prefix={folder}/"]
    again = any(not option.startswith("-") for option in options)  # a file: only that
    atheris.Setup([sys.argv[0], *bounds, *options, *([] if again else [str(folder)])], work)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
