import subprocess
import sys

import pytest

from ginnel.base.errors import UsageError
from ginnel.cli.commands.invite import parse_lifetime
from support.console import ginnel, on_machine


def test_an_invite_that_nobody_would_see_is_not_asked_for() -> None:
    def run() -> tuple[int, str]:
        ginnel("init", "home")
        command = ["sh", "-c", f"{sys.executable} -m ginnel.cli.main invite >&-"]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
        return done.returncode, done.stderr

    code, err = on_machine(run)
    assert (code, len(err.splitlines())) == (1, 1), err
    assert "standard output is closed" in err


@pytest.mark.parametrize(
    ("text", "seconds"), [("1m", 60), ("30m", 1800), ("24h", 86_400), ("30d", 30 * 86_400)]
)
def test_how_long_an_invite_is_valid(text: str, seconds: int) -> None:
    assert parse_lifetime(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "0m", "31d", "24", "h", "-1h", "1.5h", "1w", "10000m", "٣h", "1h\n"]
)
def test_another_form_says_what_is_expected(text: str) -> None:
    with pytest.raises(UsageError, match="30m, 24h or 7d"):
        parse_lifetime(text)
