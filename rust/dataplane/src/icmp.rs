//! What is said of an inner packet that does not fit: ICMP for its sender, to be written to the TUN.
//!
//! It comes from the address that the packet was for, like everything of that peer's.
//!
//! Source: RFC 792 and RFC 1191 4 (fragmentation needed), RFC 1812 4.3.2 (when nothing is said, how
//! much is quoted), RFC 4443 2.1, 2.4 and 3.2 (Packet Too Big).

use crate::offload::{internet_checksum, pseudo_header_sum};

const IPV4_HEADER: usize = 20; // bytes
const IPV6_HEADER: usize = 40; // bytes
const ICMP_HEADER: usize = 8; // bytes
const MAX_IPV4: usize = 576; // bytes of an answer; RFC 1812 4.3.2.3
const MAX_IPV6: usize = 1280; // bytes of an answer; RFC 4443 2.4 c
const HOP_LIMIT: u8 = 64;
const ICMP: u8 = 1; // IPv4's protocol number
const ICMPV6: u8 = 58;
const UNREACHABLE: [u8; 2] = [3, 4]; // type, code "fragmentation needed and DF set"
const TOO_BIG: [u8; 2] = [2, 0];
const ERRORS: [u8; 5] = [3, 4, 5, 11, 12]; // ICMP types that are never answered

/// Returns the packet that tells the sender of `packet` to send at most `mtu` bytes; `None` where
/// none may be sent: to an ICMP error, a later fragment, or from or to no single host.
///
/// `packet` is a whole IP packet without padding, with right lengths.
pub fn too_big(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    match packet.first()? >> 4 {
        4 => too_big_ipv4(packet, mtu),
        6 => too_big_ipv6(packet, mtu),
        _ => None,
    }
}

fn too_big_ipv4(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    let header: &[u8; IPV4_HEADER] = packet.first_chunk()?;
    let transport = usize::from(header[0] & 0x0F) * 4;
    let later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1FFF != 0;
    let is_error = header[9] == ICMP && ERRORS.contains(packet.get(transport)?);
    let (source, destination) = (&header[12..16], &header[16..20]);
    if later_fragment || is_error || !is_host_ipv4(source) || !is_host_ipv4(destination) {
        return None;
    }
    let quoted = &packet[..packet.len().min(MAX_IPV4 - IPV4_HEADER - ICMP_HEADER)];
    let total = IPV4_HEADER + ICMP_HEADER + quoted.len();
    let mut answer = vec![0; IPV4_HEADER + ICMP_HEADER];
    answer[0] = 0x45;
    put(&mut answer, 2, total as u16); // at most 576
    answer[8] = HOP_LIMIT;
    answer[9] = ICMP;
    answer[12..16].copy_from_slice(destination);
    answer[16..20].copy_from_slice(source);
    let checksum = internet_checksum(&answer[..IPV4_HEADER], 0);
    put(&mut answer, 10, checksum);
    answer[20..22].copy_from_slice(&UNREACHABLE);
    put(&mut answer, 26, mtu);
    answer.extend_from_slice(quoted);
    let checksum = internet_checksum(&answer[IPV4_HEADER..], 0);
    put(&mut answer, IPV4_HEADER + 2, checksum);
    Some(answer)
}

fn too_big_ipv6(packet: &[u8], mtu: u16) -> Option<Vec<u8>> {
    let header: &[u8; IPV6_HEADER] = packet.first_chunk()?;
    let is_error = header[6] == ICMPV6 && *packet.get(IPV6_HEADER)? < 128;
    let (source, destination) = (&header[8..24], &header[24..40]);
    if is_error || !is_host_ipv6(source) || !is_host_ipv6(destination) {
        return None;
    }
    let quoted = &packet[..packet.len().min(MAX_IPV6 - IPV6_HEADER - ICMP_HEADER)];
    let length = (ICMP_HEADER + quoted.len()) as u16; // at most 1240
    let mut answer = vec![0; IPV6_HEADER + ICMP_HEADER];
    answer[0] = 0x60;
    put(&mut answer, 4, length);
    answer[6] = ICMPV6;
    answer[7] = HOP_LIMIT;
    answer[8..24].copy_from_slice(destination);
    answer[24..40].copy_from_slice(source);
    answer[40..42].copy_from_slice(&TOO_BIG);
    put(&mut answer, 46, mtu);
    answer.extend_from_slice(quoted);
    let pseudo = pseudo_header_sum(&answer[8..40], ICMPV6, length);
    let checksum = internet_checksum(&answer[IPV6_HEADER..], pseudo);
    put(&mut answer, IPV6_HEADER + 2, checksum);
    Some(answer)
}

/// Neither 0.0.0.0/8, loopback, multicast, reserved nor broadcast.
fn is_host_ipv4(ip: &[u8]) -> bool {
    !matches!(ip[0], 0 | 127 | 224..)
}

/// Neither unspecified, loopback nor multicast.
fn is_host_ipv6(ip: &[u8]) -> bool {
    ip[0] != 0xFF && ip[..15].iter().any(|byte| *byte != 0)
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
