"""Runs the real manager with the programs of `tiny_tunnel`, for tests; prints READY."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ginnel.base.errors import SystemFailure
from ginnel.daemon.manager import run_manager
from ginnel.daemon.manager_config import ManagerConfig
from ginnel.daemon.paths import NetworkPaths
from ginnel.daemon.privileges import FIRST_UID


def main() -> None:
    root = Path(os.environ["GINNEL_TEST_ROOT"])
    config = ManagerConfig(
        paths=NetworkPaths("test", *(root / name for name in ("etc", "state", "run"))),
        port=int(sys.argv[1]),
        make_token=lambda: "ginnel1:c2VjcmV0",
        url="ginnel:test",
        tunnel_uid=FIRST_UID + 91,
        signer_uid=FIRST_UID + 92,
        command=(sys.executable, str(Path(__file__).parent / "tiny_tunnel.py")),
    )
    try:
        run_manager(config, on_ready=lambda: print("READY", flush=True))
    except SystemFailure as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
