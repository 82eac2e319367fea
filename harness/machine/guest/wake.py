"""Waking a restored guest: it is told the time and given entropy that no other restored from the same state has.

Writing to /dev/urandom alone reseeds nothing: the kernel's generator must be told to (ioctl RNDRESEEDCRNG), unless the
kernel has a vmgenid driver and did it by itself. All that runs in a restored guest is translated anew under TCG: a
program costs 100 ms there, a fork half of that. So where the guest has perl, one is started before the state is saved
and sleeps in it until the time comes, and a function of the channel's loop wakes it. machine-id, boot_id and ssh host
keys stay those of the snapshot.
"""

from __future__ import annotations

import os
import time

from harness.deadline import Deadline
from harness.errors import MachineFailed
from harness.machine.guest.channel import Channel

CLOCK_QUESTIONS = 5
ENTROPY = 64  # bytes given to every restored guest
WAKE_TIME = 60.0  # seconds a restored guest may take to answer its first command

# What the perl does once it was asked: the answer first, and its own end when the guest has nothing better to do.
SLEEPER = r"""
type -t perl >/dev/null && [[ $(uname -m) == x86_64 ]] || exit 0
fifo=/run/image-harness-wake
mkfifo -m 600 $fifo.ask $fifo.answer || exit
perl -e '
    my $fifo = shift;
    open(my $ask, q(+<), "$fifo.ask") or exit 1;  # also for writing: what is asked is never lost
    open(my $ready, q(>), "$fifo.ready") or exit 1;
    my ($advance, $entropy) = split q( ), <$ask>;
    my $now = chr(0) x 16;
    syscall(228, 0, $now);  # clock_gettime, CLOCK_REALTIME
    my ($seconds, $nanoseconds) = unpack(q(q2), $now);
    $now = $seconds * 1000000 + int($nanoseconds / 1000) + $advance;
    my $done = syscall(227, 0, pack(q(q2), int($now / 1000000), $now % 1000000 * 1000)) == 0;  # clock_settime
    my $random;
    $done &&= open($random, q(+<), q(/dev/urandom)) && syswrite($random, pack(q(H*), $entropy))
        && ioctl($random, 0x5207, 0);
    open(my $answer, q(>), "$fifo.answer") or exit 1;
    syswrite($answer, ($done ? 0 : 1) . "\n");
    select(undef, undef, undef, 1);
    unlink "$fifo.ask", "$fifo.answer";
' $fifo </dev/null >/dev/null 2>&1 &
for i in {1..600}; do [[ -e $fifo.ready ]] && exit 0; sleep 0.1; done
exit 1
"""

# Run by the channel's own loop: a subshell would cost as much as all the rest.
DEFINE = r"""
image_harness_wake() {
    local advance=$1 entropy=$2 fifo=/run/image-harness-wake answer now byte
    if [[ -p $fifo.ask ]]; then
        echo "$advance $entropy" 1<>$fifo.ask
        read -r answer <>$fifo.answer  # no -t: bash counts by the clock that is being put forward
        return "$answer"
    fi
    (
        now=${EPOCHREALTIME:-$(date +%s.%6N)}
        now=$((${now/[.,]/} + advance))
        date -u -s "@${now%??????}.${now: -6}" >/dev/null || exit
        printf "$(printf %s "$entropy" | while read -r -N 2 byte; do printf '\\x%s' "$byte"; done)" >/dev/urandom
        [[ -e /sys/bus/acpi/drivers/vmgenid || -e /sys/bus/platform/drivers/vmgenid ]] && exit
        type -t perl >/dev/null && exec perl -e 'open(F, q(<), q(/dev/urandom)) and ioctl(F, 0x5207, 0) or exit 1'
        type -t python3 >/dev/null && exec python3 -c 'import fcntl; fcntl.ioctl(open("/dev/urandom"), 0x5207)'
        exit 0
    )
}
"""
WAKE = "image_harness_wake {advance} {entropy}"


def lay_to_sleep(channel: Channel, deadline: Deadline) -> None:
    """Prepare a guest for being saved. Raises MachineFailed, DeadlinePassed."""
    channel.run(DEFINE, deadline.at_most(WAKE_TIME), is_inline=True)
    wake(channel, deadline, advance=0.0)  # so that the programs it takes are in memory where no sleeper can be had
    done = channel.run(SLEEPER, deadline.at_most(WAKE_TIME))
    if done.rc != 0:
        raise MachineFailed(f"the guest cannot be prepared for saving: {done.err.decode(errors='replace').strip()}")


def clock_of(channel: Channel, deadline: Deadline) -> float:
    """How far the guest's clock is ahead of ours, in seconds: the quickest of a few answers is believed."""
    answers = []
    for _ in range(CLOCK_QUESTIONS):
        asked = time.time()
        theirs = channel.run("echo ${EPOCHREALTIME:-$(date +%s.%6N)}", deadline.at_most(WAKE_TIME)).text
        answered = time.time()
        try:
            answers.append((answered - asked, float(theirs) - (asked + answered) / 2))
        except ValueError as cause:
            raise MachineFailed(f"the guest does not know the time: {theirs[:80]!r}") from cause
    return min(answers)[1]


def wake(channel: Channel, deadline: Deadline, advance: float) -> None:
    """Put a restored guest's clock forward by `advance` seconds and give it entropy of its own.

    The guest's clock goes on from where it was saved, so what it is behind by does not depend on when it hears of it.
    Raises MachineFailed, DeadlinePassed.
    """
    script = WAKE.format(advance=round(advance * 1e6), entropy=os.urandom(ENTROPY).hex())
    done = channel.run(script, deadline.at_most(WAKE_TIME), is_inline=True)
    if done.rc != 0:
        words = done.err.decode(errors="replace").strip()
        raise MachineFailed(f"the restored guest's clock and entropy could not be set: {words}", where="guest")
