"""Why ssh does not reach a guest that is alive: the guest is asked by its channel, which needs no network.

Who is to blame follows from what the guest sees of itself. A network card without carrier is our doing or the host's:
no guest can pull that plug. A closed port 22 or a card that was switched off is the guest's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from harness.deadline import Deadline, overdue
from harness.errors import DeadlinePassed, GuestLost, HarnessError, HostTooBusy, MachineFailed
from harness.machine.guest.channel import Channel

ANSWER_TIME = 15.0  # seconds; the guest answers in tenths of one unless it hangs or the host is starved
BANNER_TIME = 5  # seconds sshd may take to say who it is
LONGEST_WORD = 200  # characters quoted of what the guest says

# Only network cards have a `device`: bridges, tunnels and the loopback have none. A card that is switched off gives
# an error instead of its carrier.
LINKS = """
for link in /sys/class/net/*; do
    [[ -e $link/device ]] || continue
    carrier=off
    read -r carrier <$link/carrier
    echo "link ${link##*/} $carrier"
done 2>/dev/null
"""
BANNER = f"""
banner=$(
    exec 2>/dev/null 9<>/dev/tcp/127.0.0.1/22 || exit
    echo connected
    read -r -t {BANNER_TIME} line <&9
    echo "$line"
)
echo "ssh ${{banner//[^[:print:]]/ }}"
"""
NO_CARRIER, UP, OFF = "has no carrier", "is up", "is switched off"
STATES = {"0": NO_CARRIER, "1": UP}


@dataclass(frozen=True, slots=True)
class Reach:
    """What a guest says of its network: the state of each card, whether its port 22 is open, and what is said there."""

    links: Mapping[str, str]
    is_open: bool = False
    banner: str = ""

    @property
    def is_cut(self) -> bool:
        return bool(self.links) and set(self.links.values()) == {NO_CARRIER}

    @property
    def is_down(self) -> bool:
        return bool(self.links) and UP not in self.links.values()

    def describe(self) -> str:
        """The cards in words."""
        return ", ".join(f"{name} {state}" for name, state in self.links.items()) or "it has no network card"

    def blame(self, words: str) -> HarnessError:
        """The error for an ssh that failed with `words`."""
        alive = "its channel answers"
        if self.is_cut:
            return MachineFailed(f"the network is cut ({self.describe()}), while {alive}", where="guest")
        if self.is_down:
            return GuestLost(f"its network is down ({self.describe()}), while {alive}", where="guest")
        if not self.is_open:
            return GuestLost(f"ssh does not answer (nobody listens at its port 22), while {alive}", where="guest")
        if not self.banner.startswith("SSH-"):
            said = f"its port 22 says {self.banner!r}" if self.banner else "its port 22 is open but silent"
            return GuestLost(f"ssh does not answer ({said}), while {alive}", where="guest")
        if "Permission denied" in words:
            return GuestLost(f"ssh lets us in no more ({words}), while {alive}", where="guest")
        return MachineFailed(
            f"ssh is lost ({words or 'without a word'}), while {alive}, {self.describe()} and sshd answers there",
            where="guest",
        )


def reach_of(channel: Channel, check: Callable[[], None], *, script: str = LINKS + BANNER) -> Reach:
    """Ask the guest. Raises MachineFailed, DeadlinePassed, and what `check` raises."""
    links, is_open, banner = {}, False, ""
    for line in channel.run(script, Deadline(ANSWER_TIME), check).text.splitlines():
        kind, _, rest = line[:LONGEST_WORD].partition(" ")
        if kind == "link":
            name, _, carrier = rest.partition(" ")
            links[name] = STATES.get(carrier, OFF)
        elif kind == "ssh":
            connected, _, banner = rest.partition(" ")
            is_open = connected == "connected"
    return Reach(links, is_open, banner.strip())


def check_links(channel: Channel, check: Callable[[], None]) -> None:
    """Raise the blame if the guest says that no card of it is up; a guest too slow to answer is left in peace."""
    try:
        reach = reach_of(channel, check, script=LINKS)
    except DeadlinePassed:
        return
    if reach.is_down:
        raise reach.blame("")


def why_unreachable(channel: Channel, check: Callable[[], None], words: str) -> HarnessError:
    """What ended ssh, whose last words are given."""
    try:
        return reach_of(channel, check).blame(words)
    except DeadlinePassed:
        late = overdue(f"ssh is lost ({words}) and the channel does not answer within {ANSWER_TIME:.0f} s")
        return late if isinstance(late, HostTooBusy) else GuestLost(f"hangs: {late.what}", where="guest")
    except HarnessError as known:
        return known
