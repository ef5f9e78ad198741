"""What is said of reachability and published by what is known; real probes run in a lab."""

from __future__ import annotations

import asyncio
import os
import random
import time

import pytest

from ginnel.base.types import Address
from ginnel.daemon.node_core import NodeCore
from ginnel.daemon.node_shell import NodeShell
from ginnel.daemon.reachability import Reachability
from ginnel.daemon.wall_clock import WallClock
from ginnel.discv5.config import DiscoveryConfig
from ginnel.discv5.events import ReflexiveChanged
from ginnel.discv5.protocol import DiscoveryCore
from ginnel.ice.nat import Behaviour, Filtering, Mapping
from ginnel.net.udp import UdpSocket
from ginnel.storage.identity import draw_secp256k1

SEEN = Address("192.0.2.9", 41000)
GIVEN = Address("192.0.2.10", 7)


def make_shell() -> tuple[NodeShell, UdpSocket]:
    source = UdpSocket.open(Address("127.0.0.1", 0))
    now = asyncio.get_running_loop().time()
    discovery = DiscoveryCore(
        DiscoveryConfig(protocol_id=b"ginnel", client_mode=True),
        draw_secp256k1(os.urandom),
        random_bytes=os.urandom,
        rng=random.Random(1),
        now=now,
    )
    core = NodeCore(discovery, clock=WallClock.at(time.time(), now))
    return NodeShell(core, source, lambda _event: None, port=source.address.port), source


def outcome(
    behaviour: Behaviour,
    *,
    advertised: Address | None = None,
    mapped: Address | None = None,
    symmetric: bool = False,
) -> tuple[str, Address | None]:
    """Return the text, and the address in the record afterwards."""

    async def play() -> tuple[str, Address | None]:
        shell, source = make_shell()
        try:
            reach = Reachability(shell, "ginnel", advertised)
            assert reach.outside.text.startswith("unknown yet" if advertised is None else "yes")
            reach.behaviour = behaviour
            view = ReflexiveChanged(SEEN, symmetric, 2, False)
            shell.core.own.reflexive[False] = view
            reach.set_mapped("PCP", mapped)
            return reach.outside.text, shell.core.discovery.record.address()
        finally:
            shell.stop()
            source.close()

    return asyncio.run(play())


@pytest.mark.parametrize(
    ("behaviour", "text", "address"),
    [
        (Behaviour(), "unknown yet", None),
        (Behaviour(Mapping.INDEPENDENT), "unknown yet", None),
        (
            Behaviour(Mapping.INDEPENDENT, Filtering.INDEPENDENT),
            "yes (strangers get in at 192.0.2.9:41000)",
            SEEN,
        ),
        (
            Behaviour(Mapping.NONE, Filtering.ADDRESS_AND_PORT),
            "no (behind a firewall that keeps strangers out)",
            None,
        ),
        (
            Behaviour(Mapping.INDEPENDENT, Filtering.ADDRESS),
            "no (behind a NAT that keeps strangers out)",
            None,
        ),
        (
            Behaviour(Mapping.DEPENDENT, Filtering.INDEPENDENT),
            "no (behind a NAT that takes another port for each destination)",
            None,
        ),
    ],
)
def test_the_answer_and_the_record(
    behaviour: Behaviour, text: str, address: Address | None
) -> None:
    assert outcome(behaviour) == (text, address)


def test_what_was_given_and_what_is_mapped_need_no_test() -> None:
    mapped = Address(SEEN.ip, 7)
    text, address = outcome(Behaviour(), mapped=mapped)
    assert (text, address) == (f"yes (mapped by PCP: {mapped})", mapped)
    for behind_another in (GIVEN, Address("10.0.0.5", 7)):
        assert outcome(Behaviour(), mapped=behind_another) == ("unknown yet", None)
    text, _ = outcome(Behaviour(), advertised=GIVEN)
    assert text == f"yes (advertised as {GIVEN})"


def test_a_network_that_changed_is_told_anew() -> None:
    async def play() -> None:
        shell, source = make_shell()
        try:
            reach = Reachability(shell, "ginnel", None)
            reach.behaviour = Behaviour(Mapping.INDEPENDENT, Filtering.INDEPENDENT)
            shell.core.own.reflexive[False] = ReflexiveChanged(SEEN, False, 2, False)
            reach.set_mapped("", None)
            assert shell.core.discovery.record.address() == SEEN
            assert shell.core.discovery.record.get("ginnel") is not None
            moved = ReflexiveChanged(Address("192.0.2.77", 5), False, 2, False)
            shell.core.own.reflexive[False] = moved
            reach.on_event(moved)
            assert reach.outside.text == "unknown yet"
            assert shell.core.discovery.record.address() is None
            assert shell.core.discovery.record.get("ginnel") is None
        finally:
            shell.stop()
            source.close()

    asyncio.run(play())
