"""A peer of `make bench-connect`: aioice. It runs in an environment of its own.

Arguments and lines as in `pion/main.go`: ROLE MODE STUN_URL TURN_URL USER PASSWORD. aioice tells
its candidates only when all are gathered.
"""

import asyncio
import json
import sys
import time

import aioice


def tell(value: dict) -> None:
    """Write one line."""
    print(json.dumps(value), flush=True)


def address_of(url: str) -> tuple[str, int]:
    """Return host and port of a stun: or turn: URL."""
    host, _, port = url.partition(":")[2].partition("?")[0].partition(":")
    return host, int(port)


async def main() -> None:
    """Gather, signal, connect."""
    role, mode, stun_url, turn_url, user, password = sys.argv[1:]
    connection = aioice.Connection(
        ice_controlling=role == "controlling",
        stun_server=address_of(stun_url),
        turn_server=address_of(turn_url),
        turn_username=user,
        turn_password=password,
        use_ipv6=False,
    )
    if mode == "known":
        await connection.gather_candidates()
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tell({"ready": True})
    await reader.readline()  # go
    began = time.monotonic()
    await connection.gather_candidates()  # nothing to do where it was done
    tell(
        {
            "signal": {
                "ufrag": connection.local_username,
                "pwd": connection.local_password,
                "candidates": [candidate.to_sdp() for candidate in connection.local_candidates],
            }
        }
    )
    theirs = json.loads(await reader.readline())["signal"]
    connection.remote_username, connection.remote_password = theirs["ufrag"], theirs["pwd"]
    for text in theirs["candidates"]:
        await connection.add_remote_candidate(aioice.Candidate.from_sdp(text))
    await connection.add_remote_candidate(None)
    try:
        await connection.connect()
    except ConnectionError as error:
        tell({"failed": str(error)})
        return
    seconds = time.monotonic() - began
    pair = connection._nominated[1]  # it has no public way to say over which path
    kinds = pair.local_candidate.type, pair.remote_candidate.type
    tell({"connected": {"seconds": seconds, "local": kinds[0], "remote": kinds[1]}})
    await reader.read()  # until the end of the input
    await connection.close()


asyncio.run(main())
