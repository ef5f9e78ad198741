"""The tunnel's name server on descriptors of both kinds."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import dns.message
import dns.query
import dns.rcode

from ginnel.daemon.member_state import MemberState
from ginnel.daemon.name_service import NameService
from ginnel.storage.network_files import load_bundle
from support.live_tunnel import make_network

WAIT = 10.0  # seconds, at most


def test_members_are_answered_over_udp_and_tcp(tmp_path: Path) -> None:
    paths = make_network(tmp_path, int(time.time()))
    state = MemberState(paths.state, load_bundle(paths), unix_now=time.time())
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams, socket.socket() as listener:
        datagrams.bind(("127.0.0.1", 0))
        listener.bind(datagrams.getsockname())
        listener.listen()
        port = datagrams.getsockname()[1]

        async def main() -> None:
            fds = [datagrams.fileno(), listener.fileno()]
            service = NameService(fds, state.membership, None)
            for ask in (dns.query.udp, dns.query.tcp):
                for name, rcode in (
                    ("attic.home.internal", dns.rcode.NOERROR),
                    ("example.org", dns.rcode.REFUSED),
                ):
                    query = dns.message.make_query(name, "AAAA")
                    answer = await asyncio.to_thread(ask, query, "127.0.0.1", WAIT, port)
                    assert answer.rcode() == rcode
                    assert bool(answer.answer) == (rcode == dns.rcode.NOERROR)
            service.close()

        asyncio.run(main())
    state.database.close()
