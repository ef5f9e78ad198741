import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ginnel.base.config import Settings
from ginnel.base.errors import SystemFailure, UsageError
from ginnel.base.types import Secret
from ginnel.daemon.channel import Channel, DeliverTo, Envelope, NewObjects, Nodes, Points
from ginnel.daemon.paths import NetworkPaths
from ginnel.daemon.signer import Clock, Signer, read_settings
from ginnel.discv5.enr import sign_enr
from ginnel.mesh import join
from ginnel.mesh.join_attempt import JoinState
from ginnel.mesh.objects import DAY_S
from ginnel.storage.invites import SignerStore
from ginnel.storage.network_files import NewNetwork, create_network, load_authority
from support.joins import attempt, joiner_keys
from support.members import NOW

NAME = "laptop-of-alice"
RECORD = sign_enr(b"k" * 32, 1, {})


@dataclass
class Ticking:
    """A clock that each reading moves."""

    now: float = 0.0
    step: float = 1.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def network(tmp_path: Path) -> NetworkPaths:
    paths = NetworkPaths("meadowbrook", tmp_path / "etc", tmp_path / "var", tmp_path / "run")
    uid = os.geteuid() or 64100
    settings = Settings(41000, uid, uid, "100.80.0.0/16")
    create_network(NewNetwork("meadowbrook", "raspberry-pi-attic", settings, NOW), paths)
    return paths


def signer(paths: NetworkPaths, step: float = 1.0) -> Signer:
    authority = load_authority(paths, unix_now=NOW)
    clock = Clock(unix=lambda: NOW, monotonic=Ticking(step=step))
    return Signer(authority, SignerStore(paths.signer_state), clock)


class Ends:
    """The manager's and the tunnel's end of a running signer."""

    def __init__(self, manager: socket.socket, tunnel: Channel) -> None:
        self._manager = manager
        self.tunnel = tunnel

    async def ask(self, **request: object) -> dict:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._manager, json.dumps(request).encode())
        return json.loads(await loop.sock_recv(self._manager, 65_536))

    async def receive(self, kind: type) -> object:
        while True:
            message = await self.tunnel.receive()
            if isinstance(message, kind):
                return message


def with_signer(served: Signer, use: Callable[[Ends], Awaitable[None]]) -> None:
    async def run() -> None:
        kind = (socket.AF_UNIX, socket.SOCK_SEQPACKET)
        (manager, ours), (tunnel, theirs) = socket.socketpair(*kind), socket.socketpair(*kind)
        ours.setblocking(False)
        running = asyncio.ensure_future(served.run(manager, Channel(tunnel)))
        ends = Ends(ours, Channel(theirs))
        async with asyncio.timeout(20):
            await use(ends)
            ours.close()
            await running
        ends.tunnel.close()

    asyncio.run(run())


def test_a_tunnel_that_reads_nothing_keeps_root_waiting_for_nothing(tmp_path: Path) -> None:
    paths = network(tmp_path)

    async def use(ends: Ends) -> None:
        await ends.tunnel.send(Nodes((RECORD.raw,)))
        invite = (await ends.ask(verb="invite", auto=None, id=7))["invite"]
        joiner = attempt(invite, NAME)
        point = joiner.admin_points(unix_now=NOW)[0]
        await ends.tunnel.send(Envelope(point.tag, joiner.envelope(point)))
        for number in range(100):  # each makes the signer send all points: far over the buffer
            assert (await ends.ask(verb="invite", id=number))["id"] == number
        waiting: list[object] = []
        while not waiting:
            waiting = (await ends.ask(verb="pending"))["requests"]
        assert await ends.ask(verb="approve", name=NAME, code=joiner.code) == {"name": NAME}
        for number in range(20):
            assert (await ends.ask(verb="pending", id=number))["id"] == number

    with_signer(signer(paths), use)


def test_a_join_from_invite_to_certificate(tmp_path: Path) -> None:
    paths = network(tmp_path)

    async def use(ends: Ends) -> None:
        first = await ends.receive(NewObjects)
        assert isinstance(first, NewObjects)
        await ends.tunnel.send(Nodes((RECORD.raw, b"junk")))
        answer = await ends.ask(verb="invite", expires_s=3600, auto=None)
        assert answer["expires"] == NOW + 3600
        invite = join.parse_invite(answer["invite"], unix_now=NOW)
        assert invite.records == (RECORD,)
        joiner = attempt(answer["invite"], NAME)
        points = await ends.receive(Points)
        while not points.points:
            points = await ends.receive(Points)
        point = joiner.admin_points(unix_now=NOW)[0]
        assert point.location in [item.location for item in points.points]
        await ends.tunnel.send(Envelope(point.tag, joiner.envelope(point)))
        reply = await ends.receive(DeliverTo)
        joiner.handle_envelope(reply.envelope, unix_now=NOW)
        assert joiner.state is JoinState.PENDING
        waiting = await ends.ask(verb="pending")
        assert waiting == {"requests": [{"name": NAME, "code": joiner.code}]}
        assert await ends.ask(verb="approve", name=NAME, code=joiner.code) == {"name": NAME}
        new = await ends.receive(NewObjects)
        for _ in range(2):
            reply = await ends.receive(DeliverTo)
            joiner.handle_envelope(reply.envelope, unix_now=NOW)
        assert joiner.state is JoinState.GRANTED
        assert joiner.granted is not None
        assert new.objects == (joiner.granted.certificate,)

    with_signer(signer(paths), use)
    again = signer(paths)
    names = [cert.name for cert in load_names(again)]
    assert sorted(names) == [NAME, "raspberry-pi-attic"]


def test_an_invite_waits_for_the_nodes_of_a_tunnel_that_just_started(tmp_path: Path) -> None:
    async def use(ends: Ends) -> None:
        asking = asyncio.ensure_future(ends.ask(verb="invite", expires_s=3600, auto=None))
        await ends.receive(NewObjects)
        await ends.tunnel.send(Nodes((RECORD.raw,)))
        answer = await asking
        assert answer["nodes"] == 1
        assert join.parse_invite(answer["invite"], unix_now=NOW).records == (RECORD,)

    with_signer(signer(network(tmp_path)), use)


def test_an_invite_of_a_network_without_nodes_is_given_all_the_same(tmp_path: Path) -> None:
    async def use(ends: Ends) -> None:
        assert (await ends.ask(verb="invite", expires_s=3600, auto=None))["nodes"] == 0

    with_signer(signer(network(tmp_path)), use)


def load_names(served: Signer) -> list:
    """Return the certificates that a restarted signer tells its tunnel of."""
    found: list = []

    async def use(ends: Ends) -> None:
        for _ in range(2):
            message = await ends.receive(NewObjects)
            found.extend(message.objects)

    with_signer(served, use)
    from ginnel.mesh.objects import decode_object, parse_certificate

    return [parse_certificate(decode_object(raw)) for raw in found]


def test_the_manager_is_told_what_is_wrong(tmp_path: Path) -> None:
    async def use(ends: Ends) -> None:
        for request, word in (
            ({"verb": "open"}, "knows"),
            ({"verb": "approve"}, "needs a name"),
            ({"verb": "approve", "name": "x"}, "nobody"),
            ({"verb": "invite", "expires_s": 5}, "1 minute"),
            ({"verb": "invite", "expires_s": "x"}, "number"),
        ):
            assert word in (await ends.ask(**request))["error"]

    with_signer(signer(network(tmp_path)), use)


def test_the_tunnel_may_pass_one_request_a_second(tmp_path: Path) -> None:
    served = signer(network(tmp_path), step=0.1)
    envelope = Envelope(bytes(16), b"\x01\x09" + bytes(300))
    for _ in range(20):
        served.take_envelope(envelope)
    assert 3 <= sum(served.book.drops.values()) <= 6


def test_a_full_disk_grants_nothing(tmp_path: Path) -> None:
    paths = network(tmp_path)
    authority = load_authority(paths, unix_now=NOW)

    class FullStore(SignerStore):
        is_full = False

        def persist_invite(self, invite_id: bytes, state: bytes | None) -> None:
            if self.is_full:
                raise SystemFailure("no room on the disk")
            super().persist_invite(invite_id, state)

    store = FullStore(paths.signer_state)
    served = Signer(authority, store, Clock(unix=lambda: NOW, monotonic=Ticking()))
    answer, _ = served.answer({"verb": "invite", "auto": True})
    joiner = attempt(answer["invite"], NAME)
    point = joiner.admin_points(unix_now=NOW)[0]
    store.is_full = True
    handled = served.take_envelope(Envelope(point.tag, joiner.envelope(point)))
    assert (handled.replies, handled.new_objects) == ((), ())
    store.is_full = False
    handled = served.take_envelope(Envelope(point.tag, joiner.envelope(point)))
    assert len(handled.new_objects) == 1


def test_a_certificate_that_was_not_written_any_more_is_written_at_the_next_start(
    tmp_path: Path,
) -> None:
    paths = network(tmp_path)
    served = signer(paths)
    answer, _ = served.answer({"verb": "invite", "auto": True})
    joiner = attempt(answer["invite"], NAME)
    point = joiner.admin_points(unix_now=NOW)[0]
    handled = served.take_envelope(Envelope(point.tag, joiner.envelope(point)))
    store = SignerStore(paths.signer_state)
    assert store.certificates() == []  # killed here
    signer(paths)
    assert store.certificates() == list(handled.new_objects)


def test_a_clock_that_went_back_frees_no_name_and_revives_no_invite(tmp_path: Path) -> None:
    paths = network(tmp_path)
    times = [NOW + 40 * DAY_S]
    clock = Clock(unix=lambda: times[0], monotonic=Ticking())

    def restarted() -> Signer:
        authority = load_authority(paths, unix_now=times[0])
        return Signer(authority, SignerStore(paths.signer_state), clock)

    served = restarted()
    short, _ = served.answer({"verb": "invite", "expires_s": 60})
    invite, _ = served.answer({"verb": "invite", "auto": True})
    times[0] += 3600
    joiner = attempt(invite["invite"], NAME, unix_now=times[0])
    point = joiner.admin_points(unix_now=times[0])[0]
    handled = served.take_envelope(Envelope(point.tag, joiner.envelope(point)))
    SignerStore(paths.signer_state).add_certificate(handled.new_objects[0])
    times[0] -= 30 * DAY_S
    again = restarted()
    answer, _ = again.answer({"verb": "invite", "auto": True})
    second = attempt(answer["invite"], NAME, unix_now=NOW, keys=joiner_keys("second"))
    point = second.admin_points(unix_now=NOW + 40 * DAY_S + 3000)[0]
    handled = again.take_envelope(Envelope(point.tag, second.envelope(point)))
    assert handled.new_objects == ()
    late = attempt(short["invite"], "late-machine", unix_now=NOW)
    point = late.admin_points(unix_now=NOW)[0]
    again.take_envelope(Envelope(point.tag, late.envelope(point)))
    assert [drop.value for drop in again.book.drops] in (["the invite expired"], ["no such invite"])


def test_a_clock_that_is_ahead_at_the_start_frees_no_name(tmp_path: Path) -> None:
    paths = network(tmp_path)
    times = [float(NOW)]
    clock = Clock(unix=lambda: times[0], monotonic=Ticking())

    def restarted() -> Signer:
        authority = load_authority(paths, unix_now=NOW)
        return Signer(authority, SignerStore(paths.signer_state), clock)

    def handled_by(served: Signer, keys: join.NodeKeys | None = None) -> tuple[bytes, ...]:
        answer, _ = served.answer({"verb": "invite", "auto": True})
        joiner = attempt(answer["invite"], NAME, unix_now=NOW, keys=keys)
        point = joiner.admin_points(unix_now=NOW)[0]
        return served.take_envelope(Envelope(point.tag, joiner.envelope(point))).new_objects

    (certificate,) = handled_by(restarted())
    SignerStore(paths.signer_state).add_certificate(certificate)
    for invite in paths.signer_state.glob("*.invite"):
        invite.unlink()  # they go when their time is over
    times[0] += 500 * DAY_S
    again = restarted()
    times[0] -= 500 * DAY_S
    assert handled_by(again, joiner_keys("second")) == ()


def test_invites_outlive_a_restart_and_damaged_ones_are_left_out(tmp_path: Path) -> None:
    paths = network(tmp_path)
    answer, _ = signer(paths).answer({"verb": "invite"})
    damaged = paths.signer_state / "00.invite"
    damaged.write_bytes(b"junk")
    damaged.chmod(0o600)
    again = signer(paths)
    joiner = attempt(answer["invite"], NAME)
    point = joiner.admin_points(unix_now=NOW)[0]
    assert again.take_envelope(Envelope(point.tag, joiner.envelope(point))).replies


def test_the_keys_must_be_private(tmp_path: Path) -> None:
    paths = network(tmp_path)
    (paths.etc / "admin.key").chmod(0o640)
    with pytest.raises(SystemFailure, match="chmod 600"):
        load_authority(paths, unix_now=NOW)


def test_settings_are_read_from_a_private_file(tmp_path: Path) -> None:
    paths = network(tmp_path)
    assert read_settings(paths, {"GINNEL_PORT": "5"}).port == 5
    paths.settings.write_bytes(b"\xff")
    with pytest.raises(UsageError, match="no text"):
        read_settings(paths, {})


def test_secrets_do_not_show(tmp_path: Path) -> None:
    authority = load_authority(network(tmp_path), unix_now=NOW)
    assert isinstance(authority.admin, Secret)
    assert authority.admin.reveal().hex() not in repr(authority)
