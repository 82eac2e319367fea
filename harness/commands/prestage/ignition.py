"""`harness prestage ignition`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.prestage.guest.overrides import ENDPOINTS, encode
from harness.prestage.guest.stage_units import DEFAULT_LABEL, stage_config
from harness.prestage.lists.lists import Stage
from harness.store import replacing

LARGEST_KEY_FILE = 1 << 16  # bytes


@click.command()
@click.option(
    "--stage",
    type=click.Choice([each.value for each in Stage]),
    required=True,
    help="Which of the two systems it is for.",
)
@click.option("--release", metavar="VERSION", required=True, help="The OpenShift release, as 4.10 or 4.10.3.")
@click.option("--label", metavar="NAME", default=DEFAULT_LABEL, show_default=True, help="The partition's label.")
@click.option("--patch", is_flag=True, help="Write it as the patch that assisted-service takes.")
@click.option(
    "--ssh-key", "ssh_keys", metavar="KEY", multiple=True, help="Public key, or @FILE, of whom to let in (repeatable)."
)
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="Write it there.")
def ignition(
    *, stage: str, release: str, label: str, patch: bool, ssh_keys: tuple[str, ...], output: Path | None
) -> None:
    """Write the Ignition config that brings the images of a pre-staged disk into container storage.

    \b
    Examples:
      harness prestage ignition --stage discovery --release 4.10 -o discovery.ign
      harness prestage ignition --stage install --release 4.10 --patch -o pointer.patch
    """
    chosen = Stage(stage)
    keys = [line for key in ssh_keys for line in _lines_of(key)]
    config = stage_config(chosen, release, label=label, ssh_keys=keys)
    content = encode(chosen, config) if patch else config.raw
    if output is None:
        click.echo(content, nl=False)
        return
    with replacing(output) as aside:
        aside.write_bytes(content)
    click.echo(f"{output}: Ignition spec {config.spec}, {len(content):,} bytes", err=True)
    if patch:
        click.echo(f"to be sent with PATCH to {ENDPOINTS[chosen].format(infra_env='ID', host='ID')}", err=True)


def _lines_of(key: str) -> list[str]:
    """A key, or those of a file."""
    if not key.startswith("@"):
        return [key]
    path = Path(key[1:])
    try:
        with path.open(encoding="utf-8") as stream:
            text = stream.read(LARGEST_KEY_FILE)
    except (OSError, ValueError) as cause:
        raise click.BadParameter(f"{path} cannot be read: {cause}", param_hint="--ssh-key") from cause
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
