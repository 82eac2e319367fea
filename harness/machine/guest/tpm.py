"""A restored guest's TPM: its random numbers go on from where they were saved, the same in every clone, until stirred.

Nothing but the guest can reach its TPM, so the command is sent from there. TPM2_StirRandom is in TPM 2.0, part 3.
"""

from __future__ import annotations

import os

from harness.deadline import Deadline
from harness.errors import MachineFailed
from harness.machine.guest.channel import Channel

ENTROPY = 64  # bytes; a TPM takes up to 128
STIR_TIME = 60.0  # seconds a restored guest may take to answer
# For bash and busybox alike. The device takes one opener at a time, so it is closed again. The answer is tag, size and
# result code: 2, 4 and 4 bytes.
STIR = r"( exec 3<>/dev/tpm0 && printf '@COMMAND@' >&3 && "
STIR += r"[ $(head -c 10 <&3 | od -An -v -t x1 | tr -d ' \n') = 80010000000a00000000 ] )"


def stir_script() -> str:
    """What a guest has to run, with entropy that is new each time."""
    entropy = os.urandom(ENTROPY).replace(b"\n", b"\0")  # printf writes line by line, and a TPM takes whole commands
    command = b"\x80\x01" + (12 + ENTROPY).to_bytes(4, "big") + b"\0\0\x01\x46" + ENTROPY.to_bytes(2, "big") + entropy
    return STIR.replace("@COMMAND@", "".join(f"\\x{byte:02x}" for byte in command))


def stir(channel: Channel, deadline: Deadline) -> None:
    """Give a restored guest's TPM entropy of its own. Raises MachineFailed, DeadlinePassed."""
    done = channel.run(stir_script(), deadline.at_most(STIR_TIME))
    if done.rc != 0:
        words = done.err.decode(errors="replace").strip() or "it gave no such answer as was awaited"
        raise MachineFailed(f"the restored guest's TPM could not be given entropy: {words}", where="guest")
