"""Keeps the plaintext of Ginnel's processes, for tests that look for it on the wire.

`install` runs inside every Python process that starts with the environment of `environment`,
before Ginnel is imported. It puts itself between Ginnel and its crypto library: what is sealed,
encrypted, hashed or derived from goes into a file that is opened before any right is dropped.
Ginnel itself has no such hook. Records are a length (4 bytes) and the bytes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import aead
from cryptography.hazmat.primitives.kdf import hkdf

FREE_FD = 200  # descriptors from here on are nobody's
HOOK = """import sys
sys.path.append({tests!r})
from support import {module}
{module}.install({folder!r})
"""


def environment(hook: Path, module: str, folder: Path) -> dict[str, str]:
    """Return the variables with which a process runs `support.MODULE.install(FOLDER)` first.

    Args:
        hook: an empty folder, for Python's `sitecustomize`.
        module: of this package, with a function `install`.
        folder: where it writes.
    """
    tests = str(Path(__file__).parent.parent)
    text = HOOK.format(tests=tests, module=module, folder=str(folder))
    (hook / "sitecustomize.py").write_text(text)
    known = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": f"{hook}{os.pathsep}{known}" if known else str(hook)}


def open_high(path: Path) -> int:
    """Open a new file for writing under a number that no descriptor of Ginnel's has."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, FREE_FD)
    os.close(descriptor)
    return high


def read_plaintexts(folder: Path) -> list[bytes]:
    """Return all that the processes of a run kept, without repeats."""
    found: dict[bytes, None] = {}
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        at = 0
        while at + 4 <= len(data):
            size: int = struct.unpack_from("!I", data, at)[0]
            found[data[at + 4 : at + 4 + size]] = None
            at += 4 + size
    return list(found)


def install(folder: str) -> None:
    """Keep the plaintext of this process if it is one of Ginnel's."""
    words = sys.orig_argv
    if not any(word.endswith("/ginnel") or word == "ginnel.cli.main" for word in words):
        return
    note = Notes(open_high(Path(folder) / f"{os.getpid()}-{time.monotonic_ns()}")).note
    sha256 = hashlib.sha256
    from ginnel import _native  # no other module of Ginnel comes with it

    seal, seal_next, open_sealed = _native.seal, _native.seal_next, _native.open

    def noted_seal(node_id: bytes, start: bytes, key: bytes, nonce: bytes, text: bytes) -> bytes:
        note(text, start)
        return seal(node_id, start, key, nonce, text)

    def noted_seal_next(
        node_id: bytes, header: bytes, key: bytes, count: int, random: bytes, text: bytes
    ) -> tuple[bytes, bytes]:
        note(text, header)
        return seal_next(node_id, header, key, count, random, text)

    def noted_open(key: bytes, nonce: bytes, text: bytes, authenticated: bytes) -> bytes | None:
        opened = open_sealed(key, nonce, text, authenticated)
        note(opened, authenticated)
        return opened

    replacements = {
        (_native, "seal"): noted_seal,
        (_native, "seal_next"): noted_seal_next,
        (_native, "open"): noted_open,
        (hashlib, "sha256"): lambda data=b"", **keys: sha256(_noted(note, data), **keys),
        (aead, "ChaCha20Poly1305"): _wrapped_aead(aead.ChaCha20Poly1305, note),
        (hpke, "Suite"): _wrapped_suite(hpke.Suite, note),
        (hkdf, "HKDF"): _wrapped_hkdf(hkdf.HKDF, note),
    }
    for (module, name), replacement in replacements.items():
        setattr(module, name, replacement)


class Notes:
    """The file, without what it has already."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._known: set[int] = set()

    def note(self, *texts: bytes | None) -> None:
        for text in texts:
            if text and hash(text) not in self._known:
                self._known.add(hash(text))
                os.write(self._descriptor, struct.pack("!I", len(text)) + text)


Note = Callable[..., None]


def _noted(note: Note, data: bytes) -> bytes:
    note(bytes(data))
    return data


def _wrapped_aead(original: type[aead.ChaCha20Poly1305], note: Note) -> type[object]:
    class Wrapped:
        def __init__(self, key: bytes) -> None:
            self._inner = original(key)

        def encrypt(self, nonce: bytes, data: bytes, associated: bytes | None) -> bytes:
            note(data, associated)
            sealed: bytes = self._inner.encrypt(nonce, data, associated)
            return sealed

        def decrypt(self, nonce: bytes, data: bytes, associated: bytes | None) -> bytes:
            opened: bytes = self._inner.decrypt(nonce, data, associated)
            note(opened, associated)
            return opened

    return Wrapped


def _wrapped_suite(original: type[hpke.Suite], note: Note) -> type[object]:
    class Wrapped:
        def __init__(self, kem: hpke.KEM, kdf: hpke.KDF, cipher: hpke.AEAD) -> None:
            self._inner = original(kem, kdf, cipher)

        def encrypt(self, plaintext: bytes, key: X25519PublicKey, info: bytes) -> bytes:
            note(plaintext, info)
            sealed: bytes = self._inner.encrypt(plaintext, key, info)
            return sealed

        def decrypt(self, sealed: bytes, key: X25519PrivateKey, info: bytes) -> bytes:
            opened: bytes = self._inner.decrypt(sealed, key, info)
            note(opened, info)
            return opened

    return Wrapped


def _wrapped_hkdf(original: type[hkdf.HKDF], note: Note) -> type[object]:
    class Wrapped:
        def __init__(
            self, algorithm: hashes.HashAlgorithm, size: int, salt: bytes, info: bytes
        ) -> None:
            self._inner = original(algorithm, size, salt, info)
            note(salt, info)

        def derive(self, key: bytes) -> bytes:
            note(key)
            derived: bytes = self._inner.derive(key)
            return derived

    return Wrapped
