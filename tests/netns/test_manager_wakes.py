"""A change of networks reaches any tunnel as Wake, through a real manager.

The test is the tunnel, from bytes:  gn-test (TUN)  manager  lan0 ── lan1
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.messages import make_settings
from support.confined import can_enter_namespaces
from support.hostile_tunnel import OWN
from support.raw_tunnel import Stream, in_namespaces, manager

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(
        not (can_enter_namespaces() and os.access("/dev/net/tun", os.R_OK | os.W_OK)),
        reason="no user namespaces or no TUN here",
    ),
]


def change(*lines: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True, check=True)


def take_wake(stream: Stream) -> None:
    """Wait for a Wake and answer it."""
    asked = stream.read()
    assert asked.WhichOneof("msg") == "wake"
    answer = pb.TunnelMessage(wake=pb.WakeResponse(success=True))
    answer.rpc.response_to = asked.rpc.msg_id
    stream.say(answer)


def test_each_change_of_addresses_or_routes_wakes_the_tunnel(tmp_path: Path) -> None:
    def body() -> None:
        change("link add lan0 type veth peer name lan1", "link set lan1 up addrgenmode none")
        with manager(tmp_path) as (stream, log):
            stream.begin()
            # Our own device's addresses are no change: the next that is read is the answer.
            assert stream.ask(make_settings([f"{OWN}/16"], ["100.64.0.0/16"], mtu=1380)).success
            change("address add 192.0.2.2/24 dev lan0", "link set lan0 up addrgenmode none")
            take_wake(stream)
            change("route add default via 192.0.2.1 dev lan0")
            take_wake(stream)
            change("address delete 192.0.2.2/24 dev lan0")
            take_wake(stream)
            assert "wake: the network changed" in log.read_text()

    in_namespaces(tmp_path, body)
