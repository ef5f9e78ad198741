from __future__ import annotations

import json

from click.testing import CliRunner

from ginnel.cli.commands.engine import engine


def test_the_engine_is_named() -> None:
    result = CliRunner().invoke(engine, ["--json"])
    assert result.exit_code == 0
    answer = json.loads(result.output)
    assert answer["engine"] == "embedded"
    assert answer["cipher"] in ("ipsec-mb, AVX-512", "AWS-LC")
    assert isinstance(answer["networks"], dict)
    assert f"sealed by {answer['cipher']}" in CliRunner().invoke(engine, []).output
