"""What a tunnel knows of its network: from the keys' bundle, the trust file and the database.

The bundle (root's files) says which network this is; revocations and epochs are never rebuilt from
the database; certificates are, from peers. Everything is verified again when it is read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ginnel.base.errors import RemoteProtocolError, SystemFailure
from ginnel.base.types import Address, MemberId
from ginnel.mesh.certcheck import Refusal
from ginnel.mesh.derive import network_id_of, sha256
from ginnel.mesh.membership import Membership, Status
from ginnel.mesh.objects import Certificate, decode_object, parse_certificate, parse_network
from ginnel.storage.identity import NodeBundle
from ginnel.storage.state import KnownNode, PastEvent, StateDatabase, open_state
from ginnel.storage.trust import Trust, load_trust, save_trust

logger = logging.getLogger(__name__)


class MemberState:
    """Membership and database of one member, kept on disk together.

    After the start nothing here raises because of the disk: connections need no file, so a write
    that fails is told by `trouble` and tried again at the next `save`.
    """

    def __init__(
        self, folder: Path, bundle: NodeBundle, *, unix_now: float, resets_clock: bool = False
    ) -> None:
        """Read all there is; `resets_clock` forgets the last confirmed time (`--reset-clock`).

        Raises:
            SystemFailure: the trust file is damaged, or the certificate is not valid (any more):
                the text says why.
        """
        self._folder = folder
        self.trouble = ""  # why what is known can't be written now
        self._has_failed = False  # a write, since the last save
        self.trust = load_trust(folder)
        if resets_clock:
            self.trust = replace(self.trust, confirmed_at=0)
            save_trust(folder, self.trust)
        self.unix_now = max(unix_now, self.trust.confirmed_at)
        self.database: StateDatabase = open_state(folder)
        if self.database.set_aside is not None:
            logger.error(
                "the database was damaged: set aside as %s, rebuilt from peers",
                self.database.set_aside,
            )
        network = parse_network(decode_object(bundle.network))
        own = [bundle.network, bundle.admin, bundle.certificate]
        self.membership = Membership(
            network_id_of(network.root_public), own=own, confirmed_at=self.trust.confirmed_at
        )
        verdicts = self.membership.load_objects(
            [*own, *self.trust.objects, *self.database.objects()], unix_now=self.unix_now
        )
        for secret in self.trust.secrets:
            self.membership.add_epoch_secret(secret)
        refused = {
            sha256(verdict.object.raw): verdict.refusal
            for verdict in verdicts
            if verdict.status is Status.REFUSED and verdict.object is not None
        }
        self._member_id = bundle.keys.member_id
        self._certificate = self._check_own(bundle, refused.get(sha256(bundle.certificate)))

    @property
    def certificate(self) -> Certificate:
        """Return this node's own current certificate, or else the last one that was."""
        return self.membership.latest_certificate_of(self._member_id) or self._certificate

    def save(self) -> None:
        """Write what changed: trust to its own file, all else to the database."""
        trust_objects = self.membership.trust_objects()
        secrets = self.membership.epochs.secrets()
        trust = Trust(tuple(trust_objects), secrets, self.membership.confirmed_at)
        if trust != self.trust:
            self._write(lambda: self._save_trust(trust))
        apart = dict.fromkeys(trust_objects)
        objects = [raw for raw in self.membership.objects_to_store() if raw not in apart]
        self._write(lambda: self.database.save_objects((sha256(raw), raw) for raw in objects))
        if self.trouble and not self._has_failed:
            logger.info("what is known is written again")
            self.trouble = ""
        self._has_failed = False

    def note(self, kind: str, text: str, *, unix_now: float) -> None:
        """Add a line to the journal of events."""
        self._write(lambda: self.database.add_event(PastEvent(unix_now, kind, text)))

    def see_node(self, node: KnownNode) -> None:
        """Remember a node of the DHT for the next start."""
        self._write(lambda: self.database.see_node(node))

    def endpoint_worked(self, member_id: MemberId, address: Address, *, unix_now: float) -> None:
        """Remember where a peer was reached."""
        self._write(lambda: self.database.endpoint_worked(member_id, address, at=unix_now))

    def _save_trust(self, trust: Trust) -> None:
        save_trust(self._folder, trust)
        self.trust = trust

    def _write(self, write: Callable[[], None]) -> None:
        """Write something; a disk that refuses is told once, until a while without failures."""
        try:
            write()
        except SystemFailure as error:
            if not self.trouble:
                logger.warning("%s; the connections stay, it is tried again", error)
            self.trouble = str(error)
            self._has_failed = True

    def _check_own(self, bundle: NodeBundle, refusal: Refusal | None) -> Certificate:
        own = _parsed(bundle.certificate)
        is_ours = own is not None and own.member_id == self._member_id
        if own is None or not is_ours or self.membership.certificate_of(self._member_id) is None:
            refusal = refusal or self.membership.refusal_of(self._member_id)
            reason = refusal.value if is_ours and refusal else "not for this machine's keys"
            raise SystemFailure(
                f"this machine's certificate is not accepted: {reason}. Is the clock right? "
                "Otherwise join again with a new invite"
            )
        if self.membership.epochs.newest is None:
            raise SystemFailure("no epoch of the network is known here: join again")
        return own


def _parsed(raw: bytes) -> Certificate | None:
    try:
        return parse_certificate(decode_object(raw))
    except RemoteProtocolError:
        return None
