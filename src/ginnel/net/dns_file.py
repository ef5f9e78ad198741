"""/etc/resolv.conf with marked blocks: ours go in, and out again byte for byte.

Our server stands first and forwards what is not the network's; the earlier servers stay behind it,
so that names still resolve if we are gone. A block that a killed manager left is removed by the
next `apply` or `take_back`. The file is replaced whole; where it is a mount of its own, rewritten.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ginnel.base.errors import SystemFailure
from ginnel.net.dns import DnsPlan

MAX_SIZE = 64 * 1024  # bytes; a resolver reads far less
MAX_SERVERS = 3  # that glibc looks at (resolv.conf(5), MAXNS)
_MADE = " (file made by ginnel)"
_JOINED = " (after a line without end)"


class ResolvConfFile:
    """Our blocks in a resolv.conf; a device has at most two."""

    name = "resolv.conf"
    needs_forwarder = True

    def __init__(self, device: str, path: Path) -> None:
        self._device = device
        self._path = path

    def apply(self, plan: DnsPlan) -> None:
        """Put our server in front, and our search domains before those that are there."""
        text, made = self._read()
        note = _MADE if text is None or made else ""
        text = text or ""
        head = self._block([f"nameserver {plan.servers[0]}"] if plan.servers else [], note)
        tail = ""
        if plan.search:
            names = [*plan.search, *_search_of(text)]
            is_cut = bool(text) and not text.endswith("\n")
            search = f"search {' '.join(dict.fromkeys(names))}"
            tail = ("\n" if is_cut else "") + self._block([search], _JOINED if is_cut else "")
        self._write(head + text + tail)

    def take_back(self) -> None:
        """Take our blocks out; remove the file if it was made for them."""
        try:
            before = self._path.read_bytes() if self._path.exists() else b""
        except OSError as error:
            raise SystemFailure(f"dns_settings: {self._path}: {error.strerror}") from None
        if self._mark("begin").encode() not in before:
            return
        text, made = self._read()
        if made and not text:
            self._path.unlink(missing_ok=True)
        else:
            self._write(text or "")

    def is_in_place(self) -> bool:
        """Say whether our server stands in the file."""
        try:
            return self._mark("begin").encode() in self._path.read_bytes()[:MAX_SIZE]
        except OSError:
            return False

    def _mark(self, which: str) -> str:
        return f"# ginnel {self._device} {which}"

    def _block(self, lines: Sequence[str], note: str) -> str:
        text = "".join(f"{line}\n" for line in lines)
        return f"{self._mark('begin')}{note}\n{text}{self._mark('end')}\n" if lines else ""

    def _read(self) -> tuple[str | None, bool]:
        """Return the text without our blocks (None: no file), and whether we made the file."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None, False
        except OSError as error:
            raise SystemFailure(f"dns_settings: {self._path}: {error.strerror}") from None
        if len(data) > MAX_SIZE:
            raise SystemFailure(f"dns_settings: {self._path} is larger than {MAX_SIZE} bytes")
        text = data.decode("utf-8", "surrogateescape")
        begin, end = re.escape(self._mark("begin")), re.escape(self._mark("end"))
        made = f"{self._mark('begin')}{_MADE}\n" in text
        text = re.sub(rf"\n{begin}{re.escape(_JOINED)}\n(?:.*\n)*?{end}\n", "", text)
        return re.sub(rf"{begin}[^\n]*\n(?:.*\n)*?{end}\n", "", text), made

    def _write(self, text: str) -> None:
        path = Path(os.path.realpath(self._path))
        data = text.encode("utf-8", "surrogateescape")
        try:
            _replace(path, data)
        except OSError as error:
            raise SystemFailure(f"dns_settings: {path}: {error.strerror}") from None


def other_servers(text: str, own: Sequence[str]) -> tuple[str, ...]:
    """Return a resolv.conf's servers that are not ours."""
    found = [
        words[1]
        for line in text.splitlines()
        if (words := line.split())[:1] == ["nameserver"] and len(words) > 1
    ]
    return tuple(server for server in dict.fromkeys(found) if server not in own)[:MAX_SERVERS]


def _search_of(text: str) -> list[str]:
    names: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if words[:1] in (["search"], ["domain"]):
            names = words[1:]  # the last one counts
    return names


def _replace(path: Path, data: bytes) -> None:
    mode = 0o644
    with contextlib.suppress(FileNotFoundError):
        mode = path.stat().st_mode & 0o777
    descriptor, name = tempfile.mkstemp(prefix=".ginnel-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            os.fchmod(stream.fileno(), mode)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(name, path)
    except OSError as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        if error.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        path.write_bytes(data)  # a mount of its own, as in a container
