"""Two asyncio connections over loopback, signalling by a direct call."""

import asyncio

import pytest

from ginnel.base.dataplane import EngineCommand, HandshakeCompleted, SetPeer, StartHandshake
from ginnel.base.errors import UsageError
from ginnel.base.types import Address
from ginnel.ice.candidate import make_host
from ginnel.ice.events import AgentConfig
from ginnel.net.udp import UdpSocket
from ginnel.peer import Conn
from ginnel.peer.aio import Handlers
from ginnel.peer.events import ConnConfig
from ginnel.peer.status import ConnStatus

KEYS = (b"\x02" * 32, b"\x01" * 32)


class Home:
    """One end: its socket and connection; a handshake completes as soon as both know the path."""

    def __init__(self, index: int) -> None:
        self.source = UdpSocket.open(Address("127.0.0.1", 0))
        self.commands: list[EngineCommand] = []
        self.connected = asyncio.Event()
        self.disconnected: list[tuple[str, ...]] = []
        self.other: Home | None = None
        config = ConnConfig(
            KEYS[1 - index],
            KEYS[index],
            ("100.64.7.1/32",),
            ice=AgentConfig(allow_loopback=True),
        )
        handlers = Handlers(
            signal_offer=lambda offer: self.tell("on_remote_offer", offer),
            signal_answer=lambda answer: self.tell("on_remote_answer", answer),
            signal_candidates=lambda *_: None,
            apply=self.apply,
            on_connected=lambda key, ip: self.connected.set(),
            on_disconnected=lambda key, ips: self.disconnected.append(ips),
        )
        self.conn = Conn(config, self.source, handlers)

    def tell(self, name: str, value: object) -> None:
        assert self.other is not None
        asyncio.get_running_loop().call_soon(getattr(self.other.conn, name), value)

    def apply(self, command: EngineCommand) -> None:
        self.commands.append(command)
        if isinstance(command, StartHandshake) and self.other is not None:
            for here, there in ((self, self.other), (self.other, self)):
                asyncio.get_running_loop().call_soon(here.handshake_done, there)

    def handshake_done(self, other: "Home") -> None:
        key = next(c.public_key for c in self.commands if isinstance(c, SetPeer))
        self.conn.on_engine_event(HandshakeCompleted(key, other.source.address))


def test_two_connections_open_connect_and_close() -> None:
    async def main() -> None:
        a, b = Home(0), Home(1)
        a.other, b.other = b, a
        async with asyncio.TaskGroup() as group:
            for home in (a, b):
                group.create_task(home.conn.open())
                home.conn.set_local_candidates([make_host(home.source.address)])
            await asyncio.gather(a.connected.wait(), b.connected.wait())
            assert a.conn.state.status is ConnStatus.CONNECTED
            assert a.conn.state.remote_address == b.source.address
            a.conn.close()
            b.conn.close()
        assert a.disconnected == [("100.64.7.1/32",)]
        with pytest.raises(UsageError):
            await a.conn.open()
        for home in (a, b):
            home.source.close()

    asyncio.run(asyncio.wait_for(main(), 10.0))
