"""Secrets that are searched for in captures, in every form in which they could show.

A needle has one or more values (an address packed and as text); each is searched as it is,
reversed, in hex of both cases, and in base64 of both alphabets at all three alignments. Values
under `SHORT` bytes are found by chance in megabytes of ciphertext, so they are searched outside
WireGuard's data packets only.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from support.pcap import is_wireguard_data, read_frames

SHORT = 8  # bytes
_BETWEEN = b"\x00\xff between frames \xff\x00"


@dataclass(frozen=True)
class Needle:
    """Something that nobody on the wire may learn."""

    label: str
    values: tuple[bytes, ...]


@dataclass(frozen=True)
class Haystack:
    """Bytes to be searched, all of them and those for short values."""

    name: str
    everything: bytes
    for_short: bytes

    @classmethod
    def of_capture(cls, path: Path) -> Haystack:
        """Return the frames of one link."""
        frames = list(read_frames(path))
        others = [frame for frame in frames if not is_wireguard_data(frame)]
        return cls(path.stem, _BETWEEN.join(frames), _BETWEEN.join(others))

    @classmethod
    def of_texts(cls, name: str, texts: Sequence[bytes]) -> Haystack:
        """Return any texts as one haystack."""
        joined = _BETWEEN.join(texts)
        return cls(name, joined, joined)


def address_needle(label: str, text: str) -> Needle:
    """Return a needle of an IP address: packed, as text, and as long text."""
    address = ip_address(text)
    texts = dict.fromkeys((str(address), address.exploded))
    return Needle(label, (address.packed, *(item.encode() for item in texts)))


def forms(value: bytes) -> dict[str, bytes]:
    """Return all forms in which a value could show, by name."""
    found = {
        "raw": value,
        "reversed": value[::-1],
        "hex": value.hex().encode(),
        "HEX": value.hex().upper().encode(),
    }
    for shift in range(3):
        # Characters whose six bits all come from the value, after `shift` unknown bytes.
        first = -(-8 * shift // 6)
        last = 8 * (shift + len(value)) // 6
        padded = bytes(shift) + value
        found[f"base64+{shift}"] = base64.b64encode(padded)[first:last]
        found[f"base64url+{shift}"] = base64.urlsafe_b64encode(padded)[first:last]
    return found


def search(haystacks: Iterable[Haystack], needles: Sequence[Needle]) -> dict[str, list[str]]:
    """Return where each needle that was found shows: `LABEL` -> `HAYSTACK: FORM of N bytes`."""
    found: dict[str, list[str]] = {}
    for haystack in haystacks:
        for needle in needles:
            for value in needle.values:
                data = haystack.for_short if len(value) < SHORT else haystack.everything
                for form, pattern in forms(value).items():
                    if pattern in data:
                        place = f"{haystack.name}: {form} of {len(value)} bytes"
                        found.setdefault(needle.label, []).append(place)
    return found
