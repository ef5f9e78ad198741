"""What one manager is told: root's settings of a network, and how its tunnel is started."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from ginnel.base.types import Secret
from ginnel.codervpn.header import Dialect
from ginnel.daemon.command import COMMAND
from ginnel.daemon.paths import NetworkPaths
from ginnel.daemon.settings_check import Allowance


@dataclass(frozen=True, slots=True)
class ManagerConfig:
    """What root's settings say about one network, and where its keys come from."""

    paths: NetworkPaths
    port: int  # of both UDP sockets
    make_token: Callable[[], Secret | str]  # the node's keys in one bundle, read for each start
    url: str
    tunnel_uid: int
    signer_uid: int | None = None  # None: no admin key here, no signer
    allowance: Allowance = field(default_factory=Allowance)
    command: Sequence[str] = COMMAND  # what `tunnel NAME ...` and `signer NAME ...` follow
    spawn: Sequence[str] = ()  # any tunnel of the protocol instead of ours; it gets no more
    stream: tuple[int, int] | None = None  # to read and to write: a tunnel that others started
    passes_tun: bool = True  # along with Start (SCM_RIGHTS); False: the tunnel inherits it
    dialect: Dialect = Dialect.SEED  # of our header
    use_tun: bool = True
    resets_clock: bool = False  # the first tunnel forgets the last confirmed time
    has_sandbox: bool = True  # False: children without Landlock and seccomp, to debug
    use_dns: bool = False  # serve the network's names and tell the resolver
    debug: bool = False
