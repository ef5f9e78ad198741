"""A flood of WireGuard initiations whose first MAC is right: who answers must do arithmetic.

python handshake_flood.py ADDRESS PORT PUBLIC_KEY RATE STEP_S    until its input ends, then counts

It comes in bursts, each in one train, so that the other side's queue fills; and it looks out for
initiations with a second MAC, of which it sends none: of somebody here who was shown a cookie.

Source: WireGuard whitepaper 5.4.2 and 5.4.4 (MACs), 5.4.7 (cookie reply).
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ginnel.lab import Machine

INITIATION_SIZE = 148  # bytes
MAC_AT = 116  # where the first MAC is
MAC_SIZE = 16  # bytes of either
LABEL_MAC1 = b"mac1----"
NAMES = {64: "cookies", 92: "responses"}  # answers by their size
STOCK = 600  # initiations that are sent again and again: nobody remembers what is nobody's
TRAIN = 60  # of one call; Linux takes 64
MAX_ANSWERS = 500  # read between two bursts
LOAD_S = 60.0  # seconds until who is flooded surely asks for cookies
UDP_SEGMENT = 103  # linux/udp.h
SO_ATTACH_FILTER = 26  # asm-generic/socket.h
ETH_P_ALL = 3  # linux/if_ether.h
HEADERS = 28  # bytes of IPv4 and UDP
# linux/filter.h: take packets of which four bytes of a second MAC are not zero.
FILTER = (
    (0x20, 0, 0, HEADERS + MAC_AT + MAC_SIZE),
    (0x15, 0, 1, 0),
    (0x06, 0, 0, 0),
    (0x06, 0, 0, 0xFFFF),
)


@contextmanager
def flood(
    source: Machine, address: str, key: str, port: int, rate: int, step_s: float = 0.01
) -> Iterator[dict[str, int]]:
    """Flood from a machine until the block ends; then: what was sent, came back and was seen.

    The block begins when the other side asks for cookies, or never seems to.

    Args:
        source: where from.
        address: where to.
        key: public one of who is flooded, as `wg` shows it.
        port: where to.
        rate: initiations a second.
        step_s: seconds between bursts.
    """
    argv = [sys.executable, __file__, address, str(port), key, str(rate), str(step_s)]
    counts: dict[str, int] = {}
    with source.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield counts
            process.stdin.close()
            counts.update(json.loads(process.stdout.readline()))
        finally:
            process.terminate()


def initiation(mac_key: bytes) -> bytes:
    """Return an initiation of nobody: random, but with the MAC that anyone can make."""
    body = b"\1\0\0\0" + os.urandom(MAC_AT - 4)
    mac = hashlib.blake2s(body, key=mac_key, digest_size=16).digest()
    return body + mac + bytes(MAC_SIZE)


def open_lookout() -> socket.socket:
    """Return a socket that receives what may be an initiation with a second MAC, in or out."""
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in FILTER))
    taken = struct.pack("HP", len(FILTER), ctypes.addressof(program))
    lookout = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    lookout.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, taken)
    lookout.setblocking(False)
    return lookout


def send_burst(sock: socket.socket, stock: list[bytes], count: int) -> int:
    """Send initiations in trains; return how many found room."""
    sent = 0
    while sent < count:
        at = sent % (STOCK - TRAIN)
        train = stock[at : at + min(TRAIN, count - sent)]
        try:
            sock.send(b"".join(train))
        except OSError:  # no room, or nobody listens yet
            break
        sent += len(train)
    return sent


def count_retries(lookout: socket.socket) -> int:
    """Return how many initiations with a second MAC passed since the last look."""
    found = 0
    while select.select([lookout], [], [], 0)[0]:
        payload = lookout.recv(65_536)[HEADERS:]
        found += len(payload) == INITIATION_SIZE and payload[:4] == b"\1\0\0\0"
    return found


def main() -> None:
    """Send until told to end."""
    address, port, key, rate, step = sys.argv[1:]
    mac_key = hashlib.blake2s(LABEL_MAC1 + base64.b64decode(key)).digest()
    stock = [initiation(mac_key) for _ in range(STOCK)]
    counts = dict.fromkeys(("sent", "retries", *NAMES.values()), 0)
    with open_lookout() as lookout, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((address, int(port)))
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, INITIATION_SIZE)
        sock.setblocking(False)
        began = time.monotonic()
        is_ready = False
        while not select.select([sys.stdin], [], [], float(step))[0]:
            due = int((time.monotonic() - began) * int(rate)) - counts["sent"]
            counts["sent"] += send_burst(sock, stock, min(due, int(rate)))
            counts["retries"] += count_retries(lookout)
            for _ in range(MAX_ANSWERS):
                try:
                    answer = sock.recv(2048)
                except OSError:
                    break
                name = NAMES.get(len(answer))
                if name is not None:
                    counts[name] += 1
            if not is_ready and (counts["cookies"] or time.monotonic() - began > LOAD_S):
                is_ready = True
                print("ready", flush=True)
        counts["retries"] += count_retries(lookout)  # the one that ended it may be among the last
    print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main()
