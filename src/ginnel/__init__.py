"""Ginnel: a WireGuard mesh VPN that needs nobody's server.

Reading order: `base` (values and limits), `discv5` (finding nodes), `ice` (finding a path),
`peer` (one remote peer), `mesh` (all of them), `codervpn` (manager and tunnel), `engine` (the data
plane), `daemon` (where clocks, chance, sockets and files are put together), `cli`.
"""

__version__ = "0.1.0"
