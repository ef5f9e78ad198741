"""Who belongs to a network: verified objects, what is in force, conflicts and alarms.

Takes raw objects in any order that has signers first, and answers which certificates are current.
Spreading them is `roster.py`'s business, storing them the shell's (`objects_to_store`).

Our own clock only hides: what it calls past is not in force, but stays until a confirmed time has
passed it, because a clock may jump ahead and come back. Only where there are as many members as may
be does who is out make room for a new one.

Invariant: no object is kept whose signature was not checked; revocations only grow until their
time is past for sure.

Source: docs/formats.md, "Signed objects", "Epochs", "Roster".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ginnel.base import rlp
from ginnel.base.types import Secret
from ginnel.mesh import derive
from ginnel.mesh.alarms import Alarm, AlarmBook, AlarmKind
from ginnel.mesh.certcheck import Refusal, check_certificate, check_times
from ginnel.mesh.claims import ClaimTable, Member
from ginnel.mesh.epochs import EpochBook
from ginnel.mesh.objects import (
    VERSION,
    Admin,
    Certificate,
    Epoch,
    Network,
    Parsed,
    Revocation,
    RevocationKind,
    SignedObject,
    decode_object,
    parse_object,
    revocations_digest,
)
from ginnel.mesh.revocations import RevocationBook

MAX_MEMBERS = 4096  # with a certificate, current or not: twice the largest mesh planned for
MAX_PER_MEMBER = 4  # certificates of one member: the current one and its neighbours in renewal
MAX_ADMINS = 64  # admin objects
MAX_KEPT = 64  # objects of a higher version, kept and forwarded


class Status(Enum):
    """What became of an object."""

    NEW = "new"
    KNOWN = "known"
    KEPT = "kept"  # of a higher version: forwarded, not acted on
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of `add_object`; a conflict is NEW with the refusal CONFLICT (kept, not live)."""

    status: Status
    refusal: Refusal | None = None
    object: SignedObject | None = None


class Membership:
    """All verified objects of one network and what follows from them.

    `refresh(unix_now=...)` brings the answers up to a time; `add_object` does so too.

    Args:
        network_id: objects of other networks are refused.
        own: raw objects that no time drops once they are in.
        confirmed_at: unix seconds; a time that has passed for sure.
    """

    def __init__(
        self, network_id: bytes, *, own: Sequence[bytes] = (), confirmed_at: int = 0
    ) -> None:
        self.network_id = network_id
        self.network: Network | None = None
        self.epochs = EpochBook(self._is_void)
        self._unix_now = 0.0
        self._confirmed_at = confirmed_at
        self._own = dict.fromkeys(map(derive.sha256, own))
        self._admins: dict[bytes, Admin] = {}  # by hash of the object
        self._certs: dict[bytes, dict[bytes, Certificate]] = {}  # by member id, then hash
        self._revocations = RevocationBook(self._is_void)
        self._kept: dict[bytes, SignedObject] = {}
        self._raw: dict[bytes, bytes] = {}  # every object by its hash
        self._members: dict[bytes, Member] | None = None  # None: to be worked out again
        self._revoked: dict[tuple[int, bytes], None] | None = None  # None: to be worked out again
        self._changes_at = float("inf")  # wall time at which the answers change by themselves
        self._alarms = AlarmBook()
        self._claims = ClaimTable(self._alarms)  # worked out with `_members`

    # --- taking objects ---------------------------------------------------------------------

    def add_object(self, raw: bytes, *, unix_now: float) -> Verdict:
        """Check an object in the order of the format and keep it if it passes."""
        self.refresh(unix_now=unix_now)
        return self._add(raw)

    def _add(self, raw: bytes, *, is_stored: bool = False) -> Verdict:
        digest = derive.sha256(raw)
        if digest in self._raw:
            return Verdict(Status.KNOWN)
        try:
            signed = decode_object(raw)
            parsed = None if signed.version > VERSION else parse_object(signed)
        except (rlp.RlpError, ValueError):
            return Verdict(Status.REFUSED, Refusal.MALFORMED)
        refusal = self._check_signer(signed, parsed, is_stored)
        if refusal is None and not signed.is_signed_in(self.network_id):
            refusal = Refusal.SIGNATURE
        if refusal is None and parsed is None:
            return self._keep(signed)
        if refusal is None:
            assert parsed is not None
            refusal = self._accept(parsed, is_stored)
        if refusal is not None and refusal is not Refusal.CONFLICT:
            return Verdict(Status.REFUSED, refusal, signed)
        return Verdict(Status.NEW, refusal, signed)

    def add_objects(self, raws: list[bytes], *, unix_now: float) -> list[Verdict]:
        """Add many (of a file, say), those that others depend on first."""
        # Revocations go before certificates: what is revoked never appears.
        return [self.add_object(raw, unix_now=unix_now) for raw in sorted(raws, key=_load_order)]

    def load_objects(self, raws: Sequence[bytes], *, unix_now: float) -> list[Verdict]:
        """Take back what was stored, so that as much is known as before the restart.

        All is verified again, but what ended meanwhile (by time or revocation) is kept: it is not
        in force, yet others depend on it, and our clock may be wrong.
        """
        self.refresh(unix_now=unix_now)
        return [self._add(raw, is_stored=True) for raw in sorted(raws, key=_load_order)]

    def add_epoch_secret(self, secret: Secret) -> bool:
        """Keep the secret of a known epoch; return whether that was new."""
        return self.epochs.add_secret(secret)

    def refresh(self, *, unix_now: float) -> None:
        """Move to a wall time: what has expired by then is no longer current."""
        backwards = unix_now < self._unix_now
        self._unix_now = unix_now
        if backwards or self._members is None or unix_now >= self._changes_at:
            self._drop_past()
            self._members = self._revoked = None

    # --- answers ----------------------------------------------------------------------------

    @property
    def confirmed_at(self) -> int:
        """Return a time that has passed for sure: somebody who may sign here signed later.

        It lies before our clock, too: what is dated more than the tolerance ahead is not accepted.
        """
        self._resolved()
        return self._confirmed_at

    def certificates(self) -> tuple[Certificate, ...]:
        """Return the current certificates, by member id."""
        members = self._resolved()
        return tuple(members[member_id].cert for member_id in sorted(members))

    def certificate_of(self, member_id: bytes) -> Certificate | None:
        """Return a member's current certificate."""
        member = self._resolved().get(member_id)
        return None if member is None else member.cert

    def latest_certificate_of(self, member_id: bytes) -> Certificate | None:
        """Return a member's current certificate, or else the last one known."""
        known = self._certs.get(member_id, {}).values()
        latest = max(known, key=lambda cert: cert.recency, default=None)
        return self.certificate_of(member_id) or latest

    def refusal_of(self, member_id: bytes) -> Refusal | None:
        """Return why a member has no current certificate, or None if it has one."""
        cert = self.latest_certificate_of(member_id)
        if cert is None:
            return Refusal.UNKNOWN
        if member_id in self._resolved():
            return None
        times = check_times(cert.not_before, cert.not_after, unix_now=self._unix_now)
        return times or self._check_certificate(cert) or Refusal.CONFLICT

    def members(self) -> tuple[Member, ...]:
        """Return the current members with the names that they are shown under, by member id."""
        members = self._resolved()
        return tuple(members[member_id] for member_id in sorted(members))

    def name_of(self, member_id: bytes) -> str | None:
        """Return the name a member is shown under: its own, or NAME-xxxx if an older has it."""
        member = self._resolved().get(member_id)
        return None if member is None else member.name

    def admins(self) -> tuple[Admin, ...]:
        """Return the admins in force."""
        return tuple(admin for admin in self._admins.values() if self._check_admin(admin) is None)

    def is_revoked(self, kind: RevocationKind, subject: bytes) -> bool:
        """Say whether a revocation in force names the subject."""
        return (int(kind), subject) in self._in_force()

    def revocation_digest(self) -> bytes:
        """Return the digest of all revocations in force."""
        return revocations_digest(list(self._in_force()))

    def roster_hashes(self) -> tuple[bytes, ...]:
        """Return the sorted hashes of all current certificates."""
        return tuple(sorted(cert.object.hash for cert in self.certificates()))

    def roster_digest(self) -> bytes:
        """Return H of the sorted hashes of all current certificates."""
        return derive.sha256(b"".join(self.roster_hashes()))

    def object_by_hash(self, digest: bytes) -> bytes | None:
        """Return an object's bytes as received."""
        return self._raw.get(digest)

    def objects_to_store(self) -> list[bytes]:
        """Return all objects, trust objects too; `add_objects` takes them back."""
        return list(self._raw.values())

    def trust_objects(self) -> list[bytes]:
        """Return what is stored apart from the database: revocations, epochs, who signed them."""
        trusted = [admin.object.raw for admin in self._admins.values()]
        trusted += [revocation.object.raw for revocation in self._revocations.objects()]
        return trusted + [epoch.object.raw for epoch in self.epochs.objects()]

    def poll_alarm(self) -> Alarm | None:
        """Return the next alarm; call until None."""
        self._resolved()
        return self._alarms.poll()

    # --- signers ----------------------------------------------------------------------------

    def _check_signer(
        self, signed: SignedObject, parsed: Parsed | None, is_stored: bool
    ) -> Refusal | None:
        by_root = derive.network_id_of(signed.signer) == self.network_id
        if signed.type in ("network", "admin"):
            return None if by_root else Refusal.FOREIGN_NETWORK
        if signed.type == "revoke":
            if by_root:
                return None
            if isinstance(parsed, Revocation) and parsed.kind is RevocationKind.ADMIN:
                return Refusal.UNKNOWN_SIGNER
            # The set only grows: an expired admin's revocations stand.
            return None if self._admins_with(signed.signer) else Refusal.UNKNOWN_SIGNER
        if self.network is None:
            return Refusal.NO_NETWORK
        admins = self._admins_with(signed.signer)
        if not admins:
            return Refusal.UNKNOWN_SIGNER
        if is_stored:  # he was in force then
            return None
        refusals = [self._check_admin(admin) for admin in admins]
        return None if None in refusals else refusals[0]

    def _admins_with(self, public_key: bytes) -> list[Admin]:
        return [admin for admin in self._admins.values() if admin.public_key == public_key]

    def _check_admin(self, admin: Admin) -> Refusal | None:
        if check_times(admin.not_before, admin.not_after, unix_now=self._unix_now):
            return Refusal.SIGNER_EXPIRED
        is_revoked = self._revocations.is_admin_revoked(admin.admin_id)
        return Refusal.SIGNER_REVOKED if is_revoked else None

    def _is_void(self, signer: bytes) -> bool:
        is_revoked = self._revocations.is_admin_revoked
        admins = self._admins_with(signer)
        return bool(admins) and all(is_revoked(admin.admin_id) for admin in admins)

    def _in_force(self) -> dict[tuple[int, bytes], None]:
        if self._revoked is None:
            self._revoked = self._revocations.in_force(unix_now=self._unix_now)
        return self._revoked

    # --- keeping ----------------------------------------------------------------------------

    def _accept(self, parsed: Parsed, is_stored: bool) -> Refusal | None:
        if isinstance(parsed, Network):
            return self._accept_network(parsed)
        if isinstance(parsed, Admin):
            return self._accept_admin(parsed, is_stored)
        if isinstance(parsed, Certificate):
            return self._accept_certificate(parsed, is_stored)
        if isinstance(parsed, Revocation):
            return self._accept_revocation(parsed)
        return self._accept_epoch(parsed)

    def _accept_network(self, network: Network) -> Refusal | None:
        current = self.network
        if current is not None and current.seq == network.seq:
            self._alarms.add(
                Alarm(AlarmKind.NETWORK_FORK, None, network.name, f"sequence {network.seq}"),
                network.object.hash,
            )
        if current is not None and (current.seq, network.object.hash) > (
            network.seq,
            current.object.hash,
        ):
            return Refusal.OLDER
        if current is not None:
            del self._raw[current.object.hash]
        self.network = network
        self._changed(network.object)
        for cert in [c for own in self._certs.values() for c in own.values()]:
            if self._check_certificate(cert, is_stored=True) is not None:  # another prefix
                self._forget_certificate(cert)
        return None

    def _accept_admin(self, admin: Admin, is_stored: bool) -> Refusal | None:
        try:
            derive.check_ed25519_key(admin.public_key)
        except derive.BadKey:
            return Refusal.KEY
        if not is_stored and self._unix_now - derive.CLOCK_TOLERANCE_S > admin.not_after:
            return Refusal.EXPIRED
        if len(self._admins) >= MAX_ADMINS:
            return Refusal.FULL
        self._admins[admin.object.hash] = admin
        self._changed(admin.object)
        return None

    def _accept_certificate(self, cert: Certificate, is_stored: bool) -> Refusal | None:
        refusal = self._check_certificate(cert, is_stored=is_stored)
        if refusal is not None:
            return refusal
        own = self._certs.get(cert.member_id, {})
        if len(own) >= MAX_PER_MEMBER:
            oldest = min(own.values(), key=lambda other: other.recency)
            if cert.recency <= oldest.recency:
                return Refusal.OLDER
            self._forget_certificate(oldest)
        elif not own and len(self._certs) >= MAX_MEMBERS and not self._make_room():
            return Refusal.FULL
        self._certs.setdefault(cert.member_id, {})[cert.object.hash] = cert
        self._raw[cert.object.hash] = cert.object.raw
        if is_stored:  # worked out once all are there
            self._members = None
            return None
        if own or not self._admit(cert):
            self._members = None
        return None if cert.member_id in self._resolved() else Refusal.CONFLICT

    def _make_room(self) -> bool:
        """Forget the member that is out whose time ends first; return whether there was one.

        Our clock may only hide him, but who is in counts more, and others tell of him again.
        """
        out = [
            own
            for own in self._certs.values()
            if not any(map(self._is_still_valid, own.values())) and not self._own.keys() & own
        ]
        if out:
            first = min(out, key=lambda own: max(cert.not_after for cert in own.values()))
            for cert in list(first.values()):
                self._forget_certificate(cert)
        return bool(out)

    def _admit(self, cert: Certificate) -> bool:
        """Add a new member who clashes with nobody, without working all out again."""
        member = None if self._members is None else self._claims.admit(cert)
        if self._members is None or member is None:
            return False
        self._members[cert.member_id] = member
        self._confirm(cert.not_before)
        self._changes_at = min(self._changes_at, cert.not_after + derive.CLOCK_TOLERANCE_S + 1)
        return True

    def _accept_revocation(self, revocation: Revocation) -> Refusal | None:
        refusal = self._revocations.check(revocation, confirmed_at=self._confirmed_at)
        if refusal is not None:
            return refusal
        former = self._revocations.add(revocation)
        if former is not None:
            del self._raw[former.object.hash]
        self._changed(revocation.object)
        return None

    def _accept_epoch(self, epoch: Epoch) -> Refusal | None:
        if epoch.at > self._unix_now + derive.CLOCK_TOLERANCE_S:
            return Refusal.NOT_YET_VALID
        dropped = self.epochs.add(epoch)
        if epoch in dropped:
            return Refusal.OLDER
        for other in dropped:
            self._raw.pop(other.object.hash, None)
        self._confirm(epoch.at)
        self._changed(epoch.object)
        return None

    def _keep(self, signed: SignedObject) -> Verdict:
        if len(self._kept) >= MAX_KEPT:
            return Verdict(Status.REFUSED, Refusal.FULL, signed)
        self._kept[signed.hash] = signed
        self._raw[signed.hash] = signed.raw
        return Verdict(Status.KEPT, None, signed)

    def _changed(self, signed: SignedObject) -> None:
        self._raw[signed.hash] = signed.raw
        self._members = None
        self._revoked = None

    def _confirm(self, at: int) -> None:
        self._confirmed_at = max(self._confirmed_at, at - derive.CLOCK_TOLERANCE_S)

    def _forget_certificate(self, cert: Certificate) -> None:
        own = self._certs[cert.member_id]
        del own[cert.object.hash]
        del self._raw[cert.object.hash]
        if not own:
            del self._certs[cert.member_id]

    def _drop_past(self) -> None:
        """Drop what can never count again: a confirmed time has passed its end."""
        past = self._confirmed_at - derive.CLOCK_TOLERANCE_S
        for cert in [c for own in self._certs.values() for c in own.values()]:
            if cert.not_after < past and cert.object.hash not in self._own:
                self._forget_certificate(cert)
        for revocation in self._revocations.expire(confirmed_at=self._confirmed_at):
            del self._raw[revocation.object.hash]
        for epoch in self.epochs.expire(unix_now=self._confirmed_at):
            self._raw.pop(epoch.object.hash, None)

    # --- what is in force -------------------------------------------------------------------

    def _check_certificate(self, cert: Certificate, *, is_stored: bool = False) -> Refusal | None:
        """Check all but its signature and other members; of a stored one only what never ends."""
        if self.network is None:
            return Refusal.NO_NETWORK
        unix_now = cert.not_before if is_stored else self._unix_now
        refusal: Refusal | None = Refusal.UNKNOWN_SIGNER
        for admin in self._admins_with(cert.object.signer):
            refusal = None if is_stored else self._check_admin(admin)
            refusal = refusal or check_certificate(cert, admin, self.network, unix_now=unix_now)
            if refusal is None:
                break
        if refusal is not None:
            return refusal
        return Refusal.REVOKED if not is_stored and self._is_cert_revoked(cert) else None

    def _is_cert_revoked(self, cert: Certificate) -> bool:
        return self.is_revoked(RevocationKind.MEMBER, cert.member_id) or self.is_revoked(
            RevocationKind.SERIAL, cert.serial
        )

    def _is_still_valid(self, cert: Certificate) -> bool:
        """Check again what changes with time: the rest was checked when it was accepted."""
        if check_times(cert.not_before, cert.not_after, unix_now=self._unix_now):
            return False
        return not self._is_cert_revoked(cert) and any(
            self._check_admin(admin) is None and cert.not_after <= admin.not_after
            for admin in self._admins_with(cert.object.signer)
        )

    def _resolved(self) -> dict[bytes, Member]:
        if self._members is None:
            self._members = self._resolve()
        return self._members

    def _resolve(self) -> dict[bytes, Member]:
        current = [
            max(valid, key=lambda cert: cert.recency)
            for own in self._certs.values()
            if (valid := [cert for cert in own.values() if self._is_still_valid(cert)])
        ]
        self._changes_at = self._next_change()
        members = self._claims.assign(current)
        for member in members.values():
            self._confirm(member.cert.not_before)
        return members

    def _next_change(self) -> float:
        spans = [(a.not_before, a.not_after) for a in self._admins.values()]
        spans += [(c.not_before, c.not_after) for own in self._certs.values() for c in own.values()]
        slack = derive.CLOCK_TOLERANCE_S
        instants: list[float] = [
            at for start, end in spans for at in (start - slack, end + slack + 1)
        ]
        instants += self._revocations.ends()
        return min((at for at in instants if at > self._unix_now), default=float("inf"))


def _load_order(raw: bytes) -> int:
    order = ("network", "admin", "revoke", "cert", "epoch")
    try:
        return order.index(decode_object(raw).type)
    except rlp.RlpError:
        return len(order)
