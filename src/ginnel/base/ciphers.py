"""Ciphers of packets, in Rust: AES-128-CTR over a header, AES-128-GCM over a message, in one call.

A packet is an IV of 16 bytes, a masked header and an encrypted message; keys are of 16 bytes, and
so is the part of a node id that masks. Contexts are made anew for each packet: there is nothing to
keep.

Source: devp2p discv5-wire.md, "Packet Encoding".
"""

from ginnel._native import mask, open, seal, seal_next, unmask

__all__ = ["mask", "open", "seal", "seal_next", "unmask"]
