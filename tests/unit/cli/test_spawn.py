import pytest

from ginnel.base.errors import UsageError
from ginnel.cli.spawn import split_command


def test_words_are_those_of_a_shell() -> None:
    assert split_command("./my-tunnel 'a b' c\\ d") == ["./my-tunnel", "a b", "c d"]


@pytest.mark.parametrize("text", ["'", 'a "b', "a\\", "", "  "])
def test_what_is_no_command_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="--spawn"):
        split_command(text)
