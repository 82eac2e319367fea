"""ssh into a guest: a key pair made for it, a config file of its own, one connection shared by all commands.

The host key is pinned through the channel where there is one, so that no connection is ever taken on trust. No command
waits for a guest that is known to be lost (see errand.py), and an ssh that fails is explained (see reach.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from testinfra.backend.base import CommandResult
from testinfra.backend.ssh import SshBackend
from testinfra.host import Host

from harness.deadline import Deadline
from harness.errors import MachineFailed, ToolFailed
from harness.machine.guest.channel import Completed
from harness.machine.guest.errand import Lifeline, run_errand
from harness.machine.guest.outcome import outcome
from harness.tools import find_tool, run

ALIAS = "guest"
KEY = "id_ed25519"
LONGEST_SOCKET = 80  # bytes; a Unix socket takes 107, and ssh appends 17 while it binds
CONNECTION_LOST = 255  # ssh's own exit code, unless the command's
LONGEST_WORDS = 300  # characters of what ssh said last
BETWEEN_TRIES = 0.2  # seconds; a refused connection raises no event to wait for
FIRST_TRY = 90  # seconds for sshd to speak once connected; on a host with a load of 40 it took more than 30
CONTROL_TIME = 10  # seconds for the process that holds the connection to obey

# Quick algorithms first: under TCG the post-quantum default alone costs a second.
CONFIG = """\
Host {alias}
  HostName 127.0.0.1
  Port {port}
  User {user}
  IdentityFile {key}
  IdentitiesOnly yes
  PreferredAuthentications publickey
  HostKeyAlias {alias}
  UserKnownHostsFile {known_hosts}
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking {checking}
  UpdateHostKeys no
  KexAlgorithms curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256
  HostKeyAlgorithms ssh-ed25519,ecdsa-sha2-nistp256,rsa-sha2-512,rsa-sha2-256
  Ciphers chacha20-poly1305@openssh.com,aes128-gcm@openssh.com,aes128-ctr
  GSSAPIAuthentication no
  ForwardAgent no
  ControlMaster auto
  ControlPath {control}
  ControlPersist yes
  ConnectTimeout {connect}
  ServerAliveInterval 15
  LogLevel ERROR
  BatchMode yes
"""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An ed25519 key pair without passphrase in a folder."""

    private: Path

    @property
    def public(self) -> str:
        """One line of an authorized_keys file."""
        return self.private.with_suffix(".pub").read_text(encoding="ascii").strip()


def make_key_pair(folder: Path) -> KeyPair:
    """A new key pair. Raises MissingTool, ToolFailed."""
    private = folder / KEY
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "image-harness", "-f", private], timeout=30)
    return KeyPair(private)


class Shell:
    """ssh to one guest behind a port of 127.0.0.1. Use it as a context manager: at the end the connection is shut."""

    def __init__(
        self,
        scratch: Path,
        port: int,
        keys: KeyPair,
        host_keys: str = "",
        user: str = "core",
        lifeline: Lifeline | None = None,
    ) -> None:
        """`host_keys` are public keys, one a line, as in /etc/ssh/*.pub; without them the first one is believed."""
        self._lifeline = lifeline or Lifeline()
        self._folder = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        control = str(scratch / "ssh")
        if len(control) > LONGEST_SOCKET:
            control = f"/proc/{os.getpid()}/fd/{self._folder}/ssh"
        known_hosts = scratch / "known_hosts"
        known_hosts.write_text("".join(f"{ALIAS} {line}\n" for line in host_keys.splitlines() if line.strip()))
        self.config = scratch / "ssh_config"
        self.control = control
        self.user = user
        self._host: Host | None = None
        self.config.write_text(
            CONFIG.format(
                alias=ALIAS,
                port=port,
                user=user,
                key=f'"{keys.private}"',
                known_hosts=f'"{known_hosts}"',
                checking="yes" if host_keys.strip() else "accept-new",
                control=f'"{control}"',
                connect=FIRST_TRY,
            ),
            encoding="utf-8",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.hang_up()
        os.close(self._folder)

    @property
    def command(self) -> list[str]:
        """What a person types to get in."""
        return [find_tool("ssh"), "-F", str(self.config), ALIAS]

    def host(self) -> Host:
        """The guest as testinfra sees it; commands run as root through sudo."""
        if self._host is None:
            backend = _Backend(self)
            self._host = Host(backend)
            backend.set_host(self._host)
        return self._host

    def run(self, command: str, deadline: Deadline | None = None) -> Completed:
        """Run a shell command as the ssh user; without a deadline it may take as long as the guest lives.

        Raises DeadlinePassed, and where ssh itself fails or the guest is lost, what it was lost by.
        """
        done = self._try(command, deadline)
        if done.rc == CONNECTION_LOST and not self._is_connected():
            raise self._lifeline.explain(_words(done))
        return done

    def _try(self, command: str, deadline: Deadline | None) -> Completed:
        """As `run`, but exit code 255 may be ssh's own."""
        purpose = f"ssh to run {command[:120]!r}"
        return run_errand([*self.command, command], self._lifeline, deadline, purpose)

    def _is_connected(self) -> bool:
        """Whether the shared connection still stands: then it was the command that ended with 255."""
        return self._control("check")

    def connect(self, deadline: Deadline, check: Callable[[], None] = lambda: None) -> None:
        """Wait until the guest lets us in. `check` may raise to end the wait.

        Raises DeadlinePassed with ssh's last words, MachineFailed at once when the guest is not the one we know.
        """
        while True:
            done = self._try("true", deadline)
            if done.rc == 0:
                return
            words = _words(done)
            if "Host key verification failed" in words or "IDENTIFICATION HAS CHANGED" in words:
                raise MachineFailed(f"the guest shows another host key than before: {words}")
            check()
            deadline.check("ssh to let us in", seen=words)
            time.sleep(BETWEEN_TRIES)

    def hang_up(self) -> None:
        """Close the shared connection; the next command opens a new one."""
        if Path(self.control).exists():
            self._control("exit")

    def _control(self, order: str) -> bool:
        """Give the process that holds the shared connection an order; whether it obeyed."""
        try:
            run([*self.command[:-1], "-O", order, ALIAS], timeout=CONTROL_TIME)
        except ToolFailed:
            return False
        return True


class _Backend(SshBackend):  # type: ignore[misc]  # testinfra ships no types
    """testinfra's ssh, over our connection. What the guest is lost by is raised as our own errors."""

    def __init__(self, shell: Shell) -> None:
        super().__init__(ALIAS, sudo=True)
        self._shell = shell

    def run_ssh(self, command: str) -> CommandResult:
        done = self._shell.run(command)
        return outcome(self, done.rc, command.encode(), done.out, done.err)


def _words(done: Completed) -> str:
    """What ssh said last, on one line."""
    return done.err.decode(errors="replace").strip().replace("\n", " | ")[-LONGEST_WORDS:]
