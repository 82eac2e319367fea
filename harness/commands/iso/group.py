"""`harness iso`: only dispatches. One module a noun beside this one, imported when its verb is used."""

from __future__ import annotations

import click

from harness.commands.lazy import lazy_group

# Verb -> its module, the name there, and the line `harness iso --help` shows.
VERBS = {
    "extract": ("harness.commands.iso.extract", "extract", "Take out the files for PXE, or a minimal ISO."),
    "ignition": ("harness.commands.iso.ignition", "ignition", "Embed an Ignition config, show it, take it out."),
    "kargs": ("harness.commands.iso.kargs", "kargs", "Show and change kernel arguments."),
    "network": ("harness.commands.iso.network", "network", "Embed NetworkManager keyfiles, or take them out."),
    "recover": ("harness.commands.iso.reset", "recover", "Take back an edit in place that was cut short."),
    "reset": ("harness.commands.iso.reset", "reset", "Give an ISO its own bytes back."),
    "show": ("harness.commands.iso.show", "show", "Describe a live ISO."),
}


@click.group(cls=lazy_group(VERBS))
def iso() -> None:
    """Customise CoreOS live ISOs, as coreos-installer does.

    What changes an ISO changes it in place, or with -o writes a new one; `-o -` writes to standard output. Only the
    places that the ISO announces for it change, so that everything can be taken back to the same SHA-256.

    \b
    Examples:
      harness iso show fcos-live.iso
      harness iso ignition embed fcos-live.iso -i config.ign -o lab.iso
      harness iso kargs modify lab.iso --append console=ttyS0,115200n8
      harness iso reset lab.iso
    """
