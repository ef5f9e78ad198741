//! Splitting, merging and trains.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};

use ginnel_dataplane::offload::{
    GSO_NONE, GSO_TCP4, GSO_TCP6, GSO_UDP, HEADER_SIZE, Merger, NEEDS_CHECKSUM, Trains,
    VirtioHeader, Written, split,
};
use ginnel_dataplane::{Cut, Frame, Frames, Packet, Path, Transmit};

use crate::input::{Input, block, packet};

const MAX_PACKETS: usize = 200; // a batch of the threads and its last train

fn frames() -> Frames {
    let mut frames = Frames::new();
    frames.begin(1420);
    assert!(frames.make_room());
    frames
}

/// Splits what a TUN could hand out; the input is a virtio header and a packet.
pub fn split_one(data: &[u8]) {
    let Some((head, rest)) = data.split_first_chunk::<HEADER_SIZE>() else {
        return;
    };
    let header = VirtioHeader::decode(head);
    assert_eq!(header.encode(), *head);
    let mut bytes = rest.to_vec();
    let mut parts: Vec<Frame> = Vec::new();
    if split(header, &mut bytes, &mut frames(), |part| parts.push(part)).is_err() {
        assert!(parts.is_empty());
        return;
    }
    assert!(!parts.is_empty());
    if header.gso_type == GSO_NONE {
        assert_eq!(parts[0].len(), rest.len());
        return;
    }
    let headers = rest
        .len()
        .saturating_sub(parts.iter().map(|part| part.len()).sum::<usize>());
    if parts.len() == 1 {
        assert_eq!(headers, 0);
    }
    for part in &parts {
        assert!(part.len() <= usize::from(u16::MAX));
        // Lengths of the IP header are those of the part.
        let length = |at: usize| usize::from(u16::from_be_bytes([part[at], part[at + 1]]));
        match part[0] >> 4 {
            4 => assert_eq!(length(2), part.len()),
            _ => assert_eq!(length(4) + 40, part.len()),
        }
    }
}

/// Trains of each kind, and packets alone.
pub fn split_seeds() -> Vec<Vec<u8>> {
    let seed = |gso_type, flags, ipv6, tcp: Option<u32>| {
        let header = VirtioHeader {
            flags,
            gso_type,
            header_length: 0,
            gso_size: 400,
            checksum_start: if ipv6 { 40 } else { 20 },
            checksum_offset: if tcp.is_some() { 16 } else { 6 },
        };
        let mut bytes = header.encode().to_vec();
        bytes.extend(packet(ipv6, tcp, &[8; 1300]));
        bytes
    };
    vec![
        seed(GSO_TCP4, NEEDS_CHECKSUM, false, Some(1)),
        seed(GSO_TCP6, NEEDS_CHECKSUM, true, Some(1)),
        seed(GSO_UDP, NEEDS_CHECKSUM, false, None),
        seed(GSO_UDP, NEEDS_CHECKSUM, true, None),
        seed(GSO_NONE, NEEDS_CHECKSUM, true, Some(4)),
        seed(GSO_NONE, 0, false, None),
    ]
}

/// Merges a batch as it comes from peers; what is split again has every byte in the order it had.
pub fn merge_all(data: &[u8]) {
    let mut input = Input(data);
    let kind = input.byte();
    let mut batch = Vec::new();
    while !input.is_empty() && batch.len() < MAX_PACKETS {
        batch.push(input.block().to_vec());
    }
    check_merge(kind, &batch);
}

/// Merges streams of TCP whose packets an input of two bytes each describes, so that groups grow as
/// large as they can: sizes, flows, gaps and pushes.
pub fn streams(data: &[u8]) {
    merge_streams(data);
}

fn merge_streams(data: &[u8]) -> usize {
    let mut input = Input(data);
    let kind = input.byte();
    let (mut sequences, mut batch) = ([0u32; 2], Vec::new());
    while !input.is_empty() && batch.len() < MAX_PACKETS {
        let (quirks, size) = (input.byte(), usize::from(input.byte()) * 6);
        let flow = usize::from(quirks & 1);
        let gap = if quirks & 0x70 == 0x70 { 1 } else { 0 };
        let sequence = sequences[flow] + gap;
        sequences[flow] = sequence + size as u32;
        // By its place in the stream, so that none can take another's.
        let byte = |at: u32| (at.wrapping_mul(0x9E37_79B1) >> 24) as u8 ^ flow as u8;
        let payload: Vec<u8> = (sequence..sequence + size as u32).map(byte).collect();
        let mut one = packet(flow == 1, Some(sequence), &payload);
        if quirks & 0x0E == 0x0E {
            push(&mut one, flow == 1);
        }
        batch.push(one);
    }
    check_merge(kind, &batch)
}

/// Sets TCP's push and keeps the checksum right.
fn push(packet: &mut [u8], ipv6: bool) {
    let tcp = &mut packet[if ipv6 { 40 } else { 20 }..];
    tcp[13] |= 8;
    let before = !u16::from_be_bytes([tcp[16], tcp[17]]);
    let (sum, carries) = before.overflowing_add(8);
    tcp[16..18].copy_from_slice(&(!(sum + u16::from(carries))).to_be_bytes());
}

/// Streams of full packets, one alone and two mixed, with ends and gaps.
pub fn streams_seeds() -> Vec<Vec<u8>> {
    let full = [0, 227];
    vec![
        [&[2][..], &full.repeat(130)].concat(),
        [&[6][..], &full.repeat(130)].concat(),
        [&[2][..], &[0, 227, 1, 227].repeat(90)].concat(),
        [
            &[3][..],
            &[&full.repeat(60)[..], &[0x0E, 40, 0x70, 227]]
                .concat()
                .repeat(2),
        ]
        .concat(),
    ]
}

/// Merges a batch and splits it again; returns the bytes of the largest packet that was made.
fn check_merge(kind: u8, batch: &[Vec<u8>]) -> usize {
    let (merges_udp, is_big, refuses_big) = (kind & 1 == 1, kind & 2 == 2, kind & 4 == 4);
    let mut owned: Vec<Packet> = batch.iter().map(|p| Packet::copy_from(&p[..])).collect();
    let (mut again, mut members, mut largest) = (Vec::new(), 0, 0);
    let big_for = if is_big {
        batch
            .iter()
            .filter_map(|packet| destination(packet))
            .collect()
    } else {
        Vec::new()
    };
    Merger::new(merges_udp, big_for).merge(&mut owned, |parts, count| {
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let Some((head, whole)) = bytes.split_first_chunk::<HEADER_SIZE>() else {
            panic!("no virtio header");
        };
        if refuses_big && whole.len() > usize::from(u16::MAX) {
            return Written::TooBig;
        }
        largest = largest.max(whole.len());
        let mut whole = whole.to_vec();
        let before = again.len();
        let header = VirtioHeader::decode(head);
        let result = split(header, &mut whole, &mut frames(), |part| {
            again.push(part.to_vec())
        });
        assert!(result.is_ok());
        assert_eq!(again.len() - before, count);
        members += count;
        Written::Done
    });
    assert_eq!(members, batch.len());
    // Flows may change places with each other; each keeps its own order.
    let by_flow = |packets: &[Vec<u8>]| {
        let mut flows: HashMap<Vec<u8>, Vec<Vec<u8>>> = HashMap::new();
        for packet in packets {
            flows
                .entry(flow(packet))
                .or_default()
                .push(without_id(packet, is_big));
        }
        flows
    };
    let (before, after) = (by_flow(batch), by_flow(&again));
    for (flow, packets) in &before {
        assert_eq!(Some(packets), after.get(flow), "flow {flow:02x?}");
    }
    assert_eq!(before.len(), after.len());
    largest
}

/// What names a flow: protocol, addresses, ports; what has none, or no whole header, is its own.
fn flow(packet: &[u8]) -> Vec<u8> {
    let (start, key) = match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= 20 => {
            let start = usize::from(packet[0] & 0x0F) * 4;
            (start, [&packet[9..10], &packet[12..20]].concat())
        }
        Some(6) if packet.len() >= 40 => (40, [&packet[6..7], &packet[8..40]].concat()),
        _ => return packet.to_vec(),
    };
    // TCP whose header is not whole: no host takes it, so nothing can overtake it.
    let tcp_header = packet
        .get(start + 12)
        .map(|byte| usize::from(byte >> 4) * 4);
    let is_tcp = key.first() == Some(&6);
    if is_tcp && tcp_header.is_none_or(|length| length < 20 || start + length > packet.len()) {
        return packet.to_vec();
    }
    match packet.get(start..start + 4) {
        Some(ports) => [&packet[..1], &key, ports].concat(),
        None => packet.to_vec(),
    }
}

fn destination(packet: &[u8]) -> Option<Ipv4Addr> {
    let address: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    (packet[0] >> 4 == 4).then_some(address.into())
}

/// The packet without IPv4's identification and header checksum, which a merge makes anew; without
/// TCP's push, too, and so its checksum, which a big one keeps for its end.
fn without_id(packet: &[u8], is_big: bool) -> Vec<u8> {
    let mut bytes = packet.to_vec();
    if bytes.first().is_some_and(|first| first >> 4 == 4) && bytes.len() >= 20 {
        bytes[4..6].fill(0);
        bytes[10..12].fill(0);
        let start = usize::from(bytes[0] & 0x0F) * 4;
        if is_big && bytes[9] == 6 && bytes.len() >= start + 20 {
            bytes[start + 13] &= !8;
            bytes[start + 16..start + 18].fill(0);
        }
    }
    bytes
}

/// Flows that merge, one after the other and mixed.
pub fn merge_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for ipv6 in [false, true] {
        for tcp in [false, true] {
            let mut seed = vec![1 | u8::from(tcp) << 1];
            for number in 0u32..4 {
                seed.extend(block(&packet(
                    ipv6,
                    tcp.then_some(number * 100),
                    &[number as u8; 100],
                )));
                seed.extend(block(&packet(!ipv6, None, &[5; 20])));
            }
            seeds.push(seed);
        }
    }
    seeds
}

/// Plans the sends of a batch: datagrams of two bytes each, length and destination.
pub fn trains(data: &[u8]) {
    let mut input = Input(data);
    let mut transmits = Vec::new();
    while !input.is_empty() && transmits.len() < MAX_PACKETS {
        let (size, place) = (usize::from(input.byte()) * 17, input.byte());
        transmits.push(Transmit {
            data: Packet::copy_from(&vec![0; size][..]),
            path: Path {
                channel: (place & 1 == 1).then_some(0x4000),
                ..Path::plain(SocketAddr::from(([192, 0, 2, place & 0x3F], 7)), None)
            },
            cut: if place & 0xC0 == 0xC0 {
                Cut::Never
            } else {
                Cut::AsNeeded
            },
            ecn: place >> 1 & 3,
        });
    }
    let mut plan = Trains::default();
    let mut seen: HashMap<SocketAddr, usize> = HashMap::new();
    let mut count = 0;
    for members in plan.plan(&transmits, false) {
        let first = &transmits[members[0]];
        let (last, rest) = (members.len() - 1, &members[1..]);
        assert!(members.len() <= 64);
        assert!(rest.is_empty() || first.cut == Cut::AsNeeded);
        for (place, number) in members.iter().enumerate() {
            let transmit = &transmits[*number];
            assert_eq!((transmit.path, transmit.ecn), (first.path, first.ecn));
            let size = transmit.data.len();
            assert!(place == last || size == first.data.len());
            assert!(size <= first.data.len());
            let before = seen.insert(transmit.path.remote, *number);
            assert!(before.is_none_or(|before| before < *number));
            count += 1;
        }
    }
    assert_eq!(count, transmits.len());
}

/// One place, several, and probes between.
pub fn trains_seeds() -> Vec<Vec<u8>> {
    vec![
        [80, 1].repeat(70),
        [80, 1, 80, 2, 40, 1].repeat(20),
        [80, 1, 80, 0xC1, 80, 1].repeat(9),
        [0, 1, 255, 1].repeat(90),
    ]
}

#[cfg(test)]
mod tests {
    use super::{merge_streams, streams_seeds};

    /// What the seeds are for: packets beyond 64 KiB, but where the kernel refuses those.
    #[test]
    fn streams_grow_large() {
        let largest: Vec<usize> = streams_seeds()
            .iter()
            .map(|seed| merge_streams(seed))
            .collect();
        assert!(largest[0] > 65_536, "{largest:?}");
        assert!((60_000..=65_535).contains(&largest[1]), "{largest:?}");
    }
}
