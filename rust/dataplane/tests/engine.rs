//! The engine without Python: two of them over loopback, without a TUN.

use std::net::UdpSocket;
use std::os::fd::AsFd;

use ginnel_dataplane::io::{Descriptors, Engine};
use ginnel_dataplane::machine::CONTROL_PORT;
use ginnel_dataplane::{Config, Counter, Event, Path, PeerConfig};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

struct Node {
    engine: Engine,
    socket: UdpSocket,
    overlay: [u8; 4],
}

impl Node {
    fn start(number: u8) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a loopback socket");
        let overlay = [100, 64, 0, number];
        let config = Config {
            private_key: [number; 32],
            control_ips: vec![overlay.into()],
            mtu: 1420,
        };
        let descriptors = Descriptors {
            udp4: Some(socket.as_fd()),
            udp6: None,
            tun: None,
        };
        let engine = Engine::start(config, &descriptors).expect("a running engine");
        Self {
            engine,
            socket,
            overlay,
        }
    }

    fn add(&self, other: &Self) {
        let config = PeerConfig {
            public_key: other.engine.public_key(),
            prefixes: vec!["100.64.0.0/16".parse().expect("a prefix")],
            endpoint: Some(Path::plain(
                other.socket.local_addr().expect("a bound socket"),
                None,
            )),
            keepalive: Some(25),
            preshared_key: None,
        };
        self.engine.set_peer(config).expect("room for a peer");
    }

    /// Waits by the engine's descriptor until an event comes.
    fn next_event(&self) -> Event {
        loop {
            if let Some(event) = self.engine.poll_event() {
                return event;
            }
            let mut wanted = [PollFd::new(self.engine.waiting_fd(), PollFlags::POLLIN)];
            let ready = poll(&mut wanted, PollTimeout::from(10_000u16)).expect("poll");
            assert_eq!(ready, 1, "nothing came");
        }
    }
}

#[test]
fn two_engines_talk_and_end() {
    let (left, mut right) = (Node::start(1), Node::start(2));
    left.add(&right);
    right.add(&left);
    let mut packet = vec![0x45, 0, 0, 29, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(left.overlay);
    packet.extend(right.overlay);
    packet.extend(CONTROL_PORT.to_be_bytes());
    packet.extend(CONTROL_PORT.to_be_bytes());
    packet.extend([0, 9, 0, 0, b'!']);
    let key = right.engine.public_key();
    left.engine.send_inner(&key, &packet).expect("a known peer");
    let inner = loop {
        if let Event::InnerReceived { packet, .. } = right.next_event() {
            break packet;
        }
    };
    assert_eq!(inner, packet);
    assert!(left.engine.counters().get(Counter::UdpTxPackets) >= 2);
    assert!(!left.engine.has_failed());
    right.engine.close();
    right.engine.close();
}
