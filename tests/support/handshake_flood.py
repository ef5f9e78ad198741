"""A flood of WireGuard initiations whose first MAC is right: who answers must do arithmetic.

python handshake_flood.py ADDRESS PORT PUBLIC_KEY RATE    until its input ends; prints counts

Source: WireGuard whitepaper 5.4.2 and 5.4.4 (mac1), 5.4.7 (cookie reply).
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import select
import socket
import sys
import time

INITIATION_SIZE = 148  # bytes
MAC_AT = 116  # where the first MAC is
LABEL_MAC1 = b"mac1----"
NAMES = {64: "cookies", 92: "responses"}  # answers by their size
STEP_S = 0.01  # seconds between bursts


def initiation(mac_key: bytes) -> bytes:
    """Return an initiation of nobody: random, but with the MAC that anyone can make."""
    body = b"\1\0\0\0" + os.urandom(MAC_AT - 4)
    mac = hashlib.blake2s(body, key=mac_key, digest_size=16).digest()
    return body + mac + bytes(16)


def main() -> None:
    """Send until told to end."""
    address, port, key, rate = sys.argv[1:]
    mac_key = hashlib.blake2s(LABEL_MAC1 + base64.b64decode(key)).digest()
    counts = dict.fromkeys(("sent", *NAMES.values()), 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((address, int(port)))
        sock.setblocking(False)
        print("ready", flush=True)
        began = time.monotonic()
        while not select.select([sys.stdin], [], [], STEP_S)[0]:
            due = int((time.monotonic() - began) * int(rate)) - counts["sent"]
            for _ in range(min(due, int(rate))):
                try:
                    sock.send(initiation(mac_key))
                except OSError:  # no room, or nobody listens yet
                    break
                counts["sent"] += 1
            while select.select([sock], [], [], 0)[0]:
                try:
                    answer = sock.recv(2048)
                except OSError:
                    break
                name = NAMES.get(len(answer))
                if name is not None:
                    counts[name] += 1
    print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main()
