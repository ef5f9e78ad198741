"""Both facades over a real socket pair and over pipes."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ginnel.base.errors import SystemFailure, UsageError
from ginnel.base.types import Secret
from ginnel.codervpn import Manager, Tunnel, tunnel_role
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.aio import MAX_HANDLER_TASKS, MAX_WAITING_SETTINGS
from ginnel.codervpn.header import Dialect, Version
from ginnel.codervpn.messages import LogLevel, LogRecord, Start, make_agent, make_settings

START = Start(-1, "u", Secret(b"t"))


class TunnelProgram:
    def __init__(self) -> None:
        self.seen: list[str] = []
        self.start_error: str | None = None
        self.stop_error: str | None = None
        self.may_start = asyncio.Event()
        self.may_start.set()

    async def on_start(self, start: Start) -> str | None:
        self.seen.append(f"start {start.token.reveal().decode()}")
        try:
            await self.may_start.wait()
        except asyncio.CancelledError:
            self.seen.append("start ended")
            raise
        return self.start_error

    async def on_stop(self) -> str | None:
        self.seen.append("stop")
        return self.stop_error

    async def on_wake(self) -> None:
        self.seen.append("wake")


class ManagerProgram:
    def __init__(self) -> None:
        self.logs: list[LogRecord] = []
        self.mtus: list[int] = []
        self.may_apply = asyncio.Event()
        self.may_apply.set()
        self.changed = asyncio.Event()
        self.logged = asyncio.Event()

    async def on_settings(self, settings: pb.NetworkSettingsRequest) -> str | None:
        self.mtus.append(settings.mtu)
        await self.may_apply.wait()
        return None if settings.mtu == 1280 else f"mtu: {settings.mtu}"

    def on_peers(self) -> None:
        self.changed.set()

    def on_log(self, record: LogRecord) -> None:
        self.logs.append(record)
        self.logged.set()


Body = Callable[[Manager, Tunnel, ManagerProgram, TunnelProgram], Awaitable[None]]


def run(
    body: Body, *, pipes: bool = False, dialect: Dialect = Dialect.SEED, limit_s: float = 20.0
) -> list[str | None]:
    """Run both ends and the body; return what both `run` calls returned."""

    async def main() -> list[str | None]:
        if pipes:
            (read_1, write_1), (read_2, write_2) = os.pipe(), os.pipe()
            fds = ((read_1, write_2), (read_2, write_1))
        else:
            one, two = (end.detach() for end in socket.socketpair())
            fds = ((one, one), (two, two))
        above, below = ManagerProgram(), TunnelProgram()
        tunnel = Tunnel(*fds[1], below, versions=[Version(1, 3)])
        manager = Manager(*fds[0], above, dialect=dialect)
        async with asyncio.timeout(limit_s), asyncio.TaskGroup() as tasks:
            ends = [tasks.create_task(manager.run()), tasks.create_task(tunnel.run())]
            try:
                await body(manager, tunnel, above, below)
            finally:
                manager.close()
        assert manager.is_closed
        assert tunnel.is_closed
        return [end.result() for end in ends]

    return asyncio.run(main())


async def begin_start(manager: Manager, below: TunnelProgram) -> asyncio.Task[None]:
    """Return a Start that has reached the program and waits there."""
    below.may_start.clear()
    starting = asyncio.create_task(manager.start(START))
    while not below.seen:
        await manager.get_peers()  # overtakes it
    return starting


@pytest.mark.parametrize("pipes", [False, True])
@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_whole_conversation(pipes: bool, dialect: Dialect) -> None:
    async def body(
        manager: Manager, tunnel: Tunnel, above: ManagerProgram, below: TunnelProgram
    ) -> None:
        await manager.start(START)
        assert manager.version == tunnel.version == Version(1, 3)
        assert tunnel.dialect is dialect
        answers = await asyncio.gather(
            *(tunnel.network_settings(make_settings([], mtu=mtu)) for mtu in (1280, 1281, 1280))
        )
        assert answers == [None, "mtu: 1281", None]
        tunnel.upsert(agents=[make_agent(b"1", "pi")])
        tunnel.log(LogLevel.INFO, "hello")
        await above.changed.wait()
        assert [agent.name for agent in manager.agents] == ["pi"]
        await manager.wake()
        tunnel.delete(agent_ids=[b"1"])
        await manager.get_peers()
        assert manager.agents == []
        assert manager.workspaces == []
        await manager.stop()
        assert await manager.wait_closed() is None
        assert below.seen == ["start t", "wake", "stop"]
        assert [record.message for record in above.logs] == ["hello"]

    assert run(body, pipes=pipes, dialect=dialect) == [None, None]


def test_errors_of_the_program_reach_the_other_side() -> None:
    async def body(
        manager: Manager, tunnel: Tunnel, above: ManagerProgram, below: TunnelProgram
    ) -> None:
        below.start_error = "no node answers"
        with pytest.raises(SystemFailure, match="no node answers"):
            await manager.start(START)
        below.stop_error = "not all was saved"
        with pytest.raises(SystemFailure, match="not all was saved"):
            await manager.stop()
        assert await manager.wait_closed() is None

    assert run(body) == [None, None]


def test_a_stop_that_raises_is_answered_with_its_text() -> None:
    class Program(TunnelProgram):
        async def on_stop(self) -> str | None:
            raise RuntimeError("on purpose")

    async def main() -> None:
        one, two = (end.detach() for end in socket.socketpair())
        tunnel = Tunnel(two, two, Program())
        manager = Manager(one, one, ManagerProgram())
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(manager.run())
            ending = asyncio.ensure_future(tunnel.run())
            with pytest.raises(SystemFailure, match="on purpose"):
                await manager.stop()
            assert await serving is None
            with pytest.raises(ExceptionGroup) as caught:  # and the program learns of it
                await ending
            assert caught.group_contains(RuntimeError, match="on purpose")

    asyncio.run(main())


def test_a_stop_during_start_ends_the_start_first() -> None:
    async def body(
        manager: Manager, tunnel: Tunnel, above: ManagerProgram, below: TunnelProgram
    ) -> None:
        starting = await begin_start(manager, below)
        await manager.stop()
        with pytest.raises(SystemFailure, match="stopped"):
            await starting
        assert below.seen == ["start t", "start ended", "stop"]

    assert run(body) == [None, None]


def test_a_peer_that_hangs_up_releases_every_waiter() -> None:
    async def body(
        manager: Manager, tunnel: Tunnel, above: ManagerProgram, below: TunnelProgram
    ) -> None:
        waiting = asyncio.gather(*(manager.get_peers() for _ in range(3)), return_exceptions=True)
        await asyncio.sleep(0)
        tunnel.close()
        assert [str(error) for error in await waiting] == ["stream closed"] * 3
        with pytest.raises(SystemFailure):
            await manager.stop()
        assert not tunnel.log(LogLevel.INFO, "nobody hears this")
        assert await tunnel.network_settings(make_settings([], mtu=1280)) == "stream closed"

    run(body)


def test_a_caller_that_gives_up_leaves_nothing_open() -> None:
    async def body(
        manager: Manager, tunnel: Tunnel, above: ManagerProgram, below: TunnelProgram
    ) -> None:
        starting = await begin_start(manager, below)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        below.may_start.set()
        await manager.get_peers()  # the late answer to Start went before, to nobody
        with pytest.raises(SystemFailure, match="no response in time"):
            await manager.wake(wait_s=0.0)
        await manager.stop()
        assert below.seen == ["start t", "wake", "stop"]

    assert run(body) == [None, None]


GROWTH = 2 * 1024 * 1024  # bytes; the allocator's own slack
BATCH = 500  # records between two looks at the loop: a tunnel's queue holds 1024


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("count", [10_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
def test_messages_leave_nothing_in_memory(count: int) -> None:
    async def send(tunnel: Tunnel, above: ManagerProgram, number: int) -> None:
        left = number
        while left:
            for _ in range(min(BATCH, left)):
                if not tunnel.log(LogLevel.INFO, "peer pi connected, direct, 12 ms"):
                    break
                left -= 1
            await asyncio.sleep(0)
            number -= len(above.logs)
            above.logs.clear()
        while number:
            above.logged.clear()
            await above.logged.wait()
            number -= len(above.logs)
            above.logs.clear()

    async def body(
        manager: Manager, tunnel: Tunnel, above: ManagerProgram, below: TunnelProgram
    ) -> None:
        await manager.start(START)
        await send(tunnel, above, count // 4)
        before = resident()
        await send(tunnel, above, count)
        for _ in range(count // 100):
            await manager.get_peers()
        growth = resident() - before
        print(f"{count} messages: {growth} bytes more")
        assert growth < GROWTH

    run(body, limit_s=3600)


def test_more_settings_than_may_wait_are_refused_by_name() -> None:
    async def body(
        manager: Manager, tunnel: Tunnel, above: ManagerProgram, below: TunnelProgram
    ) -> None:
        await manager.start(START)
        above.may_apply.clear()
        asked = [
            asyncio.create_task(tunnel.network_settings(make_settings([], mtu=1280)))
            for _ in range(MAX_WAITING_SETTINGS + 2)
        ]
        refused, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        above.may_apply.set()
        answers = await asyncio.gather(*asked)
        assert {task.result() for task in refused} == {"network_settings: too many at once"}
        assert len(refused) <= 2  # the first may be at work already, or wait too
        assert answers.count(None) == len(asked) - len(refused)

    run(body)


def test_wake_ups_at_work_are_bounded_and_a_stop_comes_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tunnel_role, "WAKE_DEBOUNCE", 0.0)

    class Sleepy(TunnelProgram):
        async def on_wake(self) -> None:
            self.seen.append("wake")
            await asyncio.Event().wait()

    async def main() -> list[str]:
        one, two = (end.detach() for end in socket.socketpair())
        program = Sleepy()
        tunnel = Tunnel(two, two, program)
        manager = Manager(one, one, ManagerProgram())
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            serving = [tasks.create_task(end.run()) for end in (manager, tunnel)]
            for _ in range(MAX_HANDLER_TASKS + 3):
                await manager.wake()
            await manager.stop(wait_s=10)
            serving[1].cancel()  # which waits for its handlers
        return program.seen

    assert asyncio.run(main()) == ["wake"] * MAX_HANDLER_TASKS + ["stop"]


def test_a_large_message_crosses_a_slow_stream() -> None:
    async def body(
        manager: Manager, tunnel: Tunnel, above: ManagerProgram, below: TunnelProgram
    ) -> None:
        tunnel.log(LogLevel.INFO, "x" * 3_000_000)
        await above.logged.wait()
        assert len(above.logs[0].message) == 3_000_000

    run(body)


@pytest.mark.parametrize("is_gone", [False, True])
def test_a_manager_that_stops_writing_reads_the_answers(is_gone: bool) -> None:
    async def main() -> tuple[str | None, bytes]:
        ours, theirs = socket.socketpair()
        end = ours.detach()
        tunnel = Tunnel(end, end, TunnelProgram())
        with theirs:
            # asks for the full set and for the stop, as 1 and 2
            asked = bytes.fromhex("000000060a0208011200000000060a0208022a00")
            theirs.send(b"codervpn 1.3 manager\n" + asked)
            theirs.shutdown(socket.SHUT_WR)
            if is_gone:
                theirs.close()
            async with asyncio.timeout(20):
                error = await tunnel.run()
            return error, b"" if is_gone else theirs.makefile("rb").read()

    error, answers = asyncio.run(main())
    assert error is None
    if not is_gone:
        peers, stopped = "000000060a0210011a00", "000000080a02100232020801"
        assert answers == b"codervpn 1.3 tunnel\n" + bytes.fromhex(peers + stopped)


def test_a_stranger_on_the_stream_ends_it_with_a_reason() -> None:
    async def main() -> str | None:
        ours, theirs = socket.socketpair()
        with theirs:
            manager = Manager(ours.fileno(), ours.detach(), ManagerProgram())
            theirs.send(b"HTTP/1.1 400 Bad Request\r\n")
            async with asyncio.timeout(20):
                error = await manager.run()
            assert theirs.recv(100) == b"codervpn 1.3 manager\n"
            return error

    assert "header is not of CoderVPN" in str(asyncio.run(main()))


def test_the_clock_of_start_begins_with_the_handshake() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            end = ours.detach()
            async with Manager(end, end, ManagerProgram(), silence_timeout=30.0) as manager:
                starting = asyncio.create_task(manager.start(START, wait_s=0.0))
                for _ in range(10):
                    await asyncio.sleep(0)
                assert not starting.done()  # the tunnel's process imports for a while
                theirs.send(b"codervpn 1.3 tunnel\n")
                with pytest.raises(SystemFailure, match="no response in time"):
                    await starting
                assert theirs.recv(100).endswith(b"\x1a\x01t")  # it was asked
                left = asyncio.create_task(manager.start(START))
            with pytest.raises(SystemFailure, match="stream closed"):
                await left

    asyncio.run(main())


def test_a_stream_that_ends_before_the_header_ends_a_start() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        end = ours.detach()
        manager = Manager(end, end, ManagerProgram())
        starting = asyncio.create_task(manager.start(START))
        serving = asyncio.create_task(manager.run())
        theirs.close()
        with pytest.raises(SystemFailure, match="stream closed"):
            await starting
        await serving

    asyncio.run(main())


def test_a_descriptor_comes_along_with_start() -> None:
    read_fd, write_fd = os.pipe()
    seen: list[int] = []

    class Program(TunnelProgram):
        async def on_start(self, start: Start) -> str | None:
            seen.append(start.file_descriptor)
            return None

    async def main() -> None:
        one, two = (end.detach() for end in socket.socketpair())
        tunnel = Tunnel(two, two, Program())
        manager = Manager(one, one, ManagerProgram())
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            tasks.create_task(manager.run())
            tasks.create_task(tunnel.run())
            await manager.start(Start(write_fd, "u", Secret(b"t")), pass_descriptor=True)
            await manager.stop()

    asyncio.run(main())
    os.close(write_fd)
    (received,) = seen
    assert received != write_fd
    assert not os.get_inheritable(received)
    os.write(received, b"through")
    os.close(received)
    assert os.read(read_fd, 100) == b"through"
    os.close(read_fd)


def test_a_pipe_passes_no_descriptor() -> None:
    async def body(
        manager: Manager, tunnel: Tunnel, above: ManagerProgram, below: TunnelProgram
    ) -> None:
        with pytest.raises(UsageError, match="Unix socket"):
            await manager.start(START, pass_descriptor=True)

    run(body, pipes=True)
