"""A protocol of one's own over TALKREQ: a server that counts words, and its client.

`python talk_protocol.py serve IP:PORT` prints an ENR; `python talk_protocol.py ask ENR TEXT`.
"""

import asyncio
import sys

from ginnel.discv5 import Address, Discovery, DiscoveryConfig, NodeId, RequestError, parse_address

PROTOCOL = b"word-count"


def count_words(node_id: NodeId, address: Address, request: bytes) -> bytes:
    """Answer with the number of words; called for each request, so it must not block."""
    return str(len(request.split())).encode()


def make_server(bind: Address) -> Discovery:
    """Return a node that others can find and ask."""
    node = Discovery(bind, advertise=bind, fields={"words": b"1"})
    node.register_talk_protocol(PROTOCOL, count_words)
    return node


async def ask(enr: str, text: str, bind: Address) -> int | None:
    """Return how many words the server counts; None if it is silent or knows no such protocol."""
    asker = DiscoveryConfig(client_mode=True)  # nobody needs to find us
    async with Discovery(bind, bootstrap=[enr], config=asker) as node:
        try:
            answer = await node.talk_request(node.bootstrap_records[0], PROTOCOL, text.encode())
        except RequestError:
            return None
    return int(answer) if answer else None


async def serve(bind: Address) -> None:
    """Serve until Ctrl-C."""
    async with make_server(bind) as node:
        print(node.record.to_text(), flush=True)
        async for event in node.events():
            print(event)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(parse_address(sys.argv[2])))
    else:
        print(asyncio.run(ask(sys.argv[2], sys.argv[3], Address("0.0.0.0", 0))))
