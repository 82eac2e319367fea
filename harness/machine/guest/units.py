"""States of systemd's units in a guest."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from testinfra.host import Host


def unit_states(guest: Host, names: Sequence[str]) -> dict[str, str]:
    """What systemctl says of units by name, as `enabled, active`; a unit that is not there is `not-found, inactive`."""
    words = " ".join(map(shlex.quote, names))
    told = guest.check_output(f"systemctl show -p LoadState -p UnitFileState -p ActiveState -- {words}")
    found = [dict(line.split("=", 1) for line in block.splitlines()) for block in told.split("\n\n")]
    return {
        name: f"{each['UnitFileState'] or each['LoadState']}, {each['ActiveState']}"
        for name, each in zip(names, found, strict=True)
    }
