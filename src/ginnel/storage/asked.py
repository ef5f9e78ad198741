"""What a join has asked, keys and request, on disk until the grant is stored.

One invite is good for one request. Who asks again after Ctrl-C, a full disk or an hour without
anybody's approval must ask the same, or invite and name are spent on keys that nobody has. So both
are written before the first question, to a private folder beside the networks', and the same
command takes them up. A folder that stays is as private as a network's; the next join removes it
once its invite has expired.

Source: docs/formats.md, "Invite and join".
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ginnel.base import rlp
from ginnel.base.chance import RandomBytes
from ginnel.base.errors import SystemFailure
from ginnel.mesh.derive import sha256
from ginnel.mesh.join import NONCE_SIZE, Invite, NodeKeys
from ginnel.storage.files import check_folder, make_folder, sync_folder, write_atomic
from ginnel.storage.identity import generate_keys, load_keys, read_fields, save_keys

PREFIX = ".joining"  # no network's name begins with a dot
REQUEST_FILE = "request"
_NAMES = ("nonce", "sent_at")
_TIME_SIZE = 16  # bytes, so that `read_fields` takes it


@dataclass(frozen=True, slots=True)
class Asked:
    """What makes a request the same: with the invite and a name, these give the same bytes."""

    keys: NodeKeys
    nonce: bytes
    sent_at: int


def asked_folder(etc_root: Path, invite: Invite, name: str) -> Path:
    """Return where the request of a machine of this name under an invite is kept."""
    items: list[rlp.Encodable] = [invite.network_id, invite.invite_id, invite.secret.reveal()]
    digest = sha256(rlp.encode([*items, invite.admin_id, invite.sealing_key, name]))
    return etc_root / f"{PREFIX}-{invite.expires}-{digest[:16].hex()}"


def draw_asked(unix_now: float, random_bytes: RandomBytes) -> Asked:
    """Draw the keys and the nonce of a new request."""
    return Asked(generate_keys(random_bytes), random_bytes(NONCE_SIZE), int(unix_now))


def load_asked(folder: Path) -> Asked | None:
    """Return what was asked before, or None.

    Raises:
        SystemFailure: it is damaged or others may read it; the text names the remedy.
    """
    if not folder.exists():
        return None
    try:
        check_folder(folder)
        values = read_fields(folder / REQUEST_FILE, _NAMES)
        return Asked(load_keys(folder), values["nonce"], int.from_bytes(values["sent_at"], "big"))
    except SystemFailure as error:
        raise SystemFailure(
            f"{error}. Or remove {folder}, and join with a new invite if this one was approved"
        ) from None


def save_asked(folder: Path, asked: Asked) -> None:
    """Write what will be asked, whole or not at all; what is there already stays.

    Raises:
        SystemFailure: the disk refuses; ask nothing.
    """
    if folder.exists():
        return
    building = folder.with_name(f"{folder.name}.{os.getpid()}.new")
    sent_at = asked.sent_at.to_bytes(_TIME_SIZE, "big")
    lines = ["# Of a join that is not finished", f"nonce {asked.nonce.hex()}"]
    lines += [f"sent_at {sent_at.hex()}", ""]
    try:
        make_folder(building)
        save_keys(building, asked.keys)
        write_atomic(building / REQUEST_FILE, "\n".join(lines).encode())
        building.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise SystemFailure(f"{folder} was not made: {error.strerror}") from None
    finally:
        forget_asked(building)


def forget_asked(folder: Path) -> None:
    """Remove what was asked; harmless without."""
    shutil.rmtree(folder, ignore_errors=True)


def forget_expired(etc_root: Path, *, unix_now: float) -> None:
    """Remove what was asked under invites whose time is over: nobody answers it any more."""
    for folder in etc_root.glob(f"{PREFIX}-*-*"):
        expires = folder.name.split("-")[1]
        if expires.isdecimal() and int(expires) < unix_now:
            forget_asked(folder)
