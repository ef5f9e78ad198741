//! A running engine without a TUN on a loopback socket; a test has it beside `common`.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use ginnel_dataplane::io::{Descriptors, Engine};
use ginnel_dataplane::machine::CONTROL_PORT;
use ginnel_dataplane::{Config, Event, Path, PeerConfig};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::common::{MTU, ipv4_udp};

const PATIENCE_MS: u16 = 30_000; // on a machine that is busy

pub struct EngineNode {
    pub engine: Engine,
    pub socket: UdpSocket,
    pub overlay: IpAddr,
}

impl EngineNode {
    pub fn start(number: u8) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let overlay = [100, 64, 0, number].into();
        let config = Config {
            private_key: [number; 32],
            control_ips: vec![overlay],
            mtu: MTU,
        };
        let descriptors = Descriptors {
            udp4: Some(socket.as_fd()),
            udp6: None,
            tun: None,
            big_for: Vec::new(),
        };
        let engine = Engine::start(config, &descriptors).unwrap();
        Self {
            engine,
            socket,
            overlay,
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    pub fn add(&self, other: &Self, endpoint: Path) {
        let config = PeerConfig {
            public_key: other.engine.public_key(),
            prefixes: vec!["100.64.0.0/16".parse().unwrap()],
            endpoint: Some(endpoint),
            keepalive: None,
            preshared_key: None,
        };
        self.engine.set_peer(config).unwrap();
    }

    /// Sends an inner packet to the control port of another node, and returns it.
    pub fn send_inner(&self, other: &Self, payload: &[u8]) -> Vec<u8> {
        let packet = ipv4_udp(self.overlay, other.overlay, CONTROL_PORT, payload);
        let key = other.engine.public_key();
        self.engine.send_inner(&key, &packet).unwrap();
        packet
    }

    /// Says whether the engine's descriptor tells of something in time.
    pub fn waits(&self, patience_ms: u16) -> bool {
        let mut wanted = [PollFd::new(self.engine.waiting_fd(), PollFlags::POLLIN)];
        poll(&mut wanted, PollTimeout::from(patience_ms)).unwrap() == 1
    }

    pub fn wait(&self) {
        assert!(self.waits(PATIENCE_MS), "nothing came");
    }

    pub fn next_event(&self) -> Event {
        loop {
            match self.engine.poll_event() {
                Some(event) => return event,
                None => self.wait(),
            }
        }
    }

    pub fn next_inner(&self) -> Vec<u8> {
        loop {
            if let Event::InnerReceived { packet, .. } = self.next_event() {
                return packet;
            }
        }
    }
}
