"""Sealed, signed messages between members, and all checks on arrival.

An envelope shows a storing node nothing but an epoch id and a tag of the hour. `Opener` makes the
checks in the order of the format, counts each failure by its reason and keeps the replay windows.

Invariant: no message is returned twice, and none whose sender has no current certificate.

Source: docs/formats.md, "Sealed envelope".
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum

from ginnel.base import rlp
from ginnel.base.errors import RemoteProtocolError, UsageError
from ginnel.base.limits import BoundedLru, RateLimiter
from ginnel.base.types import MemberId, Secret
from ginnel.mesh import derive
from ginnel.mesh.epochs import EpochKey
from ginnel.mesh.membership import Membership
from ginnel.mesh.objects import RevocationKind
from ginnel.mesh.sealer import SEAL_OVERHEAD, Sealer, SealError

VERSION = 1
HEADER_SIZE = 42  # bytes: ver, kind, epoch id, tag, mac
MAX_ENVELOPE = 1088  # bytes, so that DELIVER fits into a TALKREQ (Ground rules)
MIN_ENVELOPE = HEADER_SIZE + SEAL_OVERHEAD + derive.PAD_TO
MAX_TEXT = 958  # bytes inside: what 1088 leaves, padded to 64, less the length
MAX_PAYLOAD = 736  # bytes: MAX_TEXT less body, signature and RLP's headers
SESSION_SIZE = 16  # bytes
REPLAY_WINDOW = 64  # counters of a session
REPLAY_KEPT_S = 2 * derive.CLOCK_TOLERANCE_S  # seconds; an older message fails by its time
MAX_SESSIONS = 256  # sessions a sender within REPLAY_KEPT_S
MAX_SENDERS = 4096  # as many as members
RATE_PER_SOURCE = 10.0  # envelopes a second that cost an HPKE operation
BURST_PER_SOURCE = 50.0  # envelopes; a mesh that starts up
MAX_SOURCES = 1024  # sources whose rate is remembered
FETCH_INTERVAL_S = 60.0  # seconds between two wishes for one unknown certificate
FETCHES_PER_S = 0.2  # such wishes of all together: whoever knows the epoch can invent senders
FETCHES_BURST = 20.0  # a mesh that starts up
MAX_OPEN_OFFERS = 8  # copies of an offer to one member that wait for an answer
MAX_KEYS_CACHED = 64  # our tag and MAC key: 8 epochs, 3 periods each, those just past


class Kind(IntEnum):
    """What a message is about; the numbers are on the wire."""

    OFFER = 1
    ANSWER = 2
    CANDIDATES = 3
    BYE = 4
    GRANT = 5
    FETCH = 6
    OBJECTS = 7
    RELAY = 8
    JOIN = 9


OLD_EPOCH_KINDS = (Kind.GRANT, Kind.FETCH, Kind.OBJECTS)


class EnvelopeDrop(Enum):
    """Why an envelope was dropped, in the order of the checks."""

    FORM = "size, version or kind"
    EPOCH = "unknown epoch"
    TAG = "not our tag"
    MAC = "wrong MAC"
    RATE = "too many from one source"
    SEAL = "does not open"
    MALFORMED = "malformed inside"
    MISMATCH = "inside says otherwise than outside"
    UNKNOWN_SENDER = "no current certificate"
    SIGNATURE = "wrong signature"
    CLOCK = "sent at another time"
    REPLAY = "seen before"
    TOO_MANY_SESSIONS = "too many sessions of one sender"
    NOT_ASKED = "answers no open offer"
    OLD_EPOCH = "an old epoch"


@dataclass(frozen=True, slots=True)
class Message:
    """What an envelope carries; `ref` is the hash of the message answered, or empty."""

    kind: Kind
    sender: MemberId
    recipient: MemberId
    epoch_id: bytes
    session: bytes
    counter: int
    sent_at: int
    payload: bytes = field(repr=False)  # a grant's holds an epoch's secret
    ref: bytes = b""

    def encode(self) -> bytes:
        """Return the body that is signed and hashed."""
        items: list[rlp.Encodable] = [VERSION, int(self.kind), self.sender, self.recipient]
        items += [self.epoch_id, self.session, self.counter, self.sent_at, self.ref, self.payload]
        return rlp.encode(items)


@dataclass(frozen=True, slots=True)
class Outer:
    """The parts of an envelope that everybody sees."""

    kind: Kind
    epoch_id: bytes
    tag: bytes
    mac: bytes
    sealed: bytes
    authenticated: bytes  # all bytes but the MAC

    @property
    def header(self) -> bytes:
        """Return ver, kind, epoch id and tag."""
        return self.authenticated[: HEADER_SIZE - derive.MAC_SIZE]


@dataclass(frozen=True, slots=True)
class Sealed:
    """An envelope ready to deliver, and H(body) by which its answer will refer to it."""

    data: bytes
    body_hash: bytes


@dataclass(frozen=True, slots=True)
class Opened:
    """A message that passed all checks, and H(body) to answer with."""

    message: Message
    body_hash: bytes


def split_envelope(data: bytes) -> Outer:
    """Take an envelope apart: size, version, kind.

    Raises:
        RemoteProtocolError: not an envelope; drop it.
    """
    if not MIN_ENVELOPE <= len(data) <= MAX_ENVELOPE:
        raise RemoteProtocolError(f"an envelope of {len(data)} bytes")
    if data[0] != VERSION or data[1] not in Kind.__members__.values():
        raise RemoteProtocolError("an envelope of an unknown version or kind")
    return Outer(
        kind=Kind(data[1]),
        epoch_id=data[2:10],
        tag=data[10:26],
        mac=data[26:42],
        sealed=data[42:],
        authenticated=data[:26] + data[42:],
    )


def seal_info(network_id: bytes, recipient: bytes, header: bytes) -> bytes:
    """Return HPKE's info: everything that the sealed text is bound to."""
    return derive.label_bytes("seal") + network_id + recipient + header


def build_envelope(
    text: bytes,
    *,
    kind: Kind,
    epoch_id: bytes,
    tag: bytes,
    recipient: bytes,
    recipient_key: bytes,
    mac_key: Secret,
    network_id: bytes,
    sealer: Sealer,
) -> bytes:
    """Pad and seal a text and put the outer parts around it; joins use this too.

    Raises:
        UsageError: the text is longer than `MAX_TEXT`.
        SealError: the recipient's key is of no use.
    """
    if len(text) > MAX_TEXT:
        raise UsageError(f"{len(text)} bytes do not fit into an envelope, {MAX_TEXT} do")
    header = bytes((VERSION, kind)) + epoch_id + tag
    info = seal_info(network_id, recipient, header)
    sealed = sealer.seal(recipient_key, info, derive.pad(text))
    return header + derive.mac(mac_key, header + sealed) + sealed


def seal_envelope(
    message: Message,
    *,
    network_id: bytes,
    epoch: EpochKey,
    identity: Secret,
    recipient_key: bytes,
    period: int,
    sealer: Sealer,
) -> Sealed:
    """Sign and seal a message to a member.

    Args:
        message: its epoch_id must be the epoch's.
        identity: the sender's N.
        recipient_key: S of the recipient's current certificate.
        period: the period under whose tag it is delivered.

    Raises:
        UsageError: the payload is longer than `MAX_PAYLOAD`.
    """
    if message.epoch_id != epoch.epoch_id:
        raise UsageError("the message names another epoch")
    body = message.encode()
    text = rlp.encode([body, derive.sign(identity, network_id, "message", body)])
    point = derive.member_point(network_id, epoch.secret, message.recipient, period)
    data = build_envelope(
        text,
        kind=message.kind,
        epoch_id=message.epoch_id,
        tag=point.tag,
        recipient=message.recipient,
        recipient_key=recipient_key,
        mac_key=derive.envelope_mac_key(network_id, epoch.secret, message.recipient),
        network_id=network_id,
        sealer=sealer,
    )
    return Sealed(data, derive.sha256(body))


def decode_message(body: bytes) -> Message:
    """Decode a body.

    Raises:
        RlpError: malformed or of another version; drop it.
    """
    items = rlp.as_list(rlp.decode(body), at_least=10)
    if rlp.as_int(items[0], 255) != VERSION:
        raise rlp.RlpError("a message of another version")
    kind = rlp.as_int(items[1], 255)
    ref = rlp.as_bytes(items[8])
    if kind not in Kind.__members__.values() or len(ref) not in (0, 32):
        raise rlp.RlpError("an unknown kind or a wrong reference")
    return Message(
        kind=Kind(kind),
        sender=MemberId(rlp.as_bytes(items[2], 32)),
        recipient=MemberId(rlp.as_bytes(items[3], 32)),
        epoch_id=rlp.as_bytes(items[4], derive.EPOCH_ID_SIZE),
        session=rlp.as_bytes(items[5], SESSION_SIZE),
        counter=rlp.as_int(items[6]),
        sent_at=rlp.as_int(items[7]),
        ref=ref,
        payload=rlp.as_bytes(items[9]),
    )


class ReplayWindow:
    """The counters of one session that were seen: the highest, and 64 below it."""

    __slots__ = ("_highest", "_seen", "at")

    def __init__(self) -> None:
        self._highest = -1
        self._seen = 0
        self.at = 0.0

    def accept(self, counter: int) -> bool:
        """Mark a counter; False if it was seen or lies below the window."""
        ahead = counter - self._highest
        if ahead > 0:
            shifted = self._seen << ahead if ahead < REPLAY_WINDOW else 0
            self._seen = (shifted | 1) & (2**REPLAY_WINDOW - 1)
            self._highest = counter
            return True
        if -ahead >= REPLAY_WINDOW or self._seen >> -ahead & 1:
            return False
        self._seen |= 1 << -ahead
        return True


class _Dropped(Exception):
    """Inside this module: a check failed."""

    def __init__(self, reason: EnvelopeDrop) -> None:
        self.reason = reason


class Opener:
    """Opens the envelopes to one member.

    `wanted()` names senders whose certificate should be fetched. `sealing_keys` holds the current
    S first and the former one for 24 h after a renewal. `introduce` is shown an objects message
    of an unknown sender, which may hold its certificate, and adds that if it is good.
    """

    def __init__(
        self,
        membership: Membership,
        member_id: MemberId,
        sealing_keys: Sequence[Secret],
        sealer: Sealer,
        *,
        introduce: Callable[[Message], None] | None = None,
    ) -> None:
        self.sealing_keys = tuple(sealing_keys)
        self.drops: dict[EnvelopeDrop, int] = {}
        self._membership = membership
        self._member_id = member_id
        self._sealer = sealer
        self._introduce = introduce
        self._keys: BoundedLru[tuple[bytes, int], tuple[bytes, Secret]] = BoundedLru(
            MAX_KEYS_CACHED
        )
        self._rates: RateLimiter[Hashable] = RateLimiter(
            RATE_PER_SOURCE, BURST_PER_SOURCE, limit=MAX_SOURCES
        )
        self._windows: BoundedLru[MemberId, dict[bytes, ReplayWindow]] = BoundedLru(MAX_SENDERS)
        self._open_offers: BoundedLru[MemberId, deque[bytes]] = BoundedLru(MAX_SENDERS)
        self._fetch_rate: RateLimiter[MemberId] = RateLimiter(
            1 / FETCH_INTERVAL_S, 1, limit=MAX_SENDERS
        )
        self._fetches: RateLimiter[None] = RateLimiter(FETCHES_PER_S, FETCHES_BURST, limit=1)
        self._wanted: deque[MemberId] = deque(maxlen=int(FETCHES_BURST))

    def expect_answer(self, body_hash: bytes, recipient: MemberId) -> None:
        """Let one answer of this member to this offer pass; it ends the offers before it too."""
        offers = self._open_offers.get(recipient)
        if offers is None:
            offers = deque(maxlen=MAX_OPEN_OFFERS)
            self._open_offers.put(recipient, offers)
        offers.append(body_hash)

    def wanted(self) -> MemberId | None:
        """Return the next member whose certificate is not known and should be fetched."""
        return self._wanted.popleft() if self._wanted else None

    def open(self, data: bytes, *, source: Hashable, now: float, unix_now: float) -> Opened | None:
        """Return the message if it passes all checks, else count why not.

        Args:
            data: the envelope.
            source: whose rate it counts for: who sent it on to us.
            now: monotonic seconds.
            unix_now: wall time.
        """
        self._membership.refresh(unix_now=unix_now)
        try:
            return self._open(data, source, now, unix_now)
        except _Dropped as dropped:
            self.drops[dropped.reason] = self.drops.get(dropped.reason, 0) + 1
            return None

    def _open(self, data: bytes, source: Hashable, now: float, unix_now: float) -> Opened:
        try:
            outer = split_envelope(data)
        except RemoteProtocolError:
            raise _Dropped(EnvelopeDrop.FORM) from None
        if outer.kind is Kind.JOIN:
            raise _Dropped(EnvelopeDrop.FORM)
        self._check_outside(outer, unix_now)
        if not self._rates.take(source, now=now):
            raise _Dropped(EnvelopeDrop.RATE)
        message, body, signature = self._unseal(outer)
        if (message.kind, message.epoch_id, message.recipient) != (
            outer.kind,
            outer.epoch_id,
            self._member_id,
        ):
            raise _Dropped(EnvelopeDrop.MISMATCH)
        self._check_sender(message, body, signature, now)
        if abs(unix_now - message.sent_at) > derive.CLOCK_TOLERANCE_S:
            raise _Dropped(EnvelopeDrop.CLOCK)
        self._check_replay(message, now)
        if message.kind is Kind.ANSWER and not self._take_answer(message):
            raise _Dropped(EnvelopeDrop.NOT_ASKED)
        is_old = self._membership.epochs.is_old(message.epoch_id, unix_now=unix_now)
        if is_old and message.kind not in OLD_EPOCH_KINDS:
            raise _Dropped(EnvelopeDrop.OLD_EPOCH)
        return Opened(message, derive.sha256(body))

    def _check_outside(self, outer: Outer, unix_now: float) -> None:
        epoch = self._membership.epochs.get(outer.epoch_id)
        if epoch is None:
            raise _Dropped(EnvelopeDrop.EPOCH)
        keys = [self._keys_of(epoch, period) for period in derive.periods_near(unix_now)]
        if all(tag != outer.tag for tag, _ in keys):
            raise _Dropped(EnvelopeDrop.TAG)
        if not derive.mac_matches(keys[0][1], outer.authenticated, outer.mac):
            raise _Dropped(EnvelopeDrop.MAC)

    def _unseal(self, outer: Outer) -> tuple[Message, bytes, bytes]:
        info = seal_info(self._membership.network_id, self._member_id, outer.header)
        for key in self.sealing_keys:
            try:
                padded = self._sealer.open(key, info, outer.sealed)
            except SealError:
                continue
            try:
                items = rlp.as_list(rlp.decode(derive.unpad(padded)), at_least=2)
                body = rlp.as_bytes(items[0])
                signature = rlp.as_bytes(items[1], derive.SIGNATURE_SIZE)
                return decode_message(body), body, signature
            except RemoteProtocolError:
                raise _Dropped(EnvelopeDrop.MALFORMED) from None
        raise _Dropped(EnvelopeDrop.SEAL)

    def _check_sender(self, message: Message, body: bytes, signature: bytes, now: float) -> None:
        cert = self._membership.certificate_of(message.sender)
        if cert is None and message.kind is Kind.OBJECTS and self._introduce is not None:
            self._introduce(message)
            cert = self._membership.certificate_of(message.sender)
        if cert is None:
            self._want(message.sender, now)
            raise _Dropped(EnvelopeDrop.UNKNOWN_SENDER)
        network_id = self._membership.network_id
        if not derive.verify(cert.identity, network_id, "message", body, signature):
            raise _Dropped(EnvelopeDrop.SIGNATURE)

    def _want(self, sender: MemberId, now: float) -> None:
        is_revoked = self._membership.is_revoked(RevocationKind.MEMBER, sender)
        if is_revoked or not self._fetch_rate.take(sender, now=now):
            return
        if self._fetches.take(None, now=now):
            self._wanted.append(sender)

    def _take_answer(self, message: Message) -> bool:
        offers = self._open_offers.peek(message.sender)
        if offers is None or message.ref not in offers:
            return False
        while offers.popleft() != message.ref:
            pass
        return True

    def _check_replay(self, message: Message, now: float) -> None:
        sessions = self._windows.get(message.sender)
        if sessions is None:
            sessions = {}
            self._windows.put(message.sender, sessions)
        window = sessions.get(message.session)
        if window is None:
            for session in [s for s, w in sessions.items() if w.at + REPLAY_KEPT_S < now]:
                del sessions[session]
            if len(sessions) >= MAX_SESSIONS:
                raise _Dropped(EnvelopeDrop.TOO_MANY_SESSIONS)
            window = sessions[message.session] = ReplayWindow()
        if not window.accept(message.counter):
            raise _Dropped(EnvelopeDrop.REPLAY)
        window.at = now

    def _keys_of(self, epoch: EpochKey, period: int) -> tuple[bytes, Secret]:
        """Return our tag of a period and our MAC key under an epoch."""
        cached = self._keys.get((epoch.epoch_id, period))
        if cached is None:
            network_id = self._membership.network_id
            point = derive.member_point(network_id, epoch.secret, self._member_id, period)
            mac_key = derive.envelope_mac_key(network_id, epoch.secret, self._member_id)
            cached = (point.tag, mac_key)
            self._keys.put((epoch.epoch_id, period), cached)
        return cached
