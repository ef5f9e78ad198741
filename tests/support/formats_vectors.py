"""Builds tests/vectors/formats.json from fixed seeds: `python tests/support/formats_vectors.py`."""

import json
import sys
from hashlib import sha256
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from ginnel.base.types import Secret
from ginnel.discv5.enr import sign_enr
from ginnel.mesh import derive, join
from ginnel.mesh.envelope import Kind, Message, seal_envelope
from ginnel.mesh.join import AnswerStatus, Invite, JoinAnswer, NodeKeys
from support.hpke import DeterministicSealer
from support.members import NOW, MemberKeys, NetworkFactory, seed

PATH = Path(__file__).parent.parent / "vectors" / "formats.json"
NET = NetworkFactory("meadowbrook")
MEMBER = MemberKeys("raspberry-pi-attic")
OTHER = MemberKeys("laptop-of-alice")
PERIOD = derive.period_of(NOW)
EPHEMERAL = sha256(b"ephemeral").digest()
SEALER = DeterministicSealer(lambda size: EPHEMERAL[:size])
INVITE_SECRET = Secret(sha256(b"invite").digest()[:16])
NONCE = sha256(b"nonce").digest()


def keys_of(member: MemberKeys) -> NodeKeys:
    return NodeKeys(member.identity, member.wireguard, member.sealing, member.discovery)


def hexed(value: object) -> object:
    """Turn bytes and secrets into hex, at any depth."""
    if isinstance(value, Secret):
        return value.reveal().hex()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: hexed(item) for key, item in value.items()}
    return [hexed(item) for item in value] if isinstance(value, list | tuple) else value


def point(made: derive.Point) -> dict:
    return {
        "loc_pub": made.loc_pub,
        "location": made.location,
        "pkey": made.presence_key,
        "tag": made.tag,
    }


def seeds() -> dict:
    def of(member: MemberKeys) -> dict:
        names = ("identity", "wireguard", "sealing", "discovery")
        return {name: getattr(member, name) for name in names}

    return {
        "R": NET.root,
        "A": NET.admin,
        "J": NET.sealing,
        "E": NET.epoch_secret,
        "invite_secret": INVITE_SECRET,
        "member": of(MEMBER),
        "other": of(OTHER),
        "hpke_ephemeral": EPHEMERAL,
    }


def message() -> Message:
    return Message(
        Kind.OFFER,
        OTHER.member_id,
        MEMBER.member_id,
        derive.epoch_hash(NET.epoch_secret)[:8],
        NONCE[:16],
        7,
        NOW,
        b"payload",
    )


def envelope() -> bytes:
    epoch = NET.membership().epochs.newest
    assert epoch is not None
    return seal_envelope(
        message(),
        network_id=NET.network_id,
        epoch=epoch,
        identity=OTHER.identity,
        recipient_key=derive.x25519_public(MEMBER.sealing),
        period=PERIOD,
        sealer=SEALER,
    ).data


def joins() -> dict:
    network_id = NET.network_id
    record = sign_enr(seed("node").reveal(), 1, {"ip": bytes((192, 0, 2, 1)), "udp": 41640})
    invite = Invite(
        network_id,
        b"invite-1",
        INVITE_SECRET,
        NOW + 3600,
        NET.admin_id,
        derive.x25519_public(NET.sealing),
        (record,),
        NET.name,
    )
    request, text = join.make_request(
        invite, keys_of(MEMBER), MEMBER.name, nonce=NONCE[:16], sent_at=NOW
    )

    def seal(content: bytes, recipient: bytes, key: bytes, *, reply: bool) -> bytes:
        made = derive.invite_point(network_id, INVITE_SECRET, PERIOD, reply=reply)
        return join.seal_join(
            content,
            network_id=network_id,
            invite_id=invite.invite_id,
            secret=INVITE_SECRET,
            tag=made.tag,
            recipient=recipient,
            recipient_key=key,
            sealer=SEALER,
        )

    parts = [
        JoinAnswer(request.hash, AnswerStatus.GRANTED, 0, (NET.network(), NET.admin_object())),
        JoinAnswer(
            request.hash, AnswerStatus.GRANTED, 1, (NET.cert(MEMBER), NET.epoch()), NET.epoch_secret
        ),
    ]
    texts = [join.encode_answer(part, admin=NET.admin, network_id=network_id) for part in parts]
    key = derive.x25519_public(MEMBER.sealing)
    return {
        "invite": join.format_invite(invite),
        "join_request": seal(text, NET.admin_id, invite.sealing_key, reply=False),
        "join_code": join.join_code(network_id, INVITE_SECRET, request.hash),
        "join_answer": [seal(text, MEMBER.member_id, key, reply=True) for text in texts],
    }


def build() -> dict:
    """Return the vectors as JSON has them."""
    network_id = NET.network_id
    invite_point = derive.invite_point(network_id, INVITE_SECRET, PERIOD)
    text = b"a text of a presence"
    vectors = {
        "source": "tests/support/formats_vectors.py; docs/formats.md, version 1",
        "seeds": seeds(),
        "network_id": network_id,
        "member_id": MEMBER.member_id,
        "ipv6": derive.overlay_ipv6(network_id, MEMBER.member_id),
        "objects": {
            "network": NET.network(),
            "admin": NET.admin_object(),
            "cert": NET.cert(MEMBER),
            "revoke": NET.revoke(0, OTHER.member_id),
            "epoch": NET.epoch(),
        },
        "epoch_id": derive.epoch_hash(NET.epoch_secret)[:8],
        "psk": derive.preshared_key(
            network_id,
            NET.epoch_secret,
            derive.x25519_public(MEMBER.wireguard),
            derive.x25519_public(OTHER.wireguard),
        ),
        "period": PERIOD,
        "point": point(derive.member_point(network_id, NET.epoch_secret, MEMBER.member_id, PERIOD)),
        "invite_point": point(invite_point),
        "reply_point": point(derive.invite_point(network_id, INVITE_SECRET, PERIOD, reply=True)),
        "presence_nonce": NONCE[:12],
        "presence_text": text,
        "presence": derive.seal_presence(invite_point, NONCE[:12], text),
        "envelope_body": message().encode(),
        "envelope": envelope(),
        **joins(),
    }
    made = hexed(vectors)
    assert isinstance(made, dict)
    return made


if __name__ == "__main__":
    PATH.write_text(json.dumps(build(), indent=1) + "\n")
