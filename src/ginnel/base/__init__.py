"""Values, errors, limits and the core protocol: what every other package builds on.

Reading order: `types`, `core` (the five verbs), `chance`, `errors`, `limits`, `rlp`, `addresses`,
`demux`, `dataplane`. Nothing here does IO, reads a clock or draws chance.
"""
