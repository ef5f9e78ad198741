"""What a certificate must fulfil by itself and under its admin, in the order of the format.

Conflicts with other members and revocations are `membership.py`'s business.

Source: docs/formats.md, "Checks of a cert".
"""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_network

from ginnel.base import rlp
from ginnel.mesh import derive
from ginnel.mesh.objects import (
    CERTIFICATE_LIFE_S,
    Admin,
    Certificate,
    Network,
    check_name,
    contains,
)


class Refusal(Enum):
    """Why an object is not acted on."""

    MALFORMED = "malformed"
    FOREIGN_NETWORK = "signed by the root key of another network"
    NO_NETWORK = "the network object is not known yet"
    UNKNOWN_SIGNER = "signed by a key that is no admin of this network"
    SIGNER_EXPIRED = "its admin's time is over, or has not begun"
    SIGNER_REVOKED = "its admin is revoked"
    SIGNATURE = "the signature is wrong"
    NOT_YET_VALID = "not valid yet: is the clock right?"
    EXPIRED = "expired"
    OUTLIVES_ADMIN = "valid for longer than its admin, or than a certificate may be"
    KEY = "a key is malformed, not canonical or of small order"
    ADDRESS = "an address that is not the member's, or outside the admin's pool"
    NAME = "a name with other characters than a-z, 0-9 and hyphen"
    ROUTE = "a route inside the overlay"
    REVOKED = "revoked"
    CONFLICT = "another member has its key or address"
    UNKNOWN = "none is known"
    OLDER = "a newer one is known"
    FULL = "no room for more"


_PERHAPS_OF_TIME = (
    Refusal.NOT_YET_VALID,
    Refusal.EXPIRED,
    Refusal.SIGNER_EXPIRED,
    Refusal.UNKNOWN,  # refused when it came
)


def describe_own(refusal: Refusal | None) -> str:
    """Return in words why this machine's own certificate is not in force, and what helps."""
    if refusal is None:
        return ""
    remedy = "set the clock if it is wrong, else " if refusal in _PERHAPS_OF_TIME else ""
    return f"no certificate in force ({refusal.value}): {remedy}join again with a new invite"


def check_certificate(
    cert: Certificate, admin: Admin, network: Network, *, unix_now: float
) -> Refusal | None:
    """Check everything after the signature that needs no other member."""
    return (
        check_times(cert.not_before, cert.not_after, unix_now=unix_now)
        or _check_life(cert, admin)
        or _check_keys(cert)
        or _check_addresses(cert, admin, network)
        or _check_strings(cert)
        or _check_routes(cert, network)
    )


def check_times(not_before: int, not_after: int, *, unix_now: float) -> Refusal | None:
    """Check a span of time with the tolerance of clocks."""
    if unix_now + derive.CLOCK_TOLERANCE_S < not_before:
        return Refusal.NOT_YET_VALID
    if unix_now - derive.CLOCK_TOLERANCE_S > not_after:
        return Refusal.EXPIRED
    return None


def _check_life(cert: Certificate, admin: Admin) -> Refusal | None:
    life = cert.not_after - cert.not_before
    if cert.not_after > admin.not_after or not 0 < life <= CERTIFICATE_LIFE_S:
        return Refusal.OUTLIVES_ADMIN
    if cert.since > cert.not_before + derive.CLOCK_TOLERANCE_S:
        return Refusal.MALFORMED
    return None


def check_member_keys(
    identity: bytes, wireguard: bytes, sealing: bytes, discovery: bytes
) -> Refusal | None:
    """Check the four public keys of a member."""
    try:
        derive.check_ed25519_key(identity)
        derive.check_x25519_key(wireguard)
        derive.check_x25519_key(sealing)
        derive.check_secp256k1_key(discovery)
    except derive.BadKey:
        return Refusal.KEY
    return Refusal.KEY if wireguard == sealing else None


def _check_keys(cert: Certificate) -> Refusal | None:
    return check_member_keys(cert.identity, cert.wireguard, cert.sealing, cert.discovery)


def _check_addresses(cert: Certificate, admin: Admin, network: Network) -> Refusal | None:
    network_id = derive.network_id_of(network.root_public)
    if cert.ipv6 != derive.overlay_ipv6(network_id, cert.member_id):
        return Refusal.ADDRESS
    if cert.ipv4 and not (
        contains(admin.ipv4_pool, admin.pool_len, cert.ipv4)
        and contains(network.ipv4_prefix, network.ipv4_len, cert.ipv4)
    ):
        return Refusal.ADDRESS
    return None


def _check_strings(cert: Certificate) -> Refusal | None:
    try:
        for name in (cert.name, *cert.groups):
            check_name(name)
    except rlp.RlpError:
        return Refusal.NAME
    return None


def _check_routes(cert: Certificate, network: Network) -> Refusal | None:
    if not cert.routes:
        return None
    own = overlay_networks(network)
    for prefix, length in cert.routes:
        route = ip_network((prefix, length))
        if any(route.version == other.version and route.overlaps(other) for other in own):
            return Refusal.ROUTE
    return None


def overlay_networks(network: Network) -> tuple[IPv4Network | IPv6Network, ...]:
    """Return the network's own prefixes: its IPv4 prefix and its ULA /48."""
    network_id = derive.network_id_of(network.root_public)
    return (
        ip_network((network.ipv4_prefix, network.ipv4_len)),
        ip_network(derive.overlay_prefix(network_id)),
    )


def claims_of(cert: Certificate) -> list[tuple[str, bytes | str]]:
    """Return what only one live member may have, but for its name."""
    claims: list[tuple[str, bytes | str]] = [
        ("W", cert.wireguard),
        ("S", cert.sealing),
        ("D", cert.discovery),
        ("ip", cert.ipv6),
    ]
    return [*claims, ("ip", cert.ipv4)] if cert.ipv4 else claims
