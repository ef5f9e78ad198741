"""What the wire shows: nothing of who is in which network.

node1  node2     public nodes, no members
  └──┬───┘
  Internet       each link is captured, from before `init` until after a transfer
  ┌──┴───┐
winterberry1     port-restricted home, the admin
harbourlight     full-cone home
"""

from __future__ import annotations

import json
import os
import re
import sys
from base64 import b32decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import pytest

from ginnel.base.errors import RemoteProtocolError
from ginnel.discv5.enr import Enr, decode_enr
from ginnel.lab import Home, Lab, LabTopology, NatKind, PublicMachine
from ginnel.lab.demo import ping
from ginnel.lab.scenario import Scenario
from ginnel.lab.transfer import transfer
from ginnel.mesh.join import CHECK_SIZE, INVITE_PREFIX, parse_invite
from support import witness
from support.needles import Haystack, Needle, address_needle, forms, search
from support.pcap import is_wireguard_data, read_frames

NETWORK = "marmaladeskies"  # names of 12 characters and more: shorter ones chance would find
ADMIN, MEMBER = "winterberry1", "harbourlight"
NODES = ("node1", "node2")
CONNECT_LIMIT_S = 40.0  # seconds
TRANSFER_BYTES = 512 * 1024
ALLOWED_KEYS = {"id", "secp256k1", "ip", "udp", "ip6", "udp6", "ginnel"}

TELL_KEYS = """
import json, sys
from ginnel.daemon.paths import NetworkPaths
from ginnel.mesh.derive import network_id_of
from ginnel.mesh.objects import decode_object, parse_certificate, parse_network
from ginnel.storage.network_files import load_bundle
bundle = load_bundle(NetworkPaths(sys.argv[1]))
certificate = parse_certificate(decode_object(bundle.certificate))
network = parse_network(decode_object(bundle.network))
keys = certificate.identity, certificate.wireguard, certificate.sealing
print(json.dumps([network_id_of(network.root_public).hex(), *(key.hex() for key in keys)]))
"""


@dataclass(frozen=True)
class Run:
    """One run: what must not show, what was seen on each link, and its plaintext."""

    needles: list[Needle]
    captures: list[Haystack]
    plaintexts: list[bytes]
    data_size: int  # bytes of WireGuard's data packets


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Make a network of two, connect, ping, transfer; all while everything is recorded."""
    folder = tmp_path_factory.mktemp("secrecy")
    for name in ("hook", "plaintext"):
        (folder / name).mkdir()
    homes = (Home(ADMIN, NatKind.PORT_RESTRICTED), Home(MEMBER, NatKind.FULL_CONE))
    topology = LabTopology(homes, tuple(PublicMachine(name) for name in NODES))
    with Lab.create(topology) as lab:
        hooked = witness.environment(folder / "hook", "witness", folder / "plaintext")
        with patch.dict(os.environ, hooked):
            lab.start_captures(folder / "captures")
            needles = play(Scenario(lab, lambda *_: None, NETWORK))
            drops = lab.stop_captures()
    assert not any(drops.values()), drops
    paths = sorted((folder / "captures").iterdir())
    frames = [frame for path in paths for frame in read_frames(path)]
    return Run(
        needles,
        [Haystack.of_capture(path) for path in paths],
        witness.read_plaintexts(folder / "plaintext"),
        sum(len(frame) for frame in frames if is_wireguard_data(frame)),
    )


def play(scenario: Scenario) -> list[Needle]:
    """Run the user's commands; return what the wire must not show."""
    with ended(scenario):
        for name in NODES:
            scenario.start_node(name)
        scenario.init(ADMIN)
        invite = scenario.join(ADMIN, MEMBER)

        def is_connected() -> bool:
            peer = scenario.peer(ADMIN, MEMBER)
            return peer is not None and peer["status"] == "connected"

        assert scenario.wait_until(is_connected, CONNECT_LIMIT_S), scenario.status(ADMIN)
        ends = scenario.machine(ADMIN), scenario.machine(MEMBER)
        for address in scenario.status(MEMBER)["self"]["addresses"]:
            assert ping(ends[0], address) is not None
            transfer(*ends, address, TRANSFER_BYTES)
        assert scenario.ginnel(ADMIN, "ping", MEMBER, "--json")
        return [*needles_of_invite(invite), *needles_of_members(scenario)]


@contextmanager
def ended(scenario: Scenario) -> Iterator[None]:
    try:
        yield
    finally:
        scenario.stop_nodes()


def needles_of_invite(text: str) -> list[Needle]:
    word = text[len(INVITE_PREFIX) :].upper()
    body = b32decode(word + "=" * (-len(word) % 8))[:-CHECK_SIZE]
    invite = parse_invite(text, unix_now=0)
    return [
        Needle("invite", (text.encode(), body)),
        Needle("invite id", (invite.invite_id,)),
        Needle("invite secret", (invite.secret.reveal(),)),
        Needle("invite sealing key", (invite.sealing_key,)),
    ]


def needles_of_members(scenario: Scenario) -> list[Needle]:
    found = [Needle("network name", (NETWORK.encode(),))]
    for name in (ADMIN, MEMBER):
        found.append(Needle(f"{name}: name", (name.encode(),)))
        script = [sys.executable, "-c", TELL_KEYS, NETWORK]
        texts = json.loads(scenario.machine(name).run(script).stdout)
        for label, text in zip(
            ("network id", "identity", "WireGuard", "sealing"), texts, strict=True
        ):
            found.append(Needle(f"{name}: {label}", (bytes.fromhex(text),)))
        addresses = scenario.status(name)["self"]["addresses"]
        found += [address_needle(f"{name}: {address}", address) for address in addresses]
    return found


def records_in(text: bytes) -> Iterator[Enr]:
    """Yield every signed record that the text holds: NODES, handshakes, presences, invites."""
    for match in re.finditer(rb"(?s)(?:\xf8.|\xf9..)(?=\xb8\x40)", text):  # a list, 64 bytes first
        size = int.from_bytes(match[0][1:]) + len(match[0])
        try:
            yield decode_enr(text[match.start() : match.start() + size])
        except RemoteProtocolError:
            continue  # something else that is signed


@pytest.mark.netns
def test_no_link_shows_a_name_a_key_an_address_or_an_invite(run: Run) -> None:
    assert {haystack.name for haystack in run.captures} >= {
        *NODES,
        *(f"{name}{end}" for name in (ADMIN, MEMBER) for end in ("", "-wan")),
    }
    assert all(haystack.for_short for haystack in run.captures)
    assert run.data_size > 2 * TRANSFER_BYTES  # over IPv4 and IPv6
    assert search(run.captures, run.needles) == {}


@pytest.mark.netns
def test_the_same_search_finds_each_of_them_in_the_plaintext(run: Run) -> None:
    found = search([Haystack.of_texts("plaintext", run.plaintexts)], run.needles)
    assert sorted(found) == sorted(needle.label for needle in run.needles)


@pytest.mark.netns
def test_every_record_seen_holds_only_allowed_keys(run: Run) -> None:
    records = {record.raw: record for text in run.plaintexts for record in records_in(text)}
    for record in records.values():
        assert {name for name, _ in record.items} <= ALLOWED_KEYS, record.to_text()
    reachable = {record.node_id for record in records.values() if record.address()}
    others = {record.node_id for record in records.values() if not record.address()}
    assert len(reachable) == len(NODES)
    assert len(others) >= 2


@pytest.mark.netns(tun=False)
@pytest.mark.parametrize("shift", range(3))
def test_the_search_finds_every_form(shift: int) -> None:
    secret = bytes(range(200, 232))
    for form, pattern in forms(secret).items():
        assert search([Haystack.of_texts("x", [b"ab" + pattern])], [Needle("key", (secret,))]), form
    text = b64encode(b"\xaa" * shift + secret + b"\xbb\xcc")
    assert f"base64+{shift}" in str(
        search([Haystack.of_texts("x", [text])], [Needle("key", (secret,))])
    )


@pytest.mark.netns(tun=False)
def test_short_values_are_searched_outside_data_packets_only() -> None:
    haystack = Haystack("link", b"..\x64\x61\x00\x01..", b"..")
    assert search([haystack], [address_needle("address", "100.97.0.1")]) == {}
    haystack = Haystack("link", b"..100.97.0.1..", b"..")
    assert search([haystack], [address_needle("address", "100.97.0.1")])
