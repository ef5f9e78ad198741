"""The timers of a connection that are spec: their values, in one place."""

from ginnel.ice.events import AgentConfig
from ginnel.peer import lifecycle


def test_the_watch_on_wireguard() -> None:
    assert lifecycle.FIRST_HANDSHAKE_TIMEOUT == 30.0
    assert lifecycle.HANDSHAKE_TIMEOUT == 210.0
    assert lifecycle.HANDSHAKE_WAIT < lifecycle.PROBE_TIMEOUT


def test_an_offer_is_renewed_before_its_answerer_gives_up() -> None:
    assert AgentConfig().patience > lifecycle.OFFER_LIFE
