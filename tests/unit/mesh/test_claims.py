from ginnel.mesh.alarms import AlarmBook, AlarmKind
from ginnel.mesh.claims import ClaimTable
from ginnel.mesh.objects import Certificate, decode_object, parse_certificate
from support.members import NOW, MemberKeys, NetworkFactory

NET = NetworkFactory()
PI, LAPTOP = MemberKeys("raspberry-pi-attic"), MemberKeys("laptop-of-alice")


def cert(keys: MemberKeys, number: int, **changes: object) -> Certificate:
    return parse_certificate(decode_object(NET.cert(keys, number, **changes)))


def test_the_elder_keeps_an_address_and_the_younger_is_named() -> None:
    alarms = AlarmBook()
    elder, younger = cert(PI, 1, since=NOW - 900), cert(LAPTOP, 1)
    members = ClaimTable(alarms).assign([younger, elder])
    assert list(members) == [PI.member_id]
    [alarm] = iter(alarms.poll, None)
    assert (alarm.kind, alarm.member_id) == (AlarmKind.ADDRESS_CONFLICT, LAPTOP.member_id)


def test_who_clashes_with_nobody_is_admitted_alone() -> None:
    table = ClaimTable(AlarmBook())
    table.assign([cert(PI, 1)])
    assert table.admit(cert(LAPTOP, 2, name=PI.name)) is None
    assert table.admit(cert(LAPTOP, 1)) is None
    admitted = table.admit(cert(LAPTOP, 2))
    assert admitted is not None
    assert admitted.name == LAPTOP.name
    assert table.admit(cert(LAPTOP, 2)) is None
