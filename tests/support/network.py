"""A machine of its own on a cable: a network namespace, which can be cut off and joined again.

    with network() as far:
        far.command("slurmd", "-D")      # runs there; `far.address` is its address
        far.cut()                        # nothing passes, and nobody is told

Needs root, and the packages iproute2 and util-linux. Processes there see this machine's files.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class Network(NamedTuple):
    """A namespace, and the two ends of the cable to it."""

    name: str
    here: str
    """This machine's address on the cable."""
    address: str
    """The other end's."""

    def command(self, *command: str) -> tuple[str, ...]:
        """Return the command that runs this one there."""
        return "nsenter", f"--net=/run/netns/{self.name}", *command

    def cut(self) -> None:
        """Let nothing pass; connections that are open learn nothing of it."""
        _ip("link", "set", self.name, "down")

    def mend(self) -> None:
        """Let everything pass again."""
        _ip("link", "set", self.name, "up")


@contextmanager
def network() -> Iterator[Network]:
    """A namespace with a cable to it; both are gone afterwards."""
    number = os.getpid() % (1 << 14)  # each worker of pytest its own four addresses
    base = f"10.{200 + (number >> 12)}.{number >> 6 & 63}"
    first = (number & 63) * 4
    far = Network(f"llm{os.getpid()}", f"{base}.{first + 1}", f"{base}.{first + 2}")
    inside = f"{far.name}i"
    _ip("netns", "add", far.name)
    try:
        _ip("link", "add", far.name, "type", "veth", "peer", "name", inside, "netns", far.name)
        _ip("address", "add", f"{far.here}/30", "dev", far.name)
        _ip("link", "set", far.name, "up")
        _ip("-n", far.name, "address", "add", f"{far.address}/30", "dev", inside)
        for device in ("lo", inside):
            _ip("-n", far.name, "link", "set", device, "up")
        yield far
    finally:
        _ip("netns", "delete", far.name)  # the cable goes with it


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
