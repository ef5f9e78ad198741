//! TURN channels: the table, and packets of peers behind a relay on real sockets.

mod common;
#[path = "common/engine_node.rs"]
mod engine_node;

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use common::start_of_time;
use engine_node::EngineNode;
use ginnel_dataplane::channels::{
    CLOSED_LIFE, Channels, Forward, HEADER_SIZE, MAX_CHANNELS, MAX_FORWARDS, Quota, Route, header,
    parse,
};
use ginnel_dataplane::machine::CommandError;
use ginnel_dataplane::{Counter, Path};

const QUOTA: Quota = Quota {
    rate: 1000,
    burst: 2500,
};

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, last], 3478))
}

fn forward(client: SocketAddr, number: u16) -> Forward {
    Forward {
        client,
        number,
        target: in_channel(address(99), 0x4001),
        life: Duration::from_secs(300),
        quota: QUOTA,
    }
}

fn in_channel(remote: SocketAddr, number: u16) -> Path {
    Path {
        channel: Some(number),
        ..Path::plain(remote, None)
    }
}

#[test]
fn a_header_names_channel_and_length() {
    let mut data = header(0x4123, 5).to_vec();
    data.extend(b"hello\0\0\0");
    assert_eq!(data[..HEADER_SIZE], [0x41, 0x23, 0, 5]);
    assert_eq!(parse(&data), Some((0x4123, 9)));
    assert_eq!(parse(&data[..8]), None);
    assert_eq!(parse(&data[..3]), None);
}

#[test]
fn a_closed_channel_is_heard_a_little_longer() {
    let (mut channels, now) = (Channels::default(), start_of_time());
    channels.open(address(1), 0x4000, now).expect("room");
    assert_eq!(channels.route(address(1), 0x4000, 1, now), Route::Peer);
    assert_eq!(channels.route(address(2), 0x4000, 1, now), Route::Unknown);
    assert_eq!(channels.route(address(1), 0x4001, 1, now), Route::Unknown);
    channels.close(address(1), 0x4000, now);
    let soon = now + CLOSED_LIFE - Duration::from_millis(1);
    channels.close(address(1), 0x4000, soon); // the second time adds nothing
    assert_eq!(channels.route(address(1), 0x4000, 1, soon), Route::Peer);
    let late = now + CLOSED_LIFE;
    assert_eq!(channels.route(address(1), 0x4000, 1, late), Route::Unknown);
}

#[test]
fn a_forward_has_a_life_a_quota_and_two_ends() {
    let (mut channels, now) = (Channels::default(), start_of_time());
    let target = in_channel(address(99), 0x4001);
    channels
        .forward(forward(address(1), 0x4000), now)
        .expect("room");
    let route = |channels: &mut Channels, at| channels.route(address(1), 0x4000, 1000, at);
    assert_eq!(route(&mut channels, now), Route::Forward(target));
    assert_eq!(route(&mut channels, now), Route::Forward(target));
    assert_eq!(route(&mut channels, now), Route::Quota);
    // A second number of the same client has no quota of its own.
    channels
        .forward(forward(address(1), 0x4002), now)
        .expect("room");
    assert_eq!(channels.route(address(1), 0x4002, 1000, now), Route::Quota);
    let later = now + Duration::from_millis(500);
    assert_eq!(route(&mut channels, later), Route::Forward(target));
    let over = now + Duration::from_secs(300);
    assert_eq!(route(&mut channels, over), Route::Unknown);
    for end in [address(1), address(99)] {
        channels
            .forward(forward(address(1), 0x4000), now)
            .expect("room");
        channels.end_forwards(end);
        assert_eq!(route(&mut channels, later), Route::Unknown);
    }
}

#[test]
fn the_tables_are_bounded_and_what_is_over_makes_room() {
    let (mut channels, now) = (Channels::default(), start_of_time());
    let of = |number: usize| {
        let port = 1 + (number / 1024) as u16;
        let remote = SocketAddr::from(([198, 51, 100, 1], port));
        (remote, 0x4000 + (number % 1024) as u16)
    };
    for number in 0..MAX_CHANNELS {
        let (server, channel) = of(number);
        channels.open(server, channel, now).expect("room");
    }
    let more = of(MAX_CHANNELS);
    let refused = Err(CommandError::TooManyChannels);
    assert_eq!(channels.open(more.0, more.1, now), refused);
    assert_eq!(channels.open(of(0).0, of(0).1, now), Ok(()));
    channels.close(of(0).0, of(0).1, now);
    assert_eq!(channels.open(more.0, more.1, now + CLOSED_LIFE), Ok(()));
    for number in 0..MAX_FORWARDS {
        let (client, channel) = of(number);
        channels
            .forward(forward(client, channel), now)
            .expect("room");
    }
    let more = of(MAX_FORWARDS);
    assert_eq!(channels.forward(forward(more.0, more.1), now), refused);
    let later = now + Duration::from_secs(300);
    assert_eq!(channels.forward(forward(more.0, more.1), later), Ok(()));
}

/// Left and right are clients of a relay, which is the third node.
fn relayed() -> (EngineNode, EngineNode, EngineNode) {
    let (left, right, relay) = (
        EngineNode::start(1),
        EngineNode::start(2),
        EngineNode::start(3),
    );
    left.add(&right, in_channel(relay.address(), 0x4001));
    right.add(&left, in_channel(relay.address(), 0x4002));
    let server = relay.address();
    left.engine.open_channel(server, 0x4001).expect("room");
    right.engine.open_channel(server, 0x4002).expect("room");
    let quota = Quota {
        rate: 1 << 30,
        burst: 1 << 30,
    };
    let ends = [(left.address(), 0x4001), (right.address(), 0x4002)];
    for (from, to) in [(ends[0], ends[1]), (ends[1], ends[0])] {
        let forward = Forward {
            client: from.0,
            number: from.1,
            target: in_channel(to.0, to.1),
            life: Duration::from_secs(300),
            quota,
        };
        relay.engine.forward(forward).expect("room");
    }
    (left, right, relay)
}

#[test]
fn peers_talk_in_channels_that_a_third_engine_passes_on() {
    let (left, right, relay) = relayed();
    let packet = left.send_inner(&right, &[0]);
    assert_eq!(right.next_inner(), packet);
    let seen = right.engine.peer_stats()[0].endpoint.expect("an endpoint");
    assert_eq!((seen.remote, seen.channel), (relay.address(), Some(0x4002)));
    let counters = relay.engine.counters();
    assert!(counters.get(Counter::RelayedPackets) >= 3); // initiation, response, data
    assert!(counters.get(Counter::RelayedBytes) >= 148 + 92 + 64);
}

#[test]
fn a_direct_path_and_a_channel_change_places_without_a_loss() {
    let (left, right, relay) = relayed();
    let direct = Path::plain(right.address(), None);
    let channel = in_channel(relay.address(), 0x4001);
    for mark in 0..20 {
        left.add(&right, if mark % 4 < 2 { channel } else { direct });
        if mark % 4 == 3 {
            left.engine.close_channel(relay.address(), 0x4001);
        }
        let packet = left.send_inner(&right, &[mark]);
        assert_eq!(right.next_inner(), packet, "packet {mark}");
        // What the other side has under way in the channel is heard, also when it was closed.
        right.add(&left, in_channel(relay.address(), 0x4002));
        let back = right.send_inner(&left, &[mark]);
        assert_eq!(left.next_inner(), back, "answer {mark}");
        left.engine
            .open_channel(relay.address(), 0x4001)
            .expect("room");
    }
}

#[test]
fn what_is_not_wireguard_in_a_channel_goes_to_the_application_whole() {
    let node = EngineNode::start(1);
    let server = UdpSocket::bind("127.0.0.1:0").expect("a loopback socket");
    let from = server.local_addr().expect("a bound socket");
    node.engine.open_channel(from, 0x4001).expect("room");
    let mut known = header(0x4001, 20).to_vec();
    known.extend([0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42]);
    known.extend([7; 12]);
    let mut unknown = known.clone();
    unknown[1] = 0x02;
    for data in [&known, &unknown] {
        server.send_to(data, node.address()).expect("room to send");
    }
    let mut taken = Vec::new();
    while taken.len() < 2 {
        node.wait();
        taken.extend(node.engine.receive(8).into_iter().map(|passed| passed.data));
    }
    taken.sort();
    assert_eq!(taken, [known, unknown]);
    let counters = node.engine.counters();
    assert_eq!(counters.get(Counter::PassedStun), 1);
    assert_eq!(counters.get(Counter::PassedDiscv5), 1);
}
