"""TURN and STUN servers of the settings: their addresses, and whom to believe over TLS."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

from ginnel.base.config import Settings
from ginnel.base.errors import UsageError
from ginnel.base.servers import Server, Transport, parse_turn
from ginnel.base.types import Address
from ginnel.ice.turn_events import TurnConfig
from ginnel.net.link import make_tls_context
from ginnel.net.resolve import resolve

RESOLVE_AGAIN_S = 60.0  # seconds until names that did not resolve are tried again

logger = logging.getLogger(__name__)


def tls_for(settings: Settings) -> ssl.SSLContext | None:
    """Read the authorities for `turns:` servers, before this process loses its rights; or None.

    Raises:
        UsageError: the file of the setting turn_ca can't be read or holds no certificate.
    """
    if all(parse_turn(text).transport is not Transport.TLS for text in settings.turn):
        return None
    extra = Path(settings.turn_ca) if settings.turn_ca else None
    try:
        return make_tls_context(extra)
    except OSError as error:
        raise UsageError(f"turn_ca = {settings.turn_ca!r}: {error.strerror or error}") from None


async def resolved(server: Server) -> list[Address]:
    """Return a server's addresses once its name resolves, at least one."""
    while not (found := await resolve(server.host, server.port)):
        logger.warning("%s does not resolve", server)
        await asyncio.sleep(RESOLVE_AGAIN_S)
    return found


async def turn_config(server: Server) -> TurnConfig:
    """Return what the client of a server needs, once its name resolves."""
    return TurnConfig(
        (await resolved(server))[0],
        server.username,
        server.password,
        transport=server.transport,
        host=server.host,
    )
