//! Machines that talk over an in-memory wire.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

pub mod raw_peer;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use ginnel_dataplane::demux::{Kind, classify};
use ginnel_dataplane::{
    Config, Counter, Counters, Event, Frame, Machine, Output, Packet, Path, PeerConfig, Transmit,
};

pub const MTU: u16 = 1420;

/// One machine, where it is, and what it has said.
pub struct Node {
    pub machine: Machine,
    pub counters: Arc<Counters>,
    pub address: SocketAddr,
    pub overlay: IpAddr,
    pub events: Vec<Event>,
    pub inner: Vec<Vec<u8>>,
    /// Whether what waited for a handshake was ever sent.
    pub told_staged: bool,
    pub now: Instant,
}

#[expect(clippy::disallowed_methods, reason = "an Instant has no other origin")]
pub fn start_of_time() -> Instant {
    Instant::now()
}

impl Node {
    pub fn new(number: u8) -> Self {
        let counters = Arc::new(Counters::new());
        let overlay: IpAddr = [100, 64, 0, number].into();
        let now = start_of_time();
        let config = Config {
            private_key: [number; 32],
            control_ips: vec![overlay],
            mtu: MTU,
        };
        Self {
            machine: Machine::new(config, Arc::clone(&counters), now),
            counters,
            address: SocketAddr::from(([192, 0, 2, number], 51820)),
            overlay,
            events: Vec::new(),
            inner: Vec::new(),
            told_staged: false,
            now,
        }
    }

    pub fn key(&self) -> [u8; 32] {
        self.machine.public_key()
    }

    pub fn path(&self) -> Path {
        path(self.address)
    }

    pub fn peer_config(&self) -> PeerConfig {
        PeerConfig {
            public_key: self.key(),
            prefixes: vec![self.overlay.to_string().parse().unwrap()],
            endpoint: Some(self.path()),
            keepalive: None,
            preshared_key: None,
        }
    }

    pub fn set(&mut self, config: PeerConfig) {
        self.machine.set_peer(config, self.now).unwrap();
    }

    pub fn count(&self, counter: Counter) -> u64 {
        self.counters.get(counter)
    }

    /// Runs a call and keeps what it puts out but for datagrams, which it returns.
    pub fn run(&mut self, call: impl FnOnce(&mut Machine, Instant, &mut Output)) -> Vec<Transmit> {
        let mut out = Output::default();
        call(&mut self.machine, self.now, &mut out);
        self.events.append(&mut out.events);
        self.told_staged |= out.has_staged;
        self.inner
            .extend(out.inner.iter().map(|packet| packet.to_vec()));
        out.transmits
    }

    /// Takes a datagram as the socket thread does.
    pub fn receive(&mut self, data: &[u8], from: SocketAddr) -> Vec<Transmit> {
        if classify(data, |_| false) != Kind::WireGuard {
            return Vec::new();
        }
        let packet = Packet::copy_from(data);
        self.run(|machine, now, out| machine.handle_datagram(packet, path(from), now, out))
    }

    pub fn send_inner(&mut self, to: [u8; 32], packet: &[u8]) -> Vec<Transmit> {
        self.run(|machine, now, out| machine.send_inner(&to, packet, now, out).unwrap())
    }

    pub fn read_tun(&mut self, packet: &[u8]) -> Vec<Transmit> {
        let mut batch = vec![Frame::copy_from(packet)];
        self.run(|machine, now, out| machine.handle_inner_all(&mut batch, now, out))
    }

    pub fn start_handshake(&mut self, to: [u8; 32]) -> Vec<Transmit> {
        self.run(|machine, _, out| machine.start_handshake(&to, out).unwrap())
    }

    pub fn handshakes(&self) -> usize {
        let done = |event: &&Event| matches!(event, Event::HandshakeCompleted { .. });
        self.events.iter().filter(done).count()
    }
}

pub fn path(remote: SocketAddr) -> Path {
    Path::plain(remote, None)
}

/// Two machines that know each other.
pub fn pair() -> (Node, Node) {
    let (mut left, mut right) = (Node::new(1), Node::new(2));
    left.set(right.peer_config());
    right.set(left.peer_config());
    (left, right)
}

/// Carries datagrams between two machines until both are silent; `first` came from `left`.
pub fn carry(left: &mut Node, right: &mut Node, first: Vec<Transmit>) {
    let mut to_right = first;
    while !to_right.is_empty() {
        let mut to_left = Vec::new();
        for transmit in to_right {
            to_left.extend(right.receive(&transmit.data, left.address));
        }
        to_right = Vec::new();
        for transmit in to_left {
            to_right.extend(left.receive(&transmit.data, right.address));
        }
    }
}

/// Two machines after their handshake.
pub fn connected() -> (Node, Node) {
    let (mut left, mut right) = pair();
    let first = left.start_handshake(right.key());
    carry(&mut left, &mut right, first);
    assert_eq!((left.handshakes(), right.handshakes()), (1, 1));
    (left, right)
}

/// An IPv4 packet with UDP.
pub fn ipv4_udp(source: IpAddr, destination: IpAddr, port: u16, payload: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else {
        panic!("only IPv4 here");
    };
    let size = u16::try_from(28 + payload.len()).unwrap();
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    packet[2..4].copy_from_slice(&size.to_be_bytes());
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(port.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend((size - 20).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}
