"""A bounded TCP transfer between two machines of a lab, and its rate.

python -m ginnel.lab.transfer receive ADDRESS     prints its port, then the bytes and seconds
python -m ginnel.lab.transfer send ADDRESS PORT BYTES
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time

from ginnel.base.errors import SystemFailure
from ginnel.lab.networks import Machine

CHUNK = 64 * 1024  # bytes of one write
WAIT_S = 20.0  # seconds without progress on either side


def transfer(sender: Machine, receiver: Machine, address: str, count: int) -> float:
    """Send `count` bytes to the receiver's address and return the rate in Mbit/s.

    Raises:
        SystemFailure: it broke off.
    """
    module = [sys.executable, "-P", "-m", "ginnel.lab.transfer"]
    process = receiver.popen([*module, "receive", address], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        port = process.stdout.readline().strip()
        sender.run([*module, "send", address, port, str(count)], timeout=WAIT_S * 2)
        received, _, seconds = process.stdout.readline().partition(" ")
    finally:
        process.terminate()
        process.communicate()
    if not seconds or int(received) != count:
        raise SystemFailure(f"{received or 'no'} of {count} bytes arrived at {address}")
    return round(count * 8 / float(seconds) / 1e6, 1)


def _receive(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as server:
        server.settimeout(WAIT_S)
        print(server.getsockname()[1], flush=True)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(WAIT_S)
            count, began = 0, time.monotonic()
            while data := connection.recv(CHUNK):
                count += len(data)
            print(count, time.monotonic() - began, flush=True)


def _send(address: str, port: int, count: int) -> None:
    with socket.create_connection((address, port), timeout=WAIT_S) as connection:
        chunk = bytes(CHUNK)
        while count > 0:
            connection.sendall(chunk[:count])
            count -= CHUNK
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)  # until the other side has taken all and closed


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        _receive(sys.argv[2])
    else:
        _send(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
