"""A second reader of Ginnel's formats, written from docs/formats.md alone.

It shares no code with the package: RLP, derivations and HPKE are its own; only the primitives
(Ed25519, X25519, ChaCha20-Poly1305, ECDSA) come from a library.
"""

import base64
import hashlib
import hmac

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

# --- ground rules ---------------------------------------------------------------------------


def read_rlp(data: bytes) -> object:
    item, rest = _read(data)
    assert rest == b"", "bytes left over"
    return item


def _read(data: bytes) -> tuple[object, bytes]:
    first = data[0]
    if first < 0x80:
        return data[:1], data[1:]
    is_list, base = first >= 0xC0, 0xC0 if first >= 0xC0 else 0x80
    size, start = first - base, 1
    if size > 55:
        start = 1 + size - 55
        size = int.from_bytes(data[1:start], "big")
    payload, rest = data[start : start + size], data[start + size :]
    assert len(payload) == size, "cut short"
    if not is_list:
        return payload, rest
    items = []
    while payload:
        item, payload = _read(payload)
        items.append(item)
    return items, rest


def write_rlp(item: object) -> bytes:
    if isinstance(item, int):
        item = item.to_bytes((item.bit_length() + 7) // 8, "big")
    if isinstance(item, bytes):
        if len(item) == 1 and item[0] < 0x80:
            return item
        base, payload = 0x80, item
    else:
        assert isinstance(item, list)
        base, payload = 0xC0, b"".join(write_rlp(part) for part in item)
    if len(payload) < 56:
        return bytes([base + len(payload)]) + payload
    length = len(payload).to_bytes((len(payload).bit_length() + 7) // 8, "big")
    return bytes([base + 55 + len(length)]) + length + payload


def number(data: object) -> int:
    assert isinstance(data, bytes)
    assert data[:1] != b"\x00"
    return int.from_bytes(data, "big")


def L(label: str) -> bytes:  # the name that the page uses
    return b"ginnel/1 " + label.encode("ascii") + b"\x00"


def H(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def mac(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()[:16]


def hkdf(key: bytes, salt: bytes, info: bytes, size: int) -> bytes:
    prk = hmac.new(salt, key, hashlib.sha256).digest()
    assert size <= 32
    return hmac.new(prk, info + b"\x01", hashlib.sha256).digest()[:size]


def kdf(key: bytes, network: bytes, label: str, context: list, size: int = 32) -> bytes:
    return hkdf(key, network, L(label) + write_rlp(context), size)


def check_signature(
    public: bytes, network: bytes, label: str, message: bytes, signature: bytes
) -> None:
    Ed25519PublicKey.from_public_bytes(public).verify(signature, L(label) + network + message)


def unpad(data: bytes) -> bytes:
    size = int.from_bytes(data[:2], "big")
    assert len(data) % 64 == 0
    assert len(data) - 2 - size < 64
    assert not any(data[2 + size :])
    return data[2 : 2 + size]


def ed25519_public(seed: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


def x25519_public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def secp256k1_public(private: bytes) -> bytes:
    key = ec.derive_private_key(int.from_bytes(private, "big"), ec.SECP256K1()).public_key()
    numbers = key.public_numbers()
    return bytes([2 + numbers.y % 2]) + numbers.x.to_bytes(32, "big")


# --- HPKE (RFC 9180) ------------------------------------------------------------------------


def _labeled(suite: bytes, label: str, data: bytes) -> bytes:
    return b"HPKE-v1" + suite + label.encode() + data


def _extract(salt: bytes, suite: bytes, label: str, data: bytes) -> bytes:
    return hmac.new(salt, _labeled(suite, label, data), hashlib.sha256).digest()


def _expand(prk: bytes, suite: bytes, label: str, info: bytes, size: int) -> bytes:
    text = size.to_bytes(2, "big") + _labeled(suite, label, info) + b"\x01"
    return hmac.new(prk, text, hashlib.sha256).digest()[:size]


def hpke_open(private: bytes, info: bytes, sealed: bytes) -> bytes:
    kem, suite = b"KEM\x00\x20", b"HPKE\x00\x20\x00\x01\x00\x03"
    enc, ciphertext = sealed[:32], sealed[32:]
    key = X25519PrivateKey.from_private_bytes(private)
    shared = key.exchange(X25519PublicKey.from_public_bytes(enc))
    context = enc + key.public_key().public_bytes_raw()
    prk = _extract(b"", kem, "eae_prk", shared)
    secret = _expand(prk, kem, "shared_secret", context, 32)
    schedule = b"\x00" + _extract(b"", suite, "psk_id_hash", b"")
    schedule += _extract(b"", suite, "info_hash", info)
    main = _extract(secret, suite, "secret", b"")
    aead_key = _expand(main, suite, "key", schedule, 32)
    nonce = _expand(main, suite, "base_nonce", schedule, 12)
    return ChaCha20Poly1305(aead_key).decrypt(nonce, ciphertext, b"")


# --- objects --------------------------------------------------------------------------------


def network_id(root_public: bytes) -> bytes:
    return H(L("network") + root_public)


def member_id(identity_public: bytes) -> bytes:
    return H(L("member") + identity_public)


def ipv6(network: bytes, member: bytes) -> bytes:
    return b"\xfd" + network[:5] + bytes(2) + H(L("ipv6") + network + member)[:8]


def read_object(raw: bytes, network: bytes) -> tuple[str, list, bytes]:
    """Return type, body and signer of an object whose signature is right."""
    outer = read_rlp(raw)
    assert isinstance(outer, list)
    kind, body, signer, signature = outer[:4]
    assert len(raw) <= 640
    assert len(body) <= 512
    check_signature(signer, network, kind.decode("ascii"), body, signature)
    items = read_rlp(body)
    assert isinstance(items, list)
    assert number(items[0]) == 1
    return kind.decode("ascii"), items[1:], signer


# --- rendezvous -----------------------------------------------------------------------------


def point(secret: bytes, network: bytes, labels: tuple[str, str, str], context: list) -> dict:
    """Return a point; context is [member_id, period] or [period]."""
    loc_pub = ed25519_public(kdf(secret, network, labels[0], [*context, 0]))
    return {
        "loc_pub": loc_pub,
        "location": H(loc_pub),
        "pkey": kdf(secret, network, labels[1], context),
        "tag": kdf(secret, network, labels[2], context, 16),
    }


def open_presence(at: dict, presence: bytes) -> bytes:
    cipher = ChaCha20Poly1305(at["pkey"])
    return unpad(cipher.decrypt(presence[:12], presence[12:], at["location"]))


# --- envelopes ------------------------------------------------------------------------------


def open_envelope(
    env: bytes, *, network: bytes, recipient: bytes, private: bytes, mac_key: bytes
) -> tuple[dict, bytes]:
    """Return the outer parts and the text inside."""
    assert len(env) <= 1088
    outer = {"ver": env[0], "kind": env[1], "epoch_id": env[2:10], "tag": env[10:26]}
    assert mac(mac_key, env[:26] + env[42:]) == env[26:42]
    info = L("seal") + network + recipient + env[:26]
    return outer, unpad(hpke_open(private, info, env[42:]))


def read_message(text: bytes, network: bytes, sender_public: bytes) -> tuple[list, bytes]:
    """Return items and bytes of a signed message's body."""
    outer = read_rlp(text)
    assert isinstance(outer, list)
    body, signature = outer[:2]
    check_signature(sender_public, network, "message", body, signature)
    items = read_rlp(body)
    assert isinstance(items, list)
    return items, body


# --- joins ----------------------------------------------------------------------------------


def read_invite(text: str) -> list:
    word = "".join(text.split()).lower()
    assert word.startswith("ginnel1")
    word = word[7:].upper()
    data = base64.b32decode(word + "=" * (-len(word) % 8))
    assert H(data[:-4])[:4] == data[-4:]
    items = read_rlp(data[:-4])
    assert isinstance(items, list)
    assert number(items[0]) == 1
    return items[1:]


def read_request(text: bytes, network: bytes) -> tuple[list, bytes]:
    outer = read_rlp(text)
    assert isinstance(outer, list)
    body, signature, ecdsa = outer[:3]
    items = read_rlp(body)
    assert isinstance(items, list)
    check_signature(items[2], network, "join", body, signature)
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), items[5])
    r, s = int.from_bytes(ecdsa[:32], "big"), int.from_bytes(ecdsa[32:], "big")
    digest = H(L("join") + network + body)
    prehashed = ec.ECDSA(utils.Prehashed(hashes.SHA256()))
    key.verify(utils.encode_dss_signature(r, s), digest, prehashed)
    return items, body


def code(secret: bytes, network: bytes, request_body: bytes) -> str:
    key = kdf(secret, network, "code", [])
    digest = hmac.new(key, H(request_body), hashlib.sha256).digest()
    return base64.b32encode(digest).decode()[:8]


def read_answer(text: bytes, network: bytes, admin_public: bytes) -> list:
    outer = read_rlp(text)
    assert isinstance(outer, list)
    body, signature = outer[:2]
    check_signature(admin_public, network, "join answer", body, signature)
    items = read_rlp(body)
    assert isinstance(items, list)
    return items
