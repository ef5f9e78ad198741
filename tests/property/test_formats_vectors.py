"""The vectors are what the code makes, and a decoder written from docs/formats.md reads them."""

import json

import pytest

from support import formats_decoder as page
from support.formats_vectors import PATH, build

VECTORS = json.loads(PATH.read_text())


def unhexed(value: object) -> object:
    if isinstance(value, dict):
        return {key: unhexed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [unhexed(item) for item in value]
    return bytes.fromhex(value) if isinstance(value, str) else value


TEXTS = ("source", "invite", "join_code")
V: dict = {key: item if key in TEXTS else unhexed(item) for key, item in VECTORS.items()}
SEEDS = V["seeds"]
NETWORK = page.network_id(page.ed25519_public(SEEDS["R"]))
MEMBER = page.member_id(page.ed25519_public(SEEDS["member"]["identity"]))
ADMIN = page.ed25519_public(SEEDS["A"])


def test_the_code_makes_the_vectors() -> None:
    assert build() == VECTORS


def test_names_and_addresses() -> None:
    assert V["network_id"] == NETWORK
    assert V["member_id"] == MEMBER
    assert V["ipv6"] == page.ipv6(NETWORK, MEMBER)


@pytest.mark.parametrize("kind", ["network", "admin", "cert", "revoke", "epoch"])
def test_objects(kind: str) -> None:
    raw = V["objects"][kind]
    found, items, signer = page.read_object(raw, NETWORK)
    assert found == kind
    root = page.ed25519_public(SEEDS["R"])
    assert signer == (root if kind in ("network", "admin") else ADMIN)
    body = page.read_rlp(raw)[1]
    assert page.write_rlp([1, *items]) == body
    expected = {
        "network": (1, b"meadowbrook", root),
        "admin": (b"admin-admin-1234", ADMIN),
        "epoch": (1, page.H(page.L("epoch") + SEEDS["E"])),
        "revoke": (0, page.member_id(page.ed25519_public(SEEDS["other"]["identity"]))),
        "cert": (),
    }[kind]
    for want, item in zip(expected, items, strict=False):
        assert (page.number(item) if isinstance(want, int) else item) == want


def test_the_certificate_holds_the_members_keys() -> None:
    _, items, _ = page.read_object(V["objects"]["cert"], NETWORK)
    keys = SEEDS["member"]
    assert items[1:7] == [
        page.ed25519_public(keys["identity"]),
        page.x25519_public(keys["wireguard"]),
        page.x25519_public(keys["sealing"]),
        page.secp256k1_public(keys["discovery"]),
        b"raspberry-pi-attic",
        page.ipv6(NETWORK, MEMBER),
    ]


def test_epoch_and_preshared_key() -> None:
    assert V["epoch_id"] == page.H(page.L("epoch") + SEEDS["E"])[:8]
    keys = sorted(page.x25519_public(SEEDS[name]["wireguard"]) for name in ("member", "other"))
    assert V["psk"] == page.kdf(SEEDS["E"], NETWORK, "psk", keys)


def test_points() -> None:
    period = V["period"]
    member = page.point(SEEDS["E"], NETWORK, ("rdv", "presence", "tag"), [MEMBER, period])
    assert V["point"] == member
    for entry, label in (("invite_point", "join"), ("reply_point", "join reply")):
        labels = (f"{label} rdv", f"{label} presence", f"{label} tag")
        assert V[entry] == page.point(SEEDS["invite_secret"], NETWORK, labels, [period])


def test_presence() -> None:
    assert V["presence"][:12] == V["presence_nonce"]
    assert page.open_presence(V["invite_point"], V["presence"]) == V["presence_text"]


def test_envelope() -> None:
    mac_key = page.kdf(SEEDS["E"], NETWORK, "mac", [MEMBER])
    outer, text = page.open_envelope(
        V["envelope"],
        network=NETWORK,
        recipient=MEMBER,
        private=SEEDS["member"]["sealing"],
        mac_key=mac_key,
    )
    assert (outer["ver"], outer["kind"], outer["epoch_id"]) == (1, 1, V["epoch_id"])
    assert outer["tag"] == V["point"]["tag"]
    sender = page.ed25519_public(SEEDS["other"]["identity"])
    items, body = page.read_message(text, NETWORK, sender)
    assert body == V["envelope_body"]
    assert items[2:5] == [page.member_id(sender), MEMBER, V["epoch_id"]]
    assert [page.number(item) for item in (items[0], items[1], items[6])] == [1, 1, 7]
    assert items[8:] == [b"", b"payload"]


def test_join() -> None:
    network, invite_id, secret, _, admin_id, j_pub, records, name = page.read_invite(V["invite"])
    assert (network, secret) == (NETWORK, SEEDS["invite_secret"])
    assert j_pub == page.x25519_public(SEEDS["J"])
    assert (len(records), name) == (1, b"meadowbrook")
    mac_key = page.kdf(secret, NETWORK, "join mac", [])
    outer, text = page.open_envelope(
        V["join_request"],
        network=NETWORK,
        recipient=admin_id,
        private=SEEDS["J"],
        mac_key=mac_key,
    )
    assert (outer["kind"], outer["epoch_id"]) == (9, invite_id)
    assert outer["tag"] == V["invite_point"]["tag"]
    request, body = page.read_request(text, NETWORK)
    assert request[6] == b"raspberry-pi-attic"
    assert page.code(secret, NETWORK, body) == V["join_code"]
    objects = []
    for part, env in enumerate(V["join_answer"]):
        outer, text = page.open_envelope(
            env,
            network=NETWORK,
            recipient=MEMBER,
            private=SEEDS["member"]["sealing"],
            mac_key=mac_key,
        )
        assert outer["tag"] == V["reply_point"]["tag"]
        answer = page.read_answer(text, NETWORK, ADMIN)
        assert answer[1] == page.H(body)
        assert [page.number(answer[2]), page.number(answer[3])] == [1, part]
        assert answer[5] == (SEEDS["E"] if part else b"")
        objects += answer[4]
    assert objects == [V["objects"][kind] for kind in ("network", "admin", "cert", "epoch")]
