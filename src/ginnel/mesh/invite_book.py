"""The admin's side of joins: open invites, requests, approval and the certificate.

Lives in the signer process only. Before an answer that grants leaves, the invite is marked used
through `persist`, which must not return before the disk has it.

Invariant: one invite makes at most one certificate.

Source: docs/formats.md, "Invite and join".
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from ginnel.base import rlp
from ginnel.base.chance import RandomBytes
from ginnel.base.errors import RemoteProtocolError, UsageError
from ginnel.base.types import Secret
from ginnel.discv5.enr import Enr
from ginnel.mesh import derive, join
from ginnel.mesh.certcheck import check_member_keys
from ginnel.mesh.envelope import Kind, Outer, split_envelope
from ginnel.mesh.join import AnswerStatus, Invite, JoinAnswer, JoinRequest
from ginnel.mesh.membership import Membership
from ginnel.mesh.objects import (
    CERTIFICATE_LIFE_S,
    DAY_S,
    Admin,
    CertificateFields,
    RevocationKind,
    make_certificate,
)
from ginnel.mesh.sealer import Sealer, SealError

MAX_INVITES = 16  # open at once; each has three points, and storers take 64 of one IP address
MAX_REQUESTS = 3  # different requests an invite (Invite and join)
MIN_LIFE_S = 60  # seconds
MAX_LIFE_S = 30 * DAY_S  # seconds
BACKDATE_S = 600  # seconds a certificate begins early, for clocks that are behind
STATE_VERSION = 1

log = logging.getLogger(__name__)


class JoinDrop(Enum):
    """Why an envelope for an invite was dropped, in the order of the checks."""

    FORM = "no envelope of a join"
    UNKNOWN_INVITE = "no such invite"
    EXPIRED = "the invite expired"
    MAC = "wrong MAC"
    SEAL = "does not open"
    MALFORMED = "malformed inside"
    SIGNATURE = "a signature is wrong"
    KEY = "a key is not valid"  # no answer: there may be no way to seal one
    CANNOT_SIGN = "this admin's time is over, or no epoch is known"


@dataclass(frozen=True, slots=True)
class Authority:
    """What an admin signs with; `membership` knows everyone that was certified."""

    membership: Membership
    admin: Secret  # A
    sealing: Secret  # J
    admin_id: bytes

    @property
    def network_id(self) -> bytes:
        """Return the id of the network."""
        return self.membership.network_id


@dataclass(frozen=True, slots=True)
class Reply:
    """An envelope to deliver at a point."""

    point: derive.Point
    envelope: bytes


@dataclass(frozen=True, slots=True)
class Handled:
    """What follows from an envelope or an approval: replies, and a new certificate."""

    replies: tuple[Reply, ...] = ()
    new_objects: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Pending:
    """A request that waits for a person."""

    name: str
    code: str  # as shown: K7QF-2M9X
    invite_id: bytes
    request_hash: bytes


@dataclass(frozen=True)
class _Open:
    """One invite: what was asked, and what was granted."""

    invite_id: bytes
    secret: Secret
    expires: int
    is_auto: bool
    requests: dict[bytes, JoinRequest] = field(default_factory=dict)  # by hash
    granted: bytes = b""  # hash of the request that used it
    certificate: bytes = b""
    epoch: bytes = b""

    def encode(self) -> bytes:
        items: list[rlp.Encodable] = [STATE_VERSION, self.invite_id, self.secret.reveal()]
        items += [self.expires, int(self.is_auto), [r.body for r in self.requests.values()]]
        return rlp.encode([*items, self.granted, self.certificate, self.epoch])

    @classmethod
    def decode(cls, data: bytes) -> _Open:
        items = rlp.as_list(rlp.decode(data), at_least=9)
        requests = [join.decode_request(rlp.as_bytes(body)) for body in rlp.as_list(items[5])]
        return cls(
            invite_id=rlp.as_bytes(items[1], join.INVITE_ID_SIZE),
            secret=Secret(rlp.as_bytes(items[2], join.INVITE_SECRET_SIZE)),
            expires=rlp.as_int(items[3]),
            is_auto=bool(rlp.as_int(items[4], 1)),
            requests={request.hash: request for request in requests},
            granted=rlp.as_bytes(items[6]),
            certificate=rlp.as_bytes(items[7]),
            epoch=rlp.as_bytes(items[8]),
        )


class InviteBook:
    """All open invites of one admin.

    Args:
        authority: keys and known members.
        sealer: opens requests, seals answers.
        random_bytes: invite ids, secrets and serials.
        persist: called with an invite's id and its state, or None to forget it; returns when
            the disk has it.
    """

    def __init__(
        self,
        authority: Authority,
        *,
        sealer: Sealer,
        random_bytes: RandomBytes,
        persist: Callable[[bytes, bytes | None], None],
    ) -> None:
        self.drops: dict[JoinDrop, int] = {}
        self._authority = authority
        self._sealer = sealer
        self._random_bytes = random_bytes
        self._persist = persist
        self._open: dict[bytes, _Open] = {}

    # --- commands -----------------------------------------------------------------------------

    def load(self, state: bytes, *, unix_now: float) -> bytes:
        """Take back what `persist` was given; return the certificate that the invite made, or b"".

        Raises:
            RemoteProtocolError: the file is damaged; set it aside.
        """
        invite = _Open.decode(state)
        self._open[invite.invite_id] = invite
        if invite.certificate:  # else its name and address would be given to somebody else
            self._authority.membership.load_objects([invite.certificate], unix_now=unix_now)
        return invite.certificate

    def create(
        self, life_s: int, records: Sequence[Enr] = (), *, is_auto: bool = False, unix_now: float
    ) -> str:
        """Make an invite and return its text.

        Raises:
            UsageError: the life is out of range, or too many invites are open.
        """
        self.expire(unix_now=unix_now)
        if not MIN_LIFE_S <= life_s <= MAX_LIFE_S:
            raise UsageError("an invite is valid for at least 1 minute and at most 30 days")
        if len(self._open) >= MAX_INVITES:
            raise UsageError(f"{MAX_INVITES} invites are open: wait until one expires")
        entry = _Open(
            invite_id=self._random_bytes(join.INVITE_ID_SIZE),
            secret=Secret(self._random_bytes(join.INVITE_SECRET_SIZE)),
            expires=int(unix_now) + life_s,
            is_auto=is_auto,
        )
        self._keep(entry)
        network = self._authority.membership.network
        return join.format_invite(
            Invite(
                network_id=self._authority.network_id,
                invite_id=entry.invite_id,
                secret=entry.secret,
                expires=entry.expires,
                admin_id=self._authority.admin_id,
                sealing_key=derive.x25519_public(self._authority.sealing),
                records=tuple(records[: join.MAX_RECORDS]),
                network_name=network.name if network is not None else "",
            )
        )

    def points(self, *, unix_now: float) -> tuple[derive.Point, ...]:
        """Return where the open invites are registered: near periods, and always the next."""
        self.expire(unix_now=unix_now)
        periods = sorted({*derive.periods_near(unix_now), derive.period_of(unix_now) + 1})
        return tuple(
            derive.invite_point(self._authority.network_id, entry.secret, period)
            for entry in self._open.values()
            for period in periods
        )

    def expire(self, *, unix_now: float) -> None:
        """Forget invites whose time is over."""
        for entry in list(self._open.values()):
            if unix_now > entry.expires:
                self._persist(entry.invite_id, None)
                del self._open[entry.invite_id]

    def pending(self) -> tuple[Pending, ...]:
        """Return the requests that wait for a person."""
        return tuple(
            Pending(request.name, self._code(entry, request), entry.invite_id, digest)
            for entry in self._open.values()
            if not entry.granted and not entry.is_auto
            for digest, request in entry.requests.items()
            if self._why_not(request) is None
        )

    def approve(
        self, name: str, code: str | None = None, *, caps: int = 0, unix_now: float
    ) -> Handled:
        """Grant the pending request of this name (and code, if given), with these caps.

        Raises:
            UsageError: none matches, or several do.
        """
        self.expire(unix_now=unix_now)
        wanted = None if code is None else join.parse_code(code)
        matches = [
            item
            for item in self.pending()
            if item.name == name and wanted in (None, join.parse_code(item.code))
        ]
        if not matches:
            waiting = ", ".join(f"{item.name} ({item.code})" for item in self.pending())
            raise UsageError(f"nobody of that name and code waits; waiting: {waiting or 'nobody'}")
        if len(matches) > 1:
            codes = ", ".join(item.code for item in matches)
            raise UsageError(f"several wait as {name}: give the code as well, one of {codes}")
        entry = self._open[matches[0].invite_id]
        request = entry.requests[matches[0].request_hash]
        entry, new = self._grant(entry, request, unix_now, caps)
        return Handled(self._replies(entry, request, AnswerStatus.GRANTED, unix_now), new)

    # --- envelopes ----------------------------------------------------------------------------

    def handle_envelope(self, data: bytes, *, unix_now: float) -> Handled:
        """Take an envelope that came to one of our points; never raises for its bytes.

        Raises:
            SystemFailure: from `persist`; nothing was answered, the joiner asks again.
        """
        self._authority.membership.refresh(unix_now=unix_now)
        outcome = self._check(data, unix_now) if self._can_sign() else JoinDrop.CANNOT_SIGN
        if isinstance(outcome, JoinDrop):
            return self._drop(outcome)
        entry, request = outcome
        if entry.granted == request.hash:
            return Handled(self._replies(entry, request, AnswerStatus.GRANTED, unix_now))
        if entry.granted:
            return Handled(self._replies(entry, request, AnswerStatus.USED, unix_now))
        reason = self._why_not(request) or _why_no_more(entry, request)
        if reason is not None:
            refused = self._replies(entry, request, AnswerStatus.REFUSED, unix_now, reason)
            return Handled(refused)
        if request.hash not in entry.requests:
            entry = replace(entry, requests={**entry.requests, request.hash: request})
            self._keep(entry)
        if not entry.is_auto:
            return Handled(self._replies(entry, request, AnswerStatus.PENDING, unix_now))
        entry, new = self._grant(entry, request, unix_now)
        return Handled(self._replies(entry, request, AnswerStatus.GRANTED, unix_now), new)

    def _drop(self, reason: JoinDrop) -> Handled:
        self.drops[reason] = self.drops.get(reason, 0) + 1
        return Handled()

    def _check(self, data: bytes, unix_now: float) -> tuple[_Open, JoinRequest] | JoinDrop:
        try:
            outer = split_envelope(data)
        except RemoteProtocolError:
            return JoinDrop.FORM
        if outer.kind is not Kind.JOIN:
            return JoinDrop.FORM
        entry = self._open.get(outer.epoch_id)
        if entry is None:
            return JoinDrop.UNKNOWN_INVITE
        if unix_now > entry.expires:
            return JoinDrop.EXPIRED
        if not join.has_join_mac(outer, self._authority.network_id, entry.secret):
            return JoinDrop.MAC
        request = self._open_request(outer)
        if isinstance(request, JoinDrop):
            return request
        if request.invite_id != entry.invite_id:
            return JoinDrop.MALFORMED
        return entry, request

    def _open_request(self, outer: Outer) -> JoinRequest | JoinDrop:
        try:
            text = join.unseal_join(
                outer,
                network_id=self._authority.network_id,
                recipient=self._authority.admin_id,
                key=self._authority.sealing,
                sealer=self._sealer,
            )
            request = join.decode_signed_request(text, self._authority.network_id)
        except SealError:
            return JoinDrop.SEAL
        except RemoteProtocolError:
            return JoinDrop.MALFORMED
        if request is None:
            return JoinDrop.SIGNATURE
        keys = (request.identity, request.wireguard, request.sealing, request.discovery)
        return request if check_member_keys(*keys) is None else JoinDrop.KEY

    def _why_not(self, request: JoinRequest) -> str | None:
        """Return why a request can't be granted, in words for the joiner."""
        membership = self._authority.membership
        if membership.is_revoked(RevocationKind.MEMBER, request.member_id):
            return "this key was revoked: join with new keys"
        for member in membership.members():
            cert = member.cert
            if request.member_id == cert.member_id:
                return "this machine's key is a member already"
            if _shares_key(request, (cert.wireguard, cert.sealing, cert.discovery)):
                return "another member has one of these keys"
            if request.name in (cert.name, member.name):
                return "this name is taken: join again with another (--name)"
        return None

    # --- granting -----------------------------------------------------------------------------

    def _grant(
        self, entry: _Open, request: JoinRequest, unix_now: float, caps: int = 0
    ) -> tuple[_Open, tuple[bytes, ...]]:
        """Issue the certificate and mark the invite used, on disk first."""
        membership = self._authority.membership
        membership.refresh(unix_now=unix_now)
        epoch = membership.epochs.newest
        admin = self._own_admin()
        if epoch is None:
            raise UsageError("no epoch is known: nobody can be admitted")
        not_before = int(unix_now) - BACKDATE_S
        fields = CertificateFields(
            serial=self._random_bytes(16),
            identity=request.identity,
            wireguard=request.wireguard,
            sealing=request.sealing,
            discovery=request.discovery,
            name=request.name,
            ipv6=derive.overlay_ipv6(membership.network_id, request.member_id),
            ipv4=free_ipv4(admin, membership),
            groups=(),
            routes=(),
            caps=caps,
            since=int(unix_now),
            not_before=not_before,
            not_after=min(not_before + CERTIFICATE_LIFE_S, admin.not_after),
        )
        raw = make_certificate(fields, seed=self._authority.admin, network_id=membership.network_id)
        used = replace(entry, granted=request.hash, certificate=raw, epoch=epoch.epoch.object.raw)
        self._keep(used)
        membership.add_object(raw, unix_now=unix_now)
        return used, (raw,)

    def _keep(self, entry: _Open) -> None:
        """Put the invite on disk, and only then into memory."""
        self._persist(entry.invite_id, entry.encode())
        self._open[entry.invite_id] = entry

    def _can_sign(self) -> bool:
        membership = self._authority.membership
        return membership.epochs.newest is not None and any(
            admin.admin_id == self._authority.admin_id for admin in membership.admins()
        )

    def _own_admin(self) -> Admin:
        for admin in self._authority.membership.admins():
            if admin.admin_id == self._authority.admin_id:
                return admin
        raise UsageError("this machine's admin key has expired or was revoked")

    def _replies(
        self,
        entry: _Open,
        request: JoinRequest,
        status: AnswerStatus,
        unix_now: float,
        reason: str = "",
    ) -> tuple[Reply, ...]:
        membership = self._authority.membership
        assert membership.network is not None
        own = (membership.network.object.raw, self._own_admin().object.raw)
        parts = [JoinAnswer(request.hash, status, 0, own, reason=reason)]
        if status is AnswerStatus.GRANTED:
            objects = (entry.certificate, entry.epoch)
            parts.append(JoinAnswer(request.hash, status, 1, objects, self._secret_of(entry.epoch)))
        period = derive.period_of(unix_now)
        point = derive.invite_point(membership.network_id, entry.secret, period, reply=True)
        return tuple(Reply(point, self._seal(entry, request, part, point)) for part in parts)

    def _seal(
        self, entry: _Open, request: JoinRequest, answer: JoinAnswer, point: derive.Point
    ) -> bytes:
        network_id = self._authority.network_id
        return join.seal_join(
            join.encode_answer(answer, admin=self._authority.admin, network_id=network_id),
            network_id=network_id,
            invite_id=entry.invite_id,
            secret=entry.secret,
            tag=point.tag,
            recipient=request.member_id,
            recipient_key=request.sealing,
            sealer=self._sealer,
        )

    def _secret_of(self, epoch_object: bytes) -> Secret | None:
        for key in self._authority.membership.epochs.all():
            if key.epoch.object.raw == epoch_object:
                return key.secret
        return None

    def _code(self, entry: _Open, request: JoinRequest) -> str:
        code = join.join_code(self._authority.network_id, entry.secret, request.hash)
        return join.format_code(code)


def free_ipv4(admin: Admin, membership: Membership) -> bytes:
    """Return the lowest address of the pool that nobody has, or nothing if it is used up.

    Addresses that end in 0 or 255 are left out: some systems refuse them.
    """
    taken = {cert.ipv4 for cert in membership.certificates()}
    base = int.from_bytes(admin.ipv4_pool, "big")
    for number in range(1, 2 ** (32 - admin.pool_len) - 1):
        address = (base + number).to_bytes(4, "big")
        if address[3] not in (0, 255) and address not in taken:
            return address
    return b""


def _why_no_more(entry: _Open, request: JoinRequest) -> str | None:
    """Return why an invite takes no further request, in words for the joiner; its admin is told."""
    if request.hash in entry.requests or len(entry.requests) < MAX_REQUESTS:
        return None
    log.warning("a fourth machine asked under one invite and was refused")
    return "three machines have asked under this invite: make a new one"


def _shares_key(request: JoinRequest, keys: tuple[bytes, ...]) -> bool:
    return any(key in keys for key in (request.wireguard, request.sealing, request.discovery))
