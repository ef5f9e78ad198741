import json

import pytest

from ginnel.cli.render import duration, milliseconds, show_json, size, table


def test_a_table_is_aligned_without_trailing_spaces() -> None:
    text = table(("NAME", "CODE"), [("pi", "K7QF-2M9X"), ("attic-machine", "A")])
    assert text == "NAME           CODE\npi             K7QF-2M9X\nattic-machine  A"


def test_an_empty_table_has_its_head() -> None:
    assert table(("A", "B"), []) == "A  B"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "never"),
        (0, "0 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7199, "120 min"),
        (7200, "2 h"),
        (172_800, "2 d"),
    ],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (2**20, "1.0 MiB"),
        (3 * 2**40, "3072.0 GiB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


def test_latencies() -> None:
    assert milliseconds(None) == "-"
    assert milliseconds(0.00123) == "1.2 ms"


def test_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    show_json({"schema": 1, "peers": []})
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "peers": []}
