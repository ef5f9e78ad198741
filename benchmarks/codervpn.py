"""`make bench-codervpn`: messages a second and round trips, beside protobuf framing without RPC.

    python -m benchmarks.codervpn [--rounds N] [--scale X] [--print]

Both ends run in one process over a socket pair: our Manager and Tunnel, and a plain pair of readers
that parse and write the same protobuf messages with the same length prefix, and nothing more. The
memory row sends a million messages (times the scale) and looks at what the process grew by.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import struct
import time

from benchmarks.common import Row, below, compare, in_turns, publish
from ginnel.base.types import Secret
from ginnel.codervpn import Manager, Tunnel
from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.messages import LogLevel, LogRecord, Start

NOTICES = 20_000  # log records a round
ROUND_TRIPS = 2_000  # requests a round, one after the other
MILLION = 1_000_000  # messages of the memory row
BATCH = 500  # records between two looks at the loop, as a tunnel's queue holds 1024
GROWTH_LIMIT_KB = 2_048  # kB; the allocator's own slack
TEXT = "peer pi connected, direct, 12 ms"


class _Above:
    def __init__(self) -> None:
        self.count = 0
        self.reached = asyncio.Event()
        self.wanted = 0

    async def on_settings(self, settings: pb.NetworkSettingsRequest) -> str | None:
        return None

    def on_peers(self) -> None:
        pass

    def on_log(self, record: LogRecord) -> None:
        self.count += 1
        if self.count >= self.wanted:
            self.reached.set()


class _Below:
    async def on_start(self, start: Start) -> str | None:
        return None

    async def on_stop(self) -> str | None:
        return None

    async def on_wake(self) -> None:
        pass


class _Ours:
    """Our two ends, connected."""

    async def __aenter__(self) -> _Ours:
        one, two = (end.detach() for end in socket.socketpair())
        self.above = _Above()
        self.tunnel = Tunnel(two, two, _Below())
        self.manager = Manager(one, one, self.above)
        self._tasks = [asyncio.create_task(end.run()) for end in (self.tunnel, self.manager)]
        await self.manager.start(Start(-1, "u", Secret(b"t")))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.manager.stop()
        self.manager.close()
        await asyncio.gather(*self._tasks)

    async def send_logs(self, count: int) -> float:
        """Send log records; return messages a second."""
        began = time.perf_counter()
        self.above.wanted = self.above.count + count
        self.above.reached.clear()
        left = count
        while left:
            for _ in range(min(BATCH, left)):
                if not self.tunnel.log(LogLevel.INFO, TEXT):
                    break
                left -= 1
            await asyncio.sleep(0)
        await self.above.reached.wait()
        return count / (time.perf_counter() - began)

    async def round_trips(self, count: int) -> float:
        """Ask for the peers again and again; return microseconds a round trip."""
        began = time.perf_counter()
        for _ in range(count):
            await self.manager.get_peers()
        return 1e6 * (time.perf_counter() - began) / count


async def _plain_logs(count: int) -> float:
    one, two = socket.socketpair()
    reader, back = await asyncio.open_connection(sock=one)
    _, writer = await asyncio.open_connection(sock=two)

    async def read() -> None:
        for _ in range(count):
            (size,) = struct.unpack(">I", await reader.readexactly(4))
            pb.TunnelMessage.FromString(await reader.readexactly(size))

    began = time.perf_counter()
    reading = asyncio.create_task(read())
    for index in range(count):
        _write(writer, pb.TunnelMessage(log=pb.Log(level=pb.Log.INFO, message=TEXT)))
        if index % BATCH == 0:
            await writer.drain()
    await reading
    took = time.perf_counter() - began
    writer.close()
    back.close()  # a stream whose writer is collected ends
    return count / took


async def _plain_round_trips(count: int) -> float:
    one, two = socket.socketpair()
    ends = [await asyncio.open_connection(sock=end) for end in (one, two)]

    async def answer() -> None:
        for _ in range(count):
            (size,) = struct.unpack(">I", await ends[1][0].readexactly(4))
            pb.ManagerMessage.FromString(await ends[1][0].readexactly(size))
            _write(ends[1][1], pb.TunnelMessage(peer_update=pb.PeerUpdate()))

    answering = asyncio.create_task(answer())
    began = time.perf_counter()
    for _ in range(count):
        _write(ends[0][1], pb.ManagerMessage(get_peer_update=pb.GetPeerUpdate()))
        (size,) = struct.unpack(">I", await ends[0][0].readexactly(4))
        pb.TunnelMessage.FromString(await ends[0][0].readexactly(size))
    took = time.perf_counter() - began
    await answering
    for _, writer in ends:
        writer.close()
    return 1e6 * took / count


def _write(writer: asyncio.StreamWriter, message: pb.TunnelMessage | pb.ManagerMessage) -> None:
    body = message.SerializeToString()
    writer.write(struct.pack(">I", len(body)) + body)


def _resident_kb() -> int:
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * 4


async def measure_growth(count: int) -> float:
    """Return kB by which this process grows over `count` messages, after a tenth to warm up."""
    async with _Ours() as ours:
        await ours.send_logs(max(BATCH, count // 10))
        before = _resident_kb()
        await ours.send_logs(count)
        return float(max(1, _resident_kb() - before))


async def measure(rounds: int, scale: float) -> list[Row]:
    """Return all rows."""
    notices, trips = int(NOTICES * scale), int(ROUND_TRIPS * scale)
    async with _Ours() as ours:
        logs = await in_turns(
            rounds,
            {"ours": lambda: ours.send_logs(notices), "plain": lambda: _plain_logs(notices)},
        )
        times = await in_turns(
            rounds,
            {"ours": lambda: ours.round_trips(trips), "plain": lambda: _plain_round_trips(trips)},
        )
    growth = await measure_growth(int(MILLION * scale))
    plain = "framing without RPC"
    return [
        compare("one-way messages", "1/s", logs["ours"], plain, logs["plain"]),
        compare("round trip", "µs", times["ours"], plain, times["plain"], less_is_better=True),
        below("growth over a million messages", "kB", [growth], GROWTH_LIMIT_KB, "limit"),
    ]


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--print", action="store_true", help="write no results")
    options = parser.parse_args()
    rows = asyncio.run(measure(options.rounds, options.scale))
    publish("codervpn", "CoderVPN: both ends in one process", rows, only_print=options.print)


if __name__ == "__main__":
    main()
