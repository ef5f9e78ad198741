"""WireGuard's cross-platform configuration protocol, without IO.

`wg` and wg-quick speak it over a Unix socket: `set=1` with lines of `key=value`, or `get=1`, each
ended by an empty line. A request is read as a whole before anything of it counts, so that a wrong
one changes nothing.

Source: https://www.wireguard.com/xplatform/, "Configuration Protocol".
"""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ginnel.base.dataplane import PeerStats
from ginnel.base.errors import UsageError
from ginnel.base.types import Address, Secret, parse_address

MAX_REQUEST = 16 * 1024 * 1024  # bytes; `wg syncconf` of some 10,000 peers is a tenth of it
MAX_LINE = 1024  # bytes; no key or value is nearly as long
KEY_SIZE = 32  # bytes
MAX_MARK = 2**32 - 1
MAX_16_BITS = 65_535
PROTOCOL_VERSION = "1"
NO_KEY = bytes(KEY_SIZE)  # stands for: none


class UapiError(UsageError):
    """A request that is refused; `number` is the errno that the other side is told."""

    def __init__(self, text: str, number: int = errno.EINVAL) -> None:
        super().__init__(text)
        self.number = number


@dataclass(slots=True)
class PeerChange:
    """What a request says of one peer; None leaves as it is."""

    public_key: bytes
    remove: bool = False
    update_only: bool = False
    preshared_key: Secret | None = None  # NO_KEY removes it
    endpoint: Address | None = None
    keepalive_s: int | None = None
    replace_allowed_ips: bool = False
    allowed_ips: list[tuple[bool, str]] = field(default_factory=list)  # whether to add, prefix


@dataclass(slots=True)
class Change:
    """What a `set=1` request says; None leaves as it is."""

    private_key: Secret | None = None  # NO_KEY removes it
    listen_port: int | None = None
    fwmark: int | None = None
    replace_peers: bool = False
    peers: list[PeerChange] = field(default_factory=list)


@dataclass(slots=True)
class Peer:
    """One peer as it is set up."""

    preshared_key: Secret | None = None
    endpoint: Address | None = None
    keepalive_s: int = 0
    allowed_ips: dict[str, None] = field(default_factory=dict)  # in the order of their arrival


@dataclass(slots=True)
class Configuration:
    """One interface as it is set up; `apply` carries out a request and says what changed."""

    private_key: Secret | None = None
    listen_port: int = 0
    fwmark: int = 0
    peers: dict[bytes, Peer] = field(default_factory=dict)

    def apply(self, change: Change) -> list[bytes]:
        """Change as asked for; return the peers that changed or went, in order, each once."""
        touched: dict[bytes, None] = {}
        if change.private_key is not None:
            self.private_key = _key_or_none(change.private_key)
        if change.listen_port is not None:
            self.listen_port = change.listen_port
        if change.fwmark is not None:
            self.fwmark = change.fwmark
        if change.replace_peers:
            touched.update(dict.fromkeys(self.peers))
            self.peers.clear()
        for item in change.peers:
            touched.update(dict.fromkeys(self._apply_peer(item)))
        return list(touched)

    def _apply_peer(self, change: PeerChange) -> Iterable[bytes]:
        known = self.peers.get(change.public_key)
        if change.remove or (change.update_only and known is None):
            self.peers.pop(change.public_key, None)
            return [change.public_key]
        peer = self.peers.setdefault(change.public_key, Peer())
        if change.preshared_key is not None:
            peer.preshared_key = _key_or_none(change.preshared_key)
        if change.endpoint is not None:
            peer.endpoint = change.endpoint
        if change.keepalive_s is not None:
            peer.keepalive_s = change.keepalive_s
        if change.replace_allowed_ips:
            peer.allowed_ips.clear()
        losers = [self._apply_prefix(change.public_key, *item) for item in change.allowed_ips]
        return [*(loser for loser in losers if loser is not None), change.public_key]

    def _apply_prefix(self, public_key: bytes, is_added: bool, prefix: str) -> bytes | None:
        """Give a prefix to a peer or take it; return the peer that lost it to this one."""
        if not is_added:
            self.peers[public_key].allowed_ips.pop(prefix, None)
            return None
        loser = None
        for other, peer in self.peers.items():
            if other != public_key and prefix in peer.allowed_ips:
                del peer.allowed_ips[prefix]
                loser = other
        self.peers[public_key].allowed_ips[prefix] = None
        return loser


def parse_set(lines: Sequence[str]) -> Change:
    """Read the lines behind `set=1`.

    Raises:
        UapiError: a line is wrong; the text names it, without any key.
    """
    change = Change()
    peer: PeerChange | None = None
    for line in lines:
        key, separator, value = line.partition("=")
        if not separator:
            raise UapiError(f"no value in a line that begins with {key[:32]!r}", errno.EPROTO)
        if key == "public_key":
            peer = PeerChange(_parse_key(value))
            change.peers.append(peer)
        elif peer is None:
            _set_device(change, key, value)
        else:
            _set_peer(peer, key, value)
    return change


def _set_device(change: Change, key: str, value: str) -> None:
    match key:
        case "private_key":
            change.private_key = Secret(_parse_key(value))
        case "listen_port":
            change.listen_port = _parse_number(key, value, MAX_16_BITS)
        case "fwmark":
            change.fwmark = _parse_number(key, value or "0", MAX_MARK)
        case "replace_peers":
            change.replace_peers = _parse_true(key, value)
        case _:
            raise UapiError(f"unknown key {key[:32]!r}")


def _set_peer(peer: PeerChange, key: str, value: str) -> None:
    match key:
        case "remove":
            peer.remove = _parse_true(key, value)
        case "update_only":
            peer.update_only = _parse_true(key, value)
        case "preshared_key":
            peer.preshared_key = Secret(_parse_key(value))
        case "endpoint":
            peer.endpoint = _parse_endpoint(value)
        case "persistent_keepalive_interval":
            peer.keepalive_s = _parse_number(key, value, MAX_16_BITS)
        case "replace_allowed_ips":
            peer.replace_allowed_ips = _parse_true(key, value)
        case "allowed_ip":
            prefix = value.removeprefix("-")
            peer.allowed_ips.append((prefix == value, _parse_prefix(prefix)))
        case "protocol_version":
            if value != PROTOCOL_VERSION:
                raise UapiError("only protocol_version=1 is known")
        case _:
            raise UapiError(f"unknown key {key[:32]!r}")


def format_get(configuration: Configuration, stats: Mapping[bytes, PeerStats]) -> str:
    """Return the answer to `get=1`; what the data plane learned of a peer's endpoint wins."""
    lines = []
    if configuration.private_key is not None:
        lines.append(f"private_key={configuration.private_key.reveal().hex()}")
    lines.append(f"listen_port={configuration.listen_port}")
    if configuration.fwmark:
        lines.append(f"fwmark={configuration.fwmark}")
    for public_key, peer in configuration.peers.items():
        lines += _format_peer(public_key, peer, stats.get(public_key))
    return "\n".join([*lines, "errno=0", "", ""])


def format_error(number: int) -> str:
    """Return the answer to a request that did nothing but succeed (0) or fail with an errno."""
    return f"errno={-number}\n\n"


def _format_peer(public_key: bytes, peer: Peer, stats: PeerStats | None) -> list[str]:
    preshared_key = NO_KEY if peer.preshared_key is None else peer.preshared_key.reveal()
    lines = [
        f"public_key={public_key.hex()}",
        f"preshared_key={preshared_key.hex()}",
        f"protocol_version={PROTOCOL_VERSION}",
    ]
    endpoint = peer.endpoint if stats is None or stats.endpoint is None else stats.endpoint
    if endpoint is not None:
        lines.append(f"endpoint={endpoint}")
    at = 0.0 if stats is None else stats.last_handshake_unix or 0.0
    return [
        *lines,
        f"last_handshake_time_sec={int(at)}",
        f"last_handshake_time_nsec={int(at % 1 * 1e9)}",
        f"tx_bytes={0 if stats is None else stats.tx_bytes}",
        f"rx_bytes={0 if stats is None else stats.rx_bytes}",
        f"persistent_keepalive_interval={peer.keepalive_s}",
        *(f"allowed_ip={prefix}" for prefix in peer.allowed_ips),
    ]


def _key_or_none(key: Secret) -> Secret | None:
    return None if key.reveal() == NO_KEY else key


def _parse_key(text: str) -> bytes:
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_SIZE or len(text) != 2 * KEY_SIZE:
        raise UapiError(f"a key has {2 * KEY_SIZE} hexadecimal digits")
    return key


def _parse_number(key: str, text: str, highest: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= highest):
        raise UapiError(f"{key}: a number from 0 to {highest} belongs here")
    return int(text)


def _parse_true(key: str, text: str) -> bool:
    if text != "true":
        raise UapiError(f"{key}: only `true` may be here")
    return True


def _parse_endpoint(text: str) -> Address:
    try:
        return parse_address(text)
    except UsageError:
        raise UapiError("endpoint: an IP address and a port belong here") from None


def _parse_prefix(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise UapiError("allowed_ip: an IP prefix belongs here") from None
