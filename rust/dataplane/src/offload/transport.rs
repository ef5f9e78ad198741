//! Reads the headers that offloads deal with: TCP or UDP right behind an IP header.

use std::ops::Range;

use super::checksum::{internet_checksum, pseudo_header_sum};

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
pub(super) const TCP_CHECKSUM: usize = 16; // offset; RFC 9293 3.1
pub(super) const UDP_CHECKSUM: usize = 6; // offset; RFC 768
pub(super) const TCP_FLAGS: usize = 13; // offset
pub(super) const FLAG_FIN: u8 = 0x01;
pub(super) const FLAG_PSH: u8 = 0x08;
pub(super) const FLAG_ACK: u8 = 0x10;
pub(super) const FLAG_CWR: u8 = 0x80;
const IPV4_HEADER: usize = 20; // bytes, without options
const IPV6_HEADER: usize = 40; // bytes, without extensions
const TCP_MIN_HEADER: usize = 20; // bytes
const UDP_HEADER: usize = 8; // bytes
const ICMPV6: u8 = 58; // RFC 4443
/// Where a fragment belongs, in units of 8 bytes (RFC 791 3.1).
const FRAGMENT_OFFSET: u16 = 0x1FFF;

/// Where the headers of a TCP or UDP packet are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) is_ipv6: bool,
    pub(super) protocol: u8,
    /// Bytes of the IP header: the transport header's offset.
    pub(super) transport: usize,
    /// Bytes of both headers.
    pub(super) headers: usize,
}

impl Layout {
    /// Finds the headers; `None` if it is another protocol, or not whole.
    pub(super) fn of(packet: &[u8]) -> Option<Self> {
        let first = *packet.first()?;
        let (is_ipv6, protocol, transport) = match first >> 4 {
            4 if !is_later_fragment(packet) => {
                (false, *packet.get(9)?, usize::from(first & 0x0F) * 4)
            }
            6 => (true, *packet.get(6)?, IPV6_HEADER),
            _ => return None,
        };
        if transport < IPV4_HEADER {
            return None;
        }
        let length = match protocol {
            TCP => usize::from(packet.get(transport + 12)? >> 4) * 4,
            UDP => UDP_HEADER,
            _ => return None,
        };
        let headers = transport + length;
        let whole = headers <= packet.len() && (protocol == UDP || length >= TCP_MIN_HEADER);
        whole.then_some(Self {
            is_ipv6,
            protocol,
            transport,
            headers,
        })
    }

    pub(super) fn checksum_offset(&self) -> usize {
        if self.protocol == TCP {
            TCP_CHECKSUM
        } else {
            UDP_CHECKSUM
        }
    }

    pub(super) fn addresses<'packet>(&self, packet: &'packet [u8]) -> &'packet [u8] {
        &packet[addresses(self.is_ipv6)]
    }

    /// The ports; IP options differ from packet to packet, so each has them at a place of its own.
    pub(super) fn ports<'packet>(&self, packet: &'packet [u8]) -> &'packet [u8] {
        &packet[self.transport..self.transport + 4]
    }

    /// The pseudo header's sum for a transport part of so many bytes.
    pub(super) fn pseudo_sum(&self, packet: &[u8], length: u16) -> u16 {
        pseudo_header_sum(self.addresses(packet), self.protocol, length)
    }

    /// Says whether the checksums of a packet without padding are right.
    pub(super) fn verify(&self, packet: &[u8]) -> bool {
        let Ok(length) = u16::try_from(packet.len() - self.transport) else {
            return false;
        };
        let pseudo = self.pseudo_sum(packet, length);
        (self.is_ipv6 || internet_checksum(&packet[..self.transport], 0) == 0)
            && internet_checksum(&packet[self.transport..], pseudo) == 0
    }

    /// Writes the lengths of IP and UDP, and IPv4's header checksum, for `total` bytes.
    pub(super) fn set_lengths(&self, headers: &mut [u8], total: u16) {
        let transport = self.transport as u16; // at most 60
        if self.is_ipv6 {
            put(headers, 4, total - transport);
        } else {
            put(headers, 2, total);
            put(headers, 10, 0);
            let checksum = internet_checksum(&headers[..self.transport], 0);
            put(headers, 10, checksum);
        }
        if self.protocol == UDP {
            put(headers, self.transport + 4, total - transport);
        }
    }
}

/// The addresses of a packet without a [`Layout`] that may still be of a TCP or UDP flow: a fragment
/// (RFC 8200 4.5, RFC 791 3.2) or one behind IPv6 extension headers.
pub(super) fn hidden_flow(packet: &[u8]) -> Option<&[u8]> {
    match packet.first()? >> 4 {
        4 if [TCP, UDP].contains(packet.get(9)?) => packet.get(addresses(false)),
        6 if *packet.get(6)? != ICMPV6 => packet.get(addresses(true)),
        _ => None,
    }
}

fn addresses(is_ipv6: bool) -> Range<usize> {
    if is_ipv6 { 8..40 } else { 12..20 }
}

/// Says whether an IPv4 packet is a fragment without the transport's header.
fn is_later_fragment(packet: &[u8]) -> bool {
    packet.len() >= IPV4_HEADER && short(packet, 6) & FRAGMENT_OFFSET != 0
}

pub(super) fn short(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
