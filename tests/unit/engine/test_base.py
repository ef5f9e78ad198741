import pytest

from ginnel.base.errors import UsageError
from ginnel.base.types import Secret
from ginnel.engine.base import Engine, EngineStats
from ginnel.engine.embedded import EmbeddedEngine


def test_the_embedded_engine_fulfils_the_interface() -> None:
    engine: Engine = EmbeddedEngine(
        udp4_fd=None, private_key=Secret(bytes(32)), control_ips=[], mtu=1280
    )
    assert engine.fileno() >= 0
    assert engine.receive(8) == []
    assert engine.poll_event() is None
    assert engine.stats() == EngineStats(*[0] * len(EngineStats.__slots__))
    assert engine.peer_stats() == []
    assert engine.drops() == {}
    engine.close()
    with pytest.raises(UsageError, match="closed"):
        engine.fileno()
