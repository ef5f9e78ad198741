"""Runs the real manager with the programs of `tiny_tunnel`, for tests; prints READY.

    tiny_manager.py PORT [STREAM-FD]

With a stream it serves the tunnel at its other end, and allows addresses and names of `ALLOWANCE`
(with GINNEL_TEST_DEFAULT_ROUTE in the environment, a default route too).
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from ginnel.base.errors import SystemFailure
from ginnel.daemon.manager import run_manager
from ginnel.daemon.manager_config import ManagerConfig
from ginnel.daemon.paths import NetworkPaths
from ginnel.daemon.privileges import FIRST_UID
from ginnel.daemon.settings_check import Allowance

ALLOWANCE = Allowance.of(
    ["100.64.0.0/16", "fd12:3456::/48"], ["100.64.7.1", "fd12:3456::7"], "home.internal"
)


def main() -> None:
    stream = None if len(sys.argv) < 3 else (int(sys.argv[2]), int(sys.argv[2]))
    root = Path(os.environ["GINNEL_TEST_ROOT"])
    allowance = replace(ALLOWANCE, default_route="GINNEL_TEST_DEFAULT_ROUTE" in os.environ)
    config = ManagerConfig(
        paths=NetworkPaths("test", *(root / name for name in ("etc", "state", "run"))),
        port=int(sys.argv[1]),
        make_token=lambda: "ginnel1:c2VjcmV0",
        url="ginnel:test",
        tunnel_uid=FIRST_UID + 91,
        signer_uid=FIRST_UID + 92,
        stream=stream,
        allowance=Allowance() if stream is None else allowance,
        use_dns=stream is not None,
        command=(sys.executable, str(Path(__file__).parent / "tiny_tunnel.py")),
    )
    try:
        run_manager(config, on_ready=lambda: print("READY", flush=True))
    except SystemFailure as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
