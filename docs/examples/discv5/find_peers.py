"""Find nodes whose record has a field: `python find_peers.py KEY HEX-VALUE ENR...`."""

import asyncio
import sys
from collections.abc import Sequence

from ginnel.discv5 import Address, Discovery, DiscoveryConfig, Enr

ROUNDS = 20  # random queries until we give up


async def find_peers(
    key: str, value: bytes, bootnodes: Sequence[str], wanted: int, bind: Address
) -> list[Enr]:
    """Return up to `wanted` nodes with the field, each of which answers."""
    found: dict[bytes, Enr] = {}
    asker = DiscoveryConfig(client_mode=True)  # nobody needs to find us
    async with Discovery(bind, bootstrap=bootnodes, config=asker) as node:
        for _ in range(ROUNDS):
            for enr in await node.query_random((key, value)):
                newest = await node.resolve(enr.node_id)  # asks the node itself
                if newest is not None and newest.contains(key, value):
                    found[newest.node_id] = newest
                if len(found) >= wanted:
                    return list(found.values())
    return list(found.values())


if __name__ == "__main__":
    anywhere = Address("0.0.0.0", 0)
    peers = find_peers(sys.argv[1], bytes.fromhex(sys.argv[2]), sys.argv[3:], 16, anywhere)
    for peer in asyncio.run(peers):
        print(peer.ip, peer.tcp, peer.to_text())
