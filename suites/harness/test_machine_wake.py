"""What is run in a guest before it is saved and after it is restored, as far as no guest is needed to judge it.

The scripts are only parsed here: run by root, they would set the clock of this host.
"""

from __future__ import annotations

import re
import subprocess

import pytest

from harness.machine.guest.wake import DEFINE, SLEEPER

PERL = re.findall(r"perl -e '([^']*)'", SLEEPER + DEFINE)


@pytest.mark.parametrize("script", [SLEEPER, DEFINE], ids=["sleeper", "wake"])
def test_the_scripts_are_bash(script):
    subprocess.run(["bash", "-n"], input=script.encode(), check=True)


@pytest.mark.parametrize("program", PERL, ids=["sleeper", "wake"])
def test_the_programs_are_strict_perl(program):
    declared = program.replace("open(F,", "open(my $f,").replace("ioctl(F,", "1 or (0,")
    subprocess.run(["perl", "-Mstrict", "-w", "-c", "-e", declared], check=True)


@pytest.mark.parametrize(
    "now, later", [("1700000000.999999", "1700000002.499999"), ("1700000000,000001", "1700000001.500001")]
)
def test_the_clock_is_put_forward_by_microseconds(now, later):
    """Whatever the decimal sign of the guest's locale; bash's own clock variable is replaced for the test."""
    lines = re.search(r"^ *now=\$\(\(.*\n^ *date -u -s (.*) >", DEFINE, re.MULTILINE)
    assert lines is not None
    script = f"advance=1500000\nnow={now}\n{lines[0].splitlines()[0]}\necho {lines[1]}"
    assert subprocess.check_output(["bash", "-c", script], text=True) == f"@{later}\n"


def test_entropy_is_written_as_the_bytes_that_it_means():
    line = re.search(r'^ *(printf ".*") >/dev/urandom', DEFINE, re.MULTILINE)
    assert line is not None
    assert subprocess.check_output(["bash", "-c", f"entropy=00ff41250a\n{line[1]}"]) == b"\0\xffA%\n"
