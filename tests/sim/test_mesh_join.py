"""Joining through the DHT: the admin's node holds the invite's points, the joiner a courier."""

from __future__ import annotations

from ginnel.mesh.events import EnvelopeDelivered, EnvelopeReceived
from ginnel.mesh.join_attempt import JoinState
from support.joins import AdminSide, attempt
from support.members import NOW
from support.mesh_world import HOME_PORT, MeshWorld


def test_a_machine_joins_through_the_dht() -> None:
    net = MeshWorld(40)
    admin = net.add_member("admin-desktop")
    book = AdminSide(net.factory, admin.keys)
    text = book.invite(is_auto=True)
    unix_now = NOW + net.now
    points = book.book.points(unix_now=unix_now)
    admin.mesh.add_points(points, now=net.now, unix_now=unix_now)
    net.world.run_for(2.0)

    host, node = net.add_joiner("new-notebook")
    joiner = attempt(text, "new-notebook")
    courier = node.courier
    assert courier is not None
    courier.add_points(joiner.reply_points(unix_now=unix_now), now=net.now, unix_now=unix_now)
    point = joiner.admin_points(unix_now=unix_now)[0]
    courier.deliver(point, joiner.envelope(point), now=net.now)
    told: list[object] = []
    host.attach(node, HOME_PORT, told.append)

    for _ in range(100):
        net.world.run_for(0.1)
        for event in [e for e in admin.events if isinstance(e, EnvelopeReceived)]:
            admin.events.remove(event)
            assert event.tag in {p.tag for p in points}
            handled = book.book.handle_envelope(event.envelope, unix_now=NOW + net.now)
            for reply in handled.replies:
                admin.mesh.deliver(reply.point, reply.envelope, now=net.now)
            admin.core.node.settle(now=net.now)
        for event in [e for e in told if isinstance(e, EnvelopeReceived)]:
            told.remove(event)
            joiner.handle_envelope(event.envelope, unix_now=NOW + net.now)
        if joiner.state is JoinState.GRANTED:
            break
    assert joiner.state is JoinState.GRANTED
    assert net.now < 8.0
    assert [e.ok for e in told if isinstance(e, EnvelopeDelivered)] == [True]


def test_a_courier_says_why_it_finds_nobody() -> None:
    net = MeshWorld(41, publics=0)
    host, node = net.add_joiner("new-notebook")
    courier = node.courier
    assert courier is not None
    admin = AdminSide(net.factory)
    joiner = attempt(admin.invite(), "new-notebook")
    point = joiner.admin_points(unix_now=NOW)[0]
    number = courier.deliver(point, joiner.envelope(point), now=net.now)
    told: list[object] = []
    host.attach(node, HOME_PORT, told.append)
    net.world.run_for(40.0)
    assert told[0].reason == "no reachable node found"  # type: ignore[attr-defined]
    assert EnvelopeDelivered(number, ok=False) in told
