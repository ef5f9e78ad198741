"""What a lab consists of, as values: homes, their kinds of NAT, public machines, link quality.

Nothing here touches the system; `plan.py` turns a topology into devices and addresses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from ginnel.base.errors import UsageError

MAX_NAME_CHARS = 12  # characters; device names of the kernel have 15, ours add 2
MAX_SITES = 120  # homes and public machines of one lab; 256 public /24 are to be had
MAX_HOSTS = 50  # machines in one home; they are numbered from .10 on
_TAKEN = ("-wan", "-carrier")  # ends of the names of links
_NAME = re.compile(r"[a-z][a-z0-9-]*\Z")


class NatKind(StrEnum):
    """How a home's router treats traffic (RFC 4787: mapping / filtering)."""

    PORT_RESTRICTED = "port-restricted"  # independent / address and port
    SYMMETRIC = "symmetric"  # address and port / address and port
    SYMMETRIC_SEQ = "symmetric-seq"  # the same, out of a range of 1000 ports
    FULL_CONE = "full-cone"  # independent / independent
    ADDR_RESTRICTED = "addr-restricted"  # independent / address
    UDP_BLOCKED = "udp-blocked"  # TCP only
    TCP443 = "tcp443"  # TCP to port 443 only
    CGNAT = "cgnat"  # port-restricted behind a second one at the carrier
    HAIRPIN = "hairpin"  # port-restricted; whoever is in the home is reached at the outer address
    LEAKY = "leaky"  # port-restricted, but unsolicited packets take ports away
    NONE = "none"  # no router at all: a public machine


@dataclass(frozen=True)
class Link:
    """Quality of a line to the Internet; both directions have the same."""

    delay_s: float = 0.0  # one way
    loss: float = 0.0  # share of packets lost one way, 0 to 1
    seed: int = 1  # of the losses on a link that also has a delay
    reorder: float = 0.0  # share of packets that take twice the delay: later ones overtake them

    def __post_init__(self) -> None:
        if not 0 <= self.delay_s <= 10:
            raise UsageError(f"a link's delay is 0 to 10 seconds, not {self.delay_s}")
        if not 0 <= self.loss <= 1:
            raise UsageError(f"a link's loss is a share between 0 and 1, not {self.loss}")
        if not 0 <= self.reorder <= 1:
            raise UsageError(f"reordering is a share between 0 and 1, not {self.reorder}")
        if self.reorder and not self.delay_s:
            raise UsageError("a link without delay keeps the order of its packets")


@dataclass(frozen=True)
class PublicMachine:
    """A machine with a public address and no filter before it."""

    name: str
    link: Link = field(default_factory=Link)


@dataclass(frozen=True)
class Home:
    """A router of one kind and the machines behind it.

    Args:
        name: of the home; its router is the machine `NAME-gw`.
        kind: how the router behaves.
        hosts: names of the machines; one machine named as the home if empty.
        link: the line between router and Internet.
        lan: prefix of the LAN as `192.168.7`; by default different in every home.
        udp_timeout_s: life of an idle UDP mapping; the kernel's 30/120 s if None.
        outer: prefix of the router's line as `11.0.1`; by default one for documentation, which
            some software of routers refuses to take for public.
    """

    name: str
    kind: NatKind = NatKind.PORT_RESTRICTED
    hosts: tuple[str, ...] = ()
    link: Link = field(default_factory=Link)
    lan: str | None = None
    udp_timeout_s: int | None = None
    outer: str | None = None

    @property
    def machine_names(self) -> tuple[str, ...]:
        """Return the names of the machines in this home."""
        return self.hosts or (self.name,)


@dataclass(frozen=True)
class LabTopology:
    """All that a lab has. With `ipv6` every machine also has a public 2001:db8:: address."""

    homes: tuple[Home, ...] = ()
    public: tuple[PublicMachine, ...] = ()
    ipv6: bool = False

    def __post_init__(self) -> None:
        if len(self.homes) + len(self.public) > MAX_SITES:
            raise UsageError(f"a lab has at most {MAX_SITES} homes and public machines")
        names = [machine.name for machine in self.public]
        for home in self.homes:
            if home.kind is NatKind.NONE:
                raise UsageError(f"{home.name}: a machine without NAT is a PublicMachine")
            if len(home.machine_names) > MAX_HOSTS:
                raise UsageError(f"{home.name}: a home has at most {MAX_HOSTS} machines")
            names += home.machine_names
        for name in [*names, *(home.name for home in self.homes)]:
            if len(name) > MAX_NAME_CHARS or not _NAME.match(name) or name.endswith(_TAKEN):
                raise UsageError(
                    f"{name!r}: a lab name has 1 to {MAX_NAME_CHARS} of a-z, 0-9 and -, "
                    "starts with a letter and does not end in -wan or -carrier"
                )
        homes = [home.name for home in self.homes]
        for group in (names, homes):
            if len(group) != len(dict.fromkeys(group)):
                raise UsageError(f"a name is used twice: {', '.join(group)}")


def parse_home(text: str, link: Link | None = None) -> Home | PublicMachine:
    """Parse `NAME:KIND[:HOSTS]`; with several hosts these are NAME1, NAME2 and so on.

    Raises:
        UsageError: the text has another form; show it to the user.
    """
    name, _, rest = text.partition(":")
    kind_text, _, count_text = rest.partition(":")
    try:
        kind = NatKind(kind_text or NatKind.PORT_RESTRICTED)
    except ValueError:
        kinds = ", ".join(NatKind)
        raise UsageError(f"{kind_text!r} is no kind of NAT; there are {kinds}") from None
    if count_text and not (count_text.isdecimal() and 1 <= int(count_text) <= MAX_HOSTS):
        raise UsageError(f"{text!r}: the number of hosts is 1 to {MAX_HOSTS}")
    link = link or Link()
    if kind is NatKind.NONE and count_text not in ("", "1"):
        raise UsageError(f"{text!r}: without NAT it is one machine; add further ones by --public")
    if kind is NatKind.NONE:
        return PublicMachine(name, link)
    count = int(count_text or "1")
    hosts = tuple(f"{name}{i}" for i in range(1, count + 1)) if count > 1 else ()
    return Home(name, kind, hosts, link)


def make_topology(
    sites: Sequence[Home | PublicMachine],
    *,
    public: Sequence[PublicMachine] = (),
    ipv6: bool = False,
) -> LabTopology:
    """Sort homes and public machines into a topology."""
    return LabTopology(
        homes=tuple(site for site in sites if isinstance(site, Home)),
        public=(*public, *(site for site in sites if isinstance(site, PublicMachine))),
        ipv6=ipv6,
    )
