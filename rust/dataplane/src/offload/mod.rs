//! Segmentation offloads without IO: one large packet for many small ones, and back.
//!
//! [`split`] makes packets of what a TUN with virtio headers hands out, [`Merger`] makes such large
//! packets of what peers sent, and [`Trains`] finds datagrams that one `UDP_SEGMENT` send carries.
//!
//! Invariants: packets of a flow keep their order, and datagrams to one place keep theirs. A packet
//! is merged only if its checksums are right, so that the kernel may take that for granted: the
//! tunnel authenticates what a peer sent, not what its host made of it.
//!
//! Source: virtio 1.2, 5.1.6; RFC 791, 768, 8200, 9293; Linux `Documentation/networking/tuntap.rst`.

mod checksum;
mod merge;
mod split;
mod trains;
mod transport;

pub use checksum::{internet_checksum, pseudo_header_sum};
pub use merge::{Merger, Written};
pub use split::{Malformed, split};
pub use trains::Trains;

/// Bytes of [`VirtioHeader`] in front of each packet.
pub const HEADER_SIZE: usize = 10;

/// The checksum field at `checksum_offset` holds the pseudo header's sum only.
pub const NEEDS_CHECKSUM: u8 = 1;
/// One packet.
pub const GSO_NONE: u8 = 0;
/// A TCP segment train over IPv4.
pub const GSO_TCP4: u8 = 1;
/// A TCP segment train over IPv6.
pub const GSO_TCP6: u8 = 4;
/// A UDP datagram train.
pub const GSO_UDP: u8 = 5;
/// Or'ed to a TCP train whose first segment has CWR set.
pub const GSO_ECN: u8 = 0x80;

/// What precedes each packet of the TUN (`struct virtio_net_hdr`), in the host's byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtioHeader {
    /// [`NEEDS_CHECKSUM`] or nothing.
    pub flags: u8,
    /// `GSO_...`.
    pub gso_type: u8,
    /// Bytes of all headers of a segment; a hint only.
    pub header_length: u16,
    /// Payload bytes of each segment but the last.
    pub gso_size: u16,
    /// Where the checksum's cover begins: the transport header.
    pub checksum_start: u16,
    /// Where the checksum is, counted from there.
    pub checksum_offset: u16,
}

impl VirtioHeader {
    /// Reads the header.
    pub fn decode(bytes: &[u8; HEADER_SIZE]) -> Self {
        let short = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            gso_type: bytes[1],
            header_length: short(2),
            gso_size: short(4),
            checksum_start: short(6),
            checksum_offset: short(8),
        }
    }

    /// Writes the header.
    pub fn encode(self) -> [u8; HEADER_SIZE] {
        let mut bytes = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes[2..4].copy_from_slice(&self.header_length.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.gso_size.to_ne_bytes());
        bytes[6..8].copy_from_slice(&self.checksum_start.to_ne_bytes());
        bytes[8..10].copy_from_slice(&self.checksum_offset.to_ne_bytes());
        bytes
    }
}
