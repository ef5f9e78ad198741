//! Notices data that nobody answers: the earliest sign that a path is dead.

use std::time::{Duration, Instant};

/// When unanswered data is told: a path may be dead; WireGuard itself may be (a live one answers
/// after 10 s at the latest, by a keepalive).
const TOLD_AFTER: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(15)];
/// Who has sent no data for so long takes part in one-way traffic: its silence means nothing.
const TWO_WAY: Duration = Duration::from_secs(5);

/// What one peer has been sent and has sent.
#[derive(Default)]
pub(crate) struct Silence {
    heard_data: Option<Instant>,
    unanswered_since: Option<Instant>,
    told: usize,
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
        self.told = 0;
    }

    /// Returns, once for each of its steps, how long the peer has not answered.
    pub(crate) fn take(&mut self, now: Instant) -> Option<Duration> {
        let step = *TOLD_AFTER.get(self.told)?;
        if now.saturating_duration_since(self.unanswered_since?) < step {
            return None;
        }
        self.told += 1;
        Some(step)
    }
}
