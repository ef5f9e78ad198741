"""Two asyncio agents over loopback."""

import asyncio
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from subprocess import PIPE

import pytest

from ginnel.base.errors import RemoteProtocolError, UsageError
from ginnel.base.types import Address
from ginnel.ice import Agent
from ginnel.ice.aio import IceFailed
from ginnel.ice.candidate import CandidateKind, make_host, make_remote
from ginnel.ice.events import AgentConfig, IceState
from ginnel.net.udp import UdpSocket

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "docs" / "examples" / "ice" / "talk.py"
CONFIG = AgentConfig(allow_loopback=True)


def test_two_agents_connect_and_carry_data() -> None:
    async def main() -> None:
        sockets = [UdpSocket.open(Address("127.0.0.1", 0)) for _ in range(2)]
        a, b = (
            Agent(source, controlling=index == 0, config=CONFIG)
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
        a, b = (Agent(sockets[n], controlling=n == 0, config=CONFIG) for n in (0, 1))
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
        async with Agent(source, controlling=True, config=CONFIG) as agent:
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
