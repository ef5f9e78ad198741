import pytest

from ginnel.base.config import Settings, format_settings, parse_settings
from ginnel.base.errors import UsageError

MINIMAL = "port = 41000\ntunnel_uid = 64100\n"


def test_settings_come_back() -> None:
    settings = Settings(41000, 64100, 64101, "100.80.0.0/16", nodes=('enr:"x\\',), debug=True)
    assert parse_settings(format_settings(settings)) == settings


def test_defaults() -> None:
    settings = parse_settings(MINIMAL)
    assert (settings.mtu, settings.protocol_id, settings.signer_uid) == (1420, "ginnel", 0)


def test_the_environment_wins() -> None:
    environ = {"GINNEL_PORT": "5000", "GINNEL_NODES": "a b", "GINNEL_DEBUG": "1", "PORT": "1"}
    settings = parse_settings(MINIMAL, environ)
    assert (settings.port, settings.nodes, settings.debug) == (5000, ("a", "b"), True)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("port = 41000", "tunnel_uid"),
        ("port =", "TOML"),
        (MINIMAL + "prot = 5", "prot"),
        ("port = 0\ntunnel_uid = 5", "65535"),
        ("port = true\ntunnel_uid = 5", "port"),
        ("port = 1\ntunnel_uid = 0", "tunnel_uid"),
        (MINIMAL + "mtu = 100", "1280"),
        (MINIMAL + 'ipv4_prefix = "100.64.0.1/16"', "ipv4_prefix"),
        (MINIMAL + 'ipv4_prefix = "100.64.0.0/30"', "8 to 24"),
        (MINIMAL + 'ipv4_prefix = "203.0.113.0/24"', "private"),
        (MINIMAL + 'protocol_id = "eth"', "discv5"),
        (MINIMAL + 'port_mapping = "maybe"', "nat-pmp"),
        (MINIMAL + "nodes = [1]", "nodes"),
        (MINIMAL + "debug = 1", "debug"),
        (MINIMAL + "advertise = 5", "advertise"),
        ("#" * 70_000, "characters"),
    ],
)
def test_a_wrong_setting_is_named(text: str, word: str) -> None:
    with pytest.raises(UsageError, match=word):
        parse_settings(text)


def test_a_wrong_variable_is_named() -> None:
    with pytest.raises(UsageError, match="port"):
        parse_settings(MINIMAL, {"GINNEL_PORT": "many"})


@pytest.mark.parametrize(
    ("text", "seconds"), [("4s", 4.0), ("500ms", 0.5), ("1m", 60.0), ("1h", 3600.0), ("1.5s", 1.5)]
)
def test_durations_have_units(text: str, seconds: float) -> None:
    found = parse_settings(MINIMAL, {"GINNEL_ICE_KEEPALIVE": text})
    assert found.ice_keepalive == seconds
    assert parse_settings(format_settings(found)) == found


@pytest.mark.parametrize("text", ["4", "4 s", "-1s", "", "s", "soon", "2h", "1e3s"])
def test_what_is_no_duration_is_named(text: str) -> None:
    with pytest.raises(UsageError, match=r"ice_keepalive = .*: a duration"):
        parse_settings(MINIMAL, {"GINNEL_ICE_KEEPALIVE": text})


def test_ice_settings_in_the_environment() -> None:
    found = parse_settings(
        MINIMAL,
        {
            "GINNEL_ICE_DISCONNECTED_TIMEOUT": "7s",
            "GINNEL_ICE_FAILED_TIMEOUT": "8s",
            "GINNEL_ICE_RELAY_ACCEPTANCE_WAIT": "0s",
            "GINNEL_FORCE_RELAY": "true",
            "GINNEL_IPV6": "false",
            "GINNEL_INTERFACE_BLACKLIST": "eth0 wlan*",
            "GINNEL_NAT_1TO1": "203.0.113.7 2001:DB8::7",
        },
    )
    assert (found.ice_disconnected_timeout, found.ice_failed_timeout) == (7.0, 8.0)
    assert found.ice_relay_acceptance_wait == 0.0
    assert (found.force_relay, found.ipv6) == (True, False)
    assert found.interface_blacklist == ("eth0", "wlan*")
    assert found.nat_1to1 == ("203.0.113.7", "2001:db8::7")
    assert parse_settings(format_settings(found)) == found


def test_an_outer_address_is_an_ip() -> None:
    with pytest.raises(UsageError):
        parse_settings(MINIMAL, {"GINNEL_NAT_1TO1": "example.org"})


@pytest.mark.parametrize(
    "text",
    ["turn:relay.example.org me sesame", "turns:[2001:db8::7]:99 me sesame"],
)
def test_turn_servers_are_kept_and_never_shown(text: str) -> None:
    settings = parse_settings(MINIMAL + f'turn = ["{text}"]')
    assert parse_settings(format_settings(settings)) == settings
    assert "sesame" not in repr(settings)


@pytest.mark.parametrize(
    "text",
    ["turn:host", "turns:host?transport=udp me hush", "stun:host me hush", "turn:h:99999 me hush"],
)
def test_a_turn_server_of_another_form_is_refused_without_its_password(text: str) -> None:
    with pytest.raises(UsageError, match="turn: ") as caught:
        parse_settings(MINIMAL + f'turn = ["{text}"]')
    assert "hush" not in str(caught.value)


def test_no_secret_comes_from_the_environment() -> None:
    assert parse_settings(MINIMAL, {"GINNEL_TURN": "turn:h me x"}).turn == ()


@pytest.mark.parametrize("text", ["", "50000", "50000-", "80-90", "60000-50000", "50000-70000"])
def test_the_range_of_a_relays_ports_is_checked(text: str) -> None:
    assert parse_settings(MINIMAL + 'relay_ports = "50000-50000"').relay_ports == "50000-50000"
    with pytest.raises(UsageError, match=r"relay_ports = .*FIRST-LAST"):
        parse_settings(MINIMAL + f'relay_ports = "{text}"')


def test_stun_servers_come_from_the_file_and_the_environment() -> None:
    found = parse_settings(MINIMAL + 'stun = ["stun:stun.example.org", "stun:[2001:db8::7]:99"]')
    assert found.stun == ("stun:stun.example.org", "stun:[2001:db8::7]:99")
    found = parse_settings(MINIMAL, {"GINNEL_STUN": "stun:a stun:b:7"})
    assert found.stun == ("stun:a", "stun:b:7")
    with pytest.raises(UsageError, match="stun: write stun:HOST"):
        parse_settings(MINIMAL + 'stun = ["turn:host"]')
