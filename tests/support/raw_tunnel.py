"""A tunnel from bytes, and a real manager at the other end of its stream, in one namespace."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ginnel.codervpn import vpn_pb2 as pb
from ginnel.codervpn.frame import FrameReader, encode_frame
from support import tiny_manager
from support.confined import enter_namespaces, in_child

PORT = 45455
WAIT = 20.0  # seconds, at most


class Stream:
    """A tunnel's end, from bytes."""

    def __init__(self, end: socket.socket, log: Path, pid: int) -> None:
        self.pid = pid  # of the manager
        self._end = end
        self._log = log
        self._frames = FrameReader()
        self._last = 100

    def read(self) -> pb.ManagerMessage:
        while (body := self._frames.next_frame()) is None:
            data = self._end.recv(65_536)
            assert data, self._log.read_text()
            self._frames.feed(data)
        return pb.ManagerMessage.FromString(body)

    def say(self, message: pb.TunnelMessage) -> None:
        self._end.sendall(encode_frame(message.SerializeToString()))

    def ask(self, settings: pb.NetworkSettingsRequest) -> pb.NetworkSettingsResponse:
        self._last += 1
        message = pb.TunnelMessage(network_settings=settings)
        message.rpc.msg_id = self._last
        self.say(message)
        answer = self.read()
        assert answer.rpc.response_to == self._last
        return answer.network_settings

    def begin(self) -> None:
        """Start, and tell of no peers."""
        self.start("")
        asked = self.read()
        assert asked.WhichOneof("msg") == "get_peer_update"
        answer = pb.TunnelMessage(peer_update=pb.PeerUpdate())
        answer.rpc.response_to = asked.rpc.msg_id
        self.say(answer)

    def start(self, error: str) -> None:
        assert self._end.recv(100, socket.MSG_PEEK).startswith(b"codervpn 1.3 manager\n")
        self._end.recv(21)
        self._end.sendall(b"codervpn 1.3 tunnel\n")
        start = self.read()
        answer = pb.TunnelMessage(start=pb.StartResponse(success=not error, error_message=error))
        answer.rpc.response_to = start.rpc.msg_id
        self.say(answer)


@contextmanager
def manager(root: Path) -> Iterator[tuple[Stream, Path]]:
    """Run a manager with our end of its stream, and the file of its log."""
    ours, theirs = socket.socketpair()
    ours.settimeout(WAIT)
    log = root / "log"
    with ours, log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, tiny_manager.__file__, str(PORT), str(theirs.fileno())],
            stdout=subprocess.PIPE,
            stderr=output,
            pass_fds=(theirs.fileno(),),
        )
        theirs.close()
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"READY\n", log.read_text()
            yield Stream(ours, log, process.pid), log
        finally:
            ours.close()
            process.wait(WAIT)
            process.stdout.close()


def in_namespaces(tmp_path: Path, body: Callable[[], None]) -> None:
    def child() -> None:
        enter_namespaces()
        own = tmp_path / "resolv.conf"
        own.write_text("nameserver 192.0.2.53\n")
        resolv = os.path.realpath("/etc/resolv.conf")
        subprocess.run(["mount", "--bind", str(own), resolv], check=True)
        os.environ["GINNEL_TEST_ROOT"] = str(tmp_path)
        body()

    in_child(child)
