"""The parent of a join: holds the invite's secret and the new keys, starts a tunnel without them.

The keys are on disk before anything is asked (`storage/asked.py`), so that the same command, given
again, gets what was granted meanwhile.

Source: docs/formats.md, "Invite and join"; DESIGN, "What a user does".
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ginnel.base.config import (
    FIRST_PORT,
    LAST_PORT,
    Settings,
    check_settings,
    format_settings,
    parse_settings,
)
from ginnel.base.errors import SystemFailure, UsageError
from ginnel.daemon.channel import MAX_RECORDS, Channel
from ginnel.daemon.command import COMMAND
from ginnel.daemon.hints import parse_hint
from ginnel.daemon.joiner import Joiner, JoinRefused, join_and_store
from ginnel.daemon.logs import escape_control
from ginnel.daemon.node_shell import parse_advertised
from ginnel.daemon.paths import ETC_ROOT, NetworkPaths, network_folders
from ginnel.daemon.resources import bind_udp
from ginnel.daemon.supervise import Child, start_child
from ginnel.daemon.turn_links import tls_for
from ginnel.discv5.enr import Enr
from ginnel.mesh.join import Invite, parse_invite
from ginnel.mesh.join_attempt import Granted, JoinAttempt, JoinState
from ginnel.mesh.sealer import HpkeSealer
from ginnel.storage.asked import (
    Asked,
    asked_folder,
    draw_asked,
    forget_asked,
    forget_expired,
    load_asked,
    save_asked,
)
from ginnel.storage.network_files import stored_network_id

ShowStage = Callable[[str, str, bool], None]


@dataclass(frozen=True)
class JoinOptions:
    """What `ginnel join` was asked for; the invite is a secret."""

    invite: str
    name: str
    uid: int
    port: int | None = None
    drawn_port: int = FIRST_PORT  # where neither `port` nor the settings name one
    nodes: tuple[str, ...] = ()
    advertise: str = ""
    settings: str = ""  # TOML; it may hold passwords

    def __repr__(self) -> str:
        return f"JoinOptions(name={self.name!r}, port={self.port})"

    def merged(self, records: Sequence[Enr], environ: Mapping[str, str] | None) -> Settings:
        """Return the settings of all that was given, and the invite's nodes.

        Raises:
            UsageError: a setting is wrong.
        """
        drawn = {"port": self.drawn_port, "tunnel_uid": self.uid}
        given = parse_settings(self.settings, environ, drawn)
        texts = (*given.nodes, *self.nodes, *(enr.to_text() for enr in records))
        settings = replace(
            given,
            port=self.port or given.port,
            tunnel_uid=self.uid,
            signer_uid=0,
            ipv4_prefix="",
            advertise=self.advertise or given.advertise,
            nodes=tuple(dict.fromkeys(texts)),
        )
        check_settings(settings)
        return settings


def run_join(options: JoinOptions, show: ShowStage) -> Granted:
    """Join; `show` gets each stage, the code to compare, and whether a person is waited for.

    Raises:
        UsageError: the invite or an option is of no use.
        SystemFailure: the join was refused, no answer, or something that is needed can't be had.
    """
    return asyncio.run(_run(options, show))


def is_member(invite: Invite, etc_root: Path = ETC_ROOT) -> bool:
    """Say whether this machine has files of that network."""
    ids = (stored_network_id(NetworkPaths(name, etc_root)) for name in network_folders(etc_root))
    return invite.network_id in ids


def refuse_if_here(invite: Invite, etc_root: Path = ETC_ROOT) -> None:
    """Refuse what could not be stored, before the invite is spent and a member made.

    Raises:
        UsageError: this machine has files of that network, or of one of the same name.
    """
    for name in network_folders(etc_root):
        paths = NetworkPaths(name, etc_root)
        if stored_network_id(paths) == invite.network_id:
            raise UsageError(
                f"this machine is in that network already, as {name}: sudo ginnel up {name}"
            )
        if name == invite.network_name:
            raise UsageError(
                f"this machine is in another network of the name {name} ({paths.etc}), and both "
                "can't be here. Nothing was asked: the invite can still be used, here after that "
                "folder was moved away, or elsewhere"
            )


async def _run(options: JoinOptions, show: ShowStage) -> Granted:
    forget_expired(ETC_ROOT, unix_now=time.time())
    invite = parse_invite(options.invite, unix_now=time.time())
    folder = asked_folder(ETC_ROOT, invite, options.name)
    if is_member(invite):
        forget_asked(folder)  # we died between storing the grant and this
    refuse_if_here(invite)
    if options.port is None:
        options = replace(options, drawn_port=random.SystemRandom().randint(FIRST_PORT, LAST_PORT))
    kept = options.merged(invite.records, None)
    used = options.merged(invite.records, os.environ)
    parse_advertised(used.advertise, used.port)
    tls_for(used)  # refused here rather than by the tunnel
    hints = [parse_hint(text) for text in used.nodes]
    asked = load_asked(folder) or draw_asked(time.time(), os.urandom)
    attempt = _attempt(invite, asked, options.name)
    save_asked(folder, asked)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        with theirs:
            child = _start_tunnel(used, theirs)
    except SystemFailure:
        ours.close()
        raise
    records = [hint.raw for hint in hints if isinstance(hint, Enr)][:MAX_RECORDS]

    def on_stage(stage: str) -> None:
        show(stage, attempt.code, attempt.state is JoinState.PENDING)

    channel = Channel(ours)
    joiner = Joiner(channel, attempt, records, on_stage)
    show("searching for a node", attempt.code, False)
    try:
        granted = await join_and_store(joiner, asked.keys, kept, NetworkPaths)
        forget_asked(folder)
        return granted
    except JoinRefused:
        raise
    except SystemFailure as error:
        channel.close()
        await child.end()
        if await child.wait() != 0:  # it failed: that is the reason
            raise SystemFailure(escape_control(child.describe_end())) from error
        raise
    finally:
        channel.close()
        await child.end()


def _attempt(invite: Invite, asked: Asked, name: str) -> JoinAttempt:
    """Return the request; what was asked before gives the same bytes, and so the same answer."""
    return JoinAttempt(
        invite,
        asked.keys,
        name,
        sealer=HpkeSealer(),
        random_bytes=lambda _size: asked.nonce,
        unix_now=asked.sent_at,
    )


def _start_tunnel(settings: Settings, channel: socket.socket) -> Child:
    """Start the tunnel in join mode with the sockets; ours are closed again."""
    argv = [*COMMAND, "tunnel", "join", "--join"]
    argv += ["--udp4-fd", "5", "--signer-fd", "8", "--settings-fd", "9"]
    udp4 = bind_udp(socket.AF_INET, settings.port)
    descriptors = {5: udp4.fileno(), 8: channel.fileno()}
    try:
        udp6 = bind_udp(socket.AF_INET6, settings.port)
    except (OSError, SystemFailure):
        udp6 = None  # no IPv6 here
    if udp6 is not None:
        descriptors[6] = udp6.fileno()
        argv += ["--udp6-fd", "6"]
    try:
        with open(os.memfd_create("settings"), "w+", encoding="utf-8") as file:  # has passwords
            file.write(format_settings(settings))
            file.seek(0)
            return start_child(
                "tunnel", argv, {**descriptors, 9: file.fileno()}, lambda _line: None
            )
    finally:
        udp4.close()
        if udp6 is not None:
            udp6.close()
