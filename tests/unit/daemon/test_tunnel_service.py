"""The control socket's answers, and what it refuses."""

import asyncio
import logging
import time
from pathlib import Path

import pytest

from ginnel.cli.client import Json, Refused
from ginnel.codervpn.speaker import MAX_QUEUED_NOTICES
from ginnel.daemon.channel import NewObjects
from ginnel.daemon.report import NO_NODES
from ginnel.mesh.objects import make_object
from ginnel.storage.network_files import load_authority
from support.live_tunnel import live_tunnel, make_network

NOW = int(time.time())


def ask(tmp_path: Path, method: str, target: str, body: Json | None = None) -> Json:
    async def play() -> Json:
        async with live_tunnel(make_network(tmp_path, NOW)) as tunnel:
            await tunnel.start()
            return await tunnel.ask(method, target, body)

    return asyncio.run(play())


def test_status_has_what_people_ask_for(tmp_path: Path) -> None:
    status = ask(tmp_path, "GET", "/v1/status")
    assert set(status) == {
        "network",
        "version",
        "self",
        "port",
        "reachable",
        "separation",
        "offloads",
        "cipher",
        "discovery",
        "peers",
        "warnings",
        "drops",
    }
    assert status["self"]["fqdn"] == "attic.home.internal"
    assert status["self"]["addresses"][0] == "100.99.0.1"
    assert status["discovery"]["nodes"] == 0
    assert status["discovery"]["answers"] is False
    assert status["self"]["admin"] is True
    assert status["warnings"] == []


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"peer": "nobody"}, "no member 'nobody'"),
        ({"peer": "attic"}, "attic is this machine"),
        ({"peer": "100.99.0.1"}, "is this machine"),
        ({"peer": "100.99.0.77"}, "no member"),
        ({"peer": "x" * 300}, "a name or an overlay address"),
        ({"peer": 7}, "a name or an overlay address"),
        ({}, "a name or an overlay address"),
        ({"peer": "a\nb"}, "no member"),
    ],
)
def test_whom_a_ping_can_not_reach(tmp_path: Path, body: Json, named: str) -> None:
    with pytest.raises(Refused, match=named):
        ask(tmp_path, "POST", "/v1/ping", body)


def test_netcheck_without_any_node_says_what_helps(tmp_path: Path) -> None:
    answer = ask(tmp_path, "GET", "/v1/netcheck")
    assert answer["facts"]["nodes known"] == "0"
    assert NO_NODES in answer["advice"]


@pytest.mark.parametrize("limit", [0, 501, "7", -1])
def test_the_journal_is_read_in_bounds(tmp_path: Path, limit: object) -> None:
    with pytest.raises(Refused, match="1 to 500"):
        ask(tmp_path, "GET", "/v1/events", {"limit": limit})


@pytest.mark.parametrize("target", ["/", "/v1/nonsense", "/v1/status/../nonsense"])
def test_what_is_not_there(tmp_path: Path, target: str) -> None:
    with pytest.raises(Refused):
        ask(tmp_path, "GET", target)


def test_a_certificate_near_its_end_is_warned_of(tmp_path: Path) -> None:
    paths = make_network(tmp_path, NOW - 340 * 86_400)

    async def play() -> Json:
        async with live_tunnel(paths) as tunnel:
            await tunnel.start()
            return await tunnel.ask("GET", "/v1/status")

    assert asyncio.run(play())["warnings"] == ["this machine's certificate ends in 25 days"]


def test_log_records_that_the_manager_had_no_room_for_are_counted(tmp_path: Path) -> None:
    paths = make_network(tmp_path, NOW)

    async def play() -> Json:
        async with live_tunnel(paths) as tunnel:
            await tunnel.start()
            for _ in range(2 * MAX_QUEUED_NOTICES):  # in one turn of the loop: nobody reads
                logging.getLogger("ginnel.test").info("again" * 100)
            return await tunnel.ask("GET", "/v1/status")

    assert asyncio.run(play())["drops"]["manager"]["log records"] > 0


def test_who_was_revoked_still_gets_answers_and_the_reason(tmp_path: Path) -> None:
    paths = make_network(tmp_path, NOW)
    authority = load_authority(paths, unix_now=NOW)
    (own,) = authority.membership.certificates()
    network_id = authority.network_id
    raw = make_object(
        "revoke", [0, own.member_id, NOW], seed=authority.admin, network_id=network_id
    )

    async def play() -> tuple[Json, Json]:
        async with live_tunnel(paths) as tunnel:
            await tunnel.start()
            await tunnel.signer.send(NewObjects((raw,)))
            while not (status := await tunnel.ask("GET", "/v1/status"))["warnings"]:  # noqa: ASYNC110
                await asyncio.sleep(0)
            with pytest.raises(Refused, match="no member"):
                await tunnel.ask("POST", "/v1/ping", {"peer": "nobody"})
            return status, await tunnel.ask("GET", "/v1/netcheck")

    status, netcheck = asyncio.run(play())
    assert status["self"]["name"] == "attic"
    assert status["warnings"] == ["no certificate in force (revoked): join again with a new invite"]
    assert status["warnings"][0] in netcheck["advice"]
