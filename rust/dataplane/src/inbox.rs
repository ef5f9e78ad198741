//! What waits for the application: datagrams by kind, taken in turns, and events.
//!
//! No flood of one kind takes another's room or turn.

use std::collections::VecDeque;

use crate::counters::{Counter, Counters};
use crate::demux::Kind;
use crate::machine::{Event, Path};

/// Datagrams of one kind that wait; at 1280 bytes about 1.3 MiB.
pub const MAX_DATAGRAMS: usize = 1024;
/// Largest datagram that is passed on: discv5 has 1280, STUN less, ChannelData a whole MTU.
pub const MAX_DATAGRAM_SIZE: usize = 2048;
/// State changes that wait: several for each peer of a large mesh.
pub const MAX_EVENTS: usize = 8192;
/// Control port packets that wait.
pub const MAX_INNER: usize = 512;

/// A datagram that is not WireGuard's.
pub struct Passed {
    /// Its bytes.
    pub data: Vec<u8>,
    /// Where it came from, and to which of our addresses.
    pub path: Path,
}

/// Bounded queues towards the application.
#[derive(Default)]
pub struct Inbox {
    stun: VecDeque<Passed>,
    other: VecDeque<Passed>,
    stun_next: bool,
    inner: VecDeque<Event>,
    changes: VecDeque<Event>,
}

impl Inbox {
    /// Queues a datagram; a full queue drops the new one.
    pub fn push_datagram(&mut self, kind: Kind, passed: Passed, counters: &Counters) {
        if passed.data.len() > MAX_DATAGRAM_SIZE {
            counters.count(Counter::DropOversized);
            return;
        }
        let (queue, taken, full) = match kind {
            Kind::Stun | Kind::ChannelData => {
                (&mut self.stun, Counter::PassedStun, Counter::DropStunQueue)
            }
            Kind::WireGuard | Kind::Discv5 => (
                &mut self.other,
                Counter::PassedDiscv5,
                Counter::DropDiscv5Queue,
            ),
        };
        if queue.len() >= MAX_DATAGRAMS {
            counters.count(full);
            return;
        }
        counters.count(taken);
        queue.push_back(passed);
    }

    /// Queues an event; a full queue drops the new one.
    pub fn push_event(&mut self, event: Event, counters: &Counters) {
        if matches!(event, Event::InnerReceived { .. }) {
            if self.inner.len() >= MAX_INNER {
                counters.count(Counter::DropInnerQueue);
                return;
            }
            counters.count(Counter::InnerReceived);
            self.inner.push_back(event);
        } else if self.changes.len() >= MAX_EVENTS {
            counters.count(Counter::DropEventQueue);
        } else {
            self.changes.push_back(event);
        }
    }

    /// Takes the next datagram, kinds in turns.
    pub fn pop_datagram(&mut self) -> Option<Passed> {
        self.stun_next = !self.stun_next;
        if self.stun_next {
            self.stun.pop_front().or_else(|| self.other.pop_front())
        } else {
            self.other.pop_front().or_else(|| self.stun.pop_front())
        }
    }

    /// Takes the next event, changes first.
    pub fn pop_event(&mut self) -> Option<Event> {
        self.changes.pop_front().or_else(|| self.inner.pop_front())
    }

    /// Says whether anything waits.
    pub fn is_empty(&self) -> bool {
        self.stun.is_empty()
            && self.other.is_empty()
            && self.inner.is_empty()
            && self.changes.is_empty()
    }
}
