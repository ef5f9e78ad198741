"""The configuration's rule for the controlling side."""

from dataclasses import fields

from ginnel.peer.events import ConnConfig, OnDisconnect


def test_the_larger_raw_key_controls() -> None:
    low, high = b"\x01" + bytes(31), b"\x02" + bytes(31)
    assert ConnConfig(key=low, local_key=high).is_controlling
    assert not ConnConfig(key=high, local_key=low).is_controlling
    assert ConnConfig(key=low, local_key=high).keepalive_s == 25


def test_every_setting_of_seed_000_is_there_with_its_default() -> None:
    config = ConnConfig(key=b"k" * 32, local_key=b"l" * 32)
    assert [item.name for item in fields(ConnConfig)] == [
        "key",
        "local_key",
        "allowed_ips",
        "preshared_key",
        "psk_id",
        "keepalive_s",
        "version",
        "timeout",
        "on_disconnect",
        "stun_turn",
        "interface_blacklist",
        "disable_ipv6_discovery",
        "nat_external_ips",
        "local_wg_port",
        "is_muxed",
        "userspace_bind",
        "rosenpass_pub_key",
        "rosenpass_addr",
        "ice",
        "lends_consent",
        "turns",
    ]
    ice = config.ice
    assert (ice.keepalive, ice.disconnected_timeout, ice.failed_timeout) == (4.0, 6.0, 6.0)
    assert ice.relay_acceptance_wait == 2.0
    assert config.keepalive_s == 25
    assert config.on_disconnect is OnDisconnect.RESTART
    assert config.overlay_ip == ""
    assert ConnConfig(b"", b"", ("100.64.7.1/32", "fd00::1/128")).overlay_ip == "100.64.7.1"
