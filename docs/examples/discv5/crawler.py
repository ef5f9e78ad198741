"""Find every node of a network: `python crawler.py ENR...`."""

import asyncio
import sys
from collections.abc import Sequence

from ginnel.discv5 import Address, Discovery, DiscoveryConfig, Enr, NoAddressError, RequestError

AT_A_TIME = 32  # nodes asked
DISTANCES = [range(256, 253, -1), range(253, 250, -1), range(250, 247, -1), range(247, 244, -1)]


async def crawl(bootnodes: Sequence[str], bind: Address) -> dict[Enr, bool]:
    """Return every node that is known to one that answers, and whether it answered itself."""
    answered: dict[Enr, bool] = {}
    asker = DiscoveryConfig(client_mode=True)  # nobody needs to find us
    async with Discovery(bind, bootstrap=bootnodes, config=asker) as node:
        known = {enr.node_id: enr for enr in node.bootstrap_records}

        async def ask(enr: Enr) -> None:
            answered[enr] = False
            for distances in DISTANCES:
                try:
                    named = await node.find_node(enr, distances)
                except (RequestError, NoAddressError):
                    return
                answered[enr] = True
                for other in named:
                    known.setdefault(other.node_id, other)

        while batch := [enr for enr in known.values() if enr not in answered][:AT_A_TIME]:
            await asyncio.gather(*(ask(enr) for enr in batch))
    return answered


if __name__ == "__main__":
    for enr, is_up in asyncio.run(crawl(sys.argv[1:], Address("0.0.0.0", 0))).items():
        print("answered" if is_up else "silent  ", enr.to_text())
