"""`ginnel version`: what is installed, and what it can do on this machine."""

from __future__ import annotations

import platform

import click

from ginnel import __version__
from ginnel.cli.render import SCHEMA, show_json


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def version(as_json: bool) -> None:
    """Print the version of Ginnel, Python and the data plane.

    \b
    Examples:
      ginnel version
      ginnel version --json
    """
    from ginnel._native import __version__ as engine_version

    facts = {
        "schema": SCHEMA,
        "ginnel": __version__,
        "dataplane": engine_version,
        "python": platform.python_version(),
        "kernel": platform.release(),
    }
    if as_json:
        show_json(facts)
    else:
        click.echo(f"ginnel {__version__} (data plane {engine_version}, Python {facts['python']})")
