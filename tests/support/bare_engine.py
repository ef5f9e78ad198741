"""An engine with a TUN and nothing else, and transfers whose data is compared: run on lab machines.

python bare_engine.py engine NUMBER OTHER_ADDRESS VNET_HEADER MTU    prints its offloads; until its
                                                                     stdin ends; a line there is a
                                                                     new MTU, or asks for `stats`
python bare_engine.py receive ADDRESS DATAGRAMS                      prints its port, then a digest
python bare_engine.py send ADDRESS PORT DATAGRAMS                    prints the digest
python bare_engine.py receive-flows ADDRESS                          prints its port, then numbers
                                                                     of each flow as they came
python bare_engine.py send-flows ADDRESS PORT                        several flows, in trains
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import random
import select
import socket
import struct
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ginnel.base.dataplane import Endpoint, SetPeer
from ginnel.base.types import Address, Secret
from ginnel.engine.embedded import EmbeddedEngine
from ginnel.net.tun import open_tun

PORT = 51820
SEED = 7
TCP_BYTES = 3_000_000
WAIT_S = 15.0  # seconds without progress
FLOWS, ROUNDS, TRAIN, FLOW_SIZE = 4, 3, 5, 400  # what fits in any socket's buffer
UDP_SEGMENT = 103  # linux/udp.h
SIOCSIFMTU = 0x8922  # linux/sockios.h
IFREQ = struct.Struct("16si20x")
SO_NO_CHECK = 11  # asm-generic/socket.h


def private_key(number: int) -> bytes:
    return bytes([number]) * 32


def public_key(number: int) -> bytes:
    return X25519PrivateKey.from_private_bytes(private_key(number)).public_key().public_bytes_raw()


def run_engine(number: int, other_address: str, vnet_header: bool, mtu: int) -> None:
    device = open_tun("gn-bare", vnet_header=vnet_header)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("", PORT))
        if not vnet_header:  # nor trains of datagrams: Linux sends none without checksums
            udp.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
        engine = EmbeddedEngine(
            udp4_fd=udp.fileno(),
            tun_fd=device.fd,
            private_key=Secret(private_key(number)),
            control_ips=[f"100.64.0.{number}"],
            big_for=[f"100.64.0.{number}", f"fd00::{number}"],
            mtu=mtu,
        )
        other = 3 - number
        engine.apply(
            SetPeer(
                public_key(other),
                (f"100.64.0.{other}/32", f"fd00::{other}/128"),
                Endpoint(Address(other_address, PORT)),
            )
        )
        for line in (
            f"address add 100.64.0.{number}/24 dev gn-bare",
            f"address add fd00::{number}/64 dev gn-bare nodad",
            f"link set gn-bare mtu {mtu} up",
        ):
            subprocess.run(["ip", *line.split()], check=True)
        print(json.dumps(engine.offloads()), flush=True)
        while True:
            readable = select.select([sys.stdin, engine], [], [])[0]
            if sys.stdin in readable:
                line = sys.stdin.readline()
                if not line:
                    break
                if line.strip() == "stats":
                    print(json.dumps(asdict(engine.stats())), flush=True)
                    continue
                engine.set_mtu(int(line))
                fcntl.ioctl(udp, SIOCSIFMTU, IFREQ.pack(b"gn-bare", int(line)))
                print("mtu", line.strip(), flush=True)
            engine.receive(64)
            while engine.poll_event() is not None:
                pass
        engine.close()


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def receive(address: str, datagrams: int) -> None:
    """Take one TCP stream and the datagrams that its sender sends first."""
    family = family_of(address)
    digest = hashlib.sha256()
    with (
        socket.create_server((address, 0), family=family) as server,
        socket.socket(family, socket.SOCK_DGRAM) as udp,
    ):
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        udp.bind(server.getsockname()[:2])
        server.settimeout(WAIT_S)
        udp.settimeout(WAIT_S)
        print(server.getsockname()[1], flush=True)
        stream, _ = server.accept()
        with stream:
            stream.settimeout(WAIT_S)
            while data := stream.recv(65_536):
                digest.update(data)
        for _ in range(datagrams):
            digest.update(udp.recv(65_536))
    print(digest.hexdigest(), flush=True)


def send(address: str, port: int, datagrams: int) -> None:
    rng = random.Random(SEED)
    digest = hashlib.sha256()
    with socket.create_connection((address, port), timeout=WAIT_S) as stream:
        left = TCP_BYTES
        while left > 0:
            data = rng.randbytes(min(left, rng.choice((1, 700, 9000, 200_000))))
            stream.sendall(data)
            digest.update(data)
            left -= len(data)
        stream.shutdown(socket.SHUT_WR)
        stream.recv(1)
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as udp:
        udp.connect((address, port))
        size = 0
        for number in range(datagrams):
            size = rng.randrange(1200) if number % 9 == 0 else size
            data = rng.randbytes(size)
            udp.send(data)
            digest.update(data)
    print(digest.hexdigest(), flush=True)


def receive_flows(address: str) -> None:
    """Take all that `send_flows` sends, by the port that it came from."""
    flows: dict[int, list[int]] = {}
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as udp:
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        udp.bind((address, 0))
        udp.settimeout(WAIT_S)
        print(udp.getsockname()[1], flush=True)
        for _ in range(FLOWS * ROUNDS * TRAIN):
            data, source = udp.recvfrom(2048)
            flows.setdefault(source[1], []).append(int.from_bytes(data[:2], "big"))
    print(json.dumps(list(flows.values())), flush=True)


def send_flows(address: str, port: int) -> None:
    """Send numbered datagrams of several flows in turns, a train of each."""
    with ExitStack() as stack:
        flows = []
        for _ in range(FLOWS):
            udp = stack.enter_context(socket.socket(family_of(address), socket.SOCK_DGRAM))
            udp.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, FLOW_SIZE)
            udp.connect((address, port))
            flows.append(udp)
        for first in range(0, ROUNDS * TRAIN, TRAIN):
            numbers = (number.to_bytes(2, "big") for number in range(first, first + TRAIN))
            train = b"".join(number.ljust(FLOW_SIZE, b"\0") for number in numbers)
            for udp in flows:
                udp.send(train)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["engine", number, other_address, vnet_header, mtu]:
            run_engine(int(number), other_address, vnet_header == "1", int(mtu))
        case ["receive", address, datagrams]:
            receive(address, int(datagrams))
        case ["receive-flows", address]:
            receive_flows(address)
        case ["send-flows", address, port]:
            send_flows(address, int(port))
        case ["send", address, port, datagrams]:
            send(address, int(port), int(datagrams))
