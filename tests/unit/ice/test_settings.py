"""Settings of the library: seed 000's defaults, the environment over them, what they let pass."""

import pytest

from ginnel.base.errors import UsageError
from ginnel.base.servers import Transport, parse_turn_uri
from ginnel.ice.candidate import CandidateKind
from ginnel.ice.settings import IceSettings, NetworkType


def test_the_defaults_are_seed_000_s() -> None:
    found = IceSettings()
    assert (found.keepalive, found.disconnected_timeout) == (4.0, 6.0)
    assert (found.failed_timeout, found.relay_acceptance_wait) == (6.0, 2.0)
    assert found.network_types == (NetworkType.UDP4, NetworkType.UDP6)
    assert all(found.wants(kind) for kind in (CandidateKind.HOST, CandidateKind.RELAY))


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("GINNEL_ICE_KEEPALIVE", "keepalive"),
        ("GINNEL_ICE_DISCONNECTED_TIMEOUT", "disconnected_timeout"),
        ("GINNEL_ICE_FAILED_TIMEOUT", "failed_timeout"),
        ("GINNEL_ICE_RELAY_ACCEPTANCE_WAIT", "relay_acceptance_wait"),
    ],
)
def test_each_duration_comes_from_the_environment(name: str, field: str) -> None:
    found = IceSettings(keepalive=9.0).with_environment({name: "1500ms"})
    assert getattr(found, field) == 1.5
    for wrong in ("1", "soon", "-2s", "", "1e3s"):
        with pytest.raises(UsageError, match=rf"{name[7:].lower()} = '{wrong}': a duration"):
            IceSettings().with_environment({name: wrong})


def test_relays_are_forced_by_the_environment() -> None:
    found = IceSettings().with_environment({"GINNEL_FORCE_RELAY": "true"})
    assert found.wants(CandidateKind.RELAY)
    assert not found.wants(CandidateKind.HOST)
    with pytest.raises(UsageError, match="force_relay = 'maybe': true or false"):
        IceSettings().with_environment({"GINNEL_FORCE_RELAY": "maybe"})


def test_kinds_and_networks_can_be_left_out() -> None:
    found = IceSettings(candidate_types=(CandidateKind.SRFLX,), network_types=(NetworkType.UDP4,))
    assert not found.wants(CandidateKind.HOST)
    assert found.allowed_ips(["192.0.2.1", "2001:db8::1"]) == ["192.0.2.1"]


def test_urls_are_parsed_and_passwords_never_shown() -> None:
    found = IceSettings(
        urls=(
            "stun:stun.example.org",
            "turn:a.example:99?transport=tcp me sesame",
            parse_turn_uri("turns:b.example", "me", "sesame"),
        )
    )
    assert [s.transport for s in found.servers] == [Transport.UDP, Transport.TCP, Transport.TLS]
    assert [s.is_turn for s in found.servers] == [False, True, True]
    assert "sesame" not in repr(found)
    with pytest.raises(UsageError, match="write turn:") as caught:
        _ = IceSettings(urls=("http://x me sesame",)).servers
    assert "sesame" not in str(caught.value)
