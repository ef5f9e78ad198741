"""The joiner's side of a join: asks under an invite and believes nothing before it verifies.

The shell delivers `envelope()` at `admin_points()`, keeps `reply_points()` registered and passes
in what arrives there. It stores what `granted` holds once the state is GRANTED.

Invariant: `granted` is set only if the network's root key hashes to the invite's network id, root,
admin and certificate verify, and the certificate holds exactly our own keys.

Source: docs/formats.md, "Invite and join".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ginnel.base.chance import RandomBytes
from ginnel.base.errors import RemoteProtocolError
from ginnel.base.types import Secret
from ginnel.mesh import derive, join
from ginnel.mesh.envelope import Kind, Outer, split_envelope
from ginnel.mesh.join import AnswerStatus, Invite, NodeKeys, SignedAnswer
from ginnel.mesh.membership import Membership, Status
from ginnel.mesh.objects import Admin, parse_certificate
from ginnel.mesh.sealer import Sealer, SealError

MAX_EARLY_PARTS = 4  # second parts kept that came before a first part could vouch for them


class JoinState(Enum):
    """How far a join is."""

    ASKING = "asking"
    PENDING = "waiting for approval"
    GRANTED = "granted"
    REFUSED = "refused"
    USED = "used"
    FAILED = "failed"  # signed by the admin, but it does not verify here


FINAL_STATES = (JoinState.GRANTED, JoinState.REFUSED, JoinState.USED, JoinState.FAILED)


class AnswerDrop(Enum):
    """Why an envelope to the joiner was dropped, in the order of the checks."""

    FORM = "no envelope of this join"
    MAC = "wrong MAC"
    SEAL = "does not open"
    MALFORMED = "malformed inside"
    OTHER_REQUEST = "answers another request"
    NETWORK = "network or admin object does not verify"
    SIGNATURE = "the admin's signature is wrong"


@dataclass(frozen=True, slots=True)
class Granted:
    """What a joiner stores."""

    network: bytes
    admin: bytes
    certificate: bytes
    epoch: bytes
    epoch_secret: Secret
    network_name: str
    member_name: str


class JoinAttempt:
    """One request under one invite, until it is answered."""

    def __init__(
        self,
        invite: Invite,
        keys: NodeKeys,
        name: str,
        *,
        sealer: Sealer,
        random_bytes: RandomBytes,
        unix_now: float,
    ) -> None:
        self.state = JoinState.ASKING
        self.reason = ""
        self.granted: Granted | None = None
        self.drops: dict[AnswerDrop, int] = {}
        self._invite = invite
        self._keys = keys
        self._sealer = sealer
        self._request, self._text = join.make_request(
            invite, keys, name, nonce=random_bytes(join.NONCE_SIZE), sent_at=int(unix_now)
        )
        self._admin: Admin | None = None
        self._membership = Membership(invite.network_id)
        self._early: list[SignedAnswer] = []

    @property
    def code(self) -> str:
        """Return the code to compare on both screens, as K7QF-2M9X."""
        digest = self._request.hash
        return join.format_code(
            join.join_code(self._invite.network_id, self._invite.secret, digest)
        )

    def admin_points(self, *, unix_now: float) -> tuple[derive.Point, ...]:
        """Return where the admin's node may be registered now."""
        return self._points(unix_now, is_reply=False)

    def reply_points(self, *, unix_now: float) -> tuple[derive.Point, ...]:
        """Return where this machine must be registered to get the answer."""
        return self._points(unix_now, is_reply=True)

    def envelope(self, point: derive.Point) -> bytes:
        """Return the request, sealed afresh for a point of the admin's node."""
        return join.seal_join(
            self._text,
            network_id=self._invite.network_id,
            invite_id=self._invite.invite_id,
            secret=self._invite.secret,
            tag=point.tag,
            recipient=self._invite.admin_id,
            recipient_key=self._invite.sealing_key,
            sealer=self._sealer,
        )

    def handle_envelope(self, data: bytes, *, unix_now: float) -> None:
        """Take an envelope that came to a reply point; never raises for its bytes."""
        if self.state in FINAL_STATES:
            return
        drop = self._handle(data, unix_now)
        if drop is not None:
            self.drops[drop] = self.drops.get(drop, 0) + 1

    def _points(self, unix_now: float, *, is_reply: bool) -> tuple[derive.Point, ...]:
        return tuple(
            derive.invite_point(
                self._invite.network_id, self._invite.secret, period, reply=is_reply
            )
            for period in derive.periods_near(unix_now)
        )

    def _handle(self, data: bytes, unix_now: float) -> AnswerDrop | None:
        try:
            outer = split_envelope(data)
        except RemoteProtocolError:
            return AnswerDrop.FORM
        if outer.kind is not Kind.JOIN or outer.epoch_id != self._invite.invite_id:
            return AnswerDrop.FORM
        if not join.has_join_mac(outer, self._invite.network_id, self._invite.secret):
            return AnswerDrop.MAC
        signed = self._unseal(outer)
        if isinstance(signed, AnswerDrop):
            return signed
        if signed.answer.request_hash != self._request.hash:
            return AnswerDrop.OTHER_REQUEST
        if signed.answer.part == 1:
            return self._on_second_part(signed, unix_now)
        return self._on_first_part(signed, unix_now)

    def _unseal(self, outer: Outer) -> SignedAnswer | AnswerDrop:
        try:
            text = join.unseal_join(
                outer,
                network_id=self._invite.network_id,
                recipient=self._request.member_id,
                key=self._keys.sealing,
                sealer=self._sealer,
            )
            return join.decode_answer(text)
        except SealError:
            return AnswerDrop.SEAL
        except RemoteProtocolError:
            return AnswerDrop.MALFORMED

    def _on_first_part(self, signed: SignedAnswer, unix_now: float) -> AnswerDrop | None:
        answer = signed.answer
        admin = self._verify_admin(answer.objects, unix_now)
        if admin is None:
            return AnswerDrop.NETWORK
        if not signed.is_signed(self._invite.network_id, admin.public_key):
            return AnswerDrop.SIGNATURE
        self._admin = admin
        self.reason = answer.reason
        if answer.status is AnswerStatus.PENDING:
            self.state = JoinState.PENDING
        elif answer.status is AnswerStatus.REFUSED:
            self.state = JoinState.REFUSED
        elif answer.status is AnswerStatus.USED:
            self.state = JoinState.USED
            self.reason = "another machine has used this invite: ask for a new one"
        early, self._early = self._early, []
        for second in early:
            if self.state not in FINAL_STATES:
                self._on_second_part(second, unix_now)
        return None

    def _verify_admin(self, objects: tuple[bytes, ...], unix_now: float) -> Admin | None:
        """Check root key, network and admin in a membership of their own."""
        membership = Membership(self._invite.network_id)
        for raw in objects:
            if membership.add_object(raw, unix_now=unix_now).status is not Status.NEW:
                return None
        admins = [a for a in membership.admins() if a.admin_id == self._invite.admin_id]
        if membership.network is None or not admins:
            self.reason = "the admin's time does not fit this machine's: is the clock right?"
            return None
        self._membership = membership
        return admins[0]

    def _on_second_part(self, signed: SignedAnswer, unix_now: float) -> AnswerDrop | None:
        if self._admin is None:
            if len(self._early) < MAX_EARLY_PARTS:
                self._early.append(signed)
            return None
        if not signed.is_signed(self._invite.network_id, self._admin.public_key):
            return AnswerDrop.SIGNATURE
        problem = self._accept(signed, unix_now)
        if problem is not None:
            self.state = JoinState.FAILED
            self.reason = problem
        return None

    def _accept(self, signed: SignedAnswer, unix_now: float) -> str | None:
        """Verify certificate and epoch; return what is wrong, in words."""
        answer = signed.answer
        if answer.status is not AnswerStatus.GRANTED:
            return "certificate and secret came without a grant"
        cert_raw, epoch_raw = answer.objects
        verdict = self._membership.add_object(cert_raw, unix_now=unix_now)
        if verdict.refusal is not None:
            return f"the certificate does not verify: {verdict.refusal.value}"
        if verdict.object is None or verdict.object.type != "cert":
            return "the answer holds no certificate"
        cert = parse_certificate(verdict.object)
        if (cert.identity, cert.wireguard, cert.sealing, cert.discovery) != self._keys.public:
            return "the certificate is for other keys than this machine's"
        epoch = self._membership.add_object(epoch_raw, unix_now=unix_now)
        secret = answer.epoch_secret
        if epoch.refusal is not None:
            return f"the epoch does not verify: {epoch.refusal.value}"
        if secret is None or not self._membership.add_epoch_secret(secret):
            return "the epoch's secret does not fit"
        network = self._membership.network
        assert network is not None
        assert self._admin is not None
        self.granted = Granted(
            network=network.object.raw,
            admin=self._admin.object.raw,
            certificate=cert_raw,
            epoch=epoch_raw,
            epoch_secret=secret,
            network_name=network.name,
            member_name=cert.name,
        )
        self.state = JoinState.GRANTED
        return None
