import pytest

from ginnel.base.types import Secret, make_address
from ginnel.discv5.enr import sign_enr
from ginnel.mesh import derive, join
from ginnel.mesh.join import Invite, InviteError, NodeKeys
from support.members import NOW, MemberKeys, NetworkFactory, seed

NET = NetworkFactory()
RECORD = sign_enr(seed("node").reveal(), 1, {"ip": make_address("192.0.2.1", 1).packed_ip})


def node_keys(name: str = "raspberry-pi-attic") -> NodeKeys:
    keys = MemberKeys(name)
    return NodeKeys(keys.identity, keys.wireguard, keys.sealing, keys.discovery)


def invite(**changes: object) -> Invite:
    values = {
        "network_id": NET.network_id,
        "invite_id": b"invite-1",
        "secret": Secret(b"secret-of-invite"),
        "expires": NOW + 3600,
        "admin_id": NET.admin_id,
        "sealing_key": derive.x25519_public(NET.sealing),
        "records": (RECORD,),
        "network_name": "home",
    }
    return Invite(**(values | changes))


def test_an_invite_comes_back_however_it_was_copied() -> None:
    text = join.format_invite(invite())
    assert text.startswith("ginnel1")
    broken_up = "\n ".join(text[i : i + 40] for i in range(0, len(text), 40)).upper()
    for copy in (text, f"  {text}\n", broken_up):
        assert join.parse_invite(copy, unix_now=NOW) == invite()


def test_the_secret_of_an_invite_does_not_show() -> None:
    assert "secret-of-invite" not in repr(invite())


def test_a_damaged_invite_is_refused_wherever_the_damage_is() -> None:
    text = join.format_invite(invite())
    for index in range(len("ginnel1"), len(text), 11):
        other = "a" if text[index] != "a" else "b"
        with pytest.raises(InviteError, match="damaged"):
            join.parse_invite(text[:index] + other + text[index + 1 :], unix_now=NOW)
    for cut in (text[:-1], text[:40], text + "a", "ginnel1", "ginnel1!!", text * 5):
        with pytest.raises(InviteError, match="damaged"):
            join.parse_invite(cut, unix_now=NOW)


def test_another_text_is_no_invite() -> None:
    with pytest.raises(InviteError, match="no invite"):
        join.parse_invite("enr:-abc", unix_now=NOW)


def test_an_expired_invite_says_what_the_clock_says() -> None:
    text = join.format_invite(invite())
    with pytest.raises(InviteError, match=r"expired .* clock"):
        join.parse_invite(text, unix_now=NOW + 86_400)


def test_an_invite_with_a_low_order_key_is_refused() -> None:
    with pytest.raises(InviteError, match="low order"):
        join.parse_invite(join.format_invite(invite(sealing_key=bytes(32))), unix_now=NOW)


def test_an_invite_may_say_no_name_but_none_that_is_no_name() -> None:
    nameless = invite(network_name="")
    assert join.parse_invite(join.format_invite(nameless), unix_now=NOW) == nameless
    for name in ("..", "a/b", "Home", "x" * 64):
        with pytest.raises(InviteError, match="can't be used"):
            join.parse_invite(join.format_invite(invite(network_name=name)), unix_now=NOW)


def test_three_large_records_fit() -> None:
    large = sign_enr(seed("node").reveal(), 1, {"x": bytes(170)})
    records = (large, large, large)
    text = join.format_invite(invite(records=records, network_name="x" * 63))
    assert len(text) <= join.MAX_INVITE_TEXT
    assert len(join.parse_invite(text, unix_now=NOW).records) == 3


def test_a_request_needs_both_signatures() -> None:
    request, text = join.make_request(
        invite(), node_keys(), "raspberry-pi-attic", nonce=bytes(16), sent_at=NOW
    )
    assert join.decode_signed_request(text, NET.network_id) == request
    assert join.decode_signed_request(text, bytes(32)) is None
    for index in (len(text) - 1, len(text) - 70):
        broken = text[:index] + bytes([text[index] ^ 1]) + text[index + 1 :]
        assert join.decode_signed_request(broken, NET.network_id) is None


def test_the_code_depends_on_secret_and_request() -> None:
    code = join.join_code(NET.network_id, Secret(bytes(16)), bytes(32))
    assert len(code) == 8
    assert code != join.join_code(NET.network_id, Secret(b"x" * 16), bytes(32))
    assert code != join.join_code(NET.network_id, Secret(bytes(16)), b"x" * 32)
    assert join.parse_code(join.format_code(code).lower()) == code
    assert join.format_code("K7QF2M9X") == "K7QF-2M9X"


def test_an_answer_is_bound_to_network_and_admin() -> None:
    answer = join.JoinAnswer(bytes(32), join.AnswerStatus.GRANTED, 1, (b"a", b"b"), seed("E"))
    text = join.encode_answer(answer, admin=NET.admin, network_id=NET.network_id)
    signed = join.decode_answer(text)
    assert signed.answer == answer
    admin = derive.ed25519_public(NET.admin)
    assert signed.is_signed(NET.network_id, admin)
    assert not signed.is_signed(bytes(32), admin)
    assert not signed.is_signed(NET.network_id, derive.ed25519_public(NET.root))
