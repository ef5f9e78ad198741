"""Events as an async iterator."""

from __future__ import annotations

import asyncio

from ginnel.net.stream import EVENT_LIMIT, EventStream


def test_events_come_in_order_until_the_end() -> None:
    async def main() -> list[int]:
        stream: EventStream[int] = EventStream()
        stream.put(1)
        asyncio.get_running_loop().call_soon(stream.put, 2)
        asyncio.get_running_loop().call_soon(stream.close)
        asyncio.get_running_loop().call_soon(stream.put, 3)
        return [event async for event in stream]

    assert asyncio.run(main()) == [1, 2]


def test_a_slow_reader_loses_the_oldest() -> None:
    async def main() -> None:
        stream: EventStream[int] = EventStream()
        for number in range(EVENT_LIMIT + 3):
            stream.put(number)
        stream.close()
        assert stream.is_closed
        assert [event async for event in stream] == list(range(3, EVENT_LIMIT + 3))
        assert stream.missed == 3

    asyncio.run(main())
