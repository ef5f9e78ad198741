"""The signer: the one process that holds the admin's keys and the secrets of invites.

It runs under its own uid without a network. The manager asks for invites and approvals (JSON),
the tunnel passes envelopes of joins (`channel.py`); everything is decided in
`mesh/invite_book.py`.

Source: DESIGN, "Processes"; docs/formats.md, "Invite and join".
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ginnel.base.config import Settings, parse_settings
from ginnel.base.errors import GinnelError, RemoteProtocolError, SystemFailure, UsageError
from ginnel.base.limits import TokenBucket
from ginnel.daemon import privileges
from ginnel.daemon.channel import (
    Channel,
    ChannelMessage,
    DeliverTo,
    Envelope,
    NewObjects,
    Nodes,
    split_points,
)
from ginnel.daemon.paths import NetworkPaths
from ginnel.discv5.enr import Enr, decode_enr
from ginnel.mesh import join
from ginnel.mesh.invite_book import Authority, Handled, InviteBook
from ginnel.mesh.objects import CAP_RELAY, decode_object, parse_certificate
from ginnel.mesh.sealer import HpkeSealer
from ginnel.storage.files import read_private
from ginnel.storage.invites import SignerStore
from ginnel.storage.network_files import load_authority

REQUESTS_PER_SECOND = 1.0  # join requests that the tunnel may pass (Processes)
REQUESTS_BURST = 3.0  # requests; a joiner delivers at two periods' points near a border
POINTS_INTERVAL = 600.0  # seconds; the points sent reach one period ahead
RECORDS_TIMEOUT = 1.5  # seconds; a tunnel tells its nodes within one of its start
DEFAULT_LIFE_S = 86_400  # seconds an invite is valid
MAX_REQUEST = 4096  # bytes of a request of the manager's
MAX_OUTBOX = 256  # answers that wait for a tunnel; to a stuck one only root's approvals add

Json: TypeAlias = dict[str, Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Clock:
    """Both clocks, so that tests can pass their own."""

    unix: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


def run_signer(
    paths: NetworkPaths,
    *,
    manager_fd: int,
    tunnel_fd: int,
    environ: Mapping[str, str],
    has_sandbox: bool = True,
    debug: bool = False,
) -> None:
    """Read the keys as root, give up every right, and serve until a channel closes.

    Raises:
        SystemFailure: keys or state can't be read, or rights can't be dropped.
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
    settings = read_settings(paths, environ)
    logging.getLogger("ginnel").setLevel(logging.DEBUG if debug or settings.debug else logging.INFO)
    authority = load_authority(paths, unix_now=time.time())
    uid = settings.signer_uid or None
    separation = privileges.drop(
        privileges.Confinement(
            uid=uid,
            gid=uid,
            write_paths=[paths.signer_state],
            has_sandbox=has_sandbox,
            has_network=False,
        )
    )
    log.info("signer: %s", separation.describe())
    signer = Signer(authority, SignerStore(paths.signer_state), records=_hinted(settings))
    manager = socket.socket(fileno=manager_fd)
    asyncio.run(signer.run(manager, Channel.from_fd(tunnel_fd)))


def read_settings(paths: NetworkPaths, environ: Mapping[str, str]) -> Settings:
    """Read root's settings of a network.

    Raises:
        SystemFailure, UsageError: the text names the remedy.
    """
    try:
        text = read_private(paths.settings).decode()
    except UnicodeDecodeError:
        raise UsageError(f"{paths.settings} is no text") from None
    return parse_settings(text, environ)


class Signer:
    """The invite book with its disk, its clock and its two channels."""

    def __init__(
        self,
        authority: Authority,
        store: SignerStore,
        clock: Clock | None = None,
        *,
        records: Sequence[Enr] = (),
    ) -> None:
        self._clock = clock or Clock()
        self._authority = authority
        self._store = store
        self._records = tuple(records)  # for invites, until the tunnel has told better ones
        self._has_records = asyncio.Event()
        if self._records:
            self._has_records.set()
        self._rate = TokenBucket(REQUESTS_PER_SECOND, REQUESTS_BURST, now=self._clock.monotonic())
        self._wake = asyncio.Event()
        self._signed_at = 0
        self._outbox: asyncio.Queue[ChannelMessage] = asyncio.Queue(MAX_OUTBOX)
        self.book = InviteBook(
            authority,
            sealer=HpkeSealer(),
            random_bytes=os.urandom,
            persist=store.persist_invite,
        )
        self._load()

    def _unix(self) -> float:
        """Return the wall time, but never one before our own last signature."""
        return max(self._clock.unix(), self._signed_at)

    def _load(self) -> None:
        stored = self._store.certificates()
        self._signed_at = max(map(_begin_of, stored), default=0)
        now = self._unix()
        self._authority.membership.load_objects(stored, unix_now=now)
        for state in self._store.invites():
            try:
                issued = self.book.load(state, unix_now=now)
            except RemoteProtocolError:
                log.warning("signer: a damaged invite was left out")
                continue
            if issued and issued not in stored:  # we died, or the disk was full, in between
                self._store.add_certificate(issued)

    async def run(self, manager: socket.socket, tunnel: Channel) -> None:
        """Serve until one of the channels closes."""
        manager.setblocking(False)
        tasks = [
            asyncio.ensure_future(self._serve_manager(manager)),
            asyncio.ensure_future(self._send_outbox(tunnel)),
            asyncio.ensure_future(self._serve_tunnel(tunnel)),
            asyncio.ensure_future(self._send_points(tunnel)),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except SystemFailure as error:
            log.info("signer ends: %s", error)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            manager.close()
            tunnel.close()

    async def _serve_manager(self, manager: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(manager, MAX_REQUEST + 1):
            handled, number = Handled(), None
            try:
                request = _parse_request(data)
                number = request.pop("id", None)
                if request.get("verb") == "invite":
                    await self._wait_for_records()
                answer, handled = self.answer(request)
            except GinnelError as error:
                answer = {"error": str(error)}
            self._act(handled)
            if number is not None:
                answer["id"] = number
            await loop.sock_sendall(manager, json.dumps(answer).encode())

    async def _wait_for_records(self) -> None:
        """Wait a moment for a tunnel that has just started to tell which nodes it knows."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RECORDS_TIMEOUT):
                await self._has_records.wait()

    def answer(self, request: Json) -> tuple[Json, Handled]:
        """Answer a request of the manager's: `invite`, `pending`, `approve`.

        Raises:
            UsageError: an unknown verb or wrong keys.
        """
        verb = request.get("verb")
        now = self._unix()
        if verb == "invite":
            life_s = request.get("expires_s") or DEFAULT_LIFE_S
            if type(life_s) is not int:
                raise UsageError("expires_s is not a number")
            is_auto = bool(request.get("auto"))
            text = self.book.create(life_s, self._records, is_auto=is_auto, unix_now=now)
            self._wake.set()
            facts = {"invite": text, "expires": int(now) + life_s, "nodes": len(self._records)}
            return facts, Handled()
        if verb == "pending":
            self.book.expire(unix_now=now)
            waiting = [{"name": item.name, "code": item.code} for item in self.book.pending()]
            return {"requests": waiting}, Handled()
        if verb == "approve":
            name, code = request.get("name"), request.get("code")
            if not isinstance(name, str) or not isinstance(code, str | None):
                raise UsageError("approve needs a name")
            caps = CAP_RELAY if request.get("relay") else 0
            return {"name": name}, self.book.approve(name, code, caps=caps, unix_now=now)
        raise UsageError("the signer knows invite, pending and approve")

    async def _serve_tunnel(self, tunnel: Channel) -> None:
        for cert in self._authority.membership.certificates():
            await tunnel.send(NewObjects((cert.object.raw,)))
        while True:
            try:
                message = await tunnel.receive()
            except RemoteProtocolError as error:
                log.debug("signer: the tunnel sent nonsense: %s", error)
                continue
            if isinstance(message, Envelope):
                self._act(self.take_envelope(message))
            elif isinstance(message, Nodes):
                self._records = _verified(message)
                self._has_records.set()

    def take_envelope(self, message: Envelope) -> Handled:
        """Pass an envelope to the book, at most one a second."""
        if not self._rate.take(now=self._clock.monotonic()):
            return Handled()
        before = len(self.book.pending())
        try:
            handled = self.book.handle_envelope(message.envelope, unix_now=self._unix())
        except SystemFailure as error:
            log.error("signer: a join was not answered: %s", error)
            return Handled()
        if len(self.book.pending()) > before:
            log.info("signer: a machine waits for approval")
        return handled

    def _act(self, handled: Handled) -> None:
        """Store what came of a request and queue it: a stuck tunnel keeps nobody waiting."""
        for raw in handled.new_objects:
            try:
                self._store.add_certificate(raw)
            except SystemFailure as error:  # the invite's file holds it too
                log.error("signer: %s", error)
            self._queue(NewObjects((raw,)))
        for reply in handled.replies:
            self._queue(DeliverTo(reply.point, reply.envelope))

    def _queue(self, message: ChannelMessage) -> None:
        try:
            self._outbox.put_nowait(message)
        except asyncio.QueueFull:
            log.error("signer: the tunnel does not read: an answer to a joining machine is lost")

    async def _send_outbox(self, tunnel: Channel) -> None:
        while True:
            await tunnel.send(await self._outbox.get())

    async def _send_points(self, tunnel: Channel) -> None:
        while True:
            self._wake.clear()
            for message in split_points(self.book.points(unix_now=self._unix())):
                await tunnel.send(message)
            try:
                async with asyncio.timeout(POINTS_INTERVAL):
                    await self._wake.wait()
            except TimeoutError:
                continue


def _begin_of(raw: bytes) -> int:
    """Return when a certificate that we have issued begins."""
    try:
        return parse_certificate(decode_object(raw)).not_before
    except RemoteProtocolError:
        return 0


def _hinted(settings: Settings) -> list[Enr]:
    """Return the records among the nodes that the settings name."""
    found: list[Enr] = []
    for text in settings.nodes:
        if text.startswith("enr:"):
            try:
                found.append(Enr.from_text(text))
            except GinnelError as error:
                log.warning("signer: a node in the settings is no record: %s", error)
    return found[: join.MAX_RECORDS]


def _parse_request(data: bytes) -> Json:
    try:
        request = json.loads(data)
    except (ValueError, RecursionError):
        raise UsageError("the request is no JSON") from None
    if not isinstance(request, dict) or len(data) > MAX_REQUEST:
        raise UsageError("the request is no JSON object, or too long")
    return request


def _verified(message: Nodes) -> tuple[Enr, ...]:
    """Return the records that verify, as many as an invite holds."""
    found: list[Enr] = []
    for raw in message.records:
        try:
            found.append(decode_enr(raw))
        except RemoteProtocolError:
            log.debug("signer: a record that does not verify")
    return tuple(found[: join.MAX_RECORDS])
