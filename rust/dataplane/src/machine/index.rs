//! Peers by receiver index, the first thing that is looked up for each packet.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::routes::PeerId;

/// Peers by the receiver indices that we gave out. Those are random and our own choice, so that a
/// hash against chosen keys would protect nothing.
pub(super) type ByIndex = HashMap<u32, PeerId, BuildHasherDefault<IndexHasher>>;

/// Spreads the bits of one index.
#[derive(Default)]
pub(super) struct IndexHasher(u64);

impl Hasher for IndexHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, index: u32) {
        // Multiplied by an odd number near 2^64 / the golden ratio: high and low bits both vary.
        self.0 = (self.0 ^ u64::from(index)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
}
