"""The parent of a join before anything is asked: what is refused, and that nothing is left."""

import asyncio
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from ginnel.base.errors import GinnelError, SystemFailure, UsageError
from ginnel.daemon import join_run
from ginnel.daemon.channel import Channel, Delivered, DeliverTo, Envelope
from ginnel.daemon.join_run import JoinOptions, refuse_if_here, run_join
from ginnel.daemon.paths import NetworkPaths
from ginnel.mesh.join import parse_invite
from ginnel.storage.network_files import load_bundle, stored_network_id
from support.console import on_machine
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


def test_a_port_in_use_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join_run, "ETC_ROOT", tmp_path)
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


class NearAdmin:
    """In place of a tunnel in join mode: what it is given reaches the admin at once."""

    def __init__(self, admin: AdminSide, descriptor: int) -> None:
        self._admin = admin
        self._channel = Channel.from_fd(os.dup(descriptor))
        self._serving = asyncio.ensure_future(self._serve())

    async def _serve(self) -> None:
        while True:
            message = await self._channel.receive()
            if isinstance(message, DeliverTo):
                await self._channel.send(Delivered(message.point.location, True))
                handled = self._admin.book.handle_envelope(message.envelope, unix_now=NOW)
                for reply in handled.replies:
                    await self._channel.send(Envelope(reply.point.tag, reply.envelope))

    async def end(self) -> None:
        self._serving.cancel()
        await asyncio.gather(self._serving, return_exceptions=True)
        self._channel.close()

    async def wait(self) -> int:
        return 0


class Interrupted(Exception):
    """Stands for Ctrl-C."""


def stop_when_waiting(_stage: str, _code: str, waiting: bool) -> None:
    if waiting:
        raise Interrupted


def near(monkeypatch: pytest.MonkeyPatch, admin: AdminSide) -> None:
    def start(_name: str, _argv: object, descriptors: Mapping[int, int], _log: object) -> NearAdmin:
        return NearAdmin(admin, descriptors[8])

    monkeypatch.setattr(join_run, "start_child", start)


def left_in_etc() -> list[str]:
    return sorted(os.listdir("/etc/ginnel"))


def test_an_approval_while_join_is_gone_is_taken_up_by_the_same_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    admin = AdminSide(NET)
    near(monkeypatch, admin)
    asked = options(invite=admin.invite(unix_now=NOW))

    def join_twice() -> list[str]:
        with pytest.raises(Interrupted):
            run_join(asked, stop_when_waiting)
        (kept,) = left_in_etc()
        assert kept.startswith(".joining-")
        admin.book.approve("pi", unix_now=NOW)
        granted = run_join(asked, lambda *_: None)
        assert load_bundle(NetworkPaths(NET.name)).certificate == granted.certificate
        Path("/etc/ginnel", kept).mkdir()  # as if we had died before it was removed
        with pytest.raises(UsageError, match="already"):
            run_join(asked, lambda *_: None)
        return left_in_etc()

    assert on_machine(join_twice) == [NET.name]


def test_a_grant_that_can_not_be_stored_is_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    admin = AdminSide(NET)
    near(monkeypatch, admin)
    asked = options(invite=admin.invite(is_auto=True, unix_now=NOW))
    in_the_way = Path("/var/lib/ginnel")

    def join_twice() -> list[str]:
        in_the_way.rmdir()
        in_the_way.touch()
        with pytest.raises(SystemFailure, match="/var/lib/ginnel"):
            run_join(asked, lambda *_: None)
        in_the_way.unlink()
        run_join(asked, lambda *_: None)
        load_bundle(NetworkPaths(NET.name))
        return left_in_etc()

    assert on_machine(join_twice) == [NET.name]


def test_nothing_is_asked_where_the_keys_can_not_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    admin = AdminSide(NET)
    near(monkeypatch, admin)
    asked = options(invite=admin.invite(unix_now=NOW))

    def refuse() -> tuple[object, ...]:
        os.rmdir("/etc/ginnel")
        Path("/etc/ginnel").touch()
        with pytest.raises(SystemFailure, match="/etc/ginnel"):
            run_join(asked, show)
        return admin.book.pending()

    assert on_machine(refuse) == ()
