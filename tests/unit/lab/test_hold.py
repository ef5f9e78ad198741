import os
import sys

import pytest

from ginnel.lab.hold import BuildError, Child, run_tool


def test_tools_get_their_text_and_their_errors_are_told() -> None:
    run_tool([sys.executable, "-c", "import sys; assert sys.stdin.read() == 'text'"], "text")
    with pytest.raises(BuildError, match="refused"):
        run_tool([sys.executable, "-c", "import sys; sys.exit('refused')"], "")
    with pytest.raises(BuildError, match="no-such-tool"):
        run_tool(["no-such-tool"], "")


def test_children_report_wait_and_fail() -> None:
    def work(child: Child) -> None:
        child.report({"step": 1})
        child.wait_for_go()
        raise OSError("broken")

    child = Child(work)
    assert child.read_report() == {"step": 1}
    child.go()
    with pytest.raises(BuildError, match="broken"):
        child.read_report()
    with pytest.raises(BuildError, match="ended"):
        child.read_report()
    os.waitpid(child.pid, 0)
    child.close()
