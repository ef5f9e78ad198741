"""Where clocks, chance, sockets and files are put together: manager, tunnel, signer, control.

Reading order: `paths`, `manager` (root; starts the others), `supervise`, `settings_apply`,
`privileges` (how the others lose every right), `logs`, then `tunnel`, `signer` and `control`.
"""
