"""`ginnel manager`: arguments that can't be."""

from support.console import ginnel


def test_a_tunnel_program_whose_quotes_do_not_close() -> None:
    printed = ginnel("manager", "home", "--spawn", "'")
    assert printed.code == 2
    assert printed.err == 'ginnel: --spawn "\'": No closing quotation\n'
