"""The command line: `main` finds the command, `commands/` has one file per command.

`client` speaks with the manager's and the tunnel's sockets, `render` makes text and JSON of what
they say. A command imports what it needs when it runs, so that `ginnel tunnel` stays small.
"""
