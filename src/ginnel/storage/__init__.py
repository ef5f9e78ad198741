"""What survives a restart: keys, signed objects, trust, known nodes, open invites.

Reading order: `files` (atomic writes, permissions), `identity` (node keys and their bundle),
`trust` (revocations and epochs), `state` (SQLite), `network_files` (a network's folder),
`invites` (the signer's), `asked` (what a join has asked).
"""
