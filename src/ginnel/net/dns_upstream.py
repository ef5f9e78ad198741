"""The servers that this machine asked before ours, and how the name server learns of new ones.

The name server's process can't open a resolv.conf that is written anew, so the manager watches the
file and writes what it finds into a nameless file that the other holds open for reading.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path

from ginnel.net.dns_file import MAX_SIZE, other_servers

RESOLV_CONF = Path("/etc/resolv.conf")
RESOLVED_STUB = "127.0.0.53"  # it splits names itself and never asks us for others
NOTE_SIZE = 512  # bytes of the nameless file; three addresses take at most 138


def read_upstream(own: Sequence[str] = (), *, path: Path = RESOLV_CONF) -> tuple[str, ...]:
    """Return the system's name servers but ours; none if the file can't be read."""
    try:
        with path.open(errors="replace") as file:
            found = other_servers(file.read(MAX_SIZE), own)
    except OSError:
        return ()
    return () if RESOLVED_STUB in found else tuple(filter(_is_address, found))


class UpstreamNote:
    """The manager's side of the nameless file; `reader_fd` is what the name server gets."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("ginnel-upstream", os.MFD_CLOEXEC)
        self.reader_fd = os.open(f"/proc/self/fd/{self._fd}", os.O_RDONLY | os.O_CLOEXEC)
        self.write(())

    def write(self, servers: Sequence[str]) -> None:
        """Replace what the other reads."""
        text = "".join(f"{server}\n" for server in servers)
        os.pwrite(self._fd, text.encode().ljust(NOTE_SIZE, b"\n"), 0)

    def close(self) -> None:
        """Close our descriptors."""
        os.close(self._fd)
        os.close(self.reader_fd)


def read_note(descriptor: int) -> tuple[str, ...]:
    """Return the servers in the nameless file."""
    text = os.pread(descriptor, NOTE_SIZE, 0).decode(errors="replace")
    return tuple(filter(_is_address, text.split()))


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
