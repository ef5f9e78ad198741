//! Packets as hosts send them, merged and split again.
#![allow(dead_code, reason = "each test file uses its part")]

use std::net::Ipv4Addr;

use ginnel_dataplane::offload::{
    HEADER_SIZE, Merger, VirtioHeader, Written, internet_checksum, split,
};
use ginnel_dataplane::{Frames, Packet};

pub const ACK: u8 = 0x10;
pub const PSH: u8 = 0x08;
pub const FIN: u8 = 0x01;
pub const CWR: u8 = 0x80;

/// A packet as a host would send it, with right checksums.
#[derive(Clone, Debug)]
pub struct Spec {
    pub ipv6: bool,
    pub tcp: bool,
    pub port: u16,
    pub traffic_class: u8,
    pub sequence: u32,
    pub flags: u8,
    pub timestamp: Option<u32>,
    pub payload: Vec<u8>,
}

impl Spec {
    pub fn build(&self) -> Vec<u8> {
        let transport = self.transport();
        let length = u16::try_from(transport.len()).unwrap();
        let protocol = if self.tcp { 6 } else { 17 };
        let mut packet = if self.ipv6 {
            let mut header = vec![
                0x60 | self.traffic_class >> 4,
                self.traffic_class << 4,
                0,
                0,
            ];
            header.extend(length.to_be_bytes());
            header.extend([protocol, 64]);
            header.extend([0xFD; 16]);
            header.extend([0xFE; 16]);
            header
        } else {
            let mut header = vec![0x45, self.traffic_class];
            header.extend((length + 20).to_be_bytes());
            header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            header.extend([100, 64, 0, 1, 100, 64, 0, 2]);
            let checksum = internet_checksum(&header, 0);
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            header
        };
        let start = packet.len();
        packet.extend(transport);
        let at = start + if self.tcp { 16 } else { 6 };
        let checksum = match transport_checksum(&packet) {
            0 if !self.tcp => 0xFFFF,
            checksum => checksum,
        };
        packet[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    fn transport(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.port.to_be_bytes());
        bytes.extend(5201u16.to_be_bytes());
        if self.tcp {
            bytes.extend(self.sequence.to_be_bytes());
            bytes.extend(7u32.to_be_bytes());
            let words: u8 = if self.timestamp.is_some() { 8 } else { 5 };
            bytes.extend([words << 4, self.flags, 1, 0, 0, 0, 0, 0]);
            if let Some(timestamp) = self.timestamp {
                bytes.extend([1, 1, 8, 10]);
                bytes.extend(timestamp.to_be_bytes());
                bytes.extend([0; 4]);
            }
        } else {
            let length = u16::try_from(8 + self.payload.len()).unwrap();
            bytes.extend(length.to_be_bytes());
            bytes.extend([0, 0]);
        }
        bytes.extend(&self.payload);
        bytes
    }
}

/// RFC 1071 word by word, apart from the crate's.
pub fn slow_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

pub fn transport_checksum(packet: &[u8]) -> u16 {
    let (addresses, protocol, start) = if packet[0] >> 4 == 6 {
        (&packet[8..40], packet[6], 40)
    } else {
        (&packet[12..20], packet[9], 20)
    };
    let mut covered = addresses.to_vec();
    covered.extend([0, protocol]);
    covered.extend(u16::try_from(packet.len() - start).unwrap().to_be_bytes());
    covered.extend(&packet[start..]);
    !slow_sum(&covered)
}

pub fn frames() -> Frames {
    let mut frames = Frames::new();
    frames.begin(1420);
    assert!(frames.make_room());
    frames
}

pub fn merge(packets: &[Vec<u8>], udp: bool) -> Vec<(VirtioHeader, Vec<u8>, usize)> {
    merge_big(packets, udp, Vec::new())
}

pub fn merge_big(
    packets: &[Vec<u8>],
    udp: bool,
    big_for: Vec<Ipv4Addr>,
) -> Vec<(VirtioHeader, Vec<u8>, usize)> {
    merge_with(&mut Merger::new(udp, big_for), packets, usize::MAX)
}

/// Merges for a device that refuses what has more bytes than that.
pub fn merge_with(
    merger: &mut Merger,
    packets: &[Vec<u8>],
    refused_from: usize,
) -> Vec<(VirtioHeader, Vec<u8>, usize)> {
    let mut owned: Vec<Packet> = packets
        .iter()
        .map(|packet| Packet::copy_from(packet.as_slice()))
        .collect();
    let mut merged = Vec::new();
    merger.merge(&mut owned, |parts, count| {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let (header, packet) = bytes.split_first_chunk::<HEADER_SIZE>().unwrap();
        if packet.len() > refused_from {
            return Written::TooBig;
        }
        merged.push((VirtioHeader::decode(header), packet.to_vec(), count));
        Written::Done
    });
    merged
}

pub fn split_all(merged: &[(VirtioHeader, Vec<u8>, usize)]) -> Vec<Vec<u8>> {
    let (mut packets, mut frames) = (Vec::new(), frames());
    for (header, packet, _) in merged {
        let mut packet = packet.clone();
        split(*header, &mut packet, &mut frames, |part| {
            packets.push(part.to_vec())
        })
        .unwrap();
    }
    packets
}

/// The packets of one flow, without what may change: IPv4's identification and header checksum.
pub fn flow(packets: &[Vec<u8>], key: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for packet in packets.iter().filter(|packet| flow_key(packet) == key) {
        let mut packet = packet.clone();
        if packet[0] >> 4 == 4 {
            packet[4..6].fill(0);
            packet[10..12].fill(0);
        }
        found.push(packet);
    }
    found
}

pub fn flow_key(packet: &[u8]) -> Vec<u8> {
    let (protocol, start) = if packet[0] >> 4 == 6 {
        (packet[6], 40)
    } else {
        (packet[9], 20)
    };
    vec![packet[0] >> 4, protocol, packet[start], packet[start + 1]]
}

pub fn train(tcp: bool, ipv6: bool, count: usize, size: usize) -> Vec<Spec> {
    (0..count)
        .map(|number| Spec {
            ipv6,
            tcp,
            port: 4000,
            traffic_class: 0,
            sequence: (u32::MAX - 6000).wrapping_add(u32::try_from(number * size).unwrap()),
            flags: ACK,
            timestamp: Some(9),
            payload: vec![number as u8; size],
        })
        .collect()
}

pub fn build(specs: &[Spec]) -> Vec<Vec<u8>> {
    specs.iter().map(Spec::build).collect()
}
