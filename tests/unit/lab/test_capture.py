import struct
from pathlib import Path

import pytest

from support.labs import run_in_namespaces

pytestmark = pytest.mark.netns

RECORD = """
import socket, subprocess, sys
from ginnel.lab.capture import Recording
subprocess.run(["ip", "link", "set", "lo", "up"], check=True,
               env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"})
recording = Recording("lo", sys.argv[1])
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
    sender.sendto(b"needle", ("127.0.0.1", 9))
recording.read()
print(recording.close())
"""


def test_frames_are_written_as_pcap(tmp_path: Path) -> None:
    path = tmp_path / "lo.pcap"
    assert run_in_namespaces(RECORD, str(path)) == "0\n"
    data = path.read_bytes()
    assert struct.unpack_from("<IHHiIII", data) == (0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)
    offset, frames = 24, []
    while offset < len(data):
        _, microseconds, kept, size = struct.unpack_from("<IIII", data, offset)
        assert kept == size
        assert microseconds < 10**6
        frames.append(data[offset + 16 : offset + 16 + kept])
        offset += 16 + kept
    assert frames
    assert frames[0].endswith(b"needle")
