"""What touches the system's network: the one driver loop, sockets, interfaces, the TUN.

Reading order: `driver` (runs any core on asyncio), `udp`, `interfaces`, `tun`, `netlink`. Nothing
here knows a protocol; `udp`, `driver` and `interfaces` import no heavy library, for the tunnel's
memory.
"""
