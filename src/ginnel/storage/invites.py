"""The signer's own state: open invites, and the certificates that it issued.

One file an invite (`ID.invite`) and one a certificate (`HASH.cert`), each on disk before the
function returns.
"""

from __future__ import annotations

from pathlib import Path

from ginnel.base.errors import SystemFailure
from ginnel.mesh.derive import sha256
from ginnel.storage.files import read_private, sync_folder, write_atomic

MAX_FILES = 16_384  # read at most: certificates of the largest mesh, and invites


class SignerStore:
    """The files of one signer; it runs under the uid that owns the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def persist_invite(self, invite_id: bytes, state: bytes | None) -> None:
        """Write an invite, or remove it.

        Raises:
            SystemFailure: the disk refuses; the former state is still there.
        """
        path = self._folder / f"{invite_id.hex()}.invite"
        if state is not None:
            write_atomic(path, state)
            return
        try:
            path.unlink(missing_ok=True)
            sync_folder(self._folder)
        except OSError as error:
            raise SystemFailure(f"{path} can't be removed: {error.strerror}") from None

    def add_certificate(self, raw: bytes) -> None:
        """Write a certificate that was issued."""
        write_atomic(self._folder / f"{sha256(raw).hex()}.cert", raw)

    def invites(self) -> list[bytes]:
        """Return the states of all invites."""
        return self._read("*.invite")

    def certificates(self) -> list[bytes]:
        """Return all certificates issued."""
        return self._read("*.cert")

    def _read(self, pattern: str) -> list[bytes]:
        paths = sorted(self._folder.glob(pattern))[:MAX_FILES]
        return [read_private(path) for path in paths]
