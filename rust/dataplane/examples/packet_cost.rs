//! What one packet costs in user mode: `cargo run --release --example packet_cost`.
//!
//! Trains of TCP segments go through two machines over memory: split, sealed and planned on one
//! side, opened and merged on the other. Then one node talks with one peer and with a thousand, in
//! turns, packet by packet, and the memory that its peers take is counted. Of system calls nothing is
//! seen so far. At last peers are added to an engine whose TUN is flooded.
#![expect(clippy::unwrap_used, reason = "a benchmark may stop anywhere")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};

use ginnel_dataplane::io::{Descriptors, Engine};
use ginnel_dataplane::offload::{
    GSO_TCP4, Merger, NEEDS_CHECKSUM, Trains, VirtioHeader, Written, split,
};
use ginnel_dataplane::{
    Config, Counter, Counters, Frame, Frames, Machine, Output, Packet, Path, PeerConfig, ecn,
};

const MTU: u16 = 1420;
const HEADERS: usize = 40; // bytes of IPv4 and TCP
const SEGMENT: usize = MTU as usize - HEADERS;
const SEGMENTS: usize = 46; // of one train of 64 KiB
const ROUNDS: u32 = 3000; // trains
const PEERS_LIMIT_MIB: f64 = 48.0; // of a thousand peers
const PEERS_SHARE: f64 = 0.8; // of one peer's throughput that a thousand must reach
const TURNS: usize = 40; // of one peer and a thousand
const BATCHES: usize = 50; // of one turn: each of a thousand peers comes five times
const BATCH: usize = 100; // packets, each way
const ADDING_LIMIT: Duration = Duration::from_millis(1);
const STEPS: [&str; 4] = ["split", "seal", "open", "merge"];

/// Counts the bytes that are in use, while it is told to.
struct Counting;

static IS_COUNTING: AtomicBool = AtomicBool::new(false);
static IN_USE: AtomicI64 = AtomicI64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if IS_COUNTING.load(Ordering::Relaxed) {
            IN_USE.fetch_add(layout.size() as i64, Ordering::Relaxed);
        }
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        if IS_COUNTING.load(Ordering::Relaxed) {
            IN_USE.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        }
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(place, layout) }
    }
}

/// Counts what the work takes and gives back, and nothing else.
fn counted<T>(work: impl FnOnce() -> T) -> T {
    IS_COUNTING.store(true, Ordering::Relaxed);
    let result = work();
    IS_COUNTING.store(false, Ordering::Relaxed);
    result
}

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
    let mut meshes = [1, 1000].map(Mesh::new);
    for _ in 0..TURNS {
        for mesh in &mut meshes {
            mesh.talk();
        }
    }
    let [one, thousand] = meshes.each_mut().map(Mesh::cost);
    let share = one / thousand;
    println!(
        "a thousand peers reach {:.0} % of one's packets: {}",
        100.0 * share,
        verdict(share >= PEERS_SHARE)
    );
    adding_under_load();
}

fn verdict(is_met: bool) -> &'static str {
    if is_met { "ok" } else { "MISSED" }
}

/// Adds peers to an engine whose TUN (a socket here) has always something to read.
fn adding_under_load() {
    let udp = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    let (ours, tun) = UnixDatagram::pair().unwrap();
    let engine = |number: u8, tun: Option<&UnixDatagram>| {
        let config = Config {
            private_key: [number; 32],
            control_ips: Vec::new(),
            mtu: MTU,
        };
        let descriptors = Descriptors {
            udp4: Some(udp[usize::from(number)].as_fd()),
            udp6: None,
            tun: tun.map(AsFd::as_fd),
            big_for: Vec::new(),
        };
        Engine::start(config, &descriptors).unwrap()
    };
    let peer = |public_key, prefix: &str, place: usize| PeerConfig {
        public_key,
        prefixes: vec![prefix.parse().unwrap()],
        endpoint: Some(Path::plain(udp[place].local_addr().unwrap(), None)),
        keepalive: None,
        preshared_key: None,
    };
    let (left, right) = (engine(0, Some(&tun)), engine(1, None));
    left.set_peer(peer(right.public_key(), "10.9.0.2", 1))
        .unwrap();
    right
        .set_peer(peer(left.public_key(), "192.0.2.1", 0))
        .unwrap();
    let packet = whole_packet([192, 0, 2, 1], [10, 9, 0, 2]);
    let is_over = AtomicBool::new(false);
    let mut times: Vec<Duration> = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                ours.send(&packet).unwrap();
            }
        });
        for number in 0..1000u16 {
            std::thread::sleep(Duration::from_millis(1));
            let mut key = [9; 32];
            key[..2].copy_from_slice(&number.to_be_bytes());
            let prefix = format!("10.8.{}.{}", number >> 8, number & 0xFF);
            let mut spent = Duration::ZERO;
            timed(&mut spent, || {
                left.set_peer(peer(key, &prefix, 1)).unwrap();
            });
            times.push(spent);
        }
        is_over.store(true, Ordering::Relaxed);
    });
    times.sort();
    let sent = left.counters().get(Counter::UdpTxPackets);
    println!(
        "adding a peer under load ({sent} packets meanwhile): median {:.0}, p99 {:.0} us: {}",
        times[500].as_nanos() as f64 / 1e3,
        times[990].as_nanos() as f64 / 1e3,
        verdict(times[500] < ADDING_LIMIT)
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

/// The inner address of the peer at such a place: the same.
fn inner_ip(path: Path) -> [u8; 4] {
    match path.remote.ip() {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(_) => unreachable!("all have IPv4"),
    }
}

/// One node with so many peers, all of which have a session with it.
struct Mesh {
    hub: Side,
    peers: Vec<Side>,
    now: Instant,
    next: usize,
    /// What each batch took.
    sending: Vec<Duration>,
    receiving: Vec<Duration>,
}

impl Mesh {
    fn new(count: u16) -> Self {
        #[expect(clippy::disallowed_methods, reason = "an Instant has no other origin")]
        let now = Instant::now();
        IN_USE.store(0, Ordering::Relaxed);
        let mut hub = counted(|| Side::new(1, now));
        let mut peers = Vec::new();
        let mut adding = Duration::ZERO;
        for number in 0..count {
            // As slowly as it passes without cookies.
            let now = now + Duration::from_millis(10) * number.into();
            let mut peer = Side::at([10, 7, (number >> 8) as u8, number as u8], now);
            counted(|| timed(&mut adding, || hub.add(&peer, now)));
            peer.add(&hub, now);
            let key = peer.machine.public_key();
            counted(|| hub.machine.start_handshake(&key, &mut hub.out).unwrap());
            while !hub.out.transmits.is_empty() || !peer.out.transmits.is_empty() {
                for transmit in std::mem::take(&mut hub.out.transmits) {
                    peer.machine
                        .handle_datagram(transmit.data, hub.path, now, &mut peer.out);
                }
                for transmit in std::mem::take(&mut peer.out.transmits) {
                    let data = transmit.data;
                    counted(|| {
                        hub.machine
                            .handle_datagram(data, peer.path, now, &mut hub.out);
                    });
                }
            }
            peers.push(peer);
        }
        let memory = IN_USE.load(Ordering::Relaxed) as f64 / f64::from(1 << 20);
        println!(
            "{count:5} peers: {memory:.2} MiB: {}; {:.0} us to add one",
            verdict(memory < PEERS_LIMIT_MIB),
            adding.as_micros() as f64 / f64::from(count),
        );
        Self {
            hub,
            peers,
            now,
            next: 0,
            sending: Vec::new(),
            receiving: Vec::new(),
        }
    }

    /// Sends to and receives from all in turns, a batch each way after the other.
    ///
    /// What the peers send is made before: they run on other computers, and would empty the caches
    /// here, more of them the more there are. Each batch of it is then copied, as a kernel does.
    fn talk(&mut self) {
        let sent = self.answers();
        let Self { hub, now, .. } = self;
        for batch in sent.chunks(BATCH) {
            let mut packets = Vec::new();
            let mut datagrams = Vec::new();
            for (data, path) in batch {
                let packet = whole_packet([192, 0, 2, 1], inner_ip(*path));
                packets.push(Frame::copy_from(&packet));
                datagrams.push((Packet::copy_from(data.as_slice()), *path, ecn::NOT_ECT));
            }
            let (mut sending, mut receiving) = (Duration::ZERO, Duration::ZERO);
            timed(&mut sending, || {
                hub.machine
                    .handle_inner_all(&mut packets, *now, &mut hub.out);
            });
            assert_eq!(hub.out.transmits.len(), BATCH);
            hub.out.transmits.clear();
            timed(&mut receiving, || {
                hub.machine
                    .handle_all_marked(&mut datagrams, *now, &mut hub.out);
            });
            assert_eq!(hub.out.inner.len(), BATCH);
            hub.out.inner.clear();
            self.sending.push(sending);
            self.receiving.push(receiving);
        }
    }

    /// What the peers send in one turn, and from where.
    fn answers(&mut self) -> Vec<(Vec<u8>, Path)> {
        let mut answers = Vec::new();
        for _ in 0..BATCHES * BATCH {
            let place = self.next % self.peers.len();
            self.next += 1;
            let Side { machine, path, out } = &mut self.peers[place];
            let packet = whole_packet(inner_ip(*path), [192, 0, 2, 1]);
            machine.handle_inner(Frame::copy_from(&packet), self.now, out);
            answers.extend(
                out.transmits
                    .drain(..)
                    .map(|sent| (sent.data.to_vec(), *path)),
            );
        }
        answers
    }

    /// Returns the ns that a packet costs both ways: the median, for others use the machine too.
    fn cost(&mut self) -> f64 {
        let [sent, received] = [&mut self.sending, &mut self.receiving].map(|times| {
            times.sort();
            times[times.len() / 2].as_nanos() as f64 / BATCH as f64
        });
        println!(
            "{:5} peers: sent {sent:.0}, received {received:.0} ns a packet",
            self.peers.len()
        );
        sent + received
    }
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
    let (mut trains, mut merger) = (Trains::default(), Merger::new(true, Vec::new()));
    let mut frames = Frames::new();
    let mut spent = [Duration::ZERO; STEPS.len()];
    for _ in 0..ROUNDS {
        let mut batch: Vec<Frame> = Vec::with_capacity(SEGMENTS);
        let mut read = packet.clone();
        timed(&mut spent[0], || {
            frames.begin(MTU);
            assert!(frames.make_room());
            split(header, &mut read, &mut frames, |part| batch.push(part)).unwrap()
        });
        timed(&mut spent[1], || {
            for part in batch.drain(..) {
                left.machine.handle_inner(part, now, &mut left.out);
            }
            black_box(trains.plan(&left.out.transmits, false).count());
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
                Written::Done
            });
            right.out.inner.clear();
        });
    }
    let packets = ROUNDS * SEGMENTS as u32;
    for (step, spent) in STEPS.iter().zip(spent) {
        println!("{step:6} {:6.0} ns a packet", (spent / packets).as_nanos());
    }
}
