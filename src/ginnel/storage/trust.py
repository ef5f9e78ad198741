"""Revocations, epochs, who signed them, and the last confirmed time: kept apart from the database,
in a file of their own that is never rebuilt from it.

Shape: lines `object BASE64`, `secret BASE64`, `time SECONDS`, and last `check HEX` of all before.

Source: docs/formats.md, "Signed objects" (revoke), "Epochs"; DESIGN, "State on disk".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from ginnel.base.errors import SystemFailure
from ginnel.base.types import Secret
from ginnel.storage.files import read_private, write_atomic

TRUST_FILE = "trust"


@dataclass(frozen=True, slots=True)
class Trust:
    """What must outlast the database, and the last time that an object confirmed."""

    objects: tuple[bytes, ...] = ()
    secrets: tuple[Secret, ...] = ()
    confirmed_at: int = 0


def save_trust(folder: Path, trust: Trust, *, uid: int | None = None) -> None:
    """Write the file whole.

    Raises:
        SystemFailure: the disk refuses; the former file is still there.
    """
    lines = [f"object {base64.b64encode(raw).decode()}" for raw in trust.objects]
    lines += [f"secret {base64.b64encode(s.reveal()).decode()}" for s in trust.secrets]
    lines += [f"time {trust.confirmed_at}", ""]
    text = "\n".join(lines).encode()
    check = f"check {sha256(text).hexdigest()}\n".encode()
    write_atomic(folder / TRUST_FILE, text + check, uid=uid)


def load_trust(folder: Path, *, owners: Sequence[int] | None = None) -> Trust:
    """Read the file; an empty Trust if there is none yet.

    Raises:
        SystemFailure: damaged, readable by others, or out of reach. It is not rebuilt: what was
            revoked would be trusted again.
    """
    path = folder / TRUST_FILE
    try:
        if not path.exists():
            return Trust()
    except OSError as error:  # no way into the folder
        raise SystemFailure(
            f"{path} can't be looked for ({error.strerror}): the folder must belong to the user "
            "that the tunnel or signer runs as"
        ) from None
    data = read_private(path, owners=None if owners is None else tuple(owners))
    text, mark, check = data.rpartition(b"check ")
    damaged = SystemFailure(
        f"{path} is damaged: restore it from a backup, or remove it and join this machine again"
    )
    if not mark or check.strip() != sha256(text).hexdigest().encode():
        raise damaged
    objects: list[bytes] = []
    secrets: list[Secret] = []
    confirmed_at = 0
    try:
        for line in text.decode().splitlines():
            kind, _, value = line.partition(" ")
            if kind == "object":
                objects.append(base64.b64decode(value, validate=True))
            elif kind == "secret":
                secrets.append(Secret(base64.b64decode(value, validate=True)))
            elif kind == "time":
                confirmed_at = int(value)
    except (ValueError, binascii.Error):
        raise damaged from None
    return Trust(tuple(objects), tuple(secrets), confirmed_at)
