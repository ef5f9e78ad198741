import pytest

from ginnel.mesh import derive, revocations
from ginnel.mesh.certcheck import Refusal
from ginnel.mesh.objects import DAY_S, Revocation, decode_object, parse_object
from ginnel.mesh.revocations import KEPT_S, RevocationBook
from support.members import NOW, NetworkFactory, seed

NET = NetworkFactory()
MEMBER, SERIAL, ADMIN = 0, 1, 2
OTHER_ADMIN = seed("other admin")
END = NOW + KEPT_S + derive.CLOCK_TOLERANCE_S


def revocation(kind: int, number: int = 1, *, at: int = NOW, by: object = None) -> Revocation:
    subject = bytes([number]) * (32 if kind == MEMBER else 16)
    signer = by or (NET.root if kind == ADMIN else NET.admin)
    parsed = parse_object(decode_object(NET.revoke(kind, subject, signer, at)))
    assert isinstance(parsed, Revocation)
    return parsed


def filled(*items: Revocation, void: bytes = b"") -> RevocationBook:
    book = RevocationBook(lambda signer: signer == void)
    for item in items:
        assert book.check(item, confirmed_at=NOW) is None
        book.add(item)
    return book


def in_force(book: RevocationBook, now: float = NOW) -> set[tuple[int, bytes]]:
    return set(book.in_force(unix_now=now))


def test_the_later_of_the_same_signer_replaces_the_earlier() -> None:
    first, later = revocation(MEMBER), revocation(MEMBER, at=NOW + 9)
    book = filled(first)
    assert book.check(first, confirmed_at=NOW) is Refusal.OLDER
    assert book.check(later, confirmed_at=NOW) is None
    assert book.add(later) is first
    assert book.objects() == (later,)
    another = revocation(MEMBER, by=OTHER_ADMIN)
    assert book.add(another) is None
    assert book.objects() == (later, another)
    assert in_force(book) == {(MEMBER, later.subject)}


def test_those_of_members_and_serials_end_and_those_of_admins_never() -> None:
    items = [revocation(kind) for kind in (MEMBER, SERIAL, ADMIN)]
    book = filled(*items)
    pairs = {(int(item.kind), item.subject) for item in items}
    assert in_force(book, END) == pairs
    assert (
        in_force(book, END + 1)
        == in_force(book, END + 99 * 365 * DAY_S)
        == {*pairs} - {(int(item.kind), item.subject) for item in items[:2]}
    )
    assert sorted(book.ends()) == [END + 1, END + 1, float("inf")]
    assert book.expire(confirmed_at=END) == ()
    assert book.expire(confirmed_at=END + 1) == tuple(items[:2])
    assert book.objects() == (items[2],)
    assert book.check(items[0], confirmed_at=END + 1) is Refusal.EXPIRED
    assert book.check(revocation(ADMIN, 2), confirmed_at=END + 1) is None


def test_what_a_revoked_admin_revoked_is_void_until_another_repeats_it() -> None:
    void = derive.ed25519_public(NET.admin)
    book = filled(revocation(MEMBER), void=void)
    assert in_force(book) == set()
    repeated = revocation(MEMBER, by=OTHER_ADMIN)
    book.add(repeated)
    assert in_force(book) == {(MEMBER, repeated.subject)}


def test_a_revoked_admin_is_known_at_once() -> None:
    item = revocation(ADMIN)
    book = filled(revocation(SERIAL))
    assert not book.is_admin_revoked(item.subject)
    book.add(item)
    assert book.is_admin_revoked(item.subject)
    assert not book.is_admin_revoked(revocation(ADMIN, 2).subject)


def test_they_are_bounded_and_an_admins_finds_room_nevertheless(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who stole an admin's key could else fill them, so that it could not be revoked."""
    monkeypatch.setattr(revocations, "MAX_REVOCATIONS", 3)
    book = filled(*(revocation(SERIAL, number) for number in range(2)), revocation(ADMIN))
    assert book.check(revocation(MEMBER), confirmed_at=NOW) is None
    book.add(revocation(MEMBER))
    assert book.check(revocation(MEMBER, 2), confirmed_at=NOW) is Refusal.FULL
    assert book.check(revocation(MEMBER, at=NOW + 1), confirmed_at=NOW) is None  # in its place
    assert book.check(revocation(ADMIN, 2), confirmed_at=NOW) is None
