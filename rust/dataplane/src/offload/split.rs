//! One large packet of the TUN becomes the packets that it stands for.

use super::checksum::internet_checksum;
use super::transport::{
    FLAG_CWR, FLAG_FIN, FLAG_PSH, Layout, TCP, TCP_FLAGS, UDP, long, put, short,
};
use super::{GSO_ECN, GSO_NONE, GSO_TCP4, GSO_TCP6, GSO_UDP, NEEDS_CHECKSUM, VirtioHeader};
use crate::frame::{Frame, Frames};

/// A header that does not fit its packet; a kernel never says that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Splits a packet as its header says and hands each part on, in order, with right checksums; they
/// are placed in `frames`.
///
/// # Errors
/// Nothing was handed on then.
pub fn split(
    header: VirtioHeader,
    packet: &mut [u8],
    frames: &mut Frames,
    mut emit: impl FnMut(Frame),
) -> Result<(), Malformed> {
    if header.gso_type == GSO_NONE {
        if header.flags & NEEDS_CHECKSUM != 0 {
            complete_checksum(header, packet)?;
        }
        emit(frames.place(packet));
        return Ok(());
    }
    let layout = Layout::of(packet).ok_or(Malformed)?;
    let fits = match header.gso_type & !GSO_ECN {
        GSO_TCP4 => layout.protocol == TCP && !layout.is_ipv6,
        GSO_TCP6 => layout.protocol == TCP && layout.is_ipv6,
        GSO_UDP => layout.protocol == UDP,
        _ => false,
    };
    let size = usize::from(header.gso_size);
    if !fits || size == 0 || layout.headers + size > usize::from(u16::MAX) {
        return Err(Malformed);
    }
    let (headers, payload) = packet.split_at_mut(layout.headers);
    // An empty payload still is one packet.
    let count = payload.len().div_ceil(size).max(1);
    let first = First::of(&layout, headers);
    for number in 0..count {
        let part = &payload[number * size..payload.len().min((number + 1) * size)];
        first.adapt(&layout, headers, (number, count), (size, part.len()));
        let mut part = frames.place_parts([headers, part]);
        fill_checksum(&layout, &mut part);
        emit(part);
    }
    Ok(())
}

/// What of the first segment the others are counted from.
struct First {
    id: u16,
    sequence: u32,
    flags: u8,
}

impl First {
    fn of(layout: &Layout, headers: &[u8]) -> Self {
        let is_tcp = layout.protocol == TCP;
        let field = |at: usize| if is_tcp { layout.transport + at } else { 0 };
        Self {
            id: short(headers, 4),
            sequence: long(headers, field(4)),
            flags: headers[field(TCP_FLAGS)],
        }
    }

    /// Makes the headers those of one segment, but for the transport's checksum.
    fn adapt(
        &self,
        layout: &Layout,
        headers: &mut [u8],
        (number, count): (usize, usize),
        (size, length): (usize, usize),
    ) {
        if !layout.is_ipv6 {
            put(headers, 4, self.id.wrapping_add(number as u16));
        }
        if layout.protocol == TCP {
            let sequence = self.sequence.wrapping_add((number * size) as u32);
            let at = layout.transport + 4;
            headers[at..at + 4].copy_from_slice(&sequence.to_be_bytes());
            let mut flags = self.flags;
            if number + 1 < count {
                flags &= !(FLAG_FIN | FLAG_PSH);
            }
            if number > 0 {
                flags &= !FLAG_CWR; // RFC 3168 6.1.2: once
            }
            headers[layout.transport + TCP_FLAGS] = flags;
        }
        // `split` has seen that a whole segment fits 16 bits.
        layout.set_lengths(headers, (layout.headers + length) as u16);
        put(headers, layout.transport + layout.checksum_offset(), 0);
    }
}

/// Computes the transport's checksum, whose field is zero.
fn fill_checksum(layout: &Layout, packet: &mut [u8]) {
    let length = (packet.len() - layout.transport) as u16;
    let pseudo = layout.pseudo_sum(packet, length);
    let checksum = match internet_checksum(&packet[layout.transport..], pseudo) {
        0 if layout.protocol == UDP => 0xFFFF, // RFC 768: zero means none
        checksum => checksum,
    };
    put(
        packet,
        layout.transport + layout.checksum_offset(),
        checksum,
    );
}

/// Completes a checksum whose field holds the pseudo header's sum.
fn complete_checksum(header: VirtioHeader, packet: &mut [u8]) -> Result<(), Malformed> {
    let start = usize::from(header.checksum_start);
    let at = start + usize::from(header.checksum_offset);
    if at + 2 > packet.len() {
        return Err(Malformed);
    }
    let checksum = match internet_checksum(&packet[start..], 0) {
        0 => 0xFFFF, // the same number for TCP, and what UDP wants
        checksum => checksum,
    };
    put(packet, at, checksum);
    Ok(())
}
