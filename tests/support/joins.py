"""An admin's invite book and a joiner's attempt, wired together without a network."""

from hashlib import sha256

from ginnel.mesh import join
from ginnel.mesh.invite_book import Authority, Handled, InviteBook
from ginnel.mesh.join import NodeKeys
from ginnel.mesh.join_attempt import JoinAttempt
from ginnel.mesh.sealer import HpkeSealer
from support.members import NOW, MemberKeys, NetworkFactory

SEALER = HpkeSealer()


class Bytes:
    """`RandomBytes` from a seed."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._count = 0

    def __call__(self, size: int) -> bytes:
        self._count += 1
        return sha256(f"{self._name} {self._count}".encode()).digest()[:size]


class AdminSide:
    """An invite book with its disk, a dictionary."""

    def __init__(self, net: NetworkFactory, *members: MemberKeys) -> None:
        self.disk: dict[bytes, bytes] = {}
        self.log: list[str] = []
        self.membership = net.membership(*members)
        self._authority = Authority(self.membership, net.admin, net.sealing, net.admin_id)
        self.book = self.restart()

    def restart(self) -> InviteBook:
        self.book = InviteBook(
            self._authority,
            sealer=SEALER,
            random_bytes=Bytes("admin"),
            persist=self.persist,
        )
        for state in self.disk.values():
            self.book.load(state, unix_now=NOW)
        return self.book

    def persist(self, invite_id: bytes, state: bytes | None) -> None:
        self.log.append("persist")
        if state is None:
            del self.disk[invite_id]
        else:
            self.disk[invite_id] = state

    def invite(self, *, is_auto: bool = False, life_s: int = 3600, unix_now: float = NOW) -> str:
        return self.book.create(life_s, is_auto=is_auto, unix_now=unix_now)


def joiner_keys(name: str) -> NodeKeys:
    keys = MemberKeys(name)
    return NodeKeys(keys.identity, keys.wireguard, keys.sealing, keys.discovery)


def attempt(
    text: str, name: str, *, keys: NodeKeys | None = None, unix_now: float = NOW
) -> JoinAttempt:
    return JoinAttempt(
        join.parse_invite(text, unix_now=unix_now),
        keys or joiner_keys(name),
        name,
        sealer=SEALER,
        random_bytes=Bytes(f"joiner {name}"),
        unix_now=unix_now,
    )


def ask(joiner: JoinAttempt, admin: AdminSide, *, unix_now: float = NOW) -> Handled:
    """Carry the request over and the replies back."""
    data = joiner.envelope(joiner.admin_points(unix_now=unix_now)[0])
    handled = admin.book.handle_envelope(data, unix_now=unix_now)
    carry(handled, joiner, unix_now=unix_now)
    return handled


def carry(handled: Handled, joiner: JoinAttempt, *, unix_now: float = NOW) -> None:
    locations = [point.location for point in joiner.reply_points(unix_now=unix_now)]
    for reply in handled.replies:
        assert reply.point.location in locations
        assert len(reply.envelope) <= 1088
        joiner.handle_envelope(reply.envelope, unix_now=unix_now)
