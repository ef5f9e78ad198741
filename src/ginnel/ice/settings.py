"""What a user of the library sets: seed 000's names and defaults, and the environment over them.

Source: seed 000 (the agent's configuration); RFC 7064, RFC 7065 (URLs).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Self

from ginnel.base.config import from_environment
from ginnel.base.servers import Server, parse_server
from ginnel.ice.candidate import CandidateKind
from ginnel.ice.events import AgentConfig

# Variable without GINNEL_, in lower case -> our field.
_VARIABLES = {
    "ice_keepalive": "keepalive",
    "ice_disconnected_timeout": "disconnected_timeout",
    "ice_failed_timeout": "failed_timeout",
    "ice_relay_acceptance_wait": "relay_acceptance_wait",
    "force_relay": "force_relay",
}


class NetworkType(Enum):
    """What is offered and tried; seed 000 takes both, or UDP4 alone."""

    UDP4 = "udp4"
    UDP6 = "udp6"


@dataclass(frozen=True)
class IceSettings(AgentConfig):
    """Settings of an agent that gathers by itself; times in seconds.

    `urls`: `stun:HOST[:PORT]`, `turn:HOST[:PORT][?transport=tcp] USER PASSWORD`, `turns:...`, or
    what `parse_turn_uri` returns. `interface_filter` says of an interface's name whether its
    addresses are used, `interface_blacklist` holds names or patterns that are not. `nat_1to1`: IPs
    under which a NAT that keeps ports shows us. `ca_file`: a further authority for `turns:`.
    """

    network_types: tuple[NetworkType, ...] = (NetworkType.UDP4, NetworkType.UDP6)
    candidate_types: tuple[CandidateKind, ...] = (
        CandidateKind.HOST,
        CandidateKind.SRFLX,
        CandidateKind.RELAY,
    )
    interface_filter: Callable[[str], bool] | None = None
    interface_blacklist: tuple[str, ...] = ()
    nat_1to1: tuple[str, ...] = ()
    urls: tuple[str | Server, ...] = field(default=(), repr=False)  # with passwords
    ca_file: str = ""

    @property
    def servers(self) -> tuple[Server, ...]:
        """Return the servers of `urls`.

        Raises:
            UsageError: a URL of another form; the text shows no password.
        """
        return tuple(parse_server(url) if isinstance(url, str) else url for url in self.urls)

    def wants(self, kind: CandidateKind) -> bool:
        """Say whether candidates of this kind are offered; forced relays allow no other."""
        return kind in ((CandidateKind.RELAY,) if self.force_relay else self.candidate_types)

    def allowed_ips(self, ips: Sequence[str]) -> list[str]:
        """Return those of the wanted network types."""
        wanted = {True: NetworkType.UDP6, False: NetworkType.UDP4}
        return [ip for ip in ips if wanted[":" in ip] in self.network_types]

    def with_environment(self, environ: Mapping[str, str]) -> Self:
        """Return the settings with `GINNEL_ICE_KEEPALIVE`, `GINNEL_FORCE_RELAY` and so on in force.

        Raises:
            UsageError: a variable that is no duration, or no switch; it is named.
        """
        found = from_environment(environ, tuple(_VARIABLES))
        return replace(self, **{_VARIABLES[name]: value for name, value in found.items()})
