"""One remote peer's connection (seed 000): signalling, ICE, WireGuard's peer, status.

Reading order: `signal` (what is said), `events` (configuration and events), `status`, `attempt`,
`lifecycle` and `conn` (the core), `aio` (asyncio facade).
"""
