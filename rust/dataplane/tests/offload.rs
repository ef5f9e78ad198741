//! Splitting and merging against a simple model: what goes in comes out again, in order.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "common/host_packets.rs"]
mod host_packets;

use ginnel_dataplane::offload::{
    GSO_NONE, GSO_TCP4, GSO_TCP6, GSO_UDP, HEADER_SIZE, Malformed, NEEDS_CHECKSUM, VirtioHeader,
    internet_checksum, pseudo_header_sum, split,
};
use host_packets::{
    ACK, CWR, FIN, PSH, Spec, build, flow, flow_key, frames, merge, slow_sum, split_all, train,
    transport_checksum,
};
use proptest::collection::vec;
use proptest::prelude::*;

prop_compose! {
    /// Mostly continuing segments of a few flows, with surprises.
    fn batches()(steps in vec((0u16..3, any::<[bool; 2]>(), 0u8..40, 0usize..4, any::<u8>()), 1..80))
        -> Vec<Vec<u8>>
    {
        let mut next = std::collections::HashMap::new();
        let mut packets = Vec::new();
        for (port, [ipv6, tcp], surprise, size, byte) in steps {
            let sequence = next.entry((port, ipv6)).or_insert(u32::MAX - 2000);
            let spec = Spec {
                ipv6,
                tcp,
                port,
                traffic_class: if surprise == 1 { 3 } else { 0 },
                sequence: if surprise == 2 { sequence.wrapping_add(1) } else { *sequence },
                flags: match surprise { 3 => ACK | PSH, 4 => ACK | FIN, 5 => ACK | CWR, _ => ACK },
                timestamp: (surprise != 6).then_some(if surprise == 7 { 2 } else { 1 }),
                payload: vec![byte; [0, 1368, 1368, 500][size]],
            };
            if tcp {
                *sequence = spec.sequence.wrapping_add(spec.payload.len() as u32);
            }
            let mut packet = spec.build();
            if surprise == 8 && let Some(last) = packet.last_mut() {
                *last ^= 0x55;
            }
            packets.push(packet);
        }
        packets
    }
}

proptest! {
    #[test]
    fn checksum_is_the_slow_one(bytes in vec(any::<u8>(), 0..3000), before in any::<u16>()) {
        let mut with = before.to_be_bytes().to_vec();
        with.extend(&bytes);
        prop_assert_eq!(internet_checksum(&bytes, before), !slow_sum(&with));
    }

    #[test]
    fn merged_and_split_again_is_the_same(packets in batches(), udp in any::<bool>()) {
        let merged = merge(&packets, udp);
        prop_assert_eq!(merged.iter().map(|(_, _, count)| count).sum::<usize>(), packets.len());
        for (header, packet, count) in &merged {
            prop_assert!(packet.len() <= 65_535);
            prop_assert_eq!(*count > 1, header.gso_type != GSO_NONE);
            prop_assert!(udp || header.gso_type != GSO_UDP);
        }
        let again = split_all(&merged);
        for packet in &packets {
            let key = flow_key(packet);
            prop_assert_eq!(flow(&again, &key), flow(&packets, &key));
        }
    }

    #[test]
    fn split_parts_have_right_checksums(
        ipv6 in any::<bool>(), tcp in any::<bool>(), size in 1usize..9000, id in any::<u16>(),
        flags in any::<u8>(), payload in vec(any::<u8>(), 0..20_000),
    ) {
        let spec = Spec { payload: payload.clone(), flags, ..train(tcp, ipv6, 1, 0)[0].clone() };
        let mut packet = spec.build();
        if !ipv6 {
            packet[4..6].copy_from_slice(&id.to_be_bytes());
        }
        let header = VirtioHeader {
            flags: NEEDS_CHECKSUM,
            gso_type: match (tcp, ipv6) { (true, false) => GSO_TCP4, (true, true) => GSO_TCP6, _ => GSO_UDP },
            gso_size: size as u16,
            ..VirtioHeader::default()
        };
        let mut parts = Vec::new();
        split(header, &mut packet, &mut frames(), |part| parts.push(part.to_vec())).unwrap();
        let headers = spec.build().len() - payload.len();
        let mut joined = Vec::<u8>::new();
        for (number, part) in parts.iter().enumerate() {
            let last = number + 1 == parts.len();
            prop_assert_eq!(part.len() == headers + size || last, true);
            prop_assert!([0, 0xFFFF].contains(&transport_checksum(part)));
            let ip = if ipv6 { 40 } else { 20 };
            if ipv6 {
                prop_assert_eq!(usize::from(u16::from_be_bytes([part[4], part[5]])), part.len() - 40);
            } else {
                prop_assert_eq!(internet_checksum(&part[..20], 0), 0);
                prop_assert_eq!(usize::from(u16::from_be_bytes([part[2], part[3]])), part.len());
                prop_assert_eq!(u16::from_be_bytes([part[4], part[5]]), id.wrapping_add(number as u16));
            }
            if tcp {
                let found = u32::from_be_bytes(part[ip + 4..ip + 8].try_into().unwrap());
                prop_assert_eq!(found, spec.sequence.wrapping_add(joined.len() as u32));
                let mut wanted = flags;
                if !last { wanted &= !(FIN | PSH); }
                if number > 0 { wanted &= !CWR; }
                prop_assert_eq!(part[ip + 13], wanted);
            } else {
                prop_assert_eq!(usize::from(u16::from_be_bytes([part[ip + 4], part[ip + 5]])), part.len() - ip);
                prop_assert_ne!(&part[ip + 6..ip + 8], &[0, 0]);
            }
            joined.extend(&part[headers..]);
        }
        prop_assert_eq!(joined, payload);
    }

    #[test]
    fn nothing_panics(bytes in vec(any::<u8>(), 0..200), header in any::<[u8; HEADER_SIZE]>(), first in any::<u8>()) {
        let mut bytes = bytes;
        let _ = split(VirtioHeader::decode(&header), &mut bytes, &mut frames(), drop);
        if let Some(byte) = bytes.first_mut() {
            *byte = if first & 1 == 0 { 0x45 } else { 0x60 };
        }
        if bytes.len() > 9 {
            bytes[if first & 1 == 0 { 9 } else { 6 }] = if first & 2 == 0 { 6 } else { 17 };
        }
        let mut kind = header;
        kind[1] = [GSO_NONE, GSO_TCP4, GSO_TCP6, GSO_UDP][usize::from(first >> 6)];
        let _ = split(VirtioHeader::decode(&kind), &mut bytes.clone(), &mut frames(), drop);
        let _ = merge(&[bytes.clone(), bytes], true);
    }
}

#[test]
fn a_train_becomes_one_packet() {
    for (tcp, ipv6, kind) in [
        (true, false, GSO_TCP4),
        (true, true, GSO_TCP6),
        (false, false, GSO_UDP),
        (false, true, GSO_UDP),
    ] {
        let mut specs = train(tcp, ipv6, 40, 1300);
        specs[39].payload.truncate(17);
        specs[39].flags |= PSH;
        let packets = build(&specs);
        let merged = merge(&packets, true);
        let [(header, packet, 40)] = merged.as_slice() else {
            panic!("{} packets", merged.len());
        };
        assert_eq!((header.gso_type, header.gso_size), (kind, 1300));
        assert_eq!(header.flags, NEEDS_CHECKSUM);
        let start = usize::from(header.checksum_start);
        let at = start + usize::from(header.checksum_offset);
        let (addresses, protocol) = if ipv6 {
            (&packet[8..40], packet[6])
        } else {
            (&packet[12..20], packet[9])
        };
        let pseudo = pseudo_header_sum(addresses, protocol, (packet.len() - start) as u16);
        assert_eq!(packet[at..at + 2], pseudo.to_be_bytes());
        assert_eq!(tcp, tcp && packet[start + 13] == ACK | PSH);
    }
}

#[test]
fn a_wrong_checksum_is_left_alone() {
    for broken in [0, 1] {
        let mut packets = build(&train(true, false, 2, 1000));
        packets[broken][100] ^= 1;
        let merged = merge(&packets, true);
        assert_eq!(merged.len(), 2);
        assert_eq!(split_all(&merged), packets);
    }
}

#[test]
fn a_datagram_without_checksum_stays_so() {
    let mut packets = build(&train(false, false, 2, 1000));
    for packet in &mut packets {
        packet[26..28].fill(0);
    }
    assert_eq!(split_all(&merge(&packets, true)), packets);
}

#[test]
fn nothing_overtakes_a_packet_of_its_flow_that_stays_alone() {
    let mut packets = build(&train(false, false, 3, 100));
    packets[1][26..28].fill(0); // no checksum
    let merged = merge(&packets, true);
    let found: Vec<_> = split_all(&merged);
    assert_eq!(merged.len(), 3);
    assert!(found.iter().zip(&packets).all(|(a, b)| a[20..] == b[20..]));
}

/// The packet as a fragment that does not show its ports.
fn later_fragment(packet: &[u8]) -> Vec<u8> {
    let mut fragment = packet.to_vec();
    if packet[0] >> 4 == 6 {
        fragment.splice(40..40, [packet[6], 0, 0, 8, 0, 0, 0, 1]);
        fragment[6] = 44;
    } else {
        fragment[6..8].copy_from_slice(&[0, 1]);
    }
    fragment
}

#[test]
fn nothing_overtakes_a_fragment_of_its_hosts() {
    for (tcp, ipv6) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut packets = build(&train(tcp, ipv6, 4, 100));
        packets[2] = later_fragment(&packets[1]);
        let mut other = train(tcp, ipv6, 4, 100).remove(3);
        other.sequence = other.sequence.wrapping_sub(100);
        packets[3] = other.build(); // right behind the second, were there no fragment
        let merged = merge(&packets, true);
        let counts: Vec<_> = merged.iter().map(|(_, _, count)| *count).collect();
        assert_eq!(counts, [2, 1, 1], "tcp {tcp}, ipv6 {ipv6}");
        assert_eq!(merged[1].1, packets[2]);
    }
}

#[test]
fn icmp_between_its_hosts_ends_no_train() {
    for ipv6 in [false, true] {
        let mut packets = build(&train(true, ipv6, 3, 100));
        let mut icmp = packets[1].clone();
        icmp[if ipv6 { 6 } else { 9 }] = if ipv6 { 58 } else { 1 };
        packets.insert(1, icmp);
        assert_eq!(merge(&packets, true).len(), 2);
    }
}

/// The packet with the longest IPv4 options there are, all of them "no operation".
fn with_options(packet: &[u8]) -> Vec<u8> {
    let mut header = packet[..20].to_vec();
    header.extend([1; 40]);
    header[0] = 0x4F;
    let length = u16::try_from(packet.len() + 40).unwrap();
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[10..12].fill(0);
    let checksum = internet_checksum(&header, 0);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    [header.as_slice(), &packet[20..]].concat()
}

#[test]
fn ip_options_end_a_train_of_any_length() {
    for tcp in [false, true] {
        // The first has fewer bytes than the options and ports of the second.
        let mut packets = build(&train(tcp, false, 3, 10));
        packets[1] = with_options(&packets[1]);
        let merged = merge(&packets, true);
        let transport = |packet: &Vec<u8>| packet[usize::from(packet[0] & 0xF) * 4..].to_vec();
        let found: Vec<_> = split_all(&merged).iter().map(transport).collect();
        let sent: Vec<_> = packets.iter().map(transport).collect();
        assert_eq!((merged.len(), found), (3, sent));
    }
}

#[test]
fn udp_waits_for_a_kernel_that_splits_it() {
    assert_eq!(merge(&build(&train(false, false, 5, 1000)), false).len(), 5);
}

#[test]
fn a_large_train_stays_below_the_limits() {
    let merged = merge(&build(&train(false, true, 200, 20)), true);
    assert!(merged.iter().all(|(_, _, count)| *count <= 64));
    let merged = merge(&build(&train(true, true, 100, 1400)), true);
    assert!(merged.iter().all(|(_, packet, _)| packet.len() <= 65_535));
    assert!(merged.len() <= 3);
}

#[test]
fn checksum_left_to_us_is_completed() {
    let spec = &train(true, false, 1, 333)[0];
    let whole = spec.build();
    let mut packet = whole.clone();
    let pseudo = pseudo_header_sum(&packet[12..20], 6, (packet.len() - 20) as u16);
    packet[36..38].copy_from_slice(&pseudo.to_be_bytes());
    let mut header = VirtioHeader {
        flags: NEEDS_CHECKSUM,
        checksum_start: 20,
        checksum_offset: 16,
        ..VirtioHeader::default()
    };
    split(header, &mut packet, &mut frames(), |part| {
        assert_eq!(part.to_vec(), whole)
    })
    .unwrap();
    header.checksum_start = 2000;
    assert_eq!(
        split(header, &mut packet, &mut frames(), drop),
        Err(Malformed)
    );
}

#[test]
fn headers_that_do_not_fit_are_refused() {
    let packet = train(true, false, 1, 333)[0].build();
    for (gso_type, gso_size) in [(GSO_TCP6, 100), (GSO_UDP, 100), (GSO_TCP4, 0), (77, 100)] {
        let header = VirtioHeader {
            gso_type,
            gso_size,
            ..VirtioHeader::default()
        };
        assert_eq!(
            split(header, &mut packet.clone(), &mut frames(), drop),
            Err(Malformed)
        );
    }
}

#[test]
fn header_survives() {
    let header = VirtioHeader {
        flags: 1,
        gso_type: 5,
        header_length: 40,
        gso_size: 1368,
        checksum_start: 20,
        checksum_offset: 16,
    };
    assert_eq!(VirtioHeader::decode(&header.encode()), header);
}
