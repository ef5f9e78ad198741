//! Threads that panic: nothing hangs, and whoever waits for the engine learns of it. Trains that wait.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/common/engine_node.rs"]
mod engine_node;

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::Duration;

use engine_node::EngineNode;

use super::udp::Sockets;
use super::{Shared, lock};
use crate::offload::Trains;
use crate::{Counter, Counters, Cut, Packet, Path, Transmit};

fn panics(_: &Shared) {
    panic!("injected by a test");
}

fn panics_with_everything_held(shared: &Shared) {
    let _held = (
        lock(&shared.machine),
        lock(&shared.inbox),
        lock(&shared.channels),
    );
    panic!("injected by a test");
}

#[test]
fn a_panic_is_told_by_the_descriptor_for_good_and_the_end_does_not_hang() {
    for work in [panics as fn(&Shared), panics_with_everything_held] {
        let mut node = EngineNode::start(1);
        assert!(!node.engine.has_failed());
        assert!(!node.waits(0));
        node.engine.spawn("wg-broken", work).unwrap();
        node.wait();
        assert!(node.engine.has_failed());
        // Taking what there is does not end the report.
        assert!(node.engine.receive(64).is_empty());
        assert_eq!(node.engine.poll_event(), None);
        assert!(node.waits(0));
        assert_eq!(node.engine.peer_count(), 0);
        node.engine.close();
        assert!(node.engine.has_failed());
    }
}

#[test]
fn a_thread_that_ends_by_itself_is_no_failure() {
    let mut engine = EngineNode::start(1).engine;
    engine.spawn("wg-done", |_| {}).unwrap();
    engine.close();
    assert!(!engine.has_failed());
}

#[test]
fn a_train_that_waits_for_more_leaves_with_them_in_order() {
    let [own, other] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    other
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let path = Path::plain(other.local_addr().unwrap(), None);
    let datagram = |number: u8| Transmit {
        data: Packet::copy_from(&[number; 1000][..]),
        path,
        cut: Cut::AsNeeded,
        ecn: 0,
    };
    let sockets = Sockets::new(Some(own.as_fd()), None).unwrap();
    let (mut trains, counters) = (Trains::default(), Counters::new());
    let mut transmits: Vec<Transmit> = (0..70).map(datagram).collect();
    sockets.send_all(&mut transmits, true, &mut trains, &counters);
    let waiting: Vec<u8> = transmits.iter().map(|transmit| transmit.data[0]).collect();
    assert_eq!(waiting, (64..70).collect::<Vec<u8>>()); // 64 are what one send takes
    transmits.push(datagram(70));
    sockets.send_all(&mut transmits, false, &mut trains, &counters);
    assert!(transmits.is_empty());
    assert_eq!(counters.get(Counter::UdpTxPackets), 71);
    let mut buffer = [0; 1500];
    for number in 0..71 {
        assert_eq!(other.recv(&mut buffer).unwrap(), 1000);
        assert_eq!(buffer[0], number);
    }
}
