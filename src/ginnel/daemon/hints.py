"""Hints of where a first node is: a record (`enr:...`) or `KEY-HEX@NAME:PORT`.

A discv5 packet is masked with the node's id, and its handshake needs the node's public key, from
which the id follows but not the other way round. So the short form carries the compressed
public key (66 hex digits), which `ginnel node` prints.

Source: DESIGN, "What a user does" (--node), mended: it says NODEID-HEX.
"""

from __future__ import annotations

import re
import socket

from ginnel.base.errors import GinnelError, UsageError
from ginnel.base.types import make_address
from ginnel.discv5.enr import Enr
from ginnel.discv5.keys import node_id_of
from ginnel.discv5.protocol import Contact

_SHORT = re.compile(r"(?P<key>[0-9a-fA-F]+)@(?P<host>\[[^\]]+\]|[^:@\[\]]+):(?P<port>\d{1,5})")
KEY_DIGITS = 66  # hex digits of a compressed secp256k1 key


def parse_hint(text: str) -> Enr | Contact:
    """Return the record, or whom to ask for it (the name is resolved now).

    Raises:
        UsageError: neither form, or a name that does not resolve; the text says what is expected.
    """
    text = text.strip()
    if text.startswith("enr:"):
        try:
            return Enr.from_text(text)
        except GinnelError as error:
            raise UsageError(f"--node: this record is damaged: {error}") from None
    match = _SHORT.fullmatch(text)
    if match is None:
        raise UsageError(f"--node {text!r}: write enr:... or KEY-HEX@NAME:PORT")
    if len(match["key"]) != KEY_DIGITS:
        raise UsageError(
            f"--node: {len(match['key'])} hex digits before the @, but the node's public key "
            f"has {KEY_DIGITS}; `ginnel node` prints it"
        )
    return _contact(bytes.fromhex(match["key"]), match["host"].strip("[]"), int(match["port"]))


def _contact(public_key: bytes, host: str, port: int) -> Contact:
    if not 0 < port < 65_536:
        raise UsageError(f"--node: {port} is no port")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise UsageError(f"--node: {host} does not resolve: {error.strerror}") from None
    except UnicodeError:
        raise UsageError(f"--node: {host!r} is no host name") from None
    try:
        node_id = node_id_of(public_key)
    except (GinnelError, ValueError):
        raise UsageError("--node: the hex digits are no secp256k1 public key") from None
    return Contact(node_id, make_address(str(found[0][4][0]), port), public_key)


def format_hint(record: Enr) -> str | None:
    """Return the short form of a record with an address, or None without one."""
    address = record.address() or record.address(ipv6=True)
    return None if address is None else f"{record.public_key.hex()}@{address}"
