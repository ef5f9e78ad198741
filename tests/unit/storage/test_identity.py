from pathlib import Path

import pytest

from ginnel.base.errors import SystemFailure, UsageError
from ginnel.base.types import Secret
from ginnel.mesh import derive
from ginnel.storage.identity import KEY_FILE, NodeBundle, generate_keys, load_keys, save_keys
from support.joins import Bytes


def test_keys_come_back_from_disk(tmp_path: Path) -> None:
    keys = generate_keys()
    save_keys(tmp_path, keys)
    assert load_keys(tmp_path) == keys
    assert "<secret>" in repr(keys)
    with pytest.raises(UsageError, match="not overwritten"):
        save_keys(tmp_path, generate_keys())
    assert load_keys(tmp_path) == keys


def test_keys_are_independent_and_valid() -> None:
    keys = generate_keys(Bytes("keys"))
    identity, wireguard, sealing, discovery = keys.public
    assert len({keys.identity, keys.wireguard, keys.sealing, keys.discovery}) == 4
    derive.check_ed25519_key(identity)
    derive.check_x25519_key(wireguard)
    derive.check_x25519_key(sealing)
    derive.check_secp256k1_key(discovery)


def test_an_impossible_secp256k1_key_is_drawn_again() -> None:
    draws = [b"a" * 32, b"b" * 32, b"c" * 32, bytes(32), b"\xff" * 32, b"d" * 32]
    keys = generate_keys(lambda _: draws.pop(0))
    assert keys.discovery == Secret(b"d" * 32)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "identity 00",
        "junk",
        "identity zz\n",
        f"identity {'00' * 32}\nwireguard {'00' * 32}\nsealing {'00' * 32}\ndiscovery {'00' * 32}",
        "\xff",
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / KEY_FILE
    path.write_text(text, encoding="latin-1")
    path.chmod(0o600)
    with pytest.raises(SystemFailure, match="damaged"):
        load_keys(tmp_path)


def test_a_bundle_comes_back_and_does_not_show() -> None:
    bundle = NodeBundle(generate_keys(), b"network" * 20, b"admin" * 30, b"cert" * 100)
    token = bundle.to_bundle()
    assert NodeBundle.from_bundle(token) == bundle
    assert str(token) == "<secret>"
    assert token.reveal().decode().startswith("ginnel1:")


@pytest.mark.parametrize("text", [b"", b"ginnel1:", b"ginnel1:!!", b"other:AAAA", b"ginnel1:wAA"])
def test_another_token_is_refused(text: bytes) -> None:
    with pytest.raises(UsageError):
        NodeBundle.from_bundle(Secret(text))
