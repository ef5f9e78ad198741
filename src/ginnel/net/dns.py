"""How this machine's resolver learns of a network's names: systemd-resolved, resolvconf or a file.

Each way is a `DnsSetter`: it sets all of a device's entries at once and takes them all back. What
setter fits is found by `find_setter`: resolved where its D-Bus name has an owner, else a
`resolvconf` program, else /etc/resolv.conf. Calls block for a moment: use them in a thread.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Protocol

from ginnel.base.errors import SystemFailure

TOOL_TIMEOUT = 10.0  # seconds for a resolvconf with its hooks
MAX_ZONES = 8  # reverse zones of one prefix; a network's own prefixes have one each
TOOL_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class DnsPlan:
    """What the resolver shall know; all domains without a dot at the end."""

    servers: tuple[str, ...]
    search: tuple[str, ...] = ()  # appended to short names, and routed to the servers
    match: tuple[str, ...] = ()  # only routed to the servers (split DNS)

    @property
    def is_empty(self) -> bool:
        """Say whether there is nothing to set."""
        return not self.servers


def reverse_zones(prefix: IPv4Network | IPv6Network) -> tuple[str, ...]:
    """Return the zones of a prefix's reverse names, for PTR; none if they were over MAX_ZONES."""
    step = 8 if prefix.version == 4 else 4  # bits of a label
    length = -(-prefix.prefixlen // step) * step
    if length - prefix.prefixlen > MAX_ZONES.bit_length() - 1:
        return ()
    labels = length // step
    everything = 32 // 8 if prefix.version == 4 else 128 // 4
    return tuple(
        ".".join(part.network_address.reverse_pointer.split(".")[everything - labels :])
        for part in prefix.subnets(new_prefix=length)
    )


class DnsSetter(Protocol):
    """One way to set a device's name servers."""

    name: str
    needs_forwarder: bool  # True: all names are asked at our server, not only the network's

    def apply(self, plan: DnsPlan) -> None:
        """Replace what was set for the device. Raises SystemFailure."""
        ...

    def take_back(self) -> None:
        """Remove what was set; harmless if nothing was. Raises SystemFailure."""
        ...

    def is_in_place(self) -> bool:
        """Say whether what was set is still there, as far as others can take it out."""
        ...


class Resolvconf:
    """The `resolvconf` program (openresolv, Debian's): a record per device."""

    name = "resolvconf"
    needs_forwarder = True

    def __init__(self, device: str, program: str) -> None:
        self._record = f"{device}.ginnel"
        self._program = program

    def apply(self, plan: DnsPlan) -> None:
        """Add or replace the device's record."""
        lines = [f"nameserver {server}" for server in plan.servers]
        if plan.search:
            lines.append(f"search {' '.join(plan.search)}")
        self._run(["-a", self._record], "\n".join([*lines, ""]))

    def take_back(self) -> None:
        """Remove the device's record."""
        self._run(["-d", self._record], "")

    def is_in_place(self) -> bool:
        """Say yes: the program keeps its records."""
        return True

    def _run(self, arguments: list[str], text: str) -> None:
        try:
            done = subprocess.run(
                [self._program, *arguments],
                input=text,
                text=True,
                capture_output=True,
                timeout=TOOL_TIMEOUT,
                env={"PATH": TOOL_PATH},
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise SystemFailure(f"dns_settings: {self._program}: {error}") from None
        if done.returncode != 0:
            said = done.stderr.strip()[:200]
            raise SystemFailure(f"dns_settings: {self._program} {arguments[0]}: {said}")


def find_setter(device: str, *, path: Path = Path("/etc/resolv.conf")) -> DnsSetter:
    """Return the way that fits this machine."""
    from ginnel.net.dns_file import ResolvConfFile
    from ginnel.net.dns_resolved import Resolved

    resolved = Resolved.find(device)
    if resolved is not None:
        return resolved
    program = shutil.which("resolvconf", path=TOOL_PATH)
    if program is not None:
        return Resolvconf(device, program)
    return ResolvConfFile(device, path)
