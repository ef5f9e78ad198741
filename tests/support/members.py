"""Networks, admins and members from fixed seeds, for tests of the mesh."""

from dataclasses import dataclass, field
from hashlib import sha256

import coincurve

from ginnel.base.types import MemberId, Secret
from ginnel.mesh import derive
from ginnel.mesh.membership import Membership, Status
from ginnel.mesh.objects import (
    CERTIFICATE_LIFE_S,
    CertificateFields,
    make_certificate,
    make_epoch,
    make_object,
    revocations_digest,
)

NOW = 1_800_000_000  # unix seconds
IPV4_PREFIX = bytes((100, 80, 0, 0))


def seed(text: str) -> Secret:
    """Return 32 bytes that depend on the text only."""
    return Secret(sha256(text.encode()).digest())


@dataclass(frozen=True)
class MemberKeys:
    """The four private keys of a member, by name."""

    name: str

    @property
    def identity(self) -> Secret:
        return seed(f"N {self.name}")

    @property
    def wireguard(self) -> Secret:
        return seed(f"W {self.name}")

    @property
    def sealing(self) -> Secret:
        return seed(f"S {self.name}")

    @property
    def discovery(self) -> Secret:
        return seed(f"D {self.name}")

    @property
    def member_id(self) -> MemberId:
        return derive.member_id_of(derive.ed25519_public(self.identity))


@dataclass
class NetworkFactory:
    """One network with one admin; makes objects that verify, or nearly do."""

    name: str = "meadowbrook"
    now: int = NOW
    root: Secret = field(init=False)
    admin: Secret = field(init=False)
    sealing: Secret = field(init=False)
    admin_id: bytes = b"admin-admin-1234"
    epoch_secret: Secret = field(init=False)

    def __post_init__(self) -> None:
        self.root = seed(f"R {self.name}")
        self.admin = seed(f"A {self.name}")
        self.sealing = seed(f"J {self.name}")
        self.epoch_secret = seed(f"E {self.name}")

    @property
    def network_id(self) -> bytes:
        return derive.network_id_of(derive.ed25519_public(self.root))

    def sign(self, kind: str, fields: list, by: Secret | None = None) -> bytes:
        return make_object(kind, fields, seed=by or self.admin, network_id=self.network_id)

    def network(self, seq: int = 1, name: str | None = None) -> bytes:
        root_public = derive.ed25519_public(self.root)
        fields = [seq, name or self.name, root_public, IPV4_PREFIX, 16, self.now - 1000]
        return self.sign("network", fields, self.root)

    def admin_object(self, **changes: object) -> bytes:
        fields = {
            "admin_id": self.admin_id,
            "public": derive.ed25519_public(self.admin),
            "pool": IPV4_PREFIX,
            "pool_len": 20,
            "not_before": self.now - 1000,
            "not_after": self.now + 5 * CERTIFICATE_LIFE_S,
        } | changes
        by = fields.pop("by", self.root)
        return self.sign("admin", list(fields.values()), by)

    def fields(self, keys: MemberKeys, number: int = 1, **changes: object) -> CertificateFields:
        values = {
            "serial": sha256(f"serial {keys.name} {number}".encode()).digest()[:16],
            "identity": derive.ed25519_public(keys.identity),
            "wireguard": derive.x25519_public(keys.wireguard),
            "sealing": derive.x25519_public(keys.sealing),
            "discovery": coincurve.PrivateKey(keys.discovery.reveal()).public_key.format(),
            "name": keys.name,
            "ipv6": derive.overlay_ipv6(self.network_id, keys.member_id),
            "ipv4": IPV4_PREFIX[:3] + bytes((number,)),
            "groups": (),
            "routes": (),
            "caps": 0,
            "since": self.now - 500,
            "not_before": self.now - 500,
            "not_after": self.now - 500 + CERTIFICATE_LIFE_S,
        } | changes
        return CertificateFields(**values)

    def cert(
        self, keys: MemberKeys, number: int = 1, by: Secret | None = None, **changes: object
    ) -> bytes:
        fields = self.fields(keys, number, **changes)
        return make_certificate(fields, seed=by or self.admin, network_id=self.network_id)

    def revoke(self, kind: int, subject: bytes, by: Secret | None = None, at: int = 0) -> bytes:
        return self.sign("revoke", [kind, subject, at or self.now], by)

    def epoch(
        self, secret: Secret | None = None, number: int = 1, at: int = 0, by: Secret | None = None
    ) -> bytes:
        return make_epoch(
            secret or self.epoch_secret,
            number,
            at or self.now - 500,
            revocations_digest([]),
            seed=by or self.admin,
            network_id=self.network_id,
        )

    def membership(self, *members: MemberKeys) -> Membership:
        """Return a Membership that knows the network, its first epoch and these members."""
        membership = Membership(self.network_id)
        raws = [self.network(), self.admin_object(), self.epoch()]
        raws += [self.cert(keys, number) for number, keys in enumerate(members, 1)]
        for raw in raws:
            assert membership.add_object(raw, unix_now=self.now).status is Status.NEW
        assert membership.add_epoch_secret(self.epoch_secret)
        return membership
