//! Bounds and turns of what waits for the application.

use std::net::SocketAddr;

use ginnel_dataplane::demux::Kind;
use ginnel_dataplane::inbox::{
    Inbox, MAX_DATAGRAM_SIZE, MAX_DATAGRAMS, MAX_EVENTS, MAX_INNER, Passed,
};
use ginnel_dataplane::{Counter, Counters, Event, Path};

fn passed(data: &[u8]) -> Passed {
    Passed {
        data: data.to_vec(),
        path: Path::plain(SocketAddr::from(([192, 0, 2, 1], 1)), None),
    }
}

#[test]
fn a_flood_of_one_kind_takes_neither_room_nor_turn_of_another() {
    let (mut inbox, counters) = (Inbox::default(), Counters::new());
    for _ in 0..MAX_DATAGRAMS + 5 {
        inbox.push_datagram(Kind::Discv5, passed(b"flood"), &counters);
    }
    inbox.push_datagram(Kind::Stun, passed(b"first"), &counters);
    inbox.push_datagram(Kind::ChannelData, passed(b"second"), &counters);
    assert_eq!(counters.get(Counter::DropDiscv5Queue), 5);
    assert_eq!(counters.get(Counter::DropStunQueue), 0);
    let taken: Vec<Vec<u8>> = (0..4)
        .filter_map(|_| inbox.pop_datagram())
        .map(|passed| passed.data)
        .collect();
    assert_eq!(taken, [&b"first"[..], b"flood", b"second", b"flood"]);
    while inbox.pop_datagram().is_some() {}
    assert!(inbox.is_empty());
}

#[test]
fn large_datagrams_are_dropped() {
    let (mut inbox, counters) = (Inbox::default(), Counters::new());
    inbox.push_datagram(Kind::Discv5, passed(&[0; MAX_DATAGRAM_SIZE]), &counters);
    inbox.push_datagram(Kind::Discv5, passed(&[0; MAX_DATAGRAM_SIZE + 1]), &counters);
    assert_eq!(counters.get(Counter::PassedDiscv5), 1);
    assert_eq!(counters.get(Counter::DropOversized), 1);
}

#[test]
fn inner_packets_do_not_push_out_changes() {
    let (mut inbox, counters) = (Inbox::default(), Counters::new());
    let inner = Event::InnerReceived {
        public_key: [1; 32],
        packet: vec![0x45],
    };
    let change = Event::EndpointRoamed {
        public_key: [1; 32],
        path: Path::plain(SocketAddr::from(([192, 0, 2, 1], 1)), None),
    };
    for _ in 0..MAX_INNER + 3 {
        inbox.push_event(inner.clone(), &counters);
    }
    for _ in 0..MAX_EVENTS + 2 {
        inbox.push_event(change.clone(), &counters);
    }
    assert_eq!(counters.get(Counter::DropInnerQueue), 3);
    assert_eq!(counters.get(Counter::DropEventQueue), 2);
    assert_eq!(inbox.pop_event(), Some(change));
    let left = std::iter::from_fn(|| inbox.pop_event()).count();
    assert_eq!(left, MAX_EVENTS - 1 + MAX_INNER);
}
