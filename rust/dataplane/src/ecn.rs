//! Congestion marks: copied to the outer header when a packet is sealed, combined when it is opened.
//!
//! Source: RFC 6040 4.1 (normal mode) and 4.2; RFC 3168 5 (the codepoints); RFC 1624 (checksum).

/// The packet's transport does not react to marks.
pub const NOT_ECT: u8 = 0;
/// It does, as the second kind of transport.
pub const ECT_1: u8 = 1;
/// It does.
pub const ECT_0: u8 = 2;
/// Congestion was met.
pub const CE: u8 = 3;

const MASK: u8 = 3;
const IPV6_SHIFT: u8 = 4; // the two bits are the middle of the second byte; RFC 8200 3

/// Returns the mark of an IP packet.
pub fn of(packet: &[u8]) -> u8 {
    match packet {
        [first, second, ..] if first >> 4 == 4 => second & MASK,
        [first, second, ..] if first >> 4 == 6 => (second >> IPV6_SHIFT) & MASK,
        _ => NOT_ECT,
    }
}

/// Brings the outer header's mark into an IP packet; false if the packet must be dropped.
pub fn combine(packet: &mut [u8], outer: u8) -> bool {
    match (of(packet), outer) {
        (NOT_ECT, CE) => return false,
        (ECT_0, ECT_1) => set(packet, ECT_1),
        (ECT_0 | ECT_1, CE) => set(packet, CE),
        _ => {}
    }
    true
}

fn set(packet: &mut [u8], mark: u8) {
    match packet {
        [first, second, ..] if *first >> 4 == 6 => {
            *second = *second & !(MASK << IPV6_SHIFT) | mark << IPV6_SHIFT;
        }
        [first, second, _, _, _, _, _, _, _, _, high, low, ..] => {
            let before = u16::from_be_bytes([*first, *second]);
            *second = *second & !MASK | mark;
            let after = u16::from_be_bytes([*first, *second]);
            let checksum = u16::from_be_bytes([*high, *low]);
            [*high, *low] = update(checksum, before, after).to_be_bytes();
        }
        _ => {}
    }
}

/// Returns the checksum after one of its words changed (RFC 1624 3).
fn update(checksum: u16, before: u16, after: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(!before) + u32::from(after);
    let sum = (sum & 0xFFFF) + (sum >> 16);
    let sum = (sum & 0xFFFF) + (sum >> 16);
    !(sum as u16) // two folds leave 16 bits
}
