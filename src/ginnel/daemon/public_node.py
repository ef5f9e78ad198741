"""`ginnel node`: a node of the DHT that stores for others, without keys of any network.

It holds one key of its own (discv5's), kept in its state folder, so that its record stays the same
over restarts. It gives up every right before it reads a byte: as root always, as an ordinary user
where the kernel has Landlock.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ginnel.base.errors import SystemFailure, UsageError
from ginnel.base.types import Address, Secret
from ginnel.daemon import privileges
from ginnel.daemon.node_core import NodeCore
from ginnel.daemon.node_shell import NodeShell, read_hints, record_fields
from ginnel.daemon.resources import bind_udp
from ginnel.daemon.wall_clock import WallClock
from ginnel.discv5.config import DiscoveryConfig
from ginnel.discv5.enr import Enr
from ginnel.discv5.keys import public_key_of
from ginnel.discv5.protocol import Contact, DiscoveryCore
from ginnel.mesh.rendezvous import PROTOCOL, Tokens
from ginnel.mesh.storer import Storer
from ginnel.net.dual import DualSocket
from ginnel.net.udp import UdpSocket
from ginnel.storage.files import make_folder, read_private, write_atomic
from ginnel.storage.identity import draw_secp256k1

KEY_FILE = "node.key"


@dataclass(frozen=True, slots=True)
class PublicNodeConfig:
    """What a public node needs; `advertise` (at most one of each IP version) is published."""

    state: Path
    port: int
    advertise: tuple[Address, ...]
    nodes: tuple[str, ...] = ()
    protocol_id: str = "ginnel"
    serves_rendezvous: bool = True


def load_or_make_key(folder: Path, uid: int | None) -> Secret:
    """Return the node's key, made at the first start.

    Raises:
        SystemFailure: the folder or the file can't be used; the text names the remedy.
    """
    make_folder(folder, uid=uid)
    path = folder / KEY_FILE
    if not path.exists():
        key = draw_secp256k1(os.urandom)
        write_atomic(path, key.reveal().hex().encode() + b"\n", replace=False, uid=uid)
        return key
    owners = None if uid is None else (0, uid)
    try:
        key = Secret(bytes.fromhex(read_private(path, owners=owners).decode().strip()))
        public_key_of(key.reveal())
    except (UsageError, ValueError):
        raise SystemFailure(f"{path} is damaged: remove it, the node then gets a new key") from None
    return key


def run_public_node(config: PublicNodeConfig, on_ready: Callable[[Enr], None]) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        SystemFailure: the port is in use, the state folder can't be used, or no separation.
    """
    uid = privileges.NODE_UID if privileges.can_become(privileges.NODE_UID) else None
    key = load_or_make_key(config.state, uid)
    hints = read_hints(config.nodes)  # names are resolved while that is allowed
    ipv4 = bind_udp(socket.AF_INET, config.port)
    try:
        ipv6 = bind_udp(socket.AF_INET6, config.port)
    except (OSError, SystemFailure):
        ipv6 = None  # no IPv6 here
    if os.geteuid() == 0 or privileges.landlock_abi():
        privileges.drop(privileges.Confinement(uid, uid, [config.state], dies_with_parent=False))
    source = DualSocket(UdpSocket(ipv4), None if ipv6 is None else UdpSocket(ipv6))
    asyncio.run(_run(config, key, hints, source, on_ready))


async def _run(
    config: PublicNodeConfig,
    key: Secret,
    hints: Sequence[Enr | Contact],
    source: DualSocket,
    on_ready: Callable[[Enr], None],
) -> None:
    loop = asyncio.get_running_loop()
    now = loop.time()
    discovery = DiscoveryCore(
        DiscoveryConfig(
            protocol_id=config.protocol_id.encode(),
            talk_protocols=(PROTOCOL,) if config.serves_rendezvous else (),
        ),
        key,
        fields=record_fields(serves=config.serves_rendezvous),
        endpoint=config.advertise[0],
        endpoint6=config.advertise[1] if config.advertise[1:] else None,
        bootstrap=[hint for hint in hints if isinstance(hint, Enr)],
        random_bytes=os.urandom,
        rng=random.Random(os.urandom(16)),
        now=now,
        enr_seq=int(time.time()),
    )
    storer = Storer(
        discovery.node_id,
        discovery.closest,
        tokens=Tokens(),
        now=now,
        enabled=config.serves_rendezvous,
    )
    core = NodeCore(discovery, clock=WallClock.at(time.time(), now), storer=storer)
    shell = NodeShell(core, source, lambda _event: None, port=config.port)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, shell.stop)
    shell.start(hints)
    on_ready(discovery.record)
    try:
        await shell.run()
    finally:
        source.close()
