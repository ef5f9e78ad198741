//! What waits for a handshake: its bounds and its order.

mod common;

use common::{Node, carry, ipv4_udp};
use ginnel_dataplane::{Counter, PeerConfig};

#[test]
fn packets_wait_for_an_endpoint_within_bounds() {
    let (mut left, mut right) = (Node::new(1), Node::new(2));
    left.set(PeerConfig {
        endpoint: None,
        ..right.peer_config()
    });
    right.set(left.peer_config());
    for number in 0..40 {
        let packet = ipv4_udp(left.overlay, right.overlay, 80, &[number]);
        assert!(left.read_tun(&packet).is_empty());
    }
    assert_eq!(left.count(Counter::DropStaged), 8);
    left.set(right.peer_config());
    let first = left.start_handshake(right.key());
    carry(&mut left, &mut right, first);
    assert!(left.told_staged); // so that who sends lets nothing overtake them
    let numbers: Vec<u8> = right.inner.iter().map(|packet| packet[28]).collect();
    assert_eq!(numbers, (8..40).collect::<Vec<u8>>()); // the newest, in order
}

#[test]
fn what_waits_is_not_overtaken_when_both_begin_a_handshake() {
    let (mut left, mut right) = (Node::new(1), Node::new(2));
    left.set(right.peer_config());
    right.set(left.peer_config());
    let packet = |number| {
        ipv4_udp(
            [100, 64, 0, 1].into(),
            [100, 64, 0, 2].into(),
            80,
            &[number],
        )
    };
    let answer = ipv4_udp(right.overlay, left.overlay, 80, b"");
    let ours = left.read_tun(&packet(0));
    let theirs = right.read_tun(&answer);
    let mut for_right = ours;
    for transmit in theirs {
        for_right.extend(left.receive(&transmit.data, right.address));
    }
    for number in 1..4 {
        for_right.extend(left.read_tun(&packet(number)));
    }
    carry(&mut left, &mut right, for_right);
    let numbers: Vec<u8> = right.inner.iter().map(|packet| packet[28]).collect();
    assert_eq!(numbers, [0, 1, 2, 3]);
}
