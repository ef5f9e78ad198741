import pytest

from ginnel.base.config import Settings, format_settings, parse_settings
from ginnel.base.errors import UsageError

MINIMAL = "port = 41000\ntunnel_uid = 64100\n"


def test_settings_come_back() -> None:
    settings = Settings(41000, 64100, 64101, "100.80.0.0/16", nodes=('enr:"x\\',), debug=True)
    assert parse_settings(format_settings(settings)) == settings


def test_defaults() -> None:
    settings = parse_settings(MINIMAL)
    assert (settings.mtu, settings.protocol_id, settings.signer_uid) == (1280, "ginnel", 0)


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
