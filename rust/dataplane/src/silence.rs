//! Notices data that nobody answers: the earliest sign that a path is dead.

use std::time::{Duration, Instant};

/// So long data may stay unanswered.
pub(crate) const UNANSWERED: Duration = Duration::from_secs(1);
/// Who has sent no data for so long takes part in one-way traffic: its silence means nothing.
const TWO_WAY: Duration = Duration::from_secs(5);

/// What one peer has been sent and has sent.
#[derive(Default)]
pub(crate) struct Silence {
    heard_data: Option<Instant>,
    unanswered_since: Option<Instant>,
    told: bool,
}

impl Silence {
    /// Notes data that left for the peer.
    pub(crate) fn on_sent(&mut self, now: Instant) {
        let is_recent = |at: Instant| now.saturating_duration_since(at) < TWO_WAY;
        if self.unanswered_since.is_none() && self.heard_data.is_some_and(is_recent) {
            self.unanswered_since = Some(now);
        }
    }

    /// Notes an authenticated packet of the peer.
    pub(crate) fn on_heard(&mut self, has_data: bool, now: Instant) {
        if has_data {
            self.heard_data = Some(now);
        }
        self.unanswered_since = None;
        self.told = false;
    }

    /// Says, once a silence, that the peer answers no more.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        let is_late = |since: Instant| now.saturating_duration_since(since) >= UNANSWERED;
        let is_due = !self.told && self.unanswered_since.is_some_and(is_late);
        self.told |= is_due;
        is_due
    }
}
