"""Every setting of a network on this machine: unit, default, range; parsed from TOML text.

`GINNEL_*` variables mirror settings (`port` is `GINNEL_PORT`), never secrets; they are passed in
as a mapping and win over the file. Unknown keys are refused, so that a typing error is seen.

Source: DESIGN, "State on disk".
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from ipaddress import IPv4Network

from ginnel.base.addresses import is_private_prefix
from ginnel.base.errors import UsageError

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
}
_SWITCHES = ("relay", "dns", "debug")
_HELP = {
    "port": "UDP port of WireGuard, ICE and discv5",
    "tunnel_uid": "the tunnel runs under this uid",
    "signer_uid": "the signer runs under this uid; 0: no admin key here, no signer",
    "ipv4_prefix": "the network's IPv4 prefix, as this machine knows it",
    "mtu": "bytes of an inner packet; 1280 passes every path",
    "advertise": "IP or IP:PORT under which this machine is reached from outside; empty: find out",
    "relay": "relay for members who can't be direct, where the certificate allows it",
    "protocol_id": "`ginnel` is a DHT of Ginnel's own, `discv5` the public one",
    "nodes": "nodes to start from: enr:... or KEY-HEX@NAME:PORT",
    "dns": "tell this machine's resolver of the network's names",
    "debug": "log each packet's way",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one network on this machine."""

    port: int
    tunnel_uid: int
    signer_uid: int = 0
    ipv4_prefix: str = ""
    mtu: int = 1280
    advertise: str = ""
    relay: bool = True
    protocol_id: str = "ginnel"
    nodes: tuple[str, ...] = ()
    dns: bool = True
    debug: bool = False


def parse_settings(text: str, environ: Mapping[str, str] | None = None) -> Settings:
    """Return the settings of a file, with those of the environment over them.

    Raises:
        UsageError: the text names the setting, its range and what was found.
    """
    if len(text) > MAX_TEXT:
        raise UsageError(f"the settings have more than {MAX_TEXT} characters")
    try:
        values: dict[str, object] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"the settings are no TOML: {error}") from None
    names = [item.name for item in fields(Settings)]
    for key in values:
        if key not in names:
            raise UsageError(f"unknown setting {key!r}; there are {', '.join(names)}")
    for name in names:
        found = (environ or {}).get(f"GINNEL_{name.upper()}")
        if found is not None:
            values[name] = _from_environment(name, found)
    for name in ("port", "tunnel_uid"):
        if name not in values:
            raise UsageError(f"the setting {name} is missing")
    return Settings(**{name: _check(name, value) for name, value in values.items()})  # type: ignore[arg-type]  # each value was checked by its name


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
        lines.append(f"{item.name} = {_to_toml(getattr(settings, item.name))}")
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
    if name == "nodes":
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise UsageError("nodes: a list of texts belongs here")
        if len(value) > MAX_HINTS:
            raise UsageError(f"nodes: at most {MAX_HINTS}")
        return tuple(value)
    if not isinstance(value, str) or len(value) > 255 or not value.isprintable():
        raise UsageError(f"{name}: a short text belongs here")
    if name == "protocol_id" and value not in ("ginnel", "discv5"):
        raise UsageError(f"protocol_id = {value!r}: ginnel or discv5")
    if name == "ipv4_prefix" and value:
        _check_prefix(value)
    return value


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
    return tuple(text.split()) if name == "nodes" else text


def _range_text(name: str) -> str:
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
