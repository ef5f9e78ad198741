"""The node behind the `ginnel discv5` commands: its options, its key, running it, the crawl."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from ginnel.base.errors import RemoteProtocolError, SystemFailure, UsageError
from ginnel.base.types import Address, Secret, make_address, parse_address
from ginnel.discv5.aio import Discovery
from ginnel.discv5.config import DiscoveryConfig
from ginnel.discv5.enr import Enr
from ginnel.discv5.errors import NoAddressError, RequestError, RequestTimeout
from ginnel.discv5.keys import new_private_key, public_key_of
from ginnel.discv5.packet import PROTOCOL_ID_SIZE
from ginnel.net.files import read_text, replace_text
from ginnel.net.udp import UdpSocket

CRAWL_DISTANCES = 24  # log2 distances asked of each node, the farthest first: nearer ones are empty
CRAWL_STEP = 3  # distances of one request
CRAWL_WORKERS = 32  # nodes asked at a time
MAX_PORT = 65_535
ANY_IPV6 = Address("::", 0)


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """What the options of a command say."""

    listen: Address | None
    bootnodes: tuple[Enr, ...]
    protocol_id: bytes
    key_file: Path | None


def make_options(
    listen: str | None, bootnodes: Sequence[str], protocol_id: str, key_file: Path | None
) -> NodeOptions:
    """Read the options.

    Raises:
        UsageError: one of them has another form.
    """
    protocol = protocol_id.encode()
    if len(protocol) != PROTOCOL_ID_SIZE:
        raise UsageError(
            f"--protocol-id {protocol_id}: write {PROTOCOL_ID_SIZE} characters, such as discv5"
        )
    texts = [text for item in bootnodes for text in item.split(",") if text]
    records = tuple(parse_record(text) for text in texts)
    return NodeOptions(parse_listen(listen) if listen else None, records, protocol, key_file)


def parse_listen(text: str) -> Address:
    """Read `IP:PORT`, `IP` (any port) or `PORT` (all of IPv4).

    Raises:
        UsageError: another form.
    """
    if text.isascii() and text.isdigit():
        return make_address("0.0.0.0", _port(text, text))
    bare = text.strip("[]")
    try:
        return make_address(bare, 0)
    except UsageError:
        _, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit():
            raise UsageError(f"--listen {text}: write IP:PORT, IP or PORT") from None
        _port(port, text)
    return parse_address(text)


def _port(digits: str, text: str) -> int:
    if int(digits) > MAX_PORT:
        raise UsageError(f"--listen {text}: a port is 0 to {MAX_PORT}")
    return int(digits)


def parse_record(text: str) -> Enr:
    """Read a record's text.

    Raises:
        UsageError: it is none.
    """
    try:
        return Enr.from_text(text)
    except RemoteProtocolError as error:
        raise UsageError(
            f"not a valid ENR ({error}): {text[:40]}; give the whole text, from enr: to its end"
        ) from None


def read_key(path: Path) -> Secret:
    """Return the key in a file, 64 hex digits; where there is none, make one (mode 0600).

    Raises:
        SystemFailure: the file can't be read or made.
        UsageError: it holds something else.
    """
    text = read_text(path)
    if text is None:
        key = new_private_key(os.urandom)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(key.hex() + "\n")
        except OSError as error:
            raise SystemFailure(f"can't write {path}: {error.strerror}") from error
        return Secret(key)
    try:
        key = bytes.fromhex(text.strip().removeprefix("0x"))
        public_key_of(key)
    except (ValueError, UsageError):
        raise UsageError(
            f"{path} holds no secp256k1 key (64 hex digits); name another file, "
            "which is made if it is not there"
        ) from None
    return Secret(key)


@asynccontextmanager
async def running_node(
    options: NodeOptions, default: Address, handlers: Sequence[bytes] = ()
) -> AsyncIterator[Discovery]:
    """Run a node; a listening address that is one machine's goes into its record.

    Args:
        default: where to listen if the options say nothing.
        handlers: talk protocols that are answered with what was asked.

    Raises:
        SystemFailure: the address can't be had, or a node did not answer.
        UsageError: a record has no address that can be reached.
    """
    bind = options.listen or default
    names_one = not ip_address(bind.ip).is_unspecified
    previous = _previous(options.key_file)
    node = Discovery(
        bind,
        bind6=_second(options, bind),
        private_key=read_key(options.key_file) if options.key_file else None,
        advertise=bind if names_one and options.listen else None,
        bootstrap=options.bootnodes,
        previous=previous,
        config=DiscoveryConfig(protocol_id=options.protocol_id, client_mode=not names_one),
    )
    for protocol in handlers:
        node.register_talk_protocol(protocol, lambda node_id, address, payload: payload)
    try:
        node.open()
    except SystemFailure as error:
        raise SystemFailure(f"{error}; name a free address by --listen IP:PORT") from error
    try:
        node.start()
        if options.key_file is not None:
            replace_text(_record_file(options.key_file), node.record.to_text() + "\n")
        yield node
    except RequestTimeout:
        protocol_id = options.protocol_id.decode(errors="replace")
        raise SystemFailure(
            "no answer: see that the node runs, that its ENR is its newest, "
            f"and that it speaks --protocol-id {protocol_id}"
        ) from None
    except NoAddressError as error:
        raise UsageError(f"{error}: give one that has, or another --listen") from None
    finally:
        await node.close_wait()


def _second(options: NodeOptions, bind: Address) -> Address | None:
    """Return where to listen besides, to reach nodes to begin with that have IPv6 too."""
    wanted = any(enr.ipv6_address is not None for enr in options.bootnodes)
    if options.listen is not None or bind.is_ipv6 or not wanted:
        return None
    try:
        UdpSocket.open(ANY_IPV6).close()
    except SystemFailure:  # this machine has no IPv6
        return None
    return ANY_IPV6


@dataclass(frozen=True, slots=True)
class Found:
    """One node that a crawl met."""

    record: Enr
    answered: bool
    named: int  # records that it named


async def crawl(
    node: Discovery, on_progress: Callable[[int, int, int], None], limit: int, results: list[Found]
) -> None:
    """Ask every node that can be found for all it knows.

    Args:
        on_progress: called with how many are found, asked and have answered.
        limit: nodes, at most.
        results: what is found is put here, so that it is there if this is cancelled.
    """
    known = {enr.node_id: enr for enr in node.bootstrap_records}
    queue: asyncio.Queue[Enr] = asyncio.Queue()
    for enr in known.values():
        queue.put_nowait(enr)

    async def work() -> None:
        while True:
            enr = await queue.get()
            answered, named = await _ask_all(node, enr)
            for other in named:
                if other.node_id not in known and len(known) < limit:
                    known[other.node_id] = other
                    queue.put_nowait(other)
            results.append(Found(enr, answered, len(named)))
            on_progress(len(known), len(results), sum(item.answered for item in results))
            queue.task_done()

    workers = [asyncio.ensure_future(work()) for _ in range(CRAWL_WORKERS)]
    try:
        await queue.join()
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


async def _ask_all(node: Discovery, enr: Enr) -> tuple[bool, list[Enr]]:
    """Return whether the node answered, and the records that it named."""
    named: dict[bytes, Enr] = {}
    answered = False
    for top in range(256, 256 - CRAWL_DISTANCES, -CRAWL_STEP):
        try:
            found = await node.find_node(enr, range(top, top - CRAWL_STEP, -1))
        except (RequestError, NoAddressError):
            break
        answered = True
        named.update({other.node_id: other for other in found})
    return answered, list(named.values())


def _record_file(key_file: Path) -> Path:
    return key_file.with_name(f"{key_file.name}.enr")


def _previous(key_file: Path | None) -> Enr | None:
    """Return the last run's record, kept beside the key so that its seq only rises."""
    text = None if key_file is None else read_text(_record_file(key_file))
    if text is None or key_file is None:
        return None
    record = parse_record(text.strip())
    key = read_key(key_file)
    return record if record.public_key == public_key_of(key.reveal()) else None
