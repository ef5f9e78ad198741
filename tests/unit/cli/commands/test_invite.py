import pytest

from ginnel.base.errors import UsageError
from ginnel.cli.commands.invite import parse_lifetime


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
