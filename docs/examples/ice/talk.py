"""Two programs connect: `python talk.py 1` and `python talk.py 0`; copy one's line to the other."""

import asyncio
import sys

from ginnel.base.types import Address
from ginnel.ice import Agent
from ginnel.ice.candidate import make_host
from ginnel.ice.events import AgentConfig
from ginnel.net.udp import UdpSocket


async def main(controlling: bool, ip: str) -> None:
    """Connect, send a line, print the other's."""
    source = UdpSocket.open(Address(ip, 0))
    config = AgentConfig(allow_loopback=True)
    async with Agent(source, controlling=controlling, config=config) as agent:
        agent.add_local_candidate(make_host(source.address))
        print(agent.describe(), flush=True)
        agent.take(await asyncio.to_thread(sys.stdin.readline))
        await agent.connect()
        agent.send(f"hello from {source.address}".encode())
        print((await agent.receive()).decode(), flush=True)
    source.close()


asyncio.run(main(sys.argv[1] == "1", sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1"))
