"""A machine with Debian's kernel in qemu, on a TAP of a lab's machine, and a shell in it.

`scripts/interop-kernel` makes what it boots. With /dev/kvm that takes two seconds; without it, and
where it opens but does not work, as in some virtual machines, everything is emulated.
"""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ginnel.lab import Machine

BUILT = Path(__file__).parents[2] / "target" / "interop-kernel"
TAP = "guest0"
HOST_IP = "10.99.0.1"
KVM = ["-accel", "kvm", "-cpu", "max"]
EMULATED = ["-accel", "tcg", "-cpu", "max"]
KVM_LIMIT_S = 20.0  # seconds for a boot on hardware, which takes two
BOOT_LIMIT_S = 300.0  # seconds for an emulated one on a busy machine; it takes ten on a quiet one
COMMAND_LIMIT_S = 90.0
_PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
_END = re.compile(r"^__END__(\d+)\s*$", re.MULTILINE)


class GuestError(Exception):
    """The guest ended, said nothing in time, or a command in it failed."""


class Guest:
    """A booted machine; commands run one after the other in its one shell."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._input, self._output = process.stdin, process.stdout
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)

    def read_until(self, pattern: re.Pattern[str], limit: float) -> tuple[str, re.Match[str]]:
        """Return what came before a match on the serial line, and the match."""
        text, end = "", time.monotonic() + limit
        while True:
            found = pattern.search(text)
            if found:
                return text[: found.start()], found
            if not self._selector.select(max(0.0, end - time.monotonic())):
                raise GuestError(f"the guest says nothing more in {limit} s: {text[-500:]!r}")
            chunk = os.read(self._output.fileno(), 65536)
            if not chunk:
                raise GuestError(f"the guest ended: {text[-500:]!r}")
            text += chunk.decode(errors="replace").replace("\r", "")

    def run(self, command: str, *, limit: float = COMMAND_LIMIT_S, check: bool = True) -> str:
        """Run a line of shell and return its output; without `check` it may fail."""
        self._input.write(f"{{ {command}; }}; code=$?; echo; echo __END__$code\n")
        self._input.flush()
        text, found = self.read_until(_END, limit)
        if check and found[1] != "0":
            raise GuestError(f"{command}: exit code {found[1]}: {text.strip()}")
        return text.strip()


@contextmanager
def boot(machine: Machine, address: str) -> Iterator[Guest]:
    """Boot it with an address on the TAP, whose other end is HOST_IP, until the block ends."""
    machine.run(["ip", "tuntap", "add", TAP, "mode", "tap"])
    machine.run(["ip", "address", "add", f"{HOST_IP}/24", "dev", TAP])
    machine.run(["ip", "link", "set", TAP, "up"])
    limits = [(EMULATED, BOOT_LIMIT_S)]
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        limits.insert(0, (KVM, KVM_LIMIT_S))
    for accelerator, limit in limits:
        process = machine.popen(_command(accelerator), stdin=subprocess.PIPE, **_PIPES)
        with process:
            guest = Guest(process)
            try:
                guest.read_until(re.compile("^BOOTED$", re.MULTILINE), limit)
            except GuestError:
                _end(process)
                if accelerator is EMULATED:
                    raise
                continue
            try:
                guest.run(f"ip address add {address}/24 dev eth0 && ip link set eth0 up")
                yield guest
            finally:
                _end(process)
            return


def _command(accelerator: list[str]) -> list[str]:
    return [
        "qemu-system-x86_64",
        *accelerator,
        *("-m", "512", "-kernel", str(BUILT / "vmlinuz"), "-initrd", str(BUILT / "initrd")),
        *("-append", "console=ttyS0 quiet loglevel=3 panic=-1 no_timer_check"),
        *("-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"),
        *("-netdev", f"tap,id=wire,ifname={TAP},script=no,downscript=no"),
        *("-device", "virtio-net-pci,netdev=wire"),
    ]


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
