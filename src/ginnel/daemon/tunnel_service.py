"""What the tunnel's control socket answers: status, ping, netcheck, events."""

from __future__ import annotations

import asyncio
from typing import Any

from ginnel import __version__
from ginnel._native import cipher
from ginnel.base.errors import UsageError
from ginnel.daemon.control import Handler, Json
from ginnel.daemon.member_state import MemberState
from ginnel.daemon.netcheck import check_network, checks_of, clock_text, facts_of, with_known
from ginnel.daemon.node_shell import NodeShell
from ginnel.daemon.port_mapping import PortMapping
from ginnel.daemon.reachability import Reachability
from ginnel.daemon.report import describe_network, describe_peer, has_answers
from ginnel.daemon.tunnel_events import TunnelEvents
from ginnel.engine.relayed import RelayedEngine
from ginnel.mesh.events import NoticeKind
from ginnel.mesh.names import full_name, overlay_addresses, resolve

PING_LIMIT_S = 5.0  # seconds that an answer is waited for
MAX_EVENTS = 500  # lines of the journal in one answer
EXPIRY_WARNING_S = 60 * 86_400  # seconds before a certificate's end


class TunnelService:
    """Handlers of the control socket; they read, and ping."""

    def __init__(
        self,
        shell: NodeShell,
        engine: RelayedEngine,
        state: MemberState,
        events: TunnelEvents,
        *,
        separation: str,
        reach: Reachability,
        ports: PortMapping,
        protocol_id: str,
    ) -> None:
        self._shell = shell
        self._engine = engine
        self._state = state
        self._events = events
        self._separation = separation
        self._reach = reach
        self._ports = ports
        self._protocol_id = protocol_id
        self._checking = asyncio.Lock()

    def handlers(self) -> dict[tuple[str, str], Handler]:
        """Return the handlers by method and path."""
        return {
            ("GET", "/v1/status"): self.status,
            ("POST", "/v1/ping"): self.ping,
            ("GET", "/v1/netcheck"): self.netcheck,
            ("GET", "/v1/events"): self.events,
        }

    async def status(self, _body: Json) -> Json:
        """Return this machine, its peers and their paths."""
        membership = self._state.membership
        own = self._state.certificate
        assert membership.network is not None
        stats = {item.public_key: item for item in self._engine.peer_stats()}
        peers = sorted(self._events.peers.values(), key=lambda peer: peer.name)
        core = self._shell.core
        name = membership.name_of(own.member_id) or own.name
        return {
            "network": membership.network.name,
            "version": __version__,
            "self": {
                "name": name,
                "fqdn": full_name(name, membership.network.name),
                "member_id": own.member_id.hex(),
                "addresses": list(overlay_addresses(own)),
                "admin": self._events.has_signer,
            },
            "port": self._shell.port,
            "reachable": self._reach.outside.text,
            "separation": self._separation,
            "offloads": dict(self._engine.offloads()),
            "cipher": cipher(),
            "discovery": {
                "node_id": core.discovery.node_id.hex(),
                "nodes": len(self._nodes()),
                "answers": has_answers(core),
            },
            "peers": [
                describe_peer(
                    peer,
                    stats.get(peer.state.remote_key),
                    now=self._shell.now,
                    pairs=core.mesh.describe_pairs(peer.member_id) if core.mesh else (),
                    mtu=core.mesh.path_mtus.mtu_of(peer.state.remote_key) if core.mesh else None,
                )
                for peer in peers
            ],
            "warnings": self._warnings(),
            "drops": self._drops(),
        }

    async def ping(self, body: Json) -> Json:
        """Ping the member that `peer` names.

        Raises:
            UsageError: no such member, it is this machine, or there is no connection.
        """
        text = body.get("peer")
        if not isinstance(text, str) or len(text) > 255:
            raise UsageError("peer: a name or an overlay address belongs here")
        host = resolve(self._state.membership, text)
        if host is None:
            known = ", ".join(sorted(peer.name for peer in self._events.peers.values()))
            raise UsageError(f"no member {text!r}; there are {known or 'none'}")
        if host.member_id == self._state.certificate.member_id:
            raise UsageError(f"{host.name} is this machine")
        peer = self._events.peers.get(host.member_id)
        answer: Json = {"name": host.name, "address": host.addresses[0], "latency_s": None}
        try:
            async with asyncio.timeout(PING_LIMIT_S):
                answer["latency_s"] = await self._events.ping(host.member_id)
        except TimeoutError:
            answer["reason"] = f"no answer in {PING_LIMIT_S:.0f} s"
        if peer is not None:
            described = describe_peer(peer, None, now=self._shell.now)
            answer["path"] = described["path"]
            if answer["latency_s"] is None and described["path"] is None:
                answer["reason"] = described["reason"] or described["stage"]
        return answer

    async def netcheck(self, _body: Json) -> Json:
        """Test what the network around this machine allows, and add what is known."""
        shell, records = self._shell, self._nodes()
        async with self._checking:  # one at a time: nodes answer few
            finding = await check_network(records, self._protocol_id, shell.host_ips)
        finding = with_known(finding, self._reach.behaviour)
        known = describe_network(
            shell.core, shell.host_ips, self._reach.outside.text, self._warnings()
        )
        facts = facts_of(finding, shell.host_ips, has_nodes=bool(records))
        if not finding.seen and not finding.seen6:
            del facts["UDP"]  # what the tunnel hears all along tells more
        held = self._ports.text()
        facts["port mapping"] += f"; {held}" if held else ""
        facts["clock"] = self._events.notices.get("clock") or clock_text(shell.unix_now)
        checks = checks_of(finding) | {
            "reachable": self._reach.outside.text,
            "mapped": None if self._ports.address is None else str(self._ports.address),
            "clock_warning": self._events.notices.get("clock"),
        }
        known["facts"] |= facts
        return known | {"checks": checks}

    async def events(self, body: Json) -> Json:
        """Return the last lines of the journal, newest first."""
        limit = body.get("limit", MAX_EVENTS)
        if not isinstance(limit, int) or not 0 < limit <= MAX_EVENTS:
            raise UsageError(f"limit: 1 to {MAX_EVENTS}")
        found = self._state.database.events(limit)
        return {"events": [{"at": e.at, "kind": e.kind, "text": e.text} for e in found]}

    def _nodes(self) -> list[Any]:
        return self._shell.core.discovery.nodes()

    def _warnings(self) -> list[str]:
        warnings = list(self._events.notices.values())
        if self._state.trouble:
            warnings.append(self._state.trouble)
        left = self._state.certificate.not_after - self._shell.unix_now
        if left < EXPIRY_WARNING_S and NoticeKind.CERTIFICATE.value not in self._events.notices:
            warnings.append(
                f"this machine's certificate ends in {max(0.0, left) / 86_400:.0f} days"
            )
        return warnings

    def _drops(self) -> Json:
        core = self._shell.core
        named = {
            "data plane": self._engine.drops(),
            "discovery": {key.value: count for key, count in core.discovery.drops.items()},
            "node": {key.value: count for key, count in core.drops.items()},
        }
        if self._events.lost_records:
            named["manager"] = {"log records": self._events.lost_records}
        if core.mesh is not None:
            named["mesh"] = {key.value: count for key, count in core.mesh.drops.items()}
        return {name: counts for name, counts in named.items() if counts}
