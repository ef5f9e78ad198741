//! Fragments of inner IPv6 packets, made on the node that they come from.
//!
//! Source: RFC 8200 4.5.

const HEADER: usize = 40; // bytes
const FRAGMENT_HEADER: usize = 8; // bytes
const NEXT_HEADER: usize = 6; // offset
const FRAGMENT: u8 = 44;
const MORE: u16 = 1;
/// Headers that must come before a fragment's, or are one: hop-by-hop, routing, fragment.
const NOT_SPLIT: [u8; 3] = [0, 43, FRAGMENT];

/// Returns the packet in fragments of at most `mtu` bytes; `None` if it can't be split so.
///
/// `packet` is a whole IPv6 packet without padding; `identification` is new for each.
pub fn ipv6(packet: &[u8], mtu: usize, identification: u32) -> Option<Vec<Vec<u8>>> {
    let (header, payload) = packet.split_first_chunk::<HEADER>()?;
    let room = mtu.checked_sub(HEADER + FRAGMENT_HEADER)? & !7;
    if room == 0 || header[0] >> 4 != 6 || NOT_SPLIT.contains(&header[NEXT_HEADER]) {
        return None;
    }
    let count = payload.len().div_ceil(room);
    let part = |(number, data): (usize, &[u8])| {
        let more = if number + 1 < count { MORE } else { 0 };
        let offset = u16::try_from(number * room).ok()? | more;
        let length = u16::try_from(FRAGMENT_HEADER + data.len()).ok()?;
        let mut fragment = Vec::with_capacity(HEADER + FRAGMENT_HEADER + data.len());
        fragment.extend_from_slice(header);
        fragment[4..6].copy_from_slice(&length.to_be_bytes());
        fragment[NEXT_HEADER] = FRAGMENT;
        fragment.extend_from_slice(&[header[NEXT_HEADER], 0]);
        fragment.extend_from_slice(&offset.to_be_bytes());
        fragment.extend_from_slice(&identification.to_be_bytes());
        fragment.extend_from_slice(data);
        Some(fragment)
    };
    payload.chunks(room).enumerate().map(part).collect()
}
