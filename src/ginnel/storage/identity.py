"""A node's four private keys on disk, and the bundle in which they reach the tunnel.

One file holds all four, so that they are there together or not at all. Keys are never
overwritten.

Source: docs/formats.md, "Keys"; DESIGN, "State on disk".
"""

from __future__ import annotations

import base64
import binascii
import os
from dataclasses import dataclass
from pathlib import Path

from ginnel.base import rlp
from ginnel.base.chance import RandomBytes
from ginnel.base.errors import RemoteProtocolError, SystemFailure, UsageError
from ginnel.base.secp256k1 import public_key_of
from ginnel.base.types import Secret
from ginnel.mesh.join import NodeKeys
from ginnel.mesh.objects import MAX_OBJECT
from ginnel.storage.files import read_private, write_atomic

KEY_FILE = "node.key"
BUNDLE_PREFIX = "ginnel1:"
MAX_BUNDLE = 8192  # characters; four keys and three objects take 2700
_NAMES = ("identity", "wireguard", "sealing", "discovery")


def generate_keys(random_bytes: RandomBytes = os.urandom) -> NodeKeys:
    """Draw four independent keys."""
    identity, wireguard, sealing = (Secret(random_bytes(32)) for _ in range(3))
    return NodeKeys(identity, wireguard, sealing, draw_secp256k1(random_bytes))


def save_keys(folder: Path, keys: NodeKeys) -> None:
    """Write the keys into a folder.

    Raises:
        UsageError: there are keys already.
        SystemFailure: the disk refuses; nothing was written.
    """
    lines = ["# Private keys of this node: never share them"]
    lines += [f"{name} {getattr(keys, name).reveal().hex()}" for name in _NAMES]
    write_atomic(folder / KEY_FILE, "\n".join([*lines, ""]).encode(), replace=False)


def load_keys(folder: Path) -> NodeKeys:
    """Read the keys of a folder.

    Raises:
        SystemFailure: missing, damaged or readable by others; the text names the remedy.
    """
    path = folder / KEY_FILE
    values = read_fields(path, _NAMES)
    keys = NodeKeys(*(Secret(values[name]) for name in _NAMES))
    try:
        public_key_of(keys.discovery.reveal())
    except ValueError:
        raise SystemFailure(f"{path} is damaged: restore it from a backup") from None
    return keys


def read_fields(path: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Read a private file of lines `NAME HEX`; all names must be there.

    Raises:
        SystemFailure: the file is missing, damaged or readable by others.
    """
    values: dict[str, bytes] = {}
    try:
        for line in read_private(path).decode().splitlines():
            if line and not line.startswith("#"):
                name, text = line.split()
                values[name] = bytes.fromhex(text)
    except ValueError:
        raise SystemFailure(f"{path} is damaged: restore it from a backup") from None
    if any(len(values.get(name, b"")) not in (16, 32) for name in names):
        raise SystemFailure(f"{path} is damaged: restore it from a backup")
    return values


@dataclass(frozen=True, slots=True)
class NodeBundle:
    """What a tunnel needs to be a member: keys, and network, admin and certificate as signed."""

    keys: NodeKeys
    network: bytes
    admin: bytes
    certificate: bytes

    def to_bundle(self) -> Secret:
        """Return it as one word, for Start's api_token."""
        keys = [getattr(self.keys, name).reveal() for name in _NAMES]
        data = rlp.encode([1, keys, self.network, self.admin, self.certificate])
        return Secret(BUNDLE_PREFIX.encode() + base64.urlsafe_b64encode(data).rstrip(b"="))

    @classmethod
    def from_bundle(cls, bundle: Secret) -> NodeBundle:
        """Take it back.

        Raises:
            UsageError: not a bundle; the tunnel can't start.
        """
        text = bundle.reveal()
        prefix = BUNDLE_PREFIX.encode()
        if not text.startswith(prefix) or len(text) > MAX_BUNDLE:
            raise UsageError("the token is no bundle of keys")
        word = text[len(prefix) :]
        try:
            data = base64.urlsafe_b64decode(word + b"=" * (-len(word) % 4))
            items = rlp.as_list(rlp.decode(data), at_least=5)
            rlp.as_int(items[0], 1)
            keys = [Secret(rlp.as_bytes(key, 32)) for key in rlp.as_list(items[1], size=4)]
            objects = [rlp.as_bytes(item, maximum=MAX_OBJECT) for item in items[2:5]]
        except (RemoteProtocolError, binascii.Error, ValueError):
            raise UsageError("the token is no bundle of keys") from None
        return cls(NodeKeys(*keys), *objects)


def draw_secp256k1(random_bytes: RandomBytes) -> Secret:
    """Draw a secp256k1 private key."""
    while True:
        value = random_bytes(32)
        try:
            public_key_of(value)
        except ValueError:  # 0 or beyond the order: one in 2**127
            continue
        return Secret(value)
