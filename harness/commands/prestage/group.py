"""`harness prestage`: only dispatches. One module a verb beside this one, imported when its verb is used."""

from __future__ import annotations

import click

from harness.commands.lazy import lazy_group

# Verb -> its module, the name there, and the line `harness prestage --help` shows.
VERBS = {
    "lint": ("harness.commands.prestage.lint", "lint", "Find what is known to go wrong in configs of others."),
    "disk": ("harness.commands.prestage.disk", "disk", "Put a folder of images on a partition at the end of a disk."),
    "ignition": ("harness.commands.prestage.ignition", "ignition", "Write the Ignition configs of the two stages."),
    "list": ("harness.commands.prestage.list", "list_images", "Check lists of images, and say what goes where."),
    "pull": ("harness.commands.prestage.pull", "pull", "Pull images into a folder, verified, where a pull stopped."),
    "verify": ("harness.commands.prestage.verify", "verify", "Say whether a folder or a disk has every image, whole."),
}


@click.group(cls=lazy_group(VERBS))
def prestage() -> None:
    """Put the container images of a release on a disk, so that it installs without a network.

    An image is needed in one stage or in both: `discovery` (the live system that registers the host) and `install`
    (the installed system).
    """
