//! Bytes that nobody meant: random, mutated, and mutated inside valid encryption.

mod common;

use std::net::SocketAddr;

use common::raw_peer::RawPeer;
use common::{MTU, Node, carry, connected, ipv4_udp, pair};
use ginnel_dataplane::demux::classify;
use ginnel_dataplane::inner;
use proptest::collection::vec;
use proptest::prelude::*;

fn elsewhere() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 5], 7))
}

/// One message of each kind, to `right`, with the state in which it would be taken.
fn genuine(kind: usize) -> (Node, Node, Vec<u8>) {
    match kind {
        0 => {
            let (mut left, right) = pair();
            let init = left.start_handshake(right.key())[0].data.to_vec();
            (left, right, init)
        }
        1 => {
            let (mut left, mut right) = pair();
            let init = right.start_handshake(left.key());
            let response = left.receive(&init[0].data, right.address)[0].data.to_vec();
            (left, right, response)
        }
        _ => {
            let (mut left, right) = connected();
            let packet = ipv4_udp(left.overlay, right.overlay, 80, &[9; 99]);
            let data = left.read_tun(&packet)[0].data.to_vec();
            (left, right, data)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_datagrams(head in 0u8..6, sizes in 0usize..4, tail in vec(any::<u8>(), 0..200)) {
        let mut data = vec![head, 0, 0, 0];
        data.extend(tail);
        data.resize([148, 92, 64, data.len()][sizes], 0x5A);
        let (_, mut right) = connected();
        right.events.clear();
        right.receive(&data, elsewhere());
        prop_assert!(right.events.is_empty());
        prop_assert!(right.inner.is_empty());
    }

    #[test]
    fn mutated_messages(
        kind in 0usize..3,
        at in any::<prop::sample::Index>(),
        flip in 1u8..,
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let (_, mut right, mut data) = genuine(kind);
        right.events.clear();
        // The second MAC of handshakes is read under load only.
        let checked = if kind == 2 { data.len() } else { data.len() - 16 };
        data[at.index(checked)] ^= flip;
        if let Some(cut) = cut {
            data.truncate(cut.index(data.len()));
        }
        let answers = right.receive(&data, elsewhere());
        prop_assert!(answers.is_empty());
        prop_assert!(right.events.is_empty());
        prop_assert!(right.inner.is_empty());
    }

    #[test]
    fn any_bytes_inside_valid_encryption(
        packets in vec(vec(any::<u8>(), 0..120), 1..8),
        version in prop::option::of(prop::sample::select(vec![0x45u8, 0x46, 0x4F, 0x60])),
    ) {
        let mut peer = RawPeer::connect();
        for mut packet in packets {
            if let (Some(version), Some(first)) = (version, packet.first_mut()) {
                *first = version;
            }
            peer.send(&packet);
        }
        // Nothing random has the peer's own address as its source.
        prop_assert!(peer.node.inner.is_empty());
    }

    #[test]
    fn mutated_packets_inside_valid_encryption(at in 0usize..12, value in any::<u8>()) {
        let mut peer = RawPeer::connect();
        let destination = [100, 64, 0, 9].into();
        let mut packet = ipv4_udp([100, 64, 0, 7].into(), destination, 80, &[1; 30]);
        packet[at] = value;
        peer.send(&packet);
        for delivered in &peer.node.inner {
            prop_assert!(delivered.len() <= packet.len());
            prop_assert_eq!(inner::parse(delivered).map(|parsed| parsed.length), Some(delivered.len()));
        }
    }

    #[test]
    fn readers_take_any_bytes(data in vec(any::<u8>(), 0..300)) {
        inner::parse(&data);
        classify(&data, |_| true);
        let mut node = Node::new(1);
        prop_assert!(node.read_tun(&data).is_empty());
    }
}

#[test]
fn a_genuine_message_of_each_kind_is_taken() {
    for kind in 0..3 {
        let (mut left, mut right, data) = genuine(kind);
        let answers = right.receive(&data, left.address);
        carry(&mut right, &mut left, answers);
        assert!(right.handshakes() == 1, "kind {kind}");
        assert!(usize::from(MTU) > data.len());
    }
}
