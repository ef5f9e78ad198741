//! Packets sealed in the memory that they share.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{MTU, connected, ipv4_udp};
use ginnel_dataplane::{Frame, Frames, Transmit};

const WG_OVERHEAD: usize = 32; // bytes; header and tag

/// Sends packets of these inner sizes from one batch, which was begun at another MTU than the machine's.
fn send(sizes: &[usize], placed_at: u16, mtu: u16, path_mtu: Option<u16>) -> Vec<Transmit> {
    let (mut left, mut right) = connected();
    left.machine.set_mtu(mtu);
    left.machine.set_path_mtu(&right.key(), path_mtu).unwrap();
    let mut frames = Frames::new();
    frames.begin(placed_at);
    assert!(frames.make_room());
    let packets: Vec<Vec<u8>> = (0u8..)
        .zip(sizes)
        .map(|(byte, size)| ipv4_udp(left.overlay, right.overlay, 80, &vec![byte; size - 28]))
        .collect();
    let mut batch: Vec<Frame> = packets.iter().map(|packet| frames.place(packet)).collect();
    let sent = left.run(|machine, now, out| machine.handle_inner_all(&mut batch, now, out));
    assert_eq!(sent.len(), sizes.len());
    for transmit in &sent {
        assert!(right.receive(&transmit.data, left.address).is_empty());
    }
    assert_eq!(right.inner, packets);
    let padded: usize = sent.iter().map(|one| one.data.len() - WG_OVERHEAD).sum();
    let stats = &left.machine.peer_stats(left.now)[0];
    assert_eq!(stats.tx_bytes, padded as u64);
    sent
}

#[test]
fn messages_of_a_batch_lie_one_behind_the_other() {
    let sent = send(&[1420, 1420, 1409, 28, 333, 1420], MTU, MTU, None);
    for pair in sent.windows(2) {
        assert_eq!(pair[0].data.as_ptr_range().end, pair[1].data.as_ptr());
    }
    let sizes: Vec<usize> = sent
        .iter()
        .map(|one| one.data.len() - WG_OVERHEAD)
        .collect();
    assert_eq!(sizes, [1420, 1420, 1420, 32, 336, 1420]);
}

#[test]
fn a_narrower_path_leaves_gaps_between_them() {
    let sent = send(&[1300, 1297, 1300, 1298], MTU, MTU, Some(1300));
    assert!(sent.iter().all(|one| one.data.len() == 1300 + WG_OVERHEAD));
    for pair in sent.windows(2) {
        assert!(pair[0].data.as_ptr_range().end < pair[1].data.as_ptr());
    }
}

/// Padding has the room that was left for it when the packet came, whatever the MTU is now.
#[test]
fn the_mtu_may_change_while_packets_are_on_their_way() {
    for (placed_at, mtu) in [(1420, 1500), (1500, 1420), (1420, 9000), (9000, 1280)] {
        let sent = send(&[1418, 1280, 28, 1419], placed_at, mtu, None);
        for one in sent {
            assert!(one.data.len() <= usize::from(placed_at.max(1419)) + WG_OVERHEAD);
        }
    }
}
