"""The parent of a join before anything is asked: what is refused, and that nothing is left."""

import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ginnel.base.errors import GinnelError, SystemFailure, UsageError
from ginnel.daemon.join_run import JoinOptions, refuse_if_here, run_join
from ginnel.mesh.join import parse_invite
from ginnel.storage.network_files import stored_network_id
from support.joins import AdminSide
from support.live_tunnel import make_network
from support.members import NetworkFactory

NOW = int(time.time())
NET = NetworkFactory(now=NOW)
PORT = 45_999


def options(**changes: object) -> JoinOptions:
    values: dict[str, object] = {
        "invite": AdminSide(NET).invite(unix_now=NOW),
        "name": "pi",
        "port": PORT,
        "uid": 64100,
    }
    return JoinOptions(**(values | changes))  # type: ignore[arg-type]


def show(_stage: str, _code: str, _waiting: bool) -> None:
    raise AssertionError("nothing was to be shown")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"invite": ""}, "invite"),
        ({"invite": "ginnel:nonsense"}, "invite"),
        ({"invite": AdminSide(NET).invite(unix_now=NOW)[:-3]}, "invite"),
        ({"invite": AdminSide(NET).invite(life_s=60, unix_now=NOW - 7200)}, "expired.*clock"),
        ({"nodes": ("nonsense",)}, "KEY-HEX@NAME:PORT"),
        ({"nodes": ("enr:-x",)}, "damaged"),
        ({"advertise": "nonsense"}, "nonsense"),
        ({"name": "No Name"}, "a-z, 0-9"),
        ({"settings": "turn = 7"}, "turn: a list"),
        ({"settings": 'turn = ["turns:h me sesame"]\nturn_ca = "/no/file"'}, "turn_ca"),
    ],
)
def test_what_can_not_be_used_is_refused_before_anything_starts(
    changes: dict[str, object], named: str
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(GinnelError, match=named):
        run_join(options(**changes), show)
    assert len(os.listdir("/proc/self/fd")) == before


def test_settings_are_a_files_with_what_was_asked_for_over_them() -> None:
    file = 'port = 31000\ntunnel_uid = 5\nnodes = ["a"]\nturn = ["turn:h me sesame"]\nlan = false'
    made = options(settings=file, port=None, nodes=("b", "a"), advertise="192.0.2.1")
    assert "sesame" not in repr(made)
    kept = made.merged([], {})
    assert (kept.port, kept.tunnel_uid, kept.nodes) == (31000, 64100, ("a", "b"))
    assert (kept.turn, kept.lan, kept.advertise) == (("turn:h me sesame",), False, "192.0.2.1")
    assert made.merged([], {"GINNEL_PORT": "32000"}).port == 32000
    assert options(settings=file).merged([], {"GINNEL_PORT": "32000"}).port == PORT


def test_a_network_is_not_joined_twice(tmp_path: Path) -> None:
    paths = make_network(tmp_path, NOW)
    other = parse_invite(AdminSide(NET).invite(unix_now=NOW), unix_now=NOW)
    assert other.network_name == NET.name
    other = replace(other, network_name="elsewhere")
    refuse_if_here(other, paths.etc_root)
    network_id = stored_network_id(paths)
    assert network_id is not None
    same = replace(other, network_id=network_id)
    with pytest.raises(UsageError, match="already, as home: sudo ginnel up home"):
        refuse_if_here(same, paths.etc_root)
    (paths.etc / "network.obj").write_bytes(b"damaged")
    refuse_if_here(same, paths.etc_root)
    refuse_if_here(same, tmp_path / "nothing")


def test_another_network_of_the_same_name_is_refused_before_anything_is_asked(
    tmp_path: Path,
) -> None:
    paths = make_network(tmp_path, NOW)
    admin = AdminSide(NET)
    invite = parse_invite(admin.invite(is_auto=True, unix_now=NOW), unix_now=NOW)
    refuse_if_here(replace(invite, network_name=""), paths.etc_root)  # of a Ginnel that says none
    with pytest.raises(UsageError, match=r"another network of the name home.*can still be used"):
        refuse_if_here(replace(invite, network_name="home"), paths.etc_root)


def test_a_port_in_use_is_said_so() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", 0))
        port = taken.getsockname()[1]
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(SystemFailure, match=f"UDP port {port} is in use"):
            run_join(options(port=port), show)
        assert len(os.listdir("/proc/self/fd")) == before


def test_an_invite_does_not_show() -> None:
    made = options()
    assert made.invite not in repr(made)
    with pytest.raises(GinnelError) as caught:
        run_join(options(invite=made.invite[:-3]), show)
    assert made.invite[20:-3] not in str(caught.value)
