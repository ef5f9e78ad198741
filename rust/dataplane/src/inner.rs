//! Reads just what the data plane must know of an inner IP packet.
//!
//! Source: RFC 791 3.1, RFC 8200 3, RFC 768.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const IPV4_MIN_HEADER: usize = 20; // bytes; RFC 791 3.1
const IPV6_HEADER: usize = 40; // bytes; RFC 8200 3
const PROTOCOL_UDP: u8 = 17; // RFC 768
const PROTOCOL_FRAGMENT: u8 = 44; // RFC 8200 4.5
const FRAGMENT_HEADER: usize = 8; // bytes; RFC 8200 4.5

/// The addresses of an IP packet, its true length, and where its UDP goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// Who sent it.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// Bytes of the packet without WireGuard's padding.
    pub length: usize,
    /// The destination port, if this is UDP that starts here.
    pub udp_port: Option<u16>,
    /// Whether it is a fragment.
    pub fragment: bool,
}

/// Reads an IP packet that may be followed by padding; `None` if it is none, or not whole.
pub fn parse(packet: &[u8]) -> Option<Inner> {
    match packet.first()? >> 4 {
        4 => parse_ipv4(packet),
        6 => parse_ipv6(packet),
        _ => None,
    }
}

fn parse_ipv4(packet: &[u8]) -> Option<Inner> {
    let header: &[u8; IPV4_MIN_HEADER] = packet.first_chunk()?;
    let header_length = usize::from(header[0] & 0x0F) * 4;
    let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header_length < IPV4_MIN_HEADER || length < header_length || length > packet.len() {
        return None;
    }
    let flags = u16::from_be_bytes([header[6], header[7]]);
    let offset = flags & 0x1FFF;
    let udp = header[9] == PROTOCOL_UDP && offset == 0;
    Some(Inner {
        source: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
        destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
        length,
        udp_port: udp.then(|| port(&packet[header_length..length])).flatten(),
        fragment: flags & 0x3FFF != 0,
    })
}

fn parse_ipv6(packet: &[u8]) -> Option<Inner> {
    let header: &[u8; IPV6_HEADER] = packet.first_chunk()?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]])) + IPV6_HEADER;
    if length > packet.len() {
        return None;
    }
    let payload = &packet[IPV6_HEADER..length];
    let (udp_port, fragment) = match header[6] {
        PROTOCOL_UDP => (port(payload), false),
        PROTOCOL_FRAGMENT => (fragment_port(payload), true),
        _ => (None, false),
    };
    Some(Inner {
        source: ipv6(&header[8..24])?,
        destination: ipv6(&header[24..40])?,
        length,
        udp_port,
        fragment,
    })
}

fn ipv6(bytes: &[u8]) -> Option<IpAddr> {
    let octets: [u8; 16] = bytes.try_into().ok()?;
    Some(Ipv6Addr::from(octets).into())
}

fn fragment_port(payload: &[u8]) -> Option<u16> {
    let header: &[u8; FRAGMENT_HEADER] = payload.first_chunk()?;
    let offset = u16::from_be_bytes([header[2], header[3]]) & 0xFFF8;
    if header[0] == PROTOCOL_UDP && offset == 0 {
        port(&payload[FRAGMENT_HEADER..])
    } else {
        None
    }
}

fn port(udp: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes([*udp.get(2)?, *udp.get(3)?]))
}
