//! Machines over an in-memory wire: handshake, data, keys, roaming, limits.

mod common;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::{Node, carry, connected, ipv4_udp, pair, path, start_of_time};
use ginnel_dataplane::machine::{CONTROL_PORT, CommandError, MAX_PREFIXES, TICK_INTERVAL};
use ginnel_dataplane::{Counter, Event, Frame, Packet, PeerConfig};

fn moved() -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 9], 4242))
}

#[test]
fn the_first_packet_starts_the_handshake_and_arrives() {
    let (mut left, mut right) = pair();
    let packet = ipv4_udp(left.overlay, right.overlay, 80, b"hello");
    let first = left.read_tun(&packet);
    assert_eq!(first.len(), 1);
    assert_eq!(first[0].path.remote, right.address);
    carry(&mut left, &mut right, first);
    assert_eq!(right.inner, [packet]); // without WireGuard's padding
    assert_eq!((left.handshakes(), right.handshakes()), (1, 1));
    let stats = &left.machine.peer_stats(left.now)[0];
    assert_eq!((stats.tx_bytes, stats.rx_bytes), (48, 0));
    assert_eq!(stats.handshake_age, Some(std::time::Duration::ZERO));
    assert_eq!(right.machine.peer_stats(right.now)[0].rx_bytes, 48);
}

#[test]
fn both_may_start_at_once() {
    let (mut left, mut right) = pair();
    let from_left = left.start_handshake(right.key());
    let from_right = right.start_handshake(left.key());
    carry(&mut left, &mut right, from_left);
    carry(&mut right, &mut left, from_right);
    let packet = ipv4_udp(left.overlay, right.overlay, 80, b"x");
    let sent = left.read_tun(&packet);
    carry(&mut left, &mut right, sent);
    let back = ipv4_udp(right.overlay, left.overlay, 80, b"y");
    let sent = right.read_tun(&back);
    carry(&mut right, &mut left, sent);
    assert_eq!(
        (&right.inner[..], &left.inner[..]),
        (&[packet][..], &[back][..])
    );
}

#[test]
fn a_handshake_completes_though_a_later_answer_is_lost() {
    let (mut left, mut right) = pair();
    let first = left.start_handshake(right.key());
    let second = left.start_handshake(right.key());
    let answers = right.receive(&first[0].data, left.address);
    right.receive(&second[0].data, left.address); // this answer is lost
    carry(&mut right, &mut left, answers);
    assert_eq!((left.handshakes(), right.handshakes()), (1, 1));
}

#[test]
fn an_initiation_from_an_unknown_endpoint_is_matched_by_its_key() {
    let (mut left, mut right) = (Node::new(1), Node::new(2));
    left.set(right.peer_config());
    right.set(PeerConfig {
        endpoint: None,
        ..left.peer_config()
    });
    let first = left.start_handshake(right.key());
    carry(&mut left, &mut right, first);
    let roamed = Event::EndpointRoamed {
        public_key: left.key(),
        path: left.path(),
    };
    let completed = Event::HandshakeCompleted {
        public_key: left.key(),
        path: left.path(),
    };
    assert_eq!(right.events, [roamed, completed]);
}

#[test]
fn a_stranger_gets_no_answer() {
    let (mut left, mut right) = (Node::new(1), Node::new(2));
    left.set(right.peer_config());
    let first = left.start_handshake(right.key());
    assert!(right.receive(&first[0].data, left.address).is_empty());
    assert_eq!(right.count(Counter::DropUnknownPeer), 1);
}

#[test]
fn a_preshared_key_changes_on_a_live_peer() {
    let (mut left, mut right) = connected();
    let with_key = |node: &Node, key| PeerConfig {
        preshared_key: Some([key; 32]),
        ..node.peer_config()
    };
    left.set(with_key(&right, 7));
    // The live keys stay, though the other side does not have the new key yet.
    let packet = ipv4_udp(left.overlay, right.overlay, 80, b"live");
    let sent = left.read_tun(&packet);
    carry(&mut left, &mut right, sent);
    assert_eq!(right.inner.len(), 1);
    // A handshake with different keys fails at the initiator.
    let first = left.start_handshake(right.key());
    carry(&mut left, &mut right, first);
    assert_eq!(left.count(Counter::DropBadHandshake), 1);
    assert_eq!(left.handshakes(), 1);
    right.set(with_key(&left, 7));
    let first = left.start_handshake(right.key());
    carry(&mut left, &mut right, first);
    assert_eq!((left.handshakes(), right.handshakes()), (2, 2));
}

#[test]
fn only_authenticated_packets_move_an_endpoint() {
    let (mut left, mut right) = connected();
    let packet = ipv4_udp(left.overlay, right.overlay, 80, b"x");
    let sent = left.read_tun(&packet);
    let mut forged = sent[0].data.to_vec();
    *forged.last_mut().unwrap() ^= 1;
    right.events.clear();
    right.receive(&forged, moved());
    assert_eq!(right.count(Counter::DropBadTag), 1);
    assert!(right.events.is_empty());

    right.receive(&sent[0].data, moved());
    let roamed = Event::EndpointRoamed {
        public_key: left.key(),
        path: path(moved()),
    };
    assert_eq!(right.events, [roamed]);
    let back = right.read_tun(&ipv4_udp(right.overlay, left.overlay, 80, b"y"));
    assert_eq!(back[0].path.remote, moved());
    // The application's choice overrides what was learned.
    right.set(left.peer_config());
    let back = right.read_tun(&ipv4_udp(right.overlay, left.overlay, 80, b"y"));
    assert_eq!(back[0].path.remote, left.address);
}

#[test]
fn replays_are_dropped() {
    let (mut left, mut right) = pair();
    let first = left.start_handshake(right.key());
    let init = first[0].data.to_vec();
    carry(&mut left, &mut right, first);
    assert!(right.receive(&init, moved()).is_empty());
    let sent = left.read_tun(&ipv4_udp(left.overlay, right.overlay, 80, b"x"));
    right.receive(&sent[0].data, left.address);
    right.receive(&sent[0].data, moved());
    assert_eq!(right.count(Counter::DropReplay), 2);
    assert_eq!(right.inner.len(), 1);
    assert_eq!(
        right.machine.peer_stats(right.now)[0].endpoint,
        Some(left.path())
    );
}

#[test]
fn inner_sources_must_be_the_peers_own() {
    let (mut left, mut right) = connected();
    let stranger: IpAddr = [100, 64, 0, 77].into();
    let sent = left.send_inner(right.key(), &ipv4_udp(stranger, right.overlay, 80, b"x"));
    carry(&mut left, &mut right, sent);
    assert_eq!(right.count(Counter::DropSource), 1);
    assert!(right.inner.is_empty());
}

#[test]
fn the_longest_prefix_decides_and_is_given_back() {
    let mut node = Node::new(1);
    let (wide, narrow) = (Node::new(2), Node::new(3));
    let config = |other: &Node, prefix: &str| PeerConfig {
        prefixes: vec![prefix.parse().unwrap()],
        ..other.peer_config()
    };
    node.set(config(&wide, "10.0.0.0/8"));
    node.set(config(&narrow, "10.1.2.9/24")); // host bits are cleared
    let target = |node: &mut Node, ip: [u8; 4]| {
        let packet = ipv4_udp(node.overlay, ip.into(), 80, b"");
        let sent = node.read_tun(&packet);
        sent.first().map(|transmit| transmit.path.remote)
    };
    assert_eq!(target(&mut node, [10, 1, 2, 3]), Some(narrow.address));
    assert_eq!(target(&mut node, [10, 1, 3, 3]), Some(wide.address));
    assert_eq!(target(&mut node, [11, 1, 3, 3]), None);
    assert_eq!(node.count(Counter::DropNoRoute), 1);
    // The last to claim a prefix has it; who lost it does not take it away when removed.
    node.set(config(&wide, "10.1.2.0/24"));
    node.machine.remove_peer(&narrow.key()).unwrap();
    node.set(config(&wide, "10.1.2.0/24"));
    assert_eq!(target(&mut node, [10, 1, 3, 3]), None);
    let packet = ipv4_udp(node.overlay, [10, 1, 2, 3].into(), 80, b"");
    node.read_tun(&packet);
    assert_eq!(node.count(Counter::DropNoRoute), 2);
}

#[test]
fn the_control_port_is_the_applications() {
    let (mut left, mut right) = connected();
    let control = ipv4_udp(left.overlay, right.overlay, CONTROL_PORT, b"ping");
    assert!(left.read_tun(&control).is_empty());
    assert_eq!(left.count(Counter::DropControlFromTun), 1);
    right.events.clear();
    let sent = left.send_inner(right.key(), &control);
    carry(&mut left, &mut right, sent);
    let received = Event::InnerReceived {
        public_key: left.key(),
        packet: control.clone(),
    };
    assert_eq!(right.events, [received]);
    let mut fragment = control.clone();
    fragment[6] = 0x20; // more fragments
    let sent = left.send_inner(right.key(), &fragment);
    carry(&mut left, &mut right, sent);
    assert_eq!(right.count(Counter::DropControlFragment), 1);
    // The same port at another address is nobody's but the TUN's.
    let elsewhere = ipv4_udp(left.overlay, [10, 0, 0, 1].into(), CONTROL_PORT, b"");
    let sent = left.send_inner(right.key(), &elsewhere);
    carry(&mut left, &mut right, sent);
    assert_eq!(right.inner, [elsewhere]);
}

#[test]
fn a_keepalive_opens_the_tunnel_once_there_is_an_endpoint() {
    let (mut left, mut right) = (Node::new(1), Node::new(2));
    let config = |endpoint, right: &Node| PeerConfig {
        endpoint,
        keepalive: Some(25),
        ..right.peer_config()
    };
    right.set(left.peer_config());
    left.set(config(None, &right));
    let tick = |node: &mut Node| {
        node.now += TICK_INTERVAL;
        node.run(|machine, now, out| machine.handle_timers(now, out))
    };
    assert!(tick(&mut left).is_empty());
    left.set(config(Some(path(right.address)), &right));
    let first = tick(&mut left);
    assert_eq!(first.len(), 1);
    carry(&mut left, &mut right, first);
    assert_eq!((left.handshakes(), right.handshakes()), (1, 1));
    assert!(tick(&mut left).is_empty());
}

#[test]
fn too_many_handshakes_of_one_source_must_show_a_cookie() {
    let (mut left, mut right) = pair();
    for _ in 0..200 {
        let init = left.start_handshake(right.key());
        // The answers are lost, but for cookies.
        for answer in right.receive(&init[0].data, left.address) {
            if answer.data.first() == Some(&3) {
                left.receive(&answer.data, right.address);
            }
        }
        if right.count(Counter::CookieSent) > 0 {
            break;
        }
    }
    assert_eq!(right.count(Counter::CookieSent), 1);
    let init = left.start_handshake(right.key());
    carry(&mut left, &mut right, init);
    assert_eq!(left.handshakes(), 1);
}

#[test]
fn a_flood_of_handshakes_is_dropped_unread() {
    let (mut left, mut right) = pair();
    let mut bad = left.start_handshake(right.key())[0].data.to_vec();
    bad[140] ^= 1; // inside mac2's neighbour: keeps the type and the size
    bad[20] ^= 1;
    for _ in 0..10_100 {
        assert!(right.receive(&bad, moved()).is_empty());
    }
    assert_eq!(right.count(Counter::DropBadMac), 10_000);
    assert_eq!(right.count(Counter::DropHandshakeFlood), 100);
    // The next second is a new one.
    right.now += std::time::Duration::from_secs(1);
    let first = left.start_handshake(right.key());
    carry(&mut left, &mut right, first);
    assert_eq!(right.handshakes(), 1);
}

#[test]
fn under_load_everybody_must_show_a_cookie() {
    let mut right = Node::new(2);
    for number in 3..=33 {
        let mut left = Node::new(number);
        left.set(right.peer_config());
        for _ in 0..20 {
            let init = left.start_handshake(right.key());
            right.receive(&init[0].data, left.address);
        }
    }
    assert!(right.count(Counter::CookieSent) >= 100);
    let mut left = Node::new(1);
    left.set(right.peer_config());
    right.set(left.peer_config());
    let before = right.count(Counter::CookieSent);
    let first = left.start_handshake(right.key());
    carry(&mut left, &mut right, first); // a cookie comes back
    assert_eq!(right.count(Counter::CookieSent), before + 1);
    let again = left.start_handshake(right.key());
    carry(&mut left, &mut right, again);
    assert_eq!((left.handshakes(), right.handshakes()), (1, 1));
}

#[test]
fn one_peer_may_start_fifty_handshakes_a_second() {
    let (mut left, mut right) = pair();
    for source in 0..60u16 {
        let init = left.start_handshake(right.key());
        // From many addresses, so that the limit by source is not what is met.
        let from = SocketAddr::from(([198, 51, (source >> 8) as u8, source as u8], 1));
        right.receive(&init[0].data, from);
    }
    assert_eq!(right.count(Counter::DropPeerFlood), 10);
}

#[test]
fn a_removed_peer_is_gone_with_its_sessions() {
    let (mut left, mut right) = connected();
    right.machine.remove_peer(&left.key()).unwrap();
    let sent = left.read_tun(&ipv4_udp(left.overlay, right.overlay, 80, b"x"));
    right.receive(&sent[0].data, left.address);
    assert_eq!(right.count(Counter::DropUnknownIndex), 1);
    assert_eq!(right.machine.peer_count(), 0);
    assert_eq!(
        right.machine.remove_peer(&left.key()),
        Err(CommandError::UnknownPeer)
    );
    // Its place is taken by another, who gets nothing of it.
    let other = Node::new(3);
    right.set(other.peer_config());
    right.receive(&sent[0].data, left.address);
    assert_eq!(right.count(Counter::DropUnknownIndex), 2);
}

#[test]
fn wrong_commands_are_refused() {
    let (mut left, right) = pair();
    let own = left.peer_config();
    let now = start_of_time();
    assert_eq!(left.machine.set_peer(own, now), Err(CommandError::OwnKey));
    let many = PeerConfig {
        prefixes: vec!["10.0.0.0/8".parse().unwrap(); MAX_PREFIXES + 1],
        ..right.peer_config()
    };
    assert_eq!(
        left.machine.set_peer(many, now),
        Err(CommandError::TooManyPrefixes)
    );
    let large = ipv4_udp(left.overlay, right.overlay, 80, &[0; 1400]);
    left.run(|machine, now, out| {
        for packet in [&large[..], b"", b"junk"] {
            let result = machine.send_inner(&right.key(), packet, now, out);
            assert_eq!(result, Err(CommandError::BadPacket));
        }
    });
    left.read_tun(b"junk");
    assert_eq!(left.count(Counter::DropBadTunPacket), 1);
    for text in ["10.0.0.0/33", "10.0.0/8", "x/8", "", "::/129", "10.0.0.0/"] {
        assert!(text.parse::<ginnel_dataplane::Prefix>().is_err(), "{text}");
    }
}

#[test]
fn malformed_messages_are_counted() {
    let (_, mut right) = pair();
    let from = moved();
    right.run(|machine, now, out| {
        for data in [&b""[..], b"\x01", b"\x04\0\0\0", &[9; 64]] {
            machine.handle_datagram(Packet::copy_from(data), path(from), now, out);
        }
    });
    assert_eq!(right.count(Counter::DropMalformed), 4);
}

fn unanswered(node: &mut Node) -> Vec<u64> {
    node.run(|machine, now, out| machine.handle_timers(now, out));
    let seconds = |event: &Event| match event {
        Event::Unanswered { silence, .. } => Some(silence.as_secs()),
        _ => None,
    };
    let told = node.events.iter().filter_map(seconds).collect();
    node.events.clear();
    told
}

#[test]
fn data_that_nobody_answers_is_told_in_two_steps() {
    let (mut left, mut right) = connected();
    let ping = ipv4_udp(left.overlay, right.overlay, 80, b"x");
    let pong = ipv4_udp(right.overlay, left.overlay, 80, b"y");
    for _ in 0..2 {
        let answer = right.read_tun(&pong);
        left.receive(&answer[0].data, right.address);
        left.read_tun(&ping);
        left.now += Duration::from_millis(900);
        left.read_tun(&ping);
        assert_eq!(unanswered(&mut left), []);
        left.now += Duration::from_millis(100);
        assert_eq!(unanswered(&mut left), [1]);
        left.now += Duration::from_secs(1);
        left.read_tun(&ping);
        assert_eq!(unanswered(&mut left), []);
        left.now += Duration::from_secs(13);
        left.read_tun(&ping); // tells by itself
        assert_eq!(unanswered(&mut left), [15]);
    }
}

#[test]
fn one_way_traffic_is_not_called_unanswered() {
    let (mut left, right) = connected();
    let ping = ipv4_udp(left.overlay, right.overlay, 80, b"x");
    left.now += Duration::from_secs(6); // the other side has sent no data for so long
    for _ in 0..20 {
        left.read_tun(&ping);
        left.now += Duration::from_secs(1);
        assert_eq!(unanswered(&mut left), []);
    }
}

#[test]
fn a_batch_is_handled_in_its_order_whoever_its_packets_are_for() {
    let mut hub = Node::new(1);
    let mut others: Vec<Node> = (2..7).map(Node::new).collect();
    for other in &mut others {
        hub.set(other.peer_config());
        other.set(hub.peer_config());
        let first = hub.start_handshake(other.key());
        carry(&mut hub, other, first);
    }
    let nowhere = IpAddr::from([100, 64, 9, 9]);
    let mut packets = vec![Frame::copy_from(b"\xFF not IP")];
    let mut expected: Vec<Vec<Vec<u8>>> = vec![Vec::new(); others.len()];
    for turn in 0..20u8 {
        // Once all in turns, once several in a row to the same.
        let place = usize::from(if turn < 10 { turn } else { turn / 3 }) % others.len();
        let packet = ipv4_udp(hub.overlay, others[place].overlay, 80, &[turn]);
        packets.push(Frame::copy_from(&packet));
        expected[place].push(packet);
        let lost = ipv4_udp(hub.overlay, nowhere, 80, &[turn]);
        packets.push(Frame::copy_from(&lost));
    }
    let sent = hub.run(|machine, now, out| machine.handle_inner_all(&mut packets, now, out));
    assert!(packets.is_empty());
    assert_eq!(hub.count(Counter::DropNoRoute), 20);
    assert_eq!(hub.count(Counter::DropBadTunPacket), 1);
    let mut back = vec![
        (Packet::copy_from(&[4, 0, 0][..]), hub.path(), 0),
        (Packet::copy_from(&[4; 64][..]), hub.path(), 0),
    ];
    let mut answers = Vec::new();
    for transmit in sent {
        let place = others
            .iter()
            .position(|node| node.address == transmit.path.remote);
        let other = &mut others[place.expect("a peer's address")];
        assert!(other.receive(&transmit.data, hub.address).is_empty());
        let packet = ipv4_udp(other.overlay, hub.overlay, 80, &[answers.len() as u8]);
        for answer in other.read_tun(&packet) {
            back.push((answer.data, other.path(), 0));
        }
        answers.push(packet);
    }
    for (other, expected) in others.iter().zip(expected) {
        assert_eq!(other.inner, expected);
    }
    hub.run(|machine, now, out| machine.handle_all_marked(&mut back, now, out));
    assert!(back.is_empty());
    assert_eq!(hub.inner, answers);
    assert_eq!(hub.count(Counter::DropMalformed), 1);
    assert_eq!(hub.count(Counter::DropUnknownIndex), 1);
}
