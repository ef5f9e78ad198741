"""Two programs connect: `python talk.py 1` and `python talk.py 0`; copy one's line to the other."""

import asyncio
import sys

from ginnel.ice import Agent, IceSettings


async def main(controlling: bool, *urls: str) -> None:
    """Connect, send a line, print the other's; `urls`: STUN and TURN servers."""
    settings = IceSettings(urls=urls, allow_loopback=True)
    async with Agent(controlling=controlling, settings=settings) as agent:
        await agent.gather()
        print(agent.describe(), flush=True)
        agent.take(await asyncio.to_thread(sys.stdin.readline))
        local, remote = await agent.connect()
        agent.send(f"hello from {local} to {remote}".encode())
        print((await agent.receive()).decode(), flush=True)


asyncio.run(main(sys.argv[1] == "1", *sys.argv[2:]))
