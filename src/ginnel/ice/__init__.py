"""ICE (RFC 8445) as a sans-IO library: one component, trickle, regular nomination, consent.

Reading order: `stun` (bytes), `candidate`, `pair`, `checklist`, `transactions`, `consent`,
`events`, `agent` (the core), `reasons` (why it failed, in words), `aio` (asyncio facade).
"""
