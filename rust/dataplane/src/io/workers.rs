//! The two threads.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use gotatun::packet::Packet;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::arena::Arena;
use super::udp::{Received, Socket};
use super::upward::{BATCH, Found, Next, PACE_PERIOD, Upward};
use super::{ERROR_PAUSE, Shared, clock, lock, milliseconds};
use crate::channels::{self, Route};
use crate::consent::Consented;
use crate::counters::Counter;
use crate::demux::{Kind, classify};
use crate::inbox::Passed;
use crate::machine::{Cut, Output, Path, TICK_INTERVAL, Transmit};
use crate::offload::Trains;

/// How long they gather: a TUN queues 500 packets, enough for 3 million a second.
const GATHER_PAUSE: Duration = Duration::from_micros(100);

/// Of full batches of datagrams in a row, those after which the TUN is read: every third. The answers
/// to a bulk, TCP's acknowledgments, leave in larger trains then and wake the other side less often.
const ANSWERED_BATCHES: usize = 3;

/// Of silence, after which the next packets most likely come alone.
const REST_PERIOD: Duration = Duration::from_millis(1);
/// How many do: a question and its answer.
const LONE_PACKETS: usize = 2;

/// Moves datagrams to the machine, the TUN and the application, and ticks the timers; moves what
/// comes from the TUN too, while that is little.
pub(super) fn serve_sockets(shared: &Shared) {
    let mut receiver = Receiver::new();
    let mut upward = Upward::new();
    let mut out = Output::default();
    let mut trains = Trains::default();
    let mut tick_at = clock() + TICK_INTERVAL;
    let mut full_batches = 0;
    let mut lone = Lone::default();
    let mut is_lent = false;
    loop {
        let own_tun = shared.tun.as_ref().filter(|_| shared.lease.is_home());
        if let Some(tun) = own_tun
            && std::mem::take(&mut is_lent)
        {
            shared.watch.set_tun(tun, true);
        }
        let asked = clock();
        let wait = tick_at.saturating_duration_since(asked);
        let Some(ready) = shared.watch.wait(wait) else {
            return;
        };
        lone.note_rest(clock().saturating_duration_since(asked));
        let mut reads_tun = ready.has_tun();
        let mut is_full = false;
        for (number, socket) in shared.sockets.iter().enumerate() {
            if !ready.has_socket(number) {
                continue;
            }
            if receiver.drain(shared, socket, lone.is_expected())
                && must_end_after(shared, None, ERROR_PAUSE)
            {
                return;
            }
            is_full |= receiver.len() >= BATCH;
            lone.note_moved(receiver.len().max(1)); // what was dropped counts too
            // What goes to the kernel may have been answered already.
            reads_tun |= receiver.hand_over(shared, &mut out, &mut trains);
        }
        full_batches = if is_full { full_batches + 1 } else { 0 };
        reads_tun &= full_batches % ANSWERED_BATCHES == 0;
        if let Some(tun) = own_tun.filter(|_| reads_tun) {
            let found = upward.move_batch(shared, tun, lone.is_expected());
            if let Found::Packets(count, _) = found {
                lone.note_moved(count.max(1));
            }
            if upward.is_bulk() || matches!(found, Found::Broken) {
                shared.watch.set_tun(tun, false);
                is_lent = true;
                shared.lease.lend();
            }
        }
        let now = clock();
        if now >= tick_at {
            tick_at = now + TICK_INTERVAL;
            tick(shared, now, &mut out, &mut trains);
        }
    }
}

fn tick(shared: &Shared, now: Instant, out: &mut Output, trains: &mut Trains) {
    shared.machine.lock().handle_timers(now, out);
    shared.flush(out, trains);
    let mut consented = Consented::default();
    lock(&shared.consents).tick(now, &mut consented);
    shared.flush_consents(&mut consented);
}

/// Moves packets of the TUN to the machine and the sockets, while they are a bulk.
pub(super) fn serve_tun(shared: &Shared) {
    let Some(tun) = &shared.tun else { return };
    let mut upward = Upward::new();
    loop {
        if must_end_after(shared, Some(shared.lease.lent()), Duration::MAX) {
            return;
        }
        if !shared.lease.is_lent() {
            continue; // the wait was over, or failed
        }
        upward.expect_bulk();
        loop {
            let ended = match upward.move_batch(shared, tun, false) {
                Found::Broken => must_end_after(shared, None, ERROR_PAUSE),
                Found::Packets(_, Next::Now) => must_end_after(shared, None, Duration::ZERO),
                Found::Packets(..) if !upward.is_bulk() => break,
                Found::Packets(_, next) => {
                    if next == Next::Soon {
                        std::thread::sleep(GATHER_PAUSE);
                    }
                    must_end_after(shared, Some(tun.as_fd()), PACE_PERIOD)
                }
            };
            if ended {
                return;
            }
        }
        shared.lease.give_back();
    }
}

/// Whether packets come alone: each is moved before others are looked for then, which would delay it.
/// Where that is wrong, it only leaves without them.
#[derive(Default)]
struct Lone {
    left: usize,
}

impl Lone {
    fn note_rest(&mut self, rest: Duration) {
        if rest >= REST_PERIOD {
            self.left = LONE_PACKETS;
        }
    }

    fn note_moved(&mut self, count: usize) {
        self.left = self.left.saturating_sub(count);
    }

    fn is_expected(&self) -> bool {
        self.left > 0
    }
}

/// One batch of datagrams, sorted by kind.
struct Receiver {
    arena: Arena,
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
            wireguard: Vec::with_capacity(BATCH),
            forwarded: Vec::new(),
            passed: Vec::with_capacity(BATCH),
        }
    }

    /// Takes what waits in a socket, a batch at most; if lone ones are expected, a datagram that comes
    /// alone, or the first. True if errors came in a row.
    fn drain(&mut self, shared: &Shared, socket: &Socket, is_lone: bool) -> bool {
        for _ in 0..BATCH {
            if self.len() >= BATCH {
                return false;
            }
            let Some(room) = self.arena.room() else {
                return false;
            };
            match socket.receive(room) {
                Ok(Some(received)) => {
                    self.sort_all(shared, &received);
                    if is_lone && self.len() <= 1 {
                        return false;
                    }
                }
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

    /// Moves what was received; true if some of it went to the TUN.
    fn hand_over(&mut self, shared: &Shared, out: &mut Output, trains: &mut Trains) -> bool {
        if !self.wireguard.is_empty() {
            let mut machine = shared.machine.lock();
            machine.handle_all_marked(&mut self.wireguard, clock(), out);
            shared.release(machine, out, trains);
        }
        out.transmits.append(&mut self.forwarded);
        let has_inner = !out.inner.is_empty();
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
        has_inner
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
fn must_end_after(shared: &Shared, source: Option<BorrowedFd<'_>>, wait: Duration) -> bool {
    let stop = shared.stop.as_fd();
    let mut wanted = [stop, source.unwrap_or(stop)].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    let wait = PollTimeout::try_from(milliseconds(wait)).unwrap_or(PollTimeout::MAX);
    // An error here is EINTR or lack of memory; the next round tries again.
    let _ = poll(&mut wanted, wait);
    wanted[0].any().unwrap_or(false)
}

#[cfg(all(test, not(miri)))] // Miri has no sockets
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::{AsFd, AsRawFd};
    use std::os::unix::net::UnixDatagram;

    use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};

    use super::super::{Descriptors, Shared};
    use super::{BATCH, Lone, REST_PERIOD, Receiver, Upward};
    use crate::{Config, Counter};

    fn shared(udp: &UdpSocket, tun: Option<&UnixDatagram>) -> Shared {
        let config = Config {
            private_key: [1; 32],
            control_ips: Vec::new(),
            mtu: 1420,
        };
        let descriptors = Descriptors {
            udp4: Some(udp.as_fd()),
            udp6: None,
            tun: tun.map(AsFd::as_fd),
            big_for: Vec::new(),
        };
        Shared::new(config, &descriptors).expect("sockets of this host")
    }

    fn bind() -> UdpSocket {
        UdpSocket::bind("127.0.0.1:0").expect("a loopback")
    }

    #[test]
    fn after_a_rest_a_question_and_its_answer_are_expected_alone() {
        let mut lone = Lone::default();
        assert!(!lone.is_expected());
        lone.note_rest(REST_PERIOD);
        for expected in [true, true, false, false] {
            assert_eq!(lone.is_expected(), expected);
            lone.note_rest(REST_PERIOD / 2); // as between a question and its answer
            lone.note_moved(1);
        }
        lone.note_rest(REST_PERIOD);
        lone.note_moved(BATCH);
        assert!(!lone.is_expected());
    }

    #[test]
    fn after_a_rest_a_datagram_goes_alone_and_a_train_does_not() {
        let (own, other) = (bind(), bind());
        let shared = shared(&own, None);
        let place = own.local_addr().expect("bound");
        let socket = shared.sockets.iter().next().expect("one socket");
        let mut receiver = Receiver::new();
        for number in 0..3 {
            other.send_to(&[number; 100], place).expect("room");
        }
        assert!(!receiver.drain(&shared, socket, true));
        assert_eq!(receiver.len(), 1);
        receiver.passed.clear();
        assert!(!receiver.drain(&shared, socket, false));
        assert_eq!(receiver.len(), 2);
        receiver.passed.clear();
        if shared.sockets.carries_trains() != (true, true) {
            return; // an old kernel
        }
        let train = [std::io::IoSlice::new(&[7; 300])];
        let control = [ControlMessage::UdpGsoSegments(&100)];
        let (fd, flags) = (other.as_raw_fd(), MsgFlags::empty());
        let std::net::SocketAddr::V4(v4) = place else {
            unreachable!("bound to IPv4")
        };
        let sent = sendmsg(fd, &train, &control, flags, Some(&SockaddrIn::from(v4)));
        assert_eq!(sent, Ok(300));
        other.send_to(&[8; 100], place).expect("room");
        assert!(!receiver.drain(&shared, socket, true));
        assert_eq!(receiver.len(), 4);
    }

    #[test]
    fn after_a_rest_a_packet_of_the_tun_goes_alone() {
        let (tun, host) = UnixDatagram::pair().expect("sockets");
        let shared = shared(&bind(), Some(&tun));
        let device = shared.tun.as_ref().expect("given");
        for _ in 0..3 {
            host.send(&[0x45; 60]).expect("room");
        }
        let mut upward = Upward::new();
        for (is_lone, wanted) in [(true, 1), (false, 3)] {
            upward.move_batch(&shared, device, is_lone);
            assert_eq!(shared.counters.get(Counter::TunRxPackets), wanted);
        }
    }
}
