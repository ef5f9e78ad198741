"""Two asyncio agents over loopback."""

import asyncio
import socket
import subprocess
import sys
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from subprocess import PIPE

import pytest

from ginnel.base.errors import RemoteProtocolError, UsageError
from ginnel.base.types import Address
from ginnel.ice import Agent
from ginnel.ice.aio import IceFailed, Port
from ginnel.ice.candidate import CandidateKind, make_host, make_remote
from ginnel.ice.events import IceState
from ginnel.ice.settings import IceSettings, NetworkType
from ginnel.net.dual import DualSocket
from ginnel.net.udp import UdpSocket
from support.stun_responder import serving, silent

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "docs" / "examples" / "ice" / "talk.py"
UDP4 = (NetworkType.UDP4,)
CONFIG = IceSettings(allow_loopback=True)


def test_two_agents_connect_and_carry_data() -> None:
    async def main() -> None:
        sockets = [UdpSocket.open(Address("127.0.0.1", 0)) for _ in range(2)]
        a, b = (
            Agent(source, controlling=index == 0, settings=CONFIG)
            for index, source in enumerate(sockets)
        )
        async with a, b:
            for agent, other, mine, theirs in ((a, b, 0, 1), (b, a, 1, 0)):
                agent.add_local_candidate(make_host(sockets[mine].address))
                agent.set_remote_credentials(other.ufrag, other.pwd)
                agent.add_remote_candidate(
                    make_remote(CandidateKind.HOST, sockets[theirs].address, 9, "f")
                )
                agent.end_of_candidates()
            with pytest.raises(UsageError):
                a.send(b"too early")
            pairs = await asyncio.gather(a.connect(), b.connect())
            assert pairs[0][1].address == sockets[1].address
            a.send(b"hello")
            assert await b.receive() == b"hello"
            b.send(b"hello yourself")
            assert await a.receive() == b"hello yourself"
            assert a.state is IceState.COMPLETED
        assert b.state is IceState.CLOSED
        for source in sockets:
            source.close()

    asyncio.run(asyncio.wait_for(main(), 30.0))


def test_the_guide_s_two_programs_connect_and_it_shows_them() -> None:
    text = EXAMPLE.read_text()
    assert text in (ROOT / "docs" / "ice.md").read_text()
    assert len([line for line in text.splitlines() if line]) <= 25
    argv = [sys.executable, str(EXAMPLE)]
    with ExitStack() as stack:
        a, b = (
            stack.enter_context(subprocess.Popen([*argv, role], stdin=PIPE, stdout=PIPE, text=True))
            for role in "10"
        )
        assert a.stdout is not None
        assert b.stdout is not None
        a_said, b_said = a.stdout.readline(), b.stdout.readline()
        for program, line in ((a, b_said), (b, a_said)):
            assert program.stdin is not None
            program.stdin.write(line)
            program.stdin.flush()
        assert "hello from" in a.stdout.readline()
        assert "hello from" in b.stdout.readline()


def test_an_agent_restarts_and_asks_whether_its_path_answers() -> None:
    async def main() -> None:
        sockets = [UdpSocket.open(Address("127.0.0.1", 0)) for _ in range(2)]
        a, b = (Agent(sockets[n], controlling=n == 0, settings=CONFIG) for n in (0, 1))
        async with a, b:
            a.add_local_candidate(make_host(sockets[0].address))
            b.add_local_candidate(make_host(sockets[1].address))
            assert not a.check_now()
            for is_again in (False, True):
                if is_again:
                    assert a.check_now()
                    a.restart()
                    b.restart()
                a.take(b.describe())
                b.take(a.describe())
                await asyncio.gather(a.connect(), b.connect())
            a.send(b"hello")
            assert await b.receive() == b"hello"
            with pytest.raises(RemoteProtocolError):
                a.take("{}")
        for source in sockets:
            source.close()

    asyncio.run(asyncio.wait_for(main(), 30.0))


def test_closing_ends_the_wait() -> None:
    async def main() -> None:
        source = UdpSocket.open(Address("127.0.0.1", 0))
        async with Agent(source, controlling=True, settings=CONFIG) as agent:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(expect_failure(agent))
                asyncio.get_running_loop().call_soon(agent.close)
            assert task.result() == "closed"
        source.close()

    asyncio.run(asyncio.wait_for(main(), 30.0))


async def expect_failure(agent: Agent) -> str:
    with pytest.raises(IceFailed) as caught:
        await agent.connect()
    return str(caught.value)


def test_an_agent_gathers_by_itself_and_a_dead_server_costs_a_moment() -> None:
    async def main() -> None:
        told = Address("203.0.113.5", 7000)
        with serving(told) as server, silent() as dead:
            urls = (f"stun:{dead}", f"stun:{server}")
            settings = IceSettings(urls=urls, allow_loopback=True, network_types=UDP4)
            async with Agent(controlling=True, settings=settings) as agent:
                found = await agent.gather(wait_s=30.0)  # the dead one fails after 39.5 s
                assert told in [c.address for c in found if c.kind is CandidateKind.SRFLX]
                first = await agent.next_candidate()
                assert first.kind is CandidateKind.HOST
                assert agent.candidates == found
                assert agent.port.failures == {}

    asyncio.run(asyncio.wait_for(main(), 20.0))


def test_two_agents_share_a_socket_with_another_protocol() -> None:
    async def main() -> None:
        shared = UdpSocket.open(Address("127.0.0.1", 0))
        foreign: asyncio.Queue[tuple[bytes, Address]] = asyncio.Queue()
        port = Port(shared, CONFIG, on_foreign=lambda data, at: foreign.put_nowait((data, at)))
        async with port, AsyncExitStack() as stack:
            texts = []
            for controlling in (True, False):
                here = await stack.enter_async_context(Agent(port, controlling=controlling))
                there = await stack.enter_async_context(
                    Agent(controlling=not controlling, settings=CONFIG)
                )
                for agent in (here, there):
                    await agent.gather()
                here.take(there.describe())
                there.take(here.describe())
                await asyncio.gather(here.connect(), there.connect())
                there.send(b"hello %d" % controlling)
                texts.append(await here.receive())
                here.send(b"and you")
                assert await there.receive() == b"and you"
            assert texts == [b"hello 1", b"hello 0"]
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                stranger.sendto(b"something else", tuple(shared.address))
                assert (await foreign.get())[0] == b"something else"
        shared.close()

    asyncio.run(asyncio.wait_for(main(), 30.0))


def test_forced_relays_without_a_relay_find_no_path() -> None:
    async def main() -> None:
        environ = {"GINNEL_FORCE_RELAY": "1"}
        async with Agent(controlling=True, settings=CONFIG, environ=environ) as agent:
            assert await agent.gather() == ()
        with pytest.raises(UsageError, match="ice_keepalive"):
            Agent(controlling=True, environ={"GINNEL_ICE_KEEPALIVE": "often"})

    asyncio.run(asyncio.wait_for(main(), 30.0))


def test_addresses_come_from_the_wanted_interfaces_alone() -> None:
    async def main() -> None:
        names: list[str] = []

        def none(name: str) -> bool:
            names.append(name)
            return False

        settings = IceSettings(allow_loopback=True, interface_filter=none)
        async with Agent(controlling=True, settings=settings) as agent:
            assert await agent.gather() == ()
        assert "lo" in names

    asyncio.run(asyncio.wait_for(main(), 30.0))


async def gather_and_raise() -> None:
    async with Agent(controlling=True, settings=CONFIG) as agent:
        await agent.gather()
        raise KeyError("mine")


def test_the_user_s_own_error_comes_out_as_it_is() -> None:
    async def main() -> None:
        with pytest.raises(KeyError, match="mine"):
            await gather_and_raise()
        async with Agent(controlling=True, settings=CONFIG) as agent:
            waiting = asyncio.ensure_future(agent.receive())
            asyncio.get_running_loop().call_soon(agent.close)
            with pytest.raises(IceFailed, match="closed"):
                await waiting

    asyncio.run(asyncio.wait_for(main(), 30.0))


def test_wrong_use_is_named() -> None:
    async def main() -> None:
        agent = Agent(controlling=True, settings=CONFIG)
        with pytest.raises(UsageError, match="async with"):
            await agent.gather()
        with pytest.raises(UsageError, match="async with"):
            await agent.receive()
        async with agent:
            pass
        source = DualSocket(UdpSocket.open(Address("127.0.0.1", 0)), None)
        async with Agent(source, controlling=True, settings=CONFIG) as blind:
            with pytest.raises(UsageError, match="where the socket is bound"):
                await blind.gather()
        source.close()
        with pytest.raises(UsageError, match="ca_file"):
            Agent(
                controlling=True,
                settings=IceSettings(urls=("turns:h me x",), ca_file="/no/such/file"),
            )

    asyncio.run(asyncio.wait_for(main(), 30.0))
