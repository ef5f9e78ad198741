"""Every setting of a network on this machine: unit, default, range; parsed from TOML text.

`GINNEL_*` variables mirror settings (`port` is `GINNEL_PORT`), never secrets; they are passed in
as a mapping and win over the file. Unknown keys are refused, so that a typing error is seen.

Source: DESIGN, "State on disk".
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Network
from typing import Any

from ginnel.base.addresses import is_private_prefix
from ginnel.base.errors import UsageError
from ginnel.base.servers import parse_ports, parse_stun, parse_turn
from ginnel.base.types import make_address

FIRST_PORT = 20_000  # the UDP port is drawn from here ...
LAST_PORT = 60_000  # ... to here, at `init` and `join`
FIRST_UID = 1  # 0 would be root
LAST_UID = 2**31 - 1
MAX_HINTS = 32  # nodes to start from
MAX_TEXT = 64 * 1024  # characters of a settings file

_RANGES = {
    "port": (1, 65_535),
    "tunnel_uid": (FIRST_UID, LAST_UID),
    "signer_uid": (0, LAST_UID),
    "mtu": (1280, 9000),
    "parallel_connects": (1, 256),
}
_SWITCHES = ("relay", "force_relay", "ipv6", "lan", "big_packets", "dns", "default_route", "debug")
_DURATIONS = {  # seconds, lowest and highest
    "ice_keepalive": (0.5, 3600.0),
    "ice_disconnected_timeout": (1.0, 3600.0),
    "ice_failed_timeout": (0.0, 3600.0),
    "ice_relay_acceptance_wait": (0.0, 60.0),
}
_LISTS = ("nodes", "interfaces", "interface_blacklist", "nat_1to1", "stun", "turn")
_SERVERS = {"stun": parse_stun, "turn": parse_turn}
PORT_MAPPINGS = ("auto", "pcp", "nat-pmp", "upnp", "off")
_SECRETS = ("turn",)  # never taken from the environment
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}  # seconds
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h)")
_HELP = {
    "port": "UDP port of WireGuard, ICE and discv5",
    "tunnel_uid": "the tunnel runs under this uid",
    "signer_uid": "the signer runs under this uid; 0: no admin key here, no signer",
    "ipv4_prefix": "the network's IPv4 prefix, as this machine knows it",
    "mtu": "bytes of an inner packet at most; what a path takes is found and kept for each peer",
    "advertise": "IP or IP:PORT under which this machine is reached from outside; empty: find out",
    "relay": "relay for members who can't be direct, where the certificate allows it",
    "parallel_connects": "members to whom an offer is out at once; the others wait for their turn",
    "relay_ports": "FIRST-LAST: a relayed address holds one of these; no firewall need let them in",
    "force_relay": "never connect directly",
    "ice_keepalive": "between two checks of a path in use",
    "ice_disconnected_timeout": "without an answer until a path counts as disconnected",
    "ice_failed_timeout": "from then until it is given up",
    "ice_relay_acceptance_wait": "that a relayed path waits for a direct one",
    "ipv6": "offer IPv6 addresses of this machine",
    "lan": "find nodes of the local networks by multicast, and be found: it tells this node's id",
    "big_packets": (
        "TCP over IPv4 to this machine leaves the tunnel in packets of more than 64 KiB, where the "
        "kernel takes them; off where something on the way to the application can't"
    ),
    "interfaces": "only addresses of these are offered (patterns); none: of all",
    "interface_blacklist": "addresses of these are never offered (patterns)",
    "nat_1to1": "outer addresses of a NAT that keeps ports (one to one)",
    "port_mapping": "open a port at the router: auto, pcp, nat-pmp, upnp or off",
    "stun": "STUN servers, stun:HOST[:PORT], that are asked how they see this machine",
    "turn": (
        "TURN servers: turn:HOST[:PORT][?transport=tcp] USER PASSWORD, turns:HOST[:PORT] USER "
        "PASSWORD"
    ),
    "turn_ca": "PEM file of an authority for turns: servers, besides the system's",
    "protocol_id": "`ginnel` is a DHT of Ginnel's own, `discv5` the public one",
    "nodes": "nodes to start from: enr:... or KEY-HEX@NAME:PORT",
    "dns": "tell this machine's resolver of the network's names",
    "default_route": (
        "a tunnel may take the default route: all but what local routes lead to then enters the "
        "network; Ginnel's own tunnel asks for none"
    ),
    "debug": "log each packet's way",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one network on this machine."""

    port: int
    tunnel_uid: int
    signer_uid: int = 0
    ipv4_prefix: str = ""
    mtu: int = 1420
    advertise: str = ""
    relay: bool = True
    relay_ports: str = "49152-65535"
    force_relay: bool = False
    parallel_connects: int = 16
    ice_keepalive: float = 4.0  # seconds, as the three below; seed 000's defaults
    ice_disconnected_timeout: float = 6.0
    ice_failed_timeout: float = 6.0
    ice_relay_acceptance_wait: float = 2.0
    ipv6: bool = True
    lan: bool = True
    big_packets: bool = True
    interfaces: tuple[str, ...] = ()
    interface_blacklist: tuple[str, ...] = ()
    nat_1to1: tuple[str, ...] = ()
    port_mapping: str = "auto"
    stun: tuple[str, ...] = ()
    turn: tuple[str, ...] = field(default=(), repr=False)  # with passwords
    turn_ca: str = ""
    protocol_id: str = "ginnel"
    nodes: tuple[str, ...] = ()
    dns: bool = True
    default_route: bool = False
    debug: bool = False


def parse_settings(
    text: str,
    environ: Mapping[str, str] | None = None,
    defaults: Mapping[str, object] | None = None,
) -> Settings:
    """Return the settings of a file, with those of the environment over them.

    Args:
        text: TOML.
        environ: the environment.
        defaults: where neither says anything.

    Raises:
        UsageError: the text names the setting, its range and what was found.
    """
    if len(text) > MAX_TEXT:
        raise UsageError(f"the settings have more than {MAX_TEXT} characters")
    try:
        values: dict[str, object] = {**(defaults or {}), **tomllib.loads(text)}
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the settings are no TOML: {error}") from None
    names = [item.name for item in fields(Settings)]
    for key in values:
        if key not in names:
            raise UsageError(f"unknown setting {key!r}; there are {', '.join(names)}")
    checked = from_environment(environ or {}, names)
    checked |= {name: _check(name, found) for name, found in values.items() if name not in checked}
    for name in ("port", "tunnel_uid"):
        if name not in checked:
            raise UsageError(f"the setting {name} is missing")
    return Settings(**checked)


def from_environment(environ: Mapping[str, str], names: Sequence[str]) -> dict[str, Any]:
    """Return what `GINNEL_*` variables say of these settings, checked; never secrets.

    Raises:
        UsageError: the text names the setting, its range and what was found.
    """
    found: dict[str, Any] = {}
    for name in names:
        text = environ.get(f"GINNEL_{name.upper()}")
        if text is not None and name not in _SECRETS:
            found[name] = _check(name, _from_environment(name, text))
    return found


def check_settings(settings: Settings) -> None:
    """Refuse what could not be read again. Raises UsageError, as `parse_settings`."""
    parse_settings(format_settings(settings))


def format_settings(settings: Settings) -> str:
    """Return the settings as TOML, with a line of explanation for each."""
    lines = [
        "# Settings of this machine for this network; GINNEL_PORT=... and so on win over them."
    ]
    for item in fields(Settings):
        lines += ["", f"# {_HELP[item.name]}{_range_text(item.name)}"]
        value = getattr(settings, item.name)
        shown = f"{value:g}s" if item.name in _DURATIONS else value
        lines.append(f"{item.name} = {_to_toml(shown)}")
    return "\n".join(lines) + "\n"


def _check(name: str, value: object) -> object:
    if name in _RANGES:
        low, high = _RANGES[name]
        if type(value) is not int or not low <= value <= high:
            raise UsageError(
                f"{name} = {value!r}: a whole number from {low} to {high} belongs here"
            )
        return value
    if name in _SWITCHES:
        if not isinstance(value, bool):
            raise UsageError(f"{name} = {value!r}: true or false belongs here")
        return value
    if name in _DURATIONS:
        return _check_duration(name, value)
    if name in _LISTS:
        return _check_list(name, value)
    return _check_text(name, value)


def _check_text(name: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > 255 or not value.isprintable():
        raise UsageError(f"{name}: a short text belongs here")
    if name == "protocol_id" and value not in ("ginnel", "discv5"):
        raise UsageError(f"protocol_id = {value!r}: ginnel or discv5")
    if name == "port_mapping" and value not in PORT_MAPPINGS:
        raise UsageError(f"port_mapping = {value!r}: one of {', '.join(PORT_MAPPINGS)}")
    if name == "ipv4_prefix" and value:
        _check_prefix(value)
    if name == "relay_ports":
        try:
            parse_ports(value)
        except UsageError as error:
            raise UsageError(f"relay_ports = {error}") from None
    return value


def _check_list(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
        raise UsageError(f"{name}: a list of texts belongs here")
    if len(value) > MAX_HINTS:
        raise UsageError(f"{name}: at most {MAX_HINTS}")
    if name in _SERVERS:
        for text in value:
            try:
                _SERVERS[name](text)
            except UsageError as error:
                raise UsageError(f"{name}: {error}") from None
    if name == "nat_1to1":
        return tuple(make_address(text, 0).ip for text in value)
    return tuple(value)


def _check_duration(name: str, value: object) -> float:
    low, high = _DURATIONS[name]
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    seconds = float(match[1]) * _UNITS[match[2]] if match else -1.0
    if not low <= seconds <= high:
        raise UsageError(
            f"{name} = {value!r}: a duration from {low:g}s to {high:g}s belongs here, "
            "written as 250ms, 4s or 1m"
        )
    return seconds


def _check_prefix(text: str) -> None:
    try:
        network = IPv4Network(text)
    except ValueError as error:
        raise UsageError(f"ipv4_prefix: {error}") from None
    if not 8 <= network.prefixlen <= 24:
        raise UsageError(f"ipv4_prefix = {text!r}: a prefix of 8 to 24 bits belongs here")
    if not is_private_prefix(network):
        raise UsageError(f"ipv4_prefix = {text!r}: take one of 100.64.0.0/10 or a private one")


def _from_environment(name: str, text: str) -> object:
    if name in _RANGES:
        return int(text) if text.isascii() and text.isdigit() else text
    if name in _SWITCHES:
        return {"1": True, "true": True, "0": False, "false": False, "": False}.get(text, text)
    return tuple(text.split()) if name in _LISTS else text


def _range_text(name: str) -> str:
    if name in _DURATIONS:
        low, high = _DURATIONS[name]
        return f" ({low:g}s to {high:g}s)"
    if name not in _RANGES:
        return ""
    low, high = _RANGES[name]
    return f" ({low} to {high})"


def _to_toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(_to_toml(item) for item in value) + "]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return str(value)
