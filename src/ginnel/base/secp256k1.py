"""Keys and signatures on secp256k1, in Rust (libsecp256k1), and the hash that goes with them.

Source: SEC 2; EIP-778, "v4" Identity Scheme.
"""

from ginnel._native import PublicKey, keccak, public_key_of, sign

__all__ = ["PublicKey", "keccak", "public_key_of", "sign"]
