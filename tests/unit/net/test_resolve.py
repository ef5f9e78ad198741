"""Names to addresses: literals at once, names by the system, what is unknown to nothing."""

import asyncio

from ginnel.base.types import Address
from ginnel.net.resolve import resolve


def test_literals_and_names() -> None:
    async def main() -> None:
        assert await resolve("192.0.2.7", 9) == [Address("192.0.2.7", 9)]
        assert await resolve("2001:db8::7", 9) == [Address("2001:db8::7", 9)]
        found = await resolve("localhost", 9)
        assert Address("127.0.0.1", 9) in found
        assert len({address.is_ipv6 for address in found}) == len(found)
        assert await resolve("a..b", 9) == []

    asyncio.run(asyncio.wait_for(main(), 30.0))
