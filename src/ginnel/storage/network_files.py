"""A network's folder: made whole by `init` or `join`, read by the manager.

The folder is built under another name and renamed at the end, so that a failure at any point
leaves no network behind. The root key is never written: its 24 words are returned once.

Source: DESIGN, "State on disk"; docs/formats.md, "Keys".
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, ip_network
from pathlib import Path
from typing import Protocol

from mnemonic import Mnemonic

from ginnel.base.addresses import OVERLAY_IPV4
from ginnel.base.chance import RandomBytes, Rng
from ginnel.base.config import Settings, format_settings
from ginnel.base.errors import RemoteProtocolError, SystemFailure, UsageError
from ginnel.base.types import Secret
from ginnel.mesh import derive
from ginnel.mesh.invite_book import BACKDATE_S, Authority
from ginnel.mesh.join import NodeKeys
from ginnel.mesh.join_attempt import Granted
from ginnel.mesh.membership import Membership, Status
from ginnel.mesh.objects import (
    CERTIFICATE_LIFE_S,
    DAY_S,
    CertificateFields,
    Network,
    check_name,
    decode_object,
    make_certificate,
    make_epoch,
    make_object,
    parse_network,
    revocations_digest,
)
from ginnel.storage.files import (
    check_folder,
    make_folder,
    read_private,
    sync_folder,
    write_atomic,
)
from ginnel.storage.identity import (
    NodeBundle,
    generate_keys,
    load_keys,
    read_fields,
    save_keys,
)
from ginnel.storage.trust import Trust, load_trust, save_trust

ADMIN_FILE = "admin.key"
SETTINGS_FILE = "settings.toml"
OBJECT_FILES = ("network.obj", "admin.obj", "cert.obj")
NETWORK_BITS = 16  # of the IPv4 prefix
POOL_BITS = 20  # of each admin's pool in it
ADMIN_LIFE_S = 3650 * DAY_S  # seconds; the recovery phrase makes a new admin


class Folders(Protocol):
    """Where a network's files are; `daemon.paths.NetworkPaths` fits."""

    @property
    def etc(self) -> Path:
        """Root's folder."""
        ...

    @property
    def state(self) -> Path:
        """The tunnel's folder."""
        ...

    @property
    def signer_state(self) -> Path:
        """The signer's folder."""
        ...


@dataclass(frozen=True, slots=True)
class NewNetwork:
    """What `init` was asked for."""

    name: str
    member_name: str
    settings: Settings
    unix_now: int
    caps: int = 0  # of the first member's certificate


@dataclass(frozen=True, slots=True)
class Created:
    """What `init` tells: the words are shown once and kept nowhere."""

    network_id: bytes
    words: Secret  # 24 BIP-39 words, the root key
    ipv6: bytes
    ipv4: bytes


def choose_ipv4_prefix(taken: Sequence[str], rng: Rng) -> str:
    """Return a /16 of 100.64.0.0/10 that overlaps none of what is taken here.

    Raises:
        UsageError: there is none: name one with --ipv4-prefix.
    """
    routes = [ip_network(text, strict=False) for text in taken]
    used = [r for r in routes if isinstance(r, IPv4Network) and r.prefixlen > 0]
    free = [
        network
        for network in OVERLAY_IPV4.subnets(new_prefix=NETWORK_BITS)
        if not any(network.overlaps(route) for route in used)
    ]
    if not free:
        raise UsageError("all of 100.64.0.0/10 is routed here: name a free /16 by --ipv4-prefix")
    return str(free[int(rng.random() * len(free))])


def create_network(
    new: NewNetwork,
    folders: Folders,
    random_bytes: RandomBytes = os.urandom,
    *,
    show: Callable[[Created], None] = lambda _created: None,
) -> Created:
    """Make a network, this machine its first member and admin; settings name its IPv4 prefix.

    `show` is called before the last step: words that could not be shown belong to no network.

    Raises:
        UsageError: the network is there already, or a name or prefix can't be.
        SystemFailure: the disk refuses, or what `show` raises; nothing is left.
    """
    _check_free(folders, new.name, new.member_name)
    prefix = IPv4Network(new.settings.ipv4_prefix)
    root, admin, sealing, epoch = (Secret(random_bytes(32)) for _ in range(4))
    admin_id = random_bytes(16)
    root_public = derive.ed25519_public(root)
    network_id = derive.network_id_of(root_public)
    packed = prefix.network_address.packed
    begins = new.unix_now - BACKDATE_S
    network = make_object(
        "network",
        [1, new.name, root_public, packed, prefix.prefixlen, new.unix_now],
        seed=root,
        network_id=network_id,
    )
    pool_bits = max(POOL_BITS, prefix.prefixlen)
    until = begins + ADMIN_LIFE_S
    admin_object = make_object(
        "admin",
        [admin_id, derive.ed25519_public(admin), packed, pool_bits, begins, until],
        seed=root,
        network_id=network_id,
    )
    keys = generate_keys(random_bytes)
    fields = first_certificate(new, keys, network_id, packed, random_bytes(16))
    bundle = NodeBundle(
        keys,
        network,
        admin_object,
        make_certificate(fields, seed=admin, network_id=network_id),
    )
    epoch_object = make_epoch(
        epoch, 1, new.unix_now, revocations_digest([]), seed=admin, network_id=network_id
    )
    trust = Trust((epoch_object,), (epoch,), new.unix_now)
    admin_text = _format_admin(admin_id, admin, sealing)
    words = Mnemonic("english").to_mnemonic(root.reveal())
    created = Created(network_id, Secret(words.encode()), fields.ipv6, fields.ipv4)
    with _stored(folders, bundle, trust, new.settings, admin_text):
        show(created)
    return created


def _format_admin(admin_id: bytes, admin: Secret, sealing: Secret) -> str:
    return "\n".join(
        [
            "# Private keys of this network's admin: never share them",
            f"admin_id {admin_id.hex()}",
            f"admin {admin.reveal().hex()}",
            f"sealing {sealing.reveal().hex()}",
            "",
        ]
    )


def first_certificate(
    new: NewNetwork, keys: NodeKeys, network_id: bytes, pool: bytes, serial: bytes
) -> CertificateFields:
    """Return what the first member's certificate says: the pool's first address is its own."""
    identity, wireguard, sealing, discovery = keys.public
    begins = new.unix_now - BACKDATE_S
    return CertificateFields(
        serial=serial,
        identity=identity,
        wireguard=wireguard,
        sealing=sealing,
        discovery=discovery,
        name=new.member_name,
        ipv6=derive.overlay_ipv6(network_id, keys.member_id),
        ipv4=(int.from_bytes(pool, "big") + 1).to_bytes(4, "big"),
        groups=(),
        routes=(),
        caps=new.caps,
        since=new.unix_now,
        not_before=begins,
        not_after=begins + CERTIFICATE_LIFE_S,
    )


def store_joined(
    folders: Folders, keys: NodeKeys, granted: Granted, settings: Settings, *, unix_now: int
) -> None:
    """Store what a join brought, all or nothing.

    Raises:
        UsageError: the network is there already.
        SystemFailure: the disk refuses; nothing is left.
    """
    _check_free(folders, granted.network_name, granted.member_name)
    bundle = NodeBundle(keys, granted.network, granted.admin, granted.certificate)
    trust = Trust((granted.epoch,), (granted.epoch_secret,))
    raws = (granted.network, granted.admin, granted.certificate)
    membership = verify_membership(raws, trust, unix_now=unix_now)
    # Not our own time: a clock that is ahead must not be taken for confirmed.
    trust = replace(trust, confirmed_at=membership.confirmed_at)
    with _stored(folders, bundle, trust, settings, None):
        pass


def load_bundle(folders: Folders) -> NodeBundle:
    """Read keys and objects of this node.

    Raises:
        SystemFailure: missing, damaged or readable by others; the text names the remedy.
    """
    check_folder(folders.etc)
    keys = load_keys(folders.etc)
    objects = [read_private(folders.etc / name) for name in OBJECT_FILES]
    return NodeBundle(keys, *objects)


def stored_network_id(folders: Folders) -> bytes | None:
    """Return the id of the network whose files are there; None if they can't be read."""
    network = _stored_network(folders)
    return None if network is None else derive.network_id_of(network.root_public)


def stored_ipv4_prefix(folders: Folders) -> str | None:
    """Return the prefix of the network whose files are there; None if they can't be read."""
    network = _stored_network(folders)
    return None if network is None else str(IPv4Network((network.ipv4_prefix, network.ipv4_len)))


def _stored_network(folders: Folders) -> Network | None:
    try:
        return parse_network(decode_object((folders.etc / OBJECT_FILES[0]).read_bytes()))
    except (OSError, RemoteProtocolError):
        return None  # `up` says what is wrong with it


def has_admin_key(folders: Folders) -> bool:
    """Say whether this machine may admit others."""
    return (folders.etc / ADMIN_FILE).exists()


def load_authority(folders: Folders, *, unix_now: float) -> Authority:
    """Read the admin's keys and what he is to know of the network; call it as root.

    Raises:
        SystemFailure: missing, damaged or readable by others, or the objects don't verify.
    """
    check_folder(folders.etc)
    values = read_fields(folders.etc / ADMIN_FILE, ("admin_id", "admin", "sealing"))
    raws = [read_private(folders.etc / name) for name in OBJECT_FILES]
    trust = load_trust(folders.signer_state, owners=_owners(folders.signer_state))
    membership = verify_membership(raws, trust, unix_now=max(unix_now, trust.confirmed_at))
    return Authority(
        membership=membership,
        admin=Secret(values["admin"]),
        sealing=Secret(values["sealing"]),
        admin_id=values["admin_id"],
    )


def verify_membership(raws: Sequence[bytes], trust: Trust, *, unix_now: float) -> Membership:
    """Build a Membership of stored objects; the first is the network's.

    Raises:
        SystemFailure: network or admin object don't verify: the files are damaged.
    """
    try:
        root_public = parse_network(decode_object(raws[0])).root_public
    except RemoteProtocolError:
        raise SystemFailure("the network's object is damaged: restore it from a backup") from None
    network_id = derive.network_id_of(root_public)
    membership = Membership(network_id, own=raws, confirmed_at=trust.confirmed_at)
    verdicts = membership.load_objects([*raws, *trust.objects], unix_now=unix_now)
    if membership.network is None:
        reason = next((v.refusal for v in verdicts if v.status is Status.REFUSED), None)
        why = "" if reason is None else f": {reason.value}"
        raise SystemFailure(f"the network's objects do not verify{why}")
    for secret in trust.secrets:
        membership.add_epoch_secret(secret)
    return membership


def _owners(folder: Path) -> tuple[int, ...]:
    """Return who may own files in a folder that an unprivileged process owns."""
    try:
        return (0, os.geteuid(), os.stat(folder).st_uid)
    except OSError as error:
        raise SystemFailure(f"{folder} can't be read: {error.strerror}") from None


def _check_free(folders: Folders, *names: str) -> None:
    for name in names:
        try:
            check_name(name)
        except RemoteProtocolError as error:
            raise UsageError(f"{name!r} can't be used: {error}") from None
    if folders.etc.exists():
        raise UsageError(f"{folders.etc} exists: this machine is in a network of that name")


@contextmanager
def _stored(
    folders: Folders, bundle: NodeBundle, trust: Trust, settings: Settings, admin: str | None
) -> Iterator[None]:
    """Write everything; the folder of keys appears last and whole, at the end of the block.

    An error inside the block, too, leaves nothing.
    """
    building = folders.etc.with_name(f".{folders.etc.name}.{os.getpid()}.new")
    state_folders = [(folders.state, settings.tunnel_uid)]
    if admin is not None:
        state_folders.append((folders.signer_state, settings.signer_uid))
    made: list[Path] = []
    try:
        for folder, uid in state_folders:
            if not folder.exists():
                made.append(folder)
            owner = uid if may_give_to(uid) else None
            make_folder(folder, uid=owner)
            save_trust(folder, trust, uid=owner)
        made.append(building)
        make_folder(building)
        save_keys(building, bundle.keys)
        objects = (bundle.network, bundle.admin, bundle.certificate)
        for name, raw in zip(OBJECT_FILES, objects, strict=True):
            write_atomic(building / name, raw)
        write_atomic(building / SETTINGS_FILE, format_settings(settings).encode())
        if admin is not None:
            write_atomic(building / ADMIN_FILE, admin.encode(), replace=False)
        yield
        _rename(building, folders.etc)
    except BaseException:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def may_give_to(uid: int) -> bool:
    """Say whether files can be given to a uid: we are root and it is mapped here."""
    if os.geteuid() != 0 or uid == 0:
        return False
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        start, _, count = (int(word) for word in line.split())
        if start <= uid < start + count:
            return True
    return False


def _rename(source: Path, target: Path) -> None:
    try:
        source.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        raise SystemFailure(f"{target} was not made: {error.strerror}") from None
