//! Packets of the TUN, on their way to the machine and the sockets.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::tun::{ReadBuffer, Tun};
use super::{Shared, clock};
use crate::counters::Counter;
use crate::frame::{Frame, Frames};
use crate::machine::Output;
use crate::offload::Trains;

/// Packets after which a batch ends: few enough that the first of them does not wait long. Larger ones
/// end it earlier ([`Frames::make_room`]).
pub(super) const BATCH: usize = 128;
/// Packets a second that come one by one from which on they gather: no exchange of questions and
/// answers, whose delay would matter, is as fast, and a bulk of TCP comes in trains.
const FAST_READS: f64 = 25_000.0;
/// Packets a second from which on they are a bulk, a thread's own work: 0.3 Gbit/s of TCP.
const BULK_PACKETS: f64 = 25_000.0;
/// Over which this is counted.
pub(super) const PACE_PERIOD: Duration = Duration::from_millis(5);

/// Reads batches, seals and sends them.
pub(super) struct Upward {
    buffer: ReadBuffer,
    frames: Frames,
    batch: Vec<Frame>,
    out: Output,
    trains: Trains,
    pace: Pace,
    /// Whether the TUN is a thread's own: what it leaves unsent it comes back for.
    is_own: bool,
}

/// What was found.
pub(super) enum Found {
    /// All that waited, a batch of it, or what came first: how many.
    Packets(usize, Next),
    /// The device is down or gone.
    Broken,
}

impl Upward {
    pub(super) fn new() -> Self {
        Self {
            buffer: ReadBuffer::new(),
            frames: Frames::new(),
            batch: Vec::with_capacity(BATCH),
            out: Output::default(),
            trains: Trains::default(),
            pace: Pace::new(clock()),
            is_own: false,
        }
    }

    /// Begins with what was found to be a bulk elsewhere.
    pub(super) fn expect_bulk(&mut self) {
        self.pace = Pace::new(clock());
        self.pace.is_bulk = true;
        self.is_own = true;
    }

    /// Moves what waits, a batch at most; if lone ones are expected, a packet that comes alone, or the
    /// first.
    pub(super) fn move_batch(&mut self, shared: &Shared, tun: &Tun, is_lone: bool) -> Found {
        let (mut broken, mut is_full, mut reads) = (false, true, 0);
        self.frames.begin(shared.mtu.load(Ordering::Relaxed));
        while self.batch.len() < BATCH && self.frames.make_room() {
            let places = (&mut self.frames, &mut self.batch);
            match tun.read(&mut self.buffer, places, &shared.counters) {
                Ok(true) => {
                    reads += 1;
                    if is_lone && self.batch.len() <= 1 {
                        is_full = false;
                        break;
                    }
                }
                Ok(false) => {
                    is_full = false;
                    break;
                }
                Err(_) => {
                    (broken, is_full) = (true, false);
                    break;
                }
            }
        }
        let packets = self.batch.len();
        let waiting = self.out.transmits.len();
        let now = clock();
        if packets > 0 {
            shared
                .machine
                .lock()
                .handle_inner_all(&mut self.batch, now, &mut self.out);
        }
        self.pace.note(reads, packets, now);
        // A train waits for more only while it grows: packets may all be dropped.
        let grew = self.out.transmits.len() > waiting;
        let more = is_full && grew && self.is_own && self.is_bulk();
        shared.flush_before(more, &mut self.out, &mut self.trains);
        if broken {
            shared.counters.count(Counter::TunReadError);
            return Found::Broken;
        }
        let next = if more {
            Next::Now
        } else if !is_full && packets == reads && self.pace.is_fast {
            Next::Soon
        } else {
            Next::WhenReady
        };
        Found::Packets(packets, next)
    }

    /// Says whether so much comes that it is a thread's own work.
    pub(super) fn is_bulk(&self) -> bool {
        self.pace.is_bulk
    }
}

/// When to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// At once: more may wait, and a train waits for them.
    Now,
    /// After a moment: packets come one by one, and so fast that it pays to let some gather.
    Soon,
    /// When there is something.
    WhenReady,
}

/// Finds out how fast packets come.
///
/// Those that come fast, one by one, are let gather: without that the thread is woken for each
/// packet where the scheduler has it share a core with who writes, and then sends each alone.
struct Pace {
    since: Instant,
    reads: usize,
    packets: usize,
    is_fast: bool,
    is_bulk: bool,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            reads: 0,
            packets: 0,
            is_fast: false,
            is_bulk: false,
        }
    }

    /// Notes what was read, also if it is nothing.
    fn note(&mut self, reads: usize, packets: usize, now: Instant) {
        self.reads += reads;
        self.packets += packets;
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= PACE_PERIOD {
            let exceeds = |count: usize, rate: f64| count as f64 > rate * elapsed.as_secs_f64();
            self.is_fast = exceeds(self.reads, FAST_READS);
            self.is_bulk = exceeds(self.packets, BULK_PACKETS);
            (self.since, self.reads, self.packets) = (now, 0, 0);
        }
    }
}
