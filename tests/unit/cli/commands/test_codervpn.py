"""`ginnel codervpn probe`: arguments that can't be."""

from pathlib import Path

from support.console import ginnel


def test_a_program_whose_quotes_do_not_close() -> None:
    printed = ginnel("codervpn", "probe", "--spawn", "'")
    assert printed.code == 2
    assert printed.err == 'ginnel: --spawn "\'": No closing quotation\n'


def test_a_program_that_is_none() -> None:
    printed = ginnel("codervpn", "probe", "--spawn", " ")
    assert printed.code == 2
    assert printed.err == "ginnel: --spawn ' ': no program\n"


def test_a_token_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(b"\xff\xfe")
    printed = ginnel("codervpn", "probe", "--spawn", "true", "--token-file", str(file))
    assert printed.code == 2
    assert printed.err == f"ginnel: {file} is no text\n"
