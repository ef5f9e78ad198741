import pytest

from ginnel.lab.nat import make_ruleset
from ginnel.lab.topology import NatKind


def ruleset(kind: NatKind) -> str:
    return make_ruleset(kind, first_host="192.168.1.10", wan_ip="192.0.2.2")


@pytest.mark.parametrize("kind", [kind for kind in NatKind if kind is not NatKind.NONE])
def test_every_kind_translates_and_only_full_cone_lets_all_in(kind: NatKind) -> None:
    text = ruleset(kind)
    assert "masquerade" in text
    assert text.count("{") == text.count("}")
    assert ('iifname "wan" drop' in text) == (kind is not NatKind.FULL_CONE)
    assert ("hook input" in text) == (kind not in (NatKind.FULL_CONE, NatKind.LEAKY))


def test_what_tells_the_kinds_apart() -> None:
    assert "masquerade random,fully-random" in ruleset(NatKind.SYMMETRIC)
    assert ":40000-40999 random" in ruleset(NatKind.SYMMETRIC_SEQ)
    assert "meta l4proto udp drop" in ruleset(NatKind.UDP_BLOCKED)
    assert "tcp dport != 443 drop" in ruleset(NatKind.TCP443)
    assert "map @talked" in ruleset(NatKind.ADDR_RESTRICTED)
    assert 'iifname "wan" ip saddr 192.0.2.2' in ruleset(NatKind.HAIRPIN)
    assert "dnat to 192.168.1.10" in ruleset(NatKind.FULL_CONE)
    assert ruleset(NatKind.CGNAT) == ruleset(NatKind.PORT_RESTRICTED)
