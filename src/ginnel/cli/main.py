"""The `ginnel` command: finds the command's file, turns errors into one line and an exit code.

Exit codes: 0 done, 1 failed or not running, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

import click

from ginnel import __version__
from ginnel.base.errors import GinnelError, UsageError

# name -> one line of help; the order is a user's order. The last ones are started by the manager.
COMMANDS = {
    "init": "Make a new network, with this machine as its first member.",
    "up": "Start Ginnel on this machine.",
    "invite": "Print a one-time invite for another machine.",
    "join": "Join a network with an invite.",
    "approve": "Let a machine in that has asked to join.",
    "status": "Show this machine, its peers and their paths.",
    "ping": "Ping a peer through the tunnel.",
    "netcheck": "Say what the network around this machine allows.",
    "down": "Stop Ginnel on this machine.",
    "service": "Start Ginnel at boot.",
    "node": "Run a public node that helps others meet and learns nothing.",
    "discv5": "Speak discv5: find nodes, ask them, be one.",
    "engine": "Show the data plane, or run one alone as a WireGuard interface.",
    "codervpn": "Check programs that speak CoderVPN.",
    "demo": "Show machines behind NATs finding each other, in a lab on this machine.",
    "lab": "Make networks with NATs on this machine, to look around in.",
    "version": "Print the version.",
}
HIDDEN = ("manager", "tunnel", "signer")


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands for people, in the order in which they are met."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, or None if there is none of that name."""
        if cmd_name not in COMMANDS and cmd_name not in HIDDEN:
            return None
        command = getattr(import_module(f"ginnel.cli.commands.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, "-V", "--version", prog_name="ginnel")
def cli() -> None:
    """Ginnel, a WireGuard mesh VPN that needs nobody's server.

    \b
    A first mesh:
      sudo ginnel init home && sudo ginnel up      on the first machine
      sudo ginnel invite                           prints an invite
      sudo ginnel join && sudo ginnel up           on the second: asks for it
      sudo ginnel approve pi                       on the first, after comparing the code
      ping pi.home.internal ; ginnel status
    """


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit."""
    try:
        code = cli.main(args=argv, prog_name="ginnel", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = 2 if isinstance(error, click.UsageError) else 1
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        code = 130
    except UsageError as error:
        click.echo(f"ginnel: {error}", err=True)
        code = 2
    except (GinnelError, OSError) as error:  # e.g. a full disk under a folder's making
        click.echo(f"ginnel: {error}", err=True)
        code = 1
    _drop_unwritten()
    sys.exit(code if isinstance(code, int) else 0)


def _drop_unwritten() -> None:
    """Give up what standard output doesn't take: at exit Python would try again, and complain."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
