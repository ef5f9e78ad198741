"""The table of legal states."""

from ginnel.ice.events import TRANSITIONS, AgentConfig, IceState


def test_every_state_but_closed_can_close() -> None:
    assert set(TRANSITIONS) == set(IceState)
    for state, following in TRANSITIONS.items():
        assert (IceState.CLOSED in following) == (state is not IceState.CLOSED)


def test_the_defaults_are_the_seeds() -> None:
    config = AgentConfig()
    assert (config.keepalive, config.disconnected_timeout, config.failed_timeout) == (4.0, 6.0, 6.0)
