//! What one packet costs in user mode: `cargo run --release --example packet_cost`.
//!
//! Trains of TCP segments go through two machines over memory: split, sealed and planned on one
//! side, opened and merged on the other. Then one node talks with one peer and with a thousand, in
//! turns, packet by packet. Of system calls nothing is seen.
#![expect(clippy::unwrap_used, reason = "a benchmark may stop anywhere")]

use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ginnel_dataplane::offload::{GSO_TCP4, Merger, NEEDS_CHECKSUM, Trains, VirtioHeader, split};
use ginnel_dataplane::{Config, Counters, Machine, Output, Packet, Path, PeerConfig};

const MTU: u16 = 1420;
const HEADERS: usize = 40; // bytes of IPv4 and TCP
const SEGMENT: usize = MTU as usize - HEADERS;
const SEGMENTS: usize = 46; // of one train of 64 KiB
const ROUNDS: u32 = 3000; // trains
const STEPS: [&str; 4] = ["split", "seal", "open", "merge"];

struct Side {
    machine: Machine,
    path: Path,
    out: Output,
}

impl Side {
    fn new(number: u8, now: Instant) -> Self {
        Self::at([192, 0, 2, number], now)
    }

    fn at(ip: [u8; 4], now: Instant) -> Self {
        let mut private_key = [7; 32];
        private_key[..4].copy_from_slice(&ip);
        let config = Config {
            private_key,
            control_ips: vec![IpAddr::from([100, 64, ip[2], ip[3]])],
            mtu: MTU,
        };
        Self {
            machine: Machine::new(config, Arc::new(Counters::new()), now),
            path: Path::plain(SocketAddr::from((ip, 51820)), None),
            out: Output::default(),
        }
    }

    fn add(&mut self, other: &Self, now: Instant) {
        let ip = other.path.remote.ip();
        let config = PeerConfig {
            public_key: other.machine.public_key(),
            prefixes: vec![ip.to_string().parse().unwrap()],
            endpoint: Some(other.path),
            keepalive: None,
            preshared_key: None,
        };
        self.machine.set_peer(config, now).unwrap();
    }
}

/// Carries what `from` has put out until both are silent.
fn settle(left: &mut Side, right: &mut Side, now: Instant) {
    while !left.out.transmits.is_empty() || !right.out.transmits.is_empty() {
        for transmit in std::mem::take(&mut left.out.transmits) {
            right
                .machine
                .handle_datagram(transmit.data, left.path, now, &mut right.out);
        }
        for transmit in std::mem::take(&mut right.out.transmits) {
            left.machine
                .handle_datagram(transmit.data, right.path, now, &mut left.out);
        }
    }
    left.out.inner.clear();
    right.out.inner.clear();
}

/// One large TCP packet, as the TUN hands it out.
fn large_packet() -> (VirtioHeader, Vec<u8>) {
    let total = HEADERS + SEGMENTS * SEGMENT;
    let mut packet = vec![0; total];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    packet[6] = 0x40;
    packet[8..10].copy_from_slice(&[64, 6]);
    packet[12..20].copy_from_slice(&[192, 0, 2, 1, 192, 0, 2, 2]);
    packet[32..34].copy_from_slice(&[0x50, 0x10]);
    let header = VirtioHeader {
        flags: NEEDS_CHECKSUM,
        gso_type: GSO_TCP4,
        header_length: HEADERS as u16,
        gso_size: SEGMENT as u16,
        checksum_start: 20,
        checksum_offset: 16,
    };
    (header, packet)
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn timed<T>(total: &mut Duration, work: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let result = work();
    *total += began.elapsed();
    result
}

fn main() {
    trains_of_one_flow();
    let [one, thousand] = [1, 1000].map(many_peers);
    println!(
        "a thousand peers reach {:.0} % of one's packets",
        100.0 * one / thousand
    );
}

/// An IPv4 packet of the MTU's size without a transport's header.
fn whole_packet(from: [u8; 4], to: [u8; 4]) -> Vec<u8> {
    let mut packet = vec![0; MTU.into()];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&MTU.to_be_bytes());
    packet[9] = 255;
    packet[12..16].copy_from_slice(&from);
    packet[16..20].copy_from_slice(&to);
    packet
}

/// Sends to and receives from so many peers in turns; returns the ns that a packet costs.
fn many_peers(count: u16) -> f64 {
    #[expect(clippy::disallowed_methods, reason = "an Instant has no other origin")]
    let now = Instant::now();
    let mut hub = Side::new(1, now);
    let mut peers = Vec::new();
    let mut adding = Duration::ZERO;
    for number in 0..count {
        // As slowly as it passes without cookies.
        let now = now + Duration::from_millis(10) * number.into();
        let mut peer = Side::at([10, 7, (number >> 8) as u8, number as u8], now);
        timed(&mut adding, || hub.add(&peer, now));
        peer.add(&hub, now);
        let key = peer.machine.public_key();
        hub.machine.start_handshake(&key, &mut hub.out).unwrap();
        settle(&mut hub, &mut peer, now);
        peers.push(peer);
    }
    let (mut sending, mut receiving) = (Duration::ZERO, Duration::ZERO);
    let batch = 100;
    let rounds = 200_000 / batch;
    let mut next = 0;
    for _ in 0..rounds {
        let turn: Vec<usize> = (next..next + batch)
            .map(|place| place % peers.len())
            .collect();
        next += batch;
        let mut packets = Vec::new();
        let mut datagrams = Vec::new();
        for place in &turn {
            let peer = &mut peers[*place];
            let IpAddr::V4(ip) = peer.path.remote.ip() else {
                continue;
            };
            packets.push(Packet::copy_from(
                whole_packet([192, 0, 2, 1], ip.octets()).as_slice(),
            ));
            let answer = Packet::copy_from(whole_packet(ip.octets(), [192, 0, 2, 1]).as_slice());
            peer.machine.handle_inner(answer, now, &mut peer.out);
            datagrams.extend(
                peer.out
                    .transmits
                    .drain(..)
                    .map(|sent| (sent.data, peer.path)),
            );
        }
        timed(&mut sending, || {
            for packet in packets {
                hub.machine.handle_inner(packet, now, &mut hub.out);
            }
        });
        assert_eq!(hub.out.transmits.len(), batch);
        hub.out.transmits.clear();
        timed(&mut receiving, || {
            for (data, path) in datagrams {
                hub.machine.handle_datagram(data, path, now, &mut hub.out);
            }
        });
        assert_eq!(hub.out.inner.len(), batch);
        hub.out.inner.clear();
    }
    let total = (rounds * batch) as f64;
    let cost = |spent: Duration| spent.as_nanos() as f64 / total;
    println!(
        "{count:5} peers: sent {:.0}, received {:.0} ns a packet; {:.0} us to add one",
        cost(sending),
        cost(receiving),
        adding.as_micros() as f64 / f64::from(count),
    );
    cost(sending) + cost(receiving)
}

fn trains_of_one_flow() {
    #[expect(clippy::disallowed_methods, reason = "an Instant has no other origin")]
    let now = Instant::now();
    let (mut left, mut right) = (Side::new(1, now), Side::new(2, now));
    left.add(&right, now);
    right.add(&left, now);
    let key = right.machine.public_key();
    left.machine.start_handshake(&key, &mut left.out).unwrap();
    settle(&mut left, &mut right, now);
    let (header, packet) = large_packet();
    let (mut trains, mut merger) = (Trains::default(), Merger::new(true));
    let mut spent = [Duration::ZERO; STEPS.len()];
    for _ in 0..ROUNDS {
        let mut batch: Vec<Packet> = Vec::with_capacity(SEGMENTS);
        let mut read = packet.clone();
        timed(&mut spent[0], || {
            split(header, &mut read, |part| batch.push(part)).unwrap()
        });
        timed(&mut spent[1], || {
            for part in batch.drain(..) {
                left.machine.handle_inner(part, now, &mut left.out);
            }
            black_box(trains.plan(&left.out.transmits).count());
        });
        let wire: Vec<u8> = left
            .out
            .transmits
            .iter()
            .flat_map(|sent| sent.data.iter())
            .copied()
            .collect();
        let size = left.out.transmits[0].data.len();
        timed(&mut spent[1], || left.out.transmits.clear());
        timed(&mut spent[2], || {
            for data in wire.chunks(size) {
                right.machine.handle_datagram(
                    Packet::copy_from(data),
                    left.path,
                    now,
                    &mut right.out,
                );
            }
        });
        assert_eq!(right.out.inner.len(), SEGMENTS);
        timed(&mut spent[3], || {
            merger.merge(&mut right.out.inner, |parts, count| {
                black_box((parts, count));
            });
            right.out.inner.clear();
        });
    }
    let packets = ROUNDS * SEGMENTS as u32;
    for (step, spent) in STEPS.iter().zip(spent) {
        println!("{step:6} {:6.0} ns a packet", (spent / packets).as_nanos());
    }
}
