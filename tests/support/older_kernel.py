"""Runs a program as on a kernel that lacks some UDP socket options: run on lab machines.

python older_kernel.py OPTION[,OPTION...] PROGRAM [ARGUMENT...]
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

UDP_SEGMENT, UDP_GRO = 103, 104  # linux/udp.h


def older(lacking: Sequence[int], *argv: str) -> list[str]:
    """Return the arguments that run a program without these options."""
    return [sys.executable, __file__, ",".join(map(str, lacking)), *argv]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from support.confined import forbid_socket_options

    forbid_socket_options(socket.IPPROTO_UDP, map(int, sys.argv[1].split(",")))
    os.execvp(sys.argv[2], sys.argv[2:])
