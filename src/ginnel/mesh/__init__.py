"""Membership, rendezvous, signalling and the mesh of all peers, as sans-IO cores.

Reading order: `derive` (labels, hashes, keys, points), `objects` and `certcheck` (signed objects),
`epochs`, `membership` (who belongs), `sealer` and `envelope` (sealed messages), `join` (invites),
then `rendezvous`, `roster`, `names` and `mesh`. Formats: docs/formats.md.
"""
