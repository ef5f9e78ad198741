import pytest

from ginnel.mesh import derive
from ginnel.mesh.sealer import SEAL_OVERHEAD, HpkeSealer, Sealer, SealError
from support.hpke import DeterministicSealer
from support.members import seed

SEALERS = [HpkeSealer(), DeterministicSealer(lambda size: b"r" * size)]
PUBLIC = derive.x25519_public(seed("recipient"))


@pytest.mark.parametrize("sealing", SEALERS)
@pytest.mark.parametrize("opening", SEALERS)
def test_two_implementations_open_each_others(sealing: Sealer, opening: Sealer) -> None:
    sealed = sealing.seal(PUBLIC, b"context", b"text")
    assert len(sealed) == len(b"text") + SEAL_OVERHEAD
    assert opening.open(seed("recipient"), b"context", sealed) == b"text"


@pytest.mark.parametrize("sealer", SEALERS)
def test_key_context_and_bytes_must_be_right(sealer: Sealer) -> None:
    sealed = sealer.seal(PUBLIC, b"context", b"text")
    for key, info, data in (
        (seed("another"), b"context", sealed),
        (seed("recipient"), b"contexT", sealed),
        (seed("recipient"), b"context", sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (seed("recipient"), b"context", sealed[:40]),
        (seed("recipient"), b"context", b""),
        (seed("recipient"), b"context", bytes(32) + sealed[32:]),
    ):
        with pytest.raises(SealError):
            sealer.open(key, info, data)


@pytest.mark.parametrize("sealer", SEALERS)
def test_nothing_is_sealed_to_a_low_order_key(sealer: Sealer) -> None:
    with pytest.raises(SealError):
        sealer.seal(bytes(32), b"context", b"text")
    with pytest.raises(SealError):
        sealer.seal(bytes(31), b"context", b"text")
