"""The timers of a connection that are spec: their values, in one place."""

from ginnel.ice.events import AgentConfig
from ginnel.peer import timers


def test_the_watch_on_wireguard() -> None:
    assert timers.FIRST_HANDSHAKE_TIMEOUT == 30.0
    assert timers.HANDSHAKE_TIMEOUT == 210.0
    assert timers.HANDSHAKE_WAIT < timers.PROBE_TIMEOUT


def test_an_offer_is_renewed_before_its_answerer_gives_up() -> None:
    assert AgentConfig().patience > timers.OFFER_LIFE
