//! The two threads.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use gotatun::packet::Packet;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::arena::Arena;
use super::control::ControlBuffer;
use super::tun::ReadBuffer;
use super::udp::{Received, Socket};
use super::{ERROR_PAUSE, Shared, clock, lock};
use crate::channels::{self, Route};
use crate::consent::Consented;
use crate::counters::Counter;
use crate::demux::{Kind, classify};
use crate::inbox::Passed;
use crate::machine::{Cut, Output, Path, TICK_INTERVAL, Transmit};
use crate::offload::Trains;

/// Packets after which a batch ends: few enough that the first of them does not wait long, and that
/// a batch with the last train that it took has at most 400 KiB.
const BATCH: usize = 128;
/// Packets a second that come one by one from which on they gather: no exchange of questions and
/// answers, whose delay would matter, is as fast, and a bulk of TCP comes in trains.
const FAST_READS: f64 = 25_000.0;
/// Over which this is counted.
const PACE_PERIOD: Duration = Duration::from_millis(5);
/// How long they gather: a TUN queues 500 packets, enough for 3 million a second.
const GATHER_PAUSE: Duration = Duration::from_micros(100);
/// Moves datagrams to the machine, the TUN and the application, and ticks the timers.
pub(super) fn udp_to_tun(shared: &Shared) {
    let mut receiver = Receiver::new();
    let mut out = Output::default();
    let mut trains = Trains::default();
    let mut tick_at = clock() + TICK_INTERVAL;
    loop {
        let wait = tick_at.saturating_duration_since(clock());
        if wait_for(shared, shared.sockets.iter(), wait) {
            return;
        }
        for socket in shared.sockets.iter() {
            if receiver.drain(shared, socket) && wait_for::<Socket>(shared, [], ERROR_PAUSE) {
                return;
            }
            receiver.hand_over(shared, &mut out, &mut trains);
        }
        let now = clock();
        if now >= tick_at {
            tick_at = now + TICK_INTERVAL;
            lock(&shared.machine).handle_timers(now, &mut out);
            shared.flush(&mut out, &mut trains);
            let mut consented = Consented::default();
            lock(&shared.consents).tick(now, &mut consented);
            shared.flush_consents(&mut consented);
        }
    }
}

/// Moves packets of the TUN to the machine and the sockets.
pub(super) fn tun_to_udp(shared: &Shared) {
    let Some(tun) = &shared.tun else { return };
    let mut buffer = ReadBuffer::new();
    let mut batch = Vec::with_capacity(BATCH);
    let mut out = Output::default();
    let mut trains = Trains::default();
    let mut pace = Pace::new(clock());
    loop {
        if wait_for(shared, [tun], Duration::MAX) {
            return;
        }
        let (mut broken, mut reads) = (false, 0);
        while batch.len() < BATCH {
            match tun.read(&mut buffer, &mut batch, &shared.counters) {
                Ok(true) => reads += 1,
                Ok(false) => break,
                Err(_) => {
                    broken = true;
                    break;
                }
            }
        }
        let (is_full, is_single) = (batch.len() >= BATCH, batch.len() == reads);
        if !batch.is_empty() {
            let now = clock();
            let mut machine = lock(&shared.machine);
            for packet in batch.drain(..) {
                machine.handle_inner(packet, now, &mut out);
            }
        }
        shared.flush(&mut out, &mut trains);
        if broken {
            shared.counters.count(Counter::TunReadError);
            if wait_for::<Socket>(shared, [], ERROR_PAUSE) {
                return;
            }
        }
        if is_single && pace.note(reads, clock()) && !is_full {
            std::thread::sleep(GATHER_PAUSE);
        }
    }
}

/// Finds out when packets come so fast, one by one, that it pays to let some gather.
///
/// Without that the thread is woken for each packet where the scheduler has it share a core with
/// who writes, and then sends each alone.
struct Pace {
    since: Instant,
    reads: usize,
    is_fast: bool,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            reads: 0,
            is_fast: false,
        }
    }

    /// Notes packets that came one by one; true while they come fast.
    fn note(&mut self, reads: usize, now: Instant) -> bool {
        self.reads += reads;
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= PACE_PERIOD {
            self.is_fast = self.reads as f64 > FAST_READS * elapsed.as_secs_f64();
            (self.since, self.reads) = (now, 0);
        }
        self.is_fast
    }
}

/// One batch of datagrams, sorted by kind.
struct Receiver {
    arena: Arena,
    control: ControlBuffer,
    /// With the mark of the outer header.
    wireguard: Vec<(Packet, Path, u8)>,
    /// What a relay passes on.
    forwarded: Vec<Transmit>,
    passed: Vec<(Kind, Passed)>,
}

impl Receiver {
    fn new() -> Self {
        Self {
            arena: Arena::new(),
            control: ControlBuffer::new(),
            wireguard: Vec::with_capacity(BATCH),
            forwarded: Vec::new(),
            passed: Vec::with_capacity(BATCH),
        }
    }

    /// Takes what waits in a socket, a batch at most; true if errors came in a row.
    fn drain(&mut self, shared: &Shared, socket: &Socket) -> bool {
        for _ in 0..BATCH {
            if self.len() >= BATCH {
                return false;
            }
            let Some(room) = self.arena.room() else {
                return false;
            };
            match socket.receive(room, &mut self.control) {
                Ok(Some(received)) => self.sort_all(shared, &received),
                Ok(None) => return false,
                Err(_) => {
                    // The error of an earlier send (RFC 1122 4.1.3.3); the next call is new.
                    shared.counters.count(Counter::UdpReceiveError);
                    if self.len() == 0 {
                        return true;
                    }
                }
            }
        }
        false
    }

    /// How many datagrams wait to be handed over.
    fn len(&self) -> usize {
        self.wireguard.len() + self.forwarded.len() + self.passed.len()
    }

    /// Sorts the datagrams of one call.
    fn sort_all(&mut self, shared: &Shared, received: &Received) {
        let Received {
            size,
            segment,
            path,
            ecn,
        } = *received;
        let counters = &shared.counters;
        counters.add(Counter::UdpRxBytes, size as u64);
        if size == 0 {
            counters.count(Counter::UdpRxPackets);
            counters.count(Counter::DropEmpty);
            return;
        }
        let mut data = self.arena.take(size);
        let count = size.div_ceil(segment) as u64;
        counters.add(Counter::UdpRxPackets, count);
        if path
            .local
            .is_some_and(|ip| shared.overlay_ips.contains(&ip))
        {
            counters.add(Counter::DropFromOverlay, count);
            return;
        }
        while !data.is_empty() {
            let one = data.split_to(segment.min(data.len()));
            self.sort(shared, one, path, ecn);
        }
    }

    fn sort(&mut self, shared: &Shared, data: BytesMut, path: Path, ecn: u8) {
        match classify(&data, |_| true) {
            Kind::WireGuard => self.wireguard.push((Packet::from_bytes(data), path, ecn)),
            Kind::ChannelData => self.sort_channel(shared, data, path, ecn),
            kind => self.pass(kind, &data, path),
        }
    }

    /// Takes what looks like ChannelData: a peer's, a relay's client's, or none at all.
    fn sort_channel(&mut self, shared: &Shared, mut data: BytesMut, path: Path, ecn: u8) {
        let Some((number, end)) = channels::parse(&data) else {
            return self.pass(Kind::Discv5, &data, path);
        };
        let inside = &data[channels::HEADER_SIZE..end];
        let route = lock(&shared.channels).route(path.remote, number, inside.len(), clock());
        match route {
            Route::Unknown => return self.pass(Kind::Discv5, &data, path),
            Route::Quota => return shared.counters.count(Counter::DropRelayQuota),
            Route::Peer if classify(inside, |_| false) != Kind::WireGuard => {
                return self.pass(Kind::ChannelData, &data, path);
            }
            Route::Peer | Route::Forward(_) => {}
        }
        data.truncate(end);
        data.advance(channels::HEADER_SIZE);
        let data = Packet::from_bytes(data);
        if let Route::Forward(path) = route {
            shared.counters.count(Counter::RelayedPackets);
            let size = data.len() as u64;
            shared.counters.add(Counter::RelayedBytes, size);
            let cut = Cut::AsNeeded;
            self.forwarded.push(Transmit {
                data,
                path,
                cut,
                ecn,
            });
        } else {
            let channel = Some(number);
            self.wireguard.push((data, Path { channel, ..path }, ecn));
        }
    }

    fn pass(&mut self, kind: Kind, data: &[u8], path: Path) {
        // A copy: it may wait for long, and the arena is wanted again at once.
        let data = data.to_vec();
        self.passed.push((kind, Passed { data, path }));
    }

    fn hand_over(&mut self, shared: &Shared, out: &mut Output, trains: &mut Trains) {
        if !self.wireguard.is_empty() {
            let now = clock();
            let mut machine = lock(&shared.machine);
            for (data, path, ecn) in self.wireguard.drain(..) {
                machine.handle_marked(data, path, ecn, now, out);
            }
        }
        out.transmits.append(&mut self.forwarded);
        shared.flush(out, trains);
        self.arena.reclaim();
        self.answer_consents(shared);
        if !self.passed.is_empty() {
            let mut inbox = lock(&shared.inbox);
            for (kind, passed) in self.passed.drain(..) {
                inbox.push_datagram(kind, passed, &shared.counters);
            }
            shared.settle(&inbox);
        }
    }
}

impl Receiver {
    /// Takes out what concerns consent alone.
    fn answer_consents(&mut self, shared: &Shared) {
        if self.passed.iter().all(|(kind, _)| *kind != Kind::Stun) {
            return;
        }
        let mut consented = Consented::default();
        let now = clock();
        let mut consents = lock(&shared.consents);
        self.passed.retain(|(kind, passed)| {
            *kind != Kind::Stun || !consents.handle(&passed.data, passed.path, now, &mut consented)
        });
        drop(consents);
        shared.flush_consents(&mut consented);
    }
}

/// Waits until a source is readable or broken, or the time is over; true if it is time to end.
fn wait_for<'source, Source: AsFd + 'source>(
    shared: &Shared,
    sources: impl IntoIterator<Item = &'source Source>,
    wait: Duration,
) -> bool {
    let mut wanted = vec![PollFd::new(shared.stop.as_fd(), PollFlags::POLLIN)];
    wanted.extend(
        sources
            .into_iter()
            .map(|source| PollFd::new(source.as_fd(), PollFlags::POLLIN)),
    );
    // Rounded up, so that a rest below a millisecond does not spin.
    let wait = PollTimeout::try_from(wait.as_millis().saturating_add(1).min(i32::MAX as u128))
        .unwrap_or(PollTimeout::MAX);
    // An error here is EINTR or lack of memory; the next round tries again.
    let _ = poll(&mut wanted, wait);
    wanted[0].any().unwrap_or(false)
}
