"""`Conn` over minutes: on loopback sockets, and a loop whose clock jumps."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from ginnel.base.dataplane import SetPeer
from ginnel.base.errors import SystemFailure, UsageError
from ginnel.base.types import Address
from ginnel.ice.candidate import make_host
from ginnel.ice.events import AgentConfig
from ginnel.net.udp import UdpSocket
from ginnel.peer import Conn
from ginnel.peer.aio import Handlers
from ginnel.peer.errors import ConnectionClosed, ConnectionTimeout
from ginnel.peer.events import ConnConfig
from ginnel.peer.signal import OfferAnswer
from ginnel.peer.status import PeerState, Stage
from support.jumping_loop import run_jumping
from unit.peer.test_aio import KEYS, Home


class Lonely:
    """A connection to a peer that says nothing; `ips` is what this machine has."""

    def __init__(self, *ips: str, timeout: float | None = None) -> None:
        self.source = UdpSocket.open(Address("127.0.0.1", 0))
        self.ips: Sequence[str] = ips
        self.is_mute = False  # the kernel does not tell
        self.has_signal = True
        self.offers: list[OfferAnswer] = []
        self.offered = asyncio.Event()
        config = ConnConfig(
            KEYS[1],
            KEYS[0],
            local_wg_port=self.source.address.port,
            ice=AgentConfig(allow_loopback=True),
            timeout=timeout,
        )
        handlers = Handlers(self.on_offer, lambda _: None, lambda *_: None, lambda _: None)
        self.conn = Conn(config, self.source, handlers, discover=self.discover)

    def discover(self, _config: ConnConfig) -> list[str]:
        if self.is_mute:
            raise SystemFailure("no netlink")
        return list(self.ips)

    def on_offer(self, offer: OfferAnswer) -> None:
        if not self.has_signal:
            raise SystemFailure("no signal server")
        self.offers.append(offer)
        self.offered.set()

    async def next_offers(self, count: int) -> list[OfferAnswer]:
        """Return so many offers that come from now on."""
        self.offers.clear()
        while len(self.offers) < count:
            self.offered.clear()
            await self.offered.wait()
        return self.offers


def run(scene: Callable[[Lonely], Coroutine[Any, Any, None]], *ips: str) -> None:
    """Open it, play, and close it."""

    async def main() -> None:
        home = Lonely(*ips)
        opened = asyncio.ensure_future(home.conn.open())
        try:
            async with asyncio.timeout(600.0):
                await scene(home)
        finally:
            home.conn.close()
            with pytest.raises(ConnectionClosed):
                await opened
            home.source.close()

    run_jumping(main())


def test_a_refusal_is_the_reason_until_the_peer_is_taken() -> None:
    """Without a timeout; the cause of an end is the last refusal since it was connected."""

    async def main() -> None:
        a, b = Home(0), Home(1)
        a.other, b.other = b, a
        for home in (a, b):
            home.conn.set_local_candidates([make_host(home.source.address)])
        a.refused = SetPeer
        waiting = asyncio.Event()
        a.conn.set_handlers(on_state=lambda s: s.stage is Stage.WAITING and waiting.set())
        tasks = [asyncio.ensure_future(home.conn.open()) for home in (a, b)]
        await waiting.wait()
        assert a.conn.state.reason == "data plane: no memory"
        a.refused = None
        await a.connected.wait()
        for home in (a, b):
            home.conn.close()
            home.source.close()
        for task in tasks:
            with pytest.raises(ConnectionClosed) as caught:
                await task
            assert caught.value.__cause__ is None

    run_jumping(main())


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_signal_server_that_fails_is_the_reason_and_the_cause(comes_back: bool) -> None:
    async def main() -> None:
        home, reasons = Lonely("127.0.0.1", timeout=30.0), []
        home.has_signal = False

        def on_state(state: PeerState) -> None:
            reasons.append(state.reason)
            home.has_signal = comes_back

        home.conn.set_handlers(on_state=on_state)
        with pytest.raises(ConnectionTimeout) as caught:
            await home.conn.open()
        home.source.close()
        assert reasons[0] == "signalling: no signal server"
        assert ("" in reasons[1:]) is comes_back
        cause = caught.value.__cause__
        assert cause is None if comes_back else str(cause) == "no signal server"

    run_jumping(main())


def ips_of(offer: OfferAnswer) -> list[str]:
    return [candidate.address.ip for candidate in offer.candidates]


def test_each_attempt_has_the_addresses_of_its_time() -> None:
    async def scene(home: Lonely) -> None:
        (first,) = await home.next_offers(1)
        home.ips = ["127.0.0.2"]
        later = [o for o in await home.next_offers(8) if o.session != first.session]
        assert ips_of(first) == ["127.0.0.1"]
        assert {ip for offer in later for ip in ips_of(offer)} == {"127.0.0.2"}

    run(scene, "127.0.0.1")


def test_a_machine_that_had_no_address_offers_once_it_has_one() -> None:
    async def scene(home: Lonely) -> None:
        await asyncio.sleep(0)
        assert home.offers == []
        home.ips = ["127.0.0.1"]
        (offer,) = await home.next_offers(1)
        assert ips_of(offer) == ["127.0.0.1"]

    run(scene)


def test_a_kernel_that_tells_no_addresses_any_more_leaves_those_that_are_known() -> None:
    async def scene(home: Lonely) -> None:
        await home.next_offers(1)
        home.is_mute = True
        assert {ip for o in await home.next_offers(8) for ip in ips_of(o)} == {"127.0.0.1"}

    run(scene, "127.0.0.1")


def test_a_kernel_that_tells_none_at_open_is_told_and_it_opens_later() -> None:
    async def main() -> None:
        home = Lonely("127.0.0.1")
        home.is_mute = True
        with pytest.raises(SystemFailure, match="no netlink"):
            await home.conn.open()
        home.is_mute = False
        opened = asyncio.ensure_future(home.conn.open())
        await home.next_offers(1)
        home.conn.close()
        with pytest.raises(ConnectionClosed):
            await opened
        home.source.close()

    run_jumping(main())


def test_servers_that_gave_nothing_are_named_also_after_the_end() -> None:
    kept: list[Conn] = []

    async def scene(home: Lonely) -> None:
        home.conn.update_stun_turn(["stun:127.0.0.1:9"])
        await home.next_offers(8)
        kept.append(home.conn)

    run(scene, "127.0.0.1")
    assert list(kept[0].failures) == ["127.0.0.1:9"]


def test_a_second_open_is_refused_while_it_is_open() -> None:
    async def scene(home: Lonely) -> None:
        await home.next_offers(1)
        with pytest.raises(UsageError, match="is open already"):
            await home.conn.open()
        await home.next_offers(1)

    run(scene, "127.0.0.1")


def test_a_server_over_tls_that_is_told_later_ends_nothing() -> None:
    async def scene(home: Lonely) -> None:
        greeted: asyncio.Queue[bytes] = asyncio.Queue()

        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            greeted.put_nowait(await reader.read(1))
            writer.close()

        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            home.conn.update_stun_turn([f"turns:127.0.0.1:{port} user pass"])
            assert await greeted.get() == b"\x16"  # a handshake of TLS
            await home.next_offers(1)

    run(scene, "127.0.0.1")
