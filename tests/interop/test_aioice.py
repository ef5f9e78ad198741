"""Our agent and aioice's connection connect over loopback, in either role, and carry data."""

import asyncio

import aioice
import pytest

from ginnel.base.types import Address
from ginnel.ice.aio import Agent
from ginnel.ice.candidate import CandidateKind, make_host, make_remote
from ginnel.ice.settings import IceSettings
from ginnel.net.udp import UdpSocket

pytestmark = pytest.mark.interop


def to_ours(candidate: aioice.Candidate):  # noqa: ANN201  # a Candidate
    kind = CandidateKind[candidate.type.upper()]
    address = Address(candidate.host, candidate.port)
    return make_remote(kind, address, candidate.priority, candidate.foundation)


@pytest.mark.parametrize("controlling", [True, False])
def test_we_connect_with_aioice(controlling: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def only_loopback(use_ipv4: bool, use_ipv6: bool) -> list[str]:
        return ["127.0.0.1"]

    monkeypatch.setattr(aioice.ice, "get_host_addresses", only_loopback)

    async def main() -> None:
        theirs = aioice.Connection(ice_controlling=not controlling, use_ipv6=False)
        await theirs.gather_candidates()
        source = UdpSocket.open(Address("127.0.0.1", 0))
        settings = IceSettings(allow_loopback=True)
        async with Agent(source, controlling=controlling, settings=settings) as ours:
            host = make_host(source.address)
            ours.add_local_candidate(host)
            theirs.remote_username, theirs.remote_password = ours.ufrag, ours.pwd
            await theirs.add_remote_candidate(
                aioice.Candidate(
                    host.foundation, 1, "udp", host.priority, *source.address, type="host"
                )
            )
            await theirs.add_remote_candidate(None)
            ours.set_remote_credentials(theirs.local_username, theirs.local_password)
            for candidate in theirs.local_candidates:
                ours.add_remote_candidate(to_ours(candidate))
            ours.end_of_candidates()
            pair, _ = await asyncio.gather(ours.connect(), theirs.connect())
            assert pair[1].kind is CandidateKind.HOST
            ours.send(b"from us")
            assert await theirs.recv() == b"from us"
            await theirs.send(b"from aioice")
            assert await ours.receive() == b"from aioice"
        await theirs.close()
        source.close()

    asyncio.run(asyncio.wait_for(main(), 15.0))
