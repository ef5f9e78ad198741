"""A TURN server of tests: challenges once, allocates one address, tells and takes data by hand."""

from __future__ import annotations

from collections import deque

from ginnel.base.types import Address
from ginnel.ice import stun
from ginnel.ice.channels import split_channel_data
from ginnel.ice.stun import Attribute, Message, MessageClass

REALM, NONCE = b"example.org", b"nonce"


class TinyTurn:
    """One allocation for one client; `answers` are for it, `sent` went to peers."""

    def __init__(self, relayed: Address, user: str = "user", password: str = "pass") -> None:
        self.relayed = relayed
        self.answers: deque[bytes] = deque()
        self.sent: list[tuple[Address | int, bytes]] = []
        self._key = stun.long_term_key(user, REALM.decode(), password)

    def handle(self, data: bytes, source: Address) -> None:
        """Take what the client sent."""
        channel = split_channel_data(data)
        if channel is not None:
            self.sent.append(channel)
            return
        message = stun.decode_message(data)
        if message.message_class is MessageClass.INDICATION:
            peer, text = message.address(Attribute.XOR_PEER_ADDRESS), message.get(Attribute.DATA)
            assert peer is not None
            assert text is not None
            self.sent.append((peer, text))
        elif not stun.check_integrity(message, self._key):
            self._refuse(message, 401, [(Attribute.REALM, REALM), (Attribute.NONCE, NONCE)])
        else:
            self._serve(message, source)

    def tell(self, peer: Address, data: bytes) -> None:
        """Pass on a peer's datagram."""
        transaction_id = bytes(12)
        attributes = [
            (Attribute.XOR_PEER_ADDRESS, stun.encode_address(peer, transaction_id)),
            (Attribute.DATA, data),
        ]
        self.answers.append(
            stun.encode_message(
                MessageClass.INDICATION, transaction_id, attributes, method=stun.DATA
            )
        )

    def _serve(self, message: Message, source: Address) -> None:
        peer = message.address(Attribute.XOR_PEER_ADDRESS)
        if peer is not None and peer.ip.startswith("127."):
            self._refuse(message, 403, [])
            return
        attributes: list[tuple[int, bytes]] = [(Attribute.LIFETIME, (600).to_bytes(4, "big"))]
        if message.method == stun.ALLOCATE:
            for kind, address in (
                (Attribute.XOR_RELAYED_ADDRESS, self.relayed),
                (Attribute.XOR_MAPPED_ADDRESS, source),
            ):
                attributes.append((kind, stun.encode_address(address, message.transaction_id)))
        self._answer(message, MessageClass.SUCCESS, attributes, self._key)

    def _refuse(self, message: Message, code: int, more: list[tuple[int, bytes]]) -> None:
        error = (int(Attribute.ERROR_CODE), stun.encode_error(code, "no"))
        self._answer(message, MessageClass.ERROR, [error, *more], None)

    def _answer(
        self,
        message: Message,
        kind: MessageClass,
        attributes: list[tuple[int, bytes]],
        key: bytes | None,
    ) -> None:
        self.answers.append(
            stun.encode_message(
                kind, message.transaction_id, attributes, key=key, method=message.method
            )
        )
