"""The command line: `harness COMMAND`. One module a noun in harness.commands, imported when its command is used.

Our typed errors become one line on standard error and their exit code; nobody meets a traceback for bad input.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import NoReturn

import click

from harness.commands.lazy import lazy_group
from harness.errors import HarnessError

# Command -> its module, the name there, and the line `harness --help` shows: help needs to import none of them.
COMMANDS = {
    "artifact": ("harness.commands.artifact", "artifact", "Push files to a container registry, and pull them."),
    "boot": ("harness.commands.boot", "boot", "Boot an image and sit at its console."),
    "build": ("harness.commands.build", "build", "Build the reference image."),
    "console": ("harness.commands.console", "console", "Sit at the console of a machine that a test run keeps."),
    "containers": ("harness.commands.containers", "containers", "Look into container storage and image folders."),
    "convert": ("harness.commands.convert", "convert", "Write an image as another platform or format has it."),
    "dehydrate": ("harness.commands.dehydrate", "dehydrate", "Make a family of images small."),
    "diff": ("harness.commands.diff", "diff", "Say why two images differ."),
    "doctor": ("harness.commands.doctor", "doctor", "Say what this machine can do, and what it lacks."),
    "edit": ("harness.commands.edit", "edit", "Make a new image from an old one."),
    "export": ("harness.commands.export", "export", "Pack an image for publication, with checksums."),
    "fetch": ("harness.commands.fetch", "fetch", "Download an image and verify it."),
    "ignition": (
        "harness.commands.ignition",
        "ignition",
        "Check Ignition configs, show what they do, make them of Butane's.",
    ),
    "inspect": ("harness.commands.inspect", "inspect", "Show what is inside an image, without booting it."),
    "install": ("harness.commands.install", "install", "Write an image onto a disk, and save partitions of it."),
    "iso": ("harness.commands.iso.group", "iso", "Customise CoreOS live ISOs."),
    "layer": ("harness.commands.layer", "layer", "Add layers of files to container images."),
    "ostree": ("harness.commands.ostree", "ostree", "Make container images of ostree commits, and back."),
    "prestage": (
        "harness.commands.prestage.group",
        "prestage",
        "Put a release's images on a disk that needs no network.",
    ),
    "recipe": ("harness.commands.recipe", "recipe", "Look into recipes."),
    "rehydrate": ("harness.commands.rehydrate", "rehydrate", "Make images again from their recipes."),
    "shell": ("harness.commands.shell", "shell", "Open a shell in a fresh guest of an image."),
    "verify": ("harness.commands.verify", "verify", "Compare files with their published checksums."),
}
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
TERMINATED = 143  # 128 + SIGTERM
HUNG_UP = 129  # 128 + SIGHUP


@click.group(cls=lazy_group(COMMANDS), context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="image-harness", message="%(prog)s %(version)s")
def harness() -> None:
    """Decide whether a CoreOS-style disk image may ship.

    \b
    Examples:
      harness doctor                         can this machine do the work?
      harness build reference -o out         build the reference image into out/
      harness inspect out/reference.qcow2    what is inside, without booting
      harness inspect --json image.raw.xz    the same as a JSON document
      harness boot rhcos.qcow2.gz            boot it and sit at its console
      harness shell -c 'systemctl --failed'  run a command in a fresh guest
      harness diff old.qcow2 new.qcow2       why they differ, and what would remove it
      harness fetch fcos-stable:qemu         download and verify
      harness export rhcos.qcow2 -o out      pack for publication, with checksums
      harness verify rhcos.qcow2.gz          is it what was published?
      harness dehydrate fcos-* -o fcos-41    a family of images as one and small recipes
      harness rehydrate fcos-41 --all        all of them again, bit for bit
      harness install rhcos.qcow2 --onto staged.qcow2 --save-partlabel data -o installed.qcow2
      harness containers verify image.qcow2  is every preloaded image whole?
      harness layer add base.ociarchive --files motd -o new.ociarchive
      harness ignition validate host.ign     what Ignition would say, and where
      harness ignition translate host.bu     an Ignition config of a Butane config
      harness iso show fcos-live.iso         what a live ISO is, and what was changed in it
      harness prestage list release.json     which images a release needs, and when

    The checks themselves are tests:

    \b
      pytest suites/rhcos -n 4                           the reference image
      pytest suites/rhcos -n 4 --image rhcos.qcow2.gz    yours
    """


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and exit. Being told to end (SIGTERM, or a lost terminal) cleans up as Ctrl-C does."""
    signal.signal(signal.SIGTERM, lambda _signal, _frame: sys.exit(TERMINATED))
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup wants it
        signal.signal(signal.SIGHUP, lambda _signal, _frame: sys.exit(HUNG_UP))
    try:
        code = harness.main(arguments, prog_name="harness", standalone_mode=False)
        if sys.stdout:
            sys.stdout.flush()
    except HarnessError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has enough; Python must not complain either when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename:
            raise
        _complain("standard output: cannot be written: no space left (what was asked for may be done)")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> None:
    """One line, whatever the message holds."""
    line = " | ".join(part for part in message.splitlines() if part.strip())
    click.echo(f"{click.style('error:', fg='red', bold=True)} {line}", err=True)


if __name__ == "__main__":
    main()
