//! Packets of more than 64 KiB, which only this host itself ever sees.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "common/host_packets.rs"]
mod host_packets;

use std::net::Ipv4Addr;

use ginnel_dataplane::offload::{GSO_TCP4, Merger, internet_checksum};
use host_packets::{
    ACK, PSH, build, merge_big, merge_with, slow_sum, split_all, train, transport_checksum,
};

/// Packets to this host itself: what is pushed goes on, and 64 KiB are no limit.
#[test]
fn a_flow_to_this_host_becomes_one_big_packet() {
    let mut specs = train(true, false, 150, 1368);
    specs[0].flags |= PSH;
    specs[70].flags |= PSH;
    let packets = build(&specs);
    let here = Ipv4Addr::from([100, 64, 0, 2]);
    let merged = merge_big(&packets, true, vec![here]);
    let [(header, packet, 150)] = merged.as_slice() else {
        panic!("{} packets", merged.len());
    };
    assert_eq!((header.gso_type, header.gso_size), (GSO_TCP4, 1368));
    let total = 52 + 150 * 1368; // headers with a timestamp
    assert_eq!(packet.len(), total);
    assert_eq!(packet[2..4], [0, 0]); // as Linux marks what is larger than the field
    assert_eq!(internet_checksum(&packet[..20], 0), 0);
    let mut pseudo = packet[12..20].to_vec();
    pseudo.extend([0, 6, 0, 0]);
    pseudo.extend(u32::try_from(total - 20).unwrap().to_be_bytes());
    assert_eq!(packet[36..38], slow_sum(&pseudo).to_be_bytes());
    assert_eq!(packet[33], ACK | PSH); // the first's own
    let again = split_all(&merged);
    assert_eq!(again.len(), 150);
    for (number, (part, whole)) in again.iter().zip(&packets).enumerate() {
        assert_eq!(part[52..], whole[52..], "{number}");
        assert_eq!(transport_checksum(part), 0);
    }
    let elsewhere = Ipv4Addr::from([100, 64, 0, 3]);
    let merged = merge_big(&packets, true, vec![elsewhere]);
    assert!(merged.len() > 3);
    assert!(merged.iter().all(|(_, packet, _)| packet.len() <= 65_535));
    let mut merger = Merger::new(true, vec![here]);
    merger.make_none_big(); // a kernel that refuses one
    assert!(merge_with(&mut merger, &packets, usize::MAX).len() > 3);
    let ipv6 = build(&train(true, true, 150, 1368));
    let merged = merge_big(&ipv6, true, vec![here]);
    assert!(merged.iter().all(|(_, packet, _)| packet.len() <= 65_535));
}

#[test]
fn a_big_packet_has_limits() {
    let here = vec![Ipv4Addr::from([100, 64, 0, 2])];
    let merged = merge_big(&build(&train(true, false, 220, 1368)), true, here.clone());
    assert_eq!(merged.len(), 2);
    assert!(
        merged
            .iter()
            .all(|(_, packet, _)| packet.len() <= 4 * 65_535)
    );
    let merged = merge_big(&build(&train(true, false, 1100, 10)), true, here);
    let counts: Vec<usize> = merged.iter().map(|(_, _, count)| *count).collect();
    assert_eq!(counts, [1023, 77]); // what a writev takes
}

/// A kernel that has no memory for one, say: nothing is lost, and the next one is tried again.
#[test]
fn a_big_packet_that_is_refused_goes_in_smaller_ones() {
    let mut specs = train(true, false, 150, 1368);
    specs[149].flags |= PSH;
    let packets = build(&specs);
    let mut merger = Merger::new(true, vec![Ipv4Addr::from([100, 64, 0, 2])]);
    let plain = merge_with(&mut Merger::new(true, Vec::new()), &packets, usize::MAX);
    for _ in 0..2 {
        assert_eq!(merge_with(&mut merger, &packets, 65_535), plain);
    }
    assert_eq!(merge_with(&mut merger, &packets, usize::MAX).len(), 1);
}
