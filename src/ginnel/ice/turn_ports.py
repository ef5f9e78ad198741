"""The ports of a TURN server's allocations: a range, and what is to be held or freed.

The server draws; who has sockets binds and says whether it could. Nothing is read from these ports:
they keep a relayed address from being another program's, or another network's relay's.

Source: RFC 8656 section 7.2.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from ginnel.base.chance import Rng
from ginnel.base.servers import PortRange

MAX_TRIES = 8  # ports that another program may have, until an allocation is refused

WaiterT = TypeVar("WaiterT")


@dataclass(frozen=True, slots=True)
class HoldPort:
    """Bind this UDP port for an allocation."""

    port: int
    ipv6: bool


@dataclass(frozen=True, slots=True)
class FreePort:
    """An allocation is over: close its port."""

    port: int


PortCommand: TypeAlias = HoldPort | FreePort


class PortBook(Generic[WaiterT]):
    """Which ports are held, and who waits for one."""

    def __init__(self, ports: PortRange, rng: Rng) -> None:
        self._ports = ports
        self._rng = rng
        self._held: dict[int, None] = {}
        self._waiting: dict[int, tuple[WaiterT, bool, int]] = {}  # who, ipv6, tries
        self._commands: deque[PortCommand] = deque()

    @property
    def waiting(self) -> Sequence[WaiterT]:
        """Return who waits."""
        return [waiter for waiter, _, _ in self._waiting.values()]

    def want(self, waiter: WaiterT, *, ipv6: bool, tries: int = 0) -> bool:
        """Ask for a port; False if there is none."""
        taken = (*self._held, *self._waiting)
        port = self._ports.draw(taken, self._rng) if tries < MAX_TRIES else None
        if port is None:
            return False
        self._waiting[port] = (waiter, ipv6, tries + 1)
        self._commands.append(HoldPort(port, ipv6))
        return True

    def on_port(self, port: int, is_held: bool) -> tuple[WaiterT, bool] | None:
        """Take what became of a port; return who waited, and whether it has the port.

        None: nobody waits any more, or another port is tried.
        """
        found = self._waiting.pop(port, None)
        if found is None:
            if is_held:
                self._commands.append(FreePort(port))
            return None
        waiter, ipv6, tries = found
        if is_held:
            self._held[port] = None
        elif self.want(waiter, ipv6=ipv6, tries=tries):
            return None
        return waiter, is_held

    def forget(self, is_over: Callable[[WaiterT], bool]) -> None:
        """Forget those who wait for nothing any more."""
        self._waiting = {p: item for p, item in self._waiting.items() if not is_over(item[0])}

    def free(self, port: int) -> None:
        """Give a held port back."""
        if port in self._held:
            del self._held[port]
            self._commands.append(FreePort(port))

    def poll(self) -> PortCommand | None:
        """Return the next command; call until None."""
        return self._commands.popleft() if self._commands else None
