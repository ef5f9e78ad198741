"""What a hostile frame may cost before it is refused: counted, and measured in a child."""

from __future__ import annotations

import ctypes
import gc
import resource
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from google.protobuf.message import Message

from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.frame import MAX_FRAME_SIZE, encode_frame
from ginnel.codervpn.manager_role import MAX_KNOWN_PEERS, ManagerCore
from ginnel.codervpn.messages import make_agent
from ginnel.codervpn.weigh import LIGHT_SIZE, MAX_VALUES, is_light
from support.confined import in_child

TUNNEL = pb.TunnelMessage.DESCRIPTOR
RPC = b"\x0a\x02\x08\x05"
# Buffer, body and parsed text of one frame, and 128 Ki values of some 200 bytes.
MOST_GROWTH = 3 * MAX_FRAME_SIZE + 32 * 1024 * 1024  # bytes
M_MMAP_THRESHOLD = -3  # of mallopt(3)
SECONDS = 30.0  # of the processor, for all frames of 16 MiB; a quiet machine takes two


def field(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


def varint(value: int) -> bytes:
    found = b""
    while value > 0x7F:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def count(message: Message) -> int:
    """Return how many values a message holds, by the parser."""
    found = 0
    for descriptor, value in message.ListFields():
        values = value if descriptor.is_repeated else [value]
        found += 1 if descriptor.is_packed else len(values)
        if descriptor.is_packed:
            found += len(values)
        elif descriptor.message_type is not None:
            found += sum(map(count, values))
    return found


def samples() -> Iterator[pb.TunnelMessage]:
    agent = make_agent(b"i" * 16, "pi", fqdn=["a", "b"], ip_addrs=["::1"], latency_s=1.5)
    yield pb.TunnelMessage(peer_update=pb.PeerUpdate(upserted_agents=[agent] * 9))
    yield pb.TunnelMessage(log=pb.Log(message="m" * 300, fields=[pb.Log.Field(name="a")] * 5))
    settings = pb.NetworkSettingsRequest(mtu=1280)
    settings.ipv6_settings.prefix_lengths.extend([48] * 100)
    settings.ipv6_settings.included_routes.add(destination="::", prefix_length=1)
    yield pb.TunnelMessage(rpc={"msg_id": 2**63}, network_settings=settings)


@pytest.mark.parametrize("message", list(samples()), ids=["peers", "log", "settings"])
def test_values_are_counted_as_the_parser_sees_them(message: pb.TunnelMessage) -> None:
    body, values = message.SerializeToString(), count(message)
    assert is_light(body, TUNNEL, values)
    assert not is_light(body, TUNNEL, values - 1)


def test_what_cannot_be_parsed_is_left_to_the_parser() -> None:
    for body in (b"\xff" * 20, b"\x1a", b"\x1a\xff", b"\x1b" * 20, b"\x0d\0", field(3, b"")[:1]):
        assert is_light(body * 2, TUNNEL, 1) in (True, False)
    assert is_light(b"\xff" * 11, TUNNEL, 1)
    unknown = b"\x78\x01" + b"\x79" + bytes(8) + b"\x7d" + bytes(4) + field(15, b"\0" * 90)
    assert is_light(unknown, TUNNEL, 4)
    assert not is_light(unknown, TUNNEL, 3)


def test_the_largest_mesh_is_light() -> None:
    agents = [
        make_agent(
            n.to_bytes(16, "big"),
            f"machine-{n}",
            workspace_id=b"w" * 16,
            fqdn=[f"machine-{n}.home.internal"],
            ip_addrs=["100.64.0.1", "fd12:3456::7"],
            last_handshake_unix=1_700_000_000.5,
            latency_s=0.0125,
            direct=True,
        )
        for n in range(MAX_KNOWN_PEERS)
    ]
    spaces = [pb.Workspace(id=agent.id, name="home", status="RUNNING") for agent in agents]
    update = pb.PeerUpdate(upserted_agents=agents, upserted_workspaces=spaces)
    assert is_light(pb.TunnelMessage(peer_update=update).SerializeToString(), TUNNEL)


def hostile_bodies() -> Iterator[bytes]:
    """Yield bodies that are as large as a frame may be, or as crowded."""
    pairs = MAX_FRAME_SIZE // 2 - 16
    for outer, inner in ((3, 1), (3, 2), (3, 3), (3, 4), (2, 3), (2, 4)):
        yield field(outer, field(inner, b"") * pairs)
    yield RPC + field(4, field(5, field(4, b"") * pairs))
    yield RPC + field(4, field(6, field(2, b"\x01" * (2 * pairs))))
    yield field(3, field(2, field(1, b"i") + field(4, b"") * (pairs - 16)))
    yield (field(3, b"") + field(2, b"")) * (pairs // 2)
    yield field(3, field(2, b"") * (MAX_VALUES - 2))
    yield field(3, field(4, field(1, b"")) * (MAX_VALUES // 2 - 2))
    yield field(2, field(2, b"x" * (2 * pairs)))
    yield field(3, field(2, b"") * (LIGHT_SIZE // 2 - 8)) * 64


def keeping_bodies() -> Iterator[bytes]:
    """Yield agents and workspaces whose unknown fields would stay in memory, were they kept."""
    padding = field(15, b"x" * (MAX_FRAME_SIZE - 100))
    for number in range(5):
        for kind in (1, 2):
            yield field(3, field(kind, field(1, varint(number + 1)) + padding))
            yield field(3, field(kind, field(1, varint(number + 1))) + padding)


def test_hostile_frames_cost_a_bounded_amount_of_memory_and_time() -> None:
    def child() -> tuple[int, int, float]:
        # As in a process of its own: what other tests left neither puts off the collection of what
        # is made here, nor has it moved large buffers into a heap that can't shrink.
        gc.freeze()
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 1 << 17)
        # As far as the kernel has counted: the highest since now.
        Path("/proc/self/clear_refs").write_text("5")
        before = status_of("VmRSS")
        began = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        core = ManagerCore(now=0.0)
        for body in chain(hostile_bodies(), keeping_bodies()):
            if core.speaker.is_closed:
                core = ManagerCore(now=0.0)
            if core.speaker.version is None:
                core.handle_bytes(b"codervpn 1.3 tunnel\n", now=0.0)
            frame = encode_frame(body)
            for start in range(0, len(frame), 65_536):
                core.handle_bytes(frame[start : start + 65_536], now=0.0)
            while core.poll_event() is not None:
                pass
        took = sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - began
        return status_of("VmHWM") - before, status_of("VmRSS") - before, took

    peak, kept, took = in_child(child)
    frames = 4 * MAX_FRAME_SIZE  # of the test itself
    assert peak < MOST_GROWTH + frames
    assert kept < MOST_GROWTH + frames
    assert took < SECONDS


def status_of(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
