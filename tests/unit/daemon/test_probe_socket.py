"""A fresh socket asks a real node on loopback, and is told apart from one that came unasked."""

from __future__ import annotations

import asyncio

from ginnel.base.types import Address
from ginnel.daemon.probe_socket import ProbeSocket

WAIT_S = 10.0  # seconds, at most


def test_one_sees_the_other_and_is_a_stranger_to_it() -> None:
    async def play() -> None:
        async with ProbeSocket("ginnel") as asker, ProbeSocket("ginnel") as other:
            here = Address("127.0.0.1", other.port)
            contact = other.contact_at(here)
            assert await asker.ping(contact) == Address("127.0.0.1", asker.port)
            await other.wait_for_strangers(1, WAIT_S)
            assert other.strangers == {"127.0.0.1": Address("127.0.0.1", asker.port)}
            assert asker.strangers == {}
            assert await asker.talk(contact, b"nonsense", b"?") == b""
            await asker.wait_for_strangers(1, 0.0)
            asker.open_filter("127.0.0.1")

    asyncio.run(play())
