"""What stands around a network's device before a tunnel gets it: rules, packet filter, switches.

- Routing rules: overlay routes stand in a table of their own; the tunnel's sockets (by mark) and
  its uid go past it to the main table, so that its own traffic never enters the overlay. Where root
  allows a default route, it holds after the main table's longer ones: local networks stay local.
- nftables tables of our own: from the device only sources inside the network's prefixes (or those
  that a default route leads to) and never our own, to our overlay addresses only (this machine's
  others and what it forwards to are no member's affair), and neither redirects nor router
  advertisements; packets to our overlay addresses only from the device.
- accept_ra, autoconf and redirects are off on the device (they vanish with it).

A manager that was killed leaves rules and tables; `clear_stale` removes them, at the next start or
at `ginnel down`.
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path

from ginnel.base.errors import SystemFailure
from ginnel.daemon import privileges
from ginnel.daemon.settings_check import Allowance
from ginnel.net.dns import find_setter
from ginnel.net.netlink import MAIN_TABLE, Netlink, Rule

TUNNEL_MARK = 0x676E  # of the UDP sockets that a tunnel gets
SLOTS = 100  # networks on one machine; the tunnel's uid says which is which
MARK_PRIORITY = 5200  # the rules' priorities, plus the slot
UID_PRIORITY = 5300
TABLE_PRIORITY = 5400
MAIN_PRIORITY = 5500  # the main table without its default route, where ours may have one
DEFAULT_PRIORITY = 5600  # our table again, now for its default route
NFT_TIMEOUT = 10.0  # seconds; it takes milliseconds
TOOLS_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_FAMILIES = {  # of nftables: the IP version, and what nobody may tell this machine from the device
    # The switches alone don't stop IPv4 redirects: `conf/all` may allow them for every device.
    "ip": (4, "icmp type redirect"),
    "ip6": (6, "icmpv6 type { nd-redirect, nd-router-advert }"),
}
_SWITCHES = (
    ("ipv6", "accept_ra", "0"),
    ("ipv6", "autoconf", "0"),
    ("ipv6", "accept_redirects", "0"),
    ("ipv4", "accept_redirects", "0"),
    ("ipv4", "send_redirects", "0"),
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Guard:
    """Rules and filter of one network."""

    device: str
    tunnel_uid: int
    allowance: Allowance
    open_netlink: Callable[[], Netlink] = Netlink

    @property
    def table(self) -> int:
        """Return the routing table of this network's overlay routes."""
        return privileges.FIRST_UID + self.tunnel_uid % SLOTS

    def install(self) -> None:
        """Set everything up; what a killed manager left is cleared first.

        Raises:
            SystemFailure: something was refused; nothing of it is left.
        """
        self.clear_stale()
        try:
            _run_nft(self.filter_text())
            self._switch_off()
            with self.open_netlink() as netlink:
                for rule in self.rules():
                    netlink.add_rule(rule)
        except SystemFailure:
            self.clear_stale()
            raise

    def clear_stale(self) -> None:
        """Remove rules, excluded routes and the filter, whoever made them; harmless without.

        Raises:
            SystemFailure: something can't be removed; the rest was.
        """
        with self.open_netlink() as netlink:
            excluded = netlink.excluded(table=self.table)
            _do_all(
                *(partial(netlink.remove_rule, rule) for rule in self.possible_rules()),
                *(partial(netlink.include_again, r, table=self.table) for r in excluded),
                partial(_run_nft, self._clearing_text()),
            )

    def rules(self) -> tuple[Rule, ...]:
        """Return the routing rules, first that which is asked first."""
        found = [Rule(self._slot(MARK_PRIORITY), mark=TUNNEL_MARK)]
        if privileges.can_become(self.tunnel_uid):
            found.append(Rule(self._slot(UID_PRIORITY), uid=self.tunnel_uid))
        may_be_default = self.allowance.default_route
        found.append(
            Rule(self._slot(TABLE_PRIORITY), table=self.table, skips_default=may_be_default)
        )
        if may_be_default:
            found += [
                Rule(self._slot(MAIN_PRIORITY), table=MAIN_TABLE, skips_default=True),
                Rule(self._slot(DEFAULT_PRIORITY), table=self.table),
            ]
        return tuple(found)

    def possible_rules(self) -> tuple[Rule, ...]:
        """Return the rules that may be there, whatever root's settings said when they were made."""
        return replace(self, allowance=replace(self.allowance, default_route=True)).rules()

    def filter_text(self) -> str:
        """Return the nftables tables as `nft -f` reads them."""
        return self._clearing_text() + "".join(map(self._table_text, _FAMILIES))

    def _clearing_text(self) -> str:
        # Of both families in one: made by an earlier Ginnel whose manager was killed.
        tables = [f"table {family} {self._name}\n" for family in ("inet", *_FAMILIES)]
        return "".join(f"add {table}delete {table}" for table in tables)

    def _table_text(self, family: str) -> str:
        """Return the table of a family: of its own, for each rule costs every packet that meets it.

        Packets from the device leave for their own chain at once for the same reason.
        """
        version, never = _FAMILIES[family]
        inside = [f"{never} counter drop"]
        guard = [
            "type filter hook prerouting priority -350; policy accept;",
            f'iifname "{self.device}" goto inside',
        ]
        prefixes = [str(p) for p in self.allowance.prefixes if p.version == version]
        own = [a for a in self.allowance.addresses if ip_address(a).version == version]
        allowed = f"{family} saddr != {{ {', '.join(prefixes)} }} " if prefixes else ""
        if self.allowance.default_route:
            allowed += f'fib saddr oifname != "{self.device}" '
        if self.allowance.addresses and not own:
            allowed = ""  # nobody has anything to say to us in this version
        inside.append(f"{allowed}counter drop")
        if own:
            ours = f"{{ {', '.join(own)} }}"
            inside.append(f"{family} saddr {ours} counter drop")
            inside.append(f"{family} daddr != {ours} counter drop")
            guard.append(f'{family} daddr {ours} iifname != "lo" counter drop')
        chains = _chain("inside", inside) + _chain("guard", guard)
        return f"table {family} {self._name} {{\n{chains}}}\n"

    @property
    def _name(self) -> str:
        return re.sub(r"[^a-z0-9]", "_", self.device)

    def _slot(self, first: int) -> int:
        return first + self.tunnel_uid % SLOTS

    def _switch_off(self) -> None:
        for family, name, value in _SWITCHES:
            path = Path(f"/proc/sys/net/{family}/conf/{self.device}/{name}")
            try:
                if path.read_text().strip() != value:
                    path.write_text(value)
            except FileNotFoundError:
                continue  # a kernel without this family
            except OSError as error:  # a container with a read-only /proc/sys
                log.warning("%s can't be switched off: %s", path, error.strerror)


def clear_traces(device: str, tunnel_uid: int) -> None:
    """Remove what a manager that was killed left: names, rules, excluded routes, the filter.

    Raises:
        SystemFailure: something can't be removed; the rest was.
    """
    _do_all(
        lambda: find_setter(device).take_back(),
        Guard(device, tunnel_uid, Allowance()).clear_stale,
    )


def _do_all(*steps: Callable[[], None]) -> None:
    """Do every step, whichever fail. Raises SystemFailure with all that failed."""
    errors: list[str] = []
    for step in steps:
        try:
            step()
        except SystemFailure as error:
            errors.append(str(error))
    if errors:
        raise SystemFailure("; ".join(errors))


def _chain(name: str, lines: list[str]) -> str:
    return f"  chain {name} {{\n" + "".join(f"    {line}\n" for line in lines) + "  }\n"


def _run_nft(text: str) -> None:
    try:
        done = subprocess.run(
            ["nft", "-f", "-"],
            input=text,
            text=True,
            capture_output=True,
            timeout=NFT_TIMEOUT,
            env=os.environ | {"PATH": TOOLS_PATH},
            check=False,
        )
    except FileNotFoundError:
        raise SystemFailure(
            "`nft` is missing, and without its filter no device is opened: install nftables"
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SystemFailure(f"nft: {error}") from None
    if done.returncode != 0:
        raise SystemFailure(f"nft refused the filter: {done.stderr.strip()[:300]}")
