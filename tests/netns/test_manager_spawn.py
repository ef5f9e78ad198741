"""Any tunnel of the protocol runs under our manager: the example of docs/codervpn.md."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from ginnel.lab import Home, Lab, LabTopology, NatKind
from ginnel.lab.scenario import Scenario

pytestmark = pytest.mark.netns

DOCS = Path(__file__).parents[2] / "docs/codervpn.md"
LIMIT_S = 30.0
ASK = """
from pathlib import Path
from ginnel.cli.client import ask_manager
print(ask_manager(Path("/run/ginnel/demo/manager.sock"), "status")["tunnel"]["last_error"])
"""


@pytest.mark.parametrize("options", [["--pass-tun"], ["--dialect", "shipped"]])
def test_a_foreign_tunnel_is_started_and_held_to_the_rules(options: list[str]) -> None:
    examples = dict(re.findall(r"```python (\w+)\n(.*?)```", DOCS.read_text(), re.DOTALL))
    home = Home("flat", NatKind.PORT_RESTRICTED, hosts=("anna",))
    with Lab.create(LabTopology(homes=(home,))) as lab:
        scenario = Scenario(lab, lambda _who, _text: None)
        anna = lab.machine("anna")
        scenario.ginnel("anna", "init", "demo", "--name", "anna", "--json")
        anna.run(["sh", "-c", "cat > /etc/ginnel/example.py"], text=examples["tunnel"])
        program = f"{sys.executable} /etc/ginnel/example.py"
        manager = anna.popen(["ginnel", "manager", "demo", "--spawn", program, *options])

        asked = [sys.executable, "-c", ASK]

        def was_refused() -> bool:
            text = anna.run(asked, check=False).stdout
            # Never in an overlay: init may have drawn any /16 of 100.64.0.0/10.
            return "192.0.2.1/32 is not inside what root allows" in text

        assert scenario.wait_until(was_refused, LIMIT_S)
        anna.run(["ginnel", "down"])
        assert manager.wait() == 0
