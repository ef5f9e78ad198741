"""CORE: the largest inner packet of each peer's path, found by probes through the tunnel.

A probe is a control port message that is padded to its size and sent without fragments outside; the
peer answers it with a small one. Probes go inside the tunnel, and not as padded STUN, because they
then measure what data takes: relays, WireGuard's overhead and the sender's own device count in.
Sizes are probed side by side, the largest that is answered counts; ICMP from the way is not needed.

It is searched when a path begins or changes, and confirmed now and then. Until something is known
the data plane sends everything and lets it be fragmented, so that nothing is lost meanwhile.

Source: RFC 8899 (DPLPMTUD) with several probes at once; docs/formats.md, "Control port".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from ginnel.base.dataplane import SetPathMtu
from ginnel.base.types import Deadline
from ginnel.mesh.control_port import ControlPort
from ginnel.mesh.names import overlay_addresses
from ginnel.mesh.objects import Certificate
from ginnel.mesh.rendezvous import Tokens
from ginnel.peer.status import PeerState

BASE = 1280  # bytes; IPv6 inside asks for it (RFC 8200 5)
FLOOR = 512  # bytes; with our headers what every IPv4 path takes (576, RFC 791)
RELAYED = 1400  # bytes; a relay's headers come besides
STEP = 4  # bytes; the search ends when it is that near
PARALLEL = 7  # sizes probed at once
TRIES = 3  # times that a size is sent before it counts as too large
FIRST_WAIT_S = 0.3  # seconds between two tries until a round trip was measured
MIN_WAIT_S, MAX_WAIT_S = 0.1, 1.0  # seconds between two tries, three round trips if possible
CONFIRM_S = 300.0  # seconds until what was found is probed again (RFC 8899 5.1.1: 600, to raise it)
RETRY_S = 30.0  # seconds until a path on which no probe was answered is searched again; doubles
MAX_RETRY_S = 600.0
MAX_PROBES = 4096  # probes whose answer is still taken, of all peers


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask the peer's control port with an inner packet of `size` bytes."""

    token: int
    peer: bytes  # its WireGuard key
    ips: tuple[str, ...]
    size: int


@dataclass(slots=True)
class _Path:
    key: bytes
    ips: tuple[str, ...]
    place: Hashable
    top: int
    due_at: float
    low: int = 0  # the largest answered
    sizes: dict[int, bool] = field(default_factory=dict)  # of this round; answered?
    tries: int = 0
    wait: float = FIRST_WAIT_S
    retry_s: float = RETRY_S
    found: int | None = None
    is_confirming: bool = False
    told: int | None = None


class PathMtus:
    """All paths of one node; see the module's text.

    Args:
        largest: bytes of the largest inner packet of the device.
    """

    def __init__(self, largest: int, *, tokens: Tokens) -> None:
        self._largest = largest
        self._tokens = tokens
        self._paths: dict[bytes, _Path] = {}
        self._asked: dict[int, tuple[_Path, int]] = {}  # path and size by token
        self._probes: deque[Probe] = deque()
        self._commands: deque[SetPathMtu] = deque()

    # --- commands ------------------------------------------------------------------------------

    def set_path(
        self,
        key: bytes,
        ips: Sequence[str],
        place: Hashable | None,
        *,
        is_relayed: bool = False,
        now: float,
    ) -> None:
        """Tell where a peer's path leads; another `place` is searched anew, None has none."""
        old = self._paths.get(key)
        if place is None:
            self.remove(key)
            return
        if old is not None and old.place == place:
            return
        top = min(self._largest, RELAYED) if is_relayed else self._largest
        path = _Path(key, tuple(ips), place, top, now)
        self._paths[key] = path
        path.told = top if is_relayed else None  # whatever the data plane knew of the last path
        self._commands.append(SetPathMtu(key, path.told))
        self._search(path, now)

    def follow(self, state: PeerState, cert: Certificate, *, is_up: bool, now: float) -> None:
        """Take the path of a peer's connection as it is now."""
        place = (state.local_address, state.remote_address, state.relayed) if is_up else None
        ips = overlay_addresses(cert)
        self.set_path(state.remote_key, ips, place, is_relayed=state.relayed, now=now)

    def remove(self, key: bytes) -> None:
        """Forget a peer without a path; the data plane keeps what it was told."""
        self._paths.pop(key, None)

    def mtu_of(self, key: bytes) -> int | None:
        """Return what was found; None: not yet, or nothing was answered."""
        path = self._paths.get(key)
        return None if path is None else path.found

    # --- results -------------------------------------------------------------------------------

    def on_answer(self, token: int, seconds: float | None, *, now: float) -> bool:
        """Take the answer to a probe (None: there was none); return whether the token was ours."""
        asked = self._asked.pop(token, None)
        if asked is None:
            return False
        path, size = asked
        is_current = self._paths.get(path.key) is path
        if seconds is None or not is_current or size not in path.sizes:
            return True
        path.sizes[size] = True
        path.low = max(path.low, size)
        path.wait = min(MAX_WAIT_S, max(MIN_WAIT_S, 3 * seconds))
        if size == max(path.sizes):
            self._end_round(path, now)
        return True

    def handle_timeout(self, *, now: float) -> None:
        """Send again what was not answered, end rounds, begin searches."""
        for path in list(self._paths.values()):
            if path.due_at > now:
                continue
            if not path.sizes:
                self._confirm(path, now)
            elif path.tries < TRIES:
                self._send(path, now)
            else:
                self._end_round(path, now)

    def poll_probe(self) -> Probe | None:
        """Return the next probe to send; call until None."""
        return self._probes.popleft() if self._probes else None

    def poll_command(self) -> SetPathMtu | None:
        """Return the next command for the data plane; call until None."""
        return self._commands.popleft() if self._commands else None

    def drain(self, control: ControlPort, *, now: float) -> list[SetPathMtu]:
        """Send the probes that wait and return the commands for the data plane."""
        while (probe := self.poll_probe()) is not None:
            control.probe(probe.token, probe.peer, probe.ips, probe.size, now=now)
        commands, self._commands = list(self._commands), deque()
        return commands

    def poll_deadline(self) -> Deadline | None:
        """Return when `handle_timeout` is wanted."""
        due = min((path.due_at for path in self._paths.values()), default=None)
        return None if due is None else Deadline(due, "PATH_MTU")

    # --- the search ----------------------------------------------------------------------------

    def _search(self, path: _Path, now: float) -> None:
        path.low, path.found, path.is_confirming = 0, None, False
        self._begin_round(path, [FLOOR, BASE, path.top], now)

    def _confirm(self, path: _Path, now: float) -> None:
        if path.found is None:
            self._search(path, now)
            return
        path.is_confirming = True
        self._begin_round(path, [path.found, path.top], now)

    def _begin_round(self, path: _Path, sizes: Sequence[int], now: float) -> None:
        path.sizes = {size: False for size in sizes if size <= path.top}
        path.tries = 0
        self._send(path, now)

    def _send(self, path: _Path, now: float) -> None:
        path.tries += 1
        path.due_at = now + path.wait
        for size, is_answered in path.sizes.items():
            if not is_answered and (size > path.low or path.is_confirming):
                token = self._tokens.next()
                self._asked[token] = (path, size)
                self._probes.append(Probe(token, path.key, path.ips, size))
        while len(self._asked) > MAX_PROBES:
            del self._asked[next(iter(self._asked))]

    def _end_round(self, path: _Path, now: float) -> None:
        answered = [size for size, found in path.sizes.items() if found]
        refused = [size for size, found in path.sizes.items() if not found and size > path.low]
        if path.is_confirming:
            self._end_confirming(path, answered, now)
        elif not path.low:  # the peer knows no probes, or is gone
            path.due_at = now + path.retry_s
            path.retry_s = min(MAX_RETRY_S, 2 * path.retry_s)
            path.sizes = {}
        elif not refused or min(refused) - path.low <= STEP:
            self._found(path, path.low, now)
        else:
            step = max(1, -(-(min(refused) - path.low) // (PARALLEL + 1)))
            sizes = [*range(path.low + step, min(refused), step), min(refused)]
            self._begin_round(path, sizes, now)

    def _end_confirming(self, path: _Path, answered: Sequence[int], now: float) -> None:
        path.is_confirming = False
        if answered:
            self._found(path, max(answered), now)
        else:
            self._tell(path, None)
            self._search(path, now)

    def _found(self, path: _Path, mtu: int, now: float) -> None:
        path.found, path.sizes = mtu, {}
        path.retry_s = RETRY_S
        path.due_at = now + CONFIRM_S
        self._tell(path, mtu)

    def _tell(self, path: _Path, mtu: int | None) -> None:
        if mtu != path.told:
            path.told = mtu
            self._commands.append(SetPathMtu(path.key, mtu))
