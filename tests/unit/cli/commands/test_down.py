"""`ginnel down` where nothing runs; what it stops is in tests/netns."""

import os

from ginnel.daemon.paths import RUN_ROOT
from support.console import Printed, ginnel, on_machine


def test_what_a_killed_manager_left_goes() -> None:
    def run() -> tuple[Printed, list[str]]:
        ginnel("init", "home")
        (RUN_ROOT / "home").mkdir(parents=True)
        for name in ("lock", "manager.log"):
            (RUN_ROOT / "home" / name).touch()
        return ginnel("down"), os.listdir(RUN_ROOT)

    printed, left = on_machine(run)
    assert (printed.code, printed.out) == (0, "home is not running\n"), printed.err
    assert left == []
