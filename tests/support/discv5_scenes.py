"""One scene for each reason to drop a packet, played by a peer of its own."""

from __future__ import annotations

from collections.abc import Callable

from ginnel.base.ciphers import mask
from ginnel.base.types import Address
from ginnel.discv5.enr import sign_enr
from ginnel.discv5.events import Drop
from ginnel.discv5.messages import (
    FindNode,
    Nodes,
    Ping,
    Pong,
    TalkRequest,
    TalkResponse,
    decode_message,
    encode_message,
)
from ginnel.discv5.packet import Flag, PacketCodec
from ginnel.discv5.protocol import Contact
from support.discv5_net import Host, Net
from support.discv5_peer import RawPeer

PEER = Address("203.9.9.9", 1234)
TIGHT = {
    "whoareyou_burst": 3.0,
    "whoareyou_rate": 0.001,
    "request_burst": 6.0,
    "request_rate": 0.001,
    "packet_burst": 40.0,
    "packet_rate": 0.001,
    "subnet_factor": 100.0,
    "talk_limit": 1,
}


class Scene:
    """One host and one peer that does what it likes."""

    def __init__(self, net: Net, host: Host, address: Address = PEER, seed: int = 1) -> None:
        self.net = net
        self.host = host
        self.address = address
        self.peer = RawPeer(host, address, seed)

    @property
    def contact(self) -> Contact:
        return Contact(self.peer.node_id, self.address, self.peer.public_key)

    def give(self, data: bytes, source: Address | None = None) -> None:
        self.host.core.handle_datagram(data, source or self.address, now=self.net.now)

    def say(self, *plain: bytes) -> None:
        for message in plain:
            self.peer.send(message, now=self.net.now)

    def masked(self, *, protocol: bytes = b"discv5", flag: int = 0, version: int = 1) -> bytes:
        codec = PacketCodec(self.peer.node_id, protocol, self.net.random_bytes)
        header = bytearray(codec.header(Flag.ORDINARY, bytes(12), self.peer.node_id))
        header[7], header[8] = version, flag
        return mask(self.host.core.node_id, bytes(15) + b"\xf0" + header) + bytes(44)

    def asked(self) -> bytes:
        """Let the host ask the peer, over a session; return the request's id."""
        if self.peer.session is None:
            self.peer.connect(self.net.now)
        self.peer.receive()
        self.host.core.find_node(self.contact, (256,), now=self.net.now)
        messages = [decode_message(plain) for plain in self.peer.receive()]
        (found,) = (message for message in messages if isinstance(message, FindNode))
        return found.request_id


def size(scene: Scene) -> None:
    scene.give(bytes(62))


def protocol(scene: Scene) -> None:
    scene.give(scene.masked(protocol=b"other6"))


def version(scene: Scene) -> None:
    scene.give(scene.masked(version=2))


def flag(scene: Scene) -> None:
    scene.give(scene.masked(flag=9))


def authdata(scene: Scene) -> None:
    scene.give(scene.masked(flag=1))


def port_zero(scene: Scene) -> None:
    scene.give(bytes(100), Address("203.9.9.9", 0))


def packet_rate(scene: Scene) -> None:
    for _ in range(1000):
        if not scene.host.core.drops[Drop.PACKET_RATE]:
            scene.give(bytes(100))
    scene.host.core.drops[Drop.PROTOCOL_ID] = 0
    scene.host.core.drops[Drop.VERSION] = 0


def banned(scene: Scene) -> None:
    for _ in range(6):
        scene.say(b"\x01\xff")
    scene.host.core.drops[Drop.MESSAGE] = 0


def own_id(scene: Scene) -> None:
    codec = PacketCodec(scene.host.core.node_id, b"discv5", scene.net.random_bytes)
    scene.give(codec.encode_random(scene.host.core.node_id, bytes(12)))


def challenge_rate(scene: Scene) -> None:
    for _ in range(4):
        codec = PacketCodec(scene.peer.node_id, b"discv5", scene.net.random_bytes)
        scene.give(codec.encode_random(scene.host.core.node_id, bytes(12)))


def whoareyou(scene: Scene, nonce: bytes) -> bytes:
    codec = scene.peer.codec
    data, _ = codec.encode_whoareyou(scene.host.core.node_id, nonce, scene.net.random_bytes(16), 0)
    return data


def unsolicited_challenge(scene: Scene) -> None:
    scene.give(whoareyou(scene, bytes(12)))


def challenge_repeated(scene: Scene) -> None:
    scene.host.core.ping(scene.contact, now=scene.net.now)
    (knock,) = scene.peer.transmits()
    packet = scene.peer.codec.decode(knock.data)
    data = whoareyou(scene, packet.nonce)  # type: ignore[union-attr]
    scene.give(data)
    scene.give(data)


def no_challenge(scene: Scene) -> None:
    challenge = scene.peer.knock(scene.net.now)
    scene.net.now += 10
    scene.give(scene.peer.handshake(challenge, encode_message(Ping(b"1", 1)), b""))


def no_record(scene: Scene) -> None:
    challenge = scene.peer.knock(scene.net.now)
    scene.give(scene.peer.handshake(challenge, encode_message(Ping(b"1", 1)), b""))


def bad_record(scene: Scene) -> None:
    challenge = scene.peer.knock(scene.net.now)
    other = sign_enr(b"\x09" * 32, 1, {})
    scene.give(scene.peer.handshake(challenge, encode_message(Ping(b"1", 1)), other.raw))


def bad_signature(scene: Scene) -> None:
    challenge = scene.peer.knock(scene.net.now)
    key, scene.peer.key = scene.peer.key, b"\x09" * 32
    data = scene.peer.handshake(challenge, encode_message(Ping(b"1", 1)), scene.peer.record.raw)
    scene.peer.key = key
    scene.give(data)


def bad_key(scene: Scene) -> None:
    from ginnel.discv5.handshake import make_id_signature

    challenge = scene.peer.knock(scene.net.now)
    scene.peer.handshake(challenge, b"", scene.peer.record.raw)
    point = b"\x02" + b"\xff" * 32
    host_id = scene.host.core.node_id
    signature = make_id_signature(scene.peer.key, challenge.challenge_data, point, host_id)
    data = scene.peer.codec.handshake_authdata(signature, point, scene.peer.record.raw)
    scene.give(scene.peer.packet(Flag.HANDSHAKE, data, b"x"))


def bad_handshake_message(scene: Scene) -> None:
    challenge = scene.peer.knock(scene.net.now)
    data = bytearray(scene.peer.handshake(challenge, b"x" * 9, scene.peer.record.raw))
    data[-1] ^= 1
    scene.give(bytes(data))


def message(scene: Scene) -> None:
    scene.say(b"\x01\xff")


def message_type(scene: Scene) -> None:
    scene.say(b"\x07\xc0")


def message_rate(scene: Scene) -> None:
    scene.say(*(encode_message(Ping(b"1", 1)) for _ in range(6)))


def unsolicited_response(scene: Scene) -> None:
    scene.say(encode_message(Pong(b"1", 1, PEER)))


def wrong_response(scene: Scene) -> None:
    scene.say(encode_message(TalkResponse(scene.asked(), b"")))


def bad_record_in_nodes(scene: Scene) -> None:
    scene.say(encode_message(Nodes(scene.asked(), 1, (b"\xc0",))))


def repeated_talk(scene: Scene) -> None:
    scene.say(*(encode_message(TalkRequest(b"1", b"t", b"")) for _ in range(2)))


def too_many_talks(scene: Scene) -> None:
    for number in range(5):
        if not scene.host.core.drops[Drop.TOO_MANY_TALKS]:
            scene.say(encode_message(TalkRequest(bytes([number]), b"t", b"")))


SCENES: list[tuple[Drop, Callable[[Scene], None]]] = [
    (Drop.PACKET_SIZE, size),
    (Drop.PROTOCOL_ID, protocol),
    (Drop.VERSION, version),
    (Drop.FLAG, flag),
    (Drop.AUTHDATA, authdata),
    (Drop.SOURCE, port_zero),
    (Drop.BANNED, banned),
    (Drop.PACKET_RATE, packet_rate),
    (Drop.OWN_ID, own_id),
    (Drop.CHALLENGE_RATE, challenge_rate),
    (Drop.UNSOLICITED_CHALLENGE, unsolicited_challenge),
    (Drop.CHALLENGE_REPEATED, challenge_repeated),
    (Drop.NO_CHALLENGE, no_challenge),
    (Drop.NO_RECORD, no_record),
    (Drop.BAD_RECORD, bad_record),
    (Drop.BAD_RECORD, bad_record_in_nodes),
    (Drop.BAD_SIGNATURE, bad_signature),
    (Drop.BAD_KEY, bad_key),
    (Drop.BAD_HANDSHAKE_MESSAGE, bad_handshake_message),
    (Drop.MESSAGE, message),
    (Drop.MESSAGE_TYPE, message_type),
    (Drop.MESSAGE_RATE, message_rate),
    (Drop.UNSOLICITED_RESPONSE, unsolicited_response),
    (Drop.WRONG_RESPONSE, wrong_response),
    (Drop.REPEATED_TALK, repeated_talk),
    (Drop.TOO_MANY_TALKS, too_many_talks),
]
