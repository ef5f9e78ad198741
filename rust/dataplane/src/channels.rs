//! TURN channels: those that carry our peers' packets, and those that this node passes on as a relay.
//!
//! Who may use them is decided elsewhere; here is a bounded table of what was decided, without IO.
//!
//! Source: RFC 8656 12 (channels), 12.4 (ChannelData).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::machine::{CommandError, Path};

/// Bytes of ChannelData before the data: number and length (RFC 8656 12.4).
pub const HEADER_SIZE: usize = 4;
/// Channels of our own: 256 peers at each of a few servers.
pub const MAX_CHANNELS: usize = 4096;
/// Channels that are passed on: 64 of each of 256 allocations.
pub const MAX_FORWARDS: usize = 16_384;
/// How long a closed channel is still heard: what is under way arrives meanwhile.
pub const CLOSED_LIFE: Duration = Duration::from_secs(5);

/// The longest that a decision to pass on holds: channels live ten minutes (RFC 8656 12).
const MAX_LIFE: Duration = Duration::from_secs(600);

/// A channel number with who is at its other end.
type Key = (SocketAddr, u16);

/// Returns the header of ChannelData around so many bytes.
pub fn header(number: u16, length: usize) -> [u8; HEADER_SIZE] {
    let [high, low] = number.to_be_bytes();
    // No datagram has more than 16 bits of bytes.
    let length = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    [high, low, length[0], length[1]]
}

/// Reads ChannelData that [`crate::demux`] found to be such: its number, and where its data ends.
pub fn parse(data: &[u8]) -> Option<(u16, usize)> {
    let &[first, second, high, low, ..] = data else {
        return None;
    };
    let end = HEADER_SIZE + usize::from(u16::from_be_bytes([high, low]));
    (end <= data.len()).then_some((u16::from_be_bytes([first, second]), end))
}

/// Bytes that one client may have passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Bytes a second.
    pub rate: u64,
    /// Bytes at once.
    pub burst: u64,
}

/// A channel that is passed on, as the relay decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Who sends.
    pub client: SocketAddr,
    /// In this channel.
    pub number: u16,
    /// Where it goes on to, with the channel there.
    pub target: Path,
    /// For how long; then who decides is asked again.
    pub life: Duration,
    /// Of the client's, for all its channels together.
    pub quota: Quota,
}

/// Where ChannelData goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// It is a peer's.
    Peer,
    /// On to another client.
    Forward(Path),
    /// Nowhere: the client's quota is used up.
    Quota,
    /// It is no channel that is known here.
    Unknown,
}

struct Bucket {
    quota: Quota,
    left: u64,
    at: Instant,
}

impl Bucket {
    fn take(&mut self, amount: u64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_micros();
        let earned = passed.saturating_mul(u128::from(self.quota.rate)) / 1_000_000;
        if earned > 0 {
            let earned = u64::try_from(earned).unwrap_or(u64::MAX);
            self.left = self.left.saturating_add(earned).min(self.quota.burst);
            self.at = now;
        }
        let enough = self.left >= amount;
        if enough {
            self.left -= amount;
        }
        enough
    }
}

/// All channels that are in use.
#[derive(Default)]
pub struct Channels {
    /// Our own, and until when those are heard that were closed.
    own: HashMap<Key, Option<Instant>>,
    forwards: HashMap<Key, (Path, Instant)>,
    buckets: HashMap<SocketAddr, Bucket>,
}

impl Channels {
    /// Hears a channel of a server from now on.
    pub fn open(
        &mut self,
        server: SocketAddr,
        number: u16,
        now: Instant,
    ) -> Result<(), CommandError> {
        if self.own.len() >= MAX_CHANNELS {
            self.own
                .retain(|_, until| until.is_none_or(|until| now < until));
        }
        if self.own.len() >= MAX_CHANNELS && !self.own.contains_key(&(server, number)) {
            return Err(CommandError::TooManyChannels);
        }
        self.own.insert((server, number), None);
        Ok(())
    }

    /// Hears a channel for a few seconds more; closing it again adds none.
    pub fn close(&mut self, server: SocketAddr, number: u16, now: Instant) {
        if let Some(until) = self.own.get_mut(&(server, number)) {
            until.get_or_insert(now + CLOSED_LIFE);
        }
    }

    /// Passes a channel on, in place of what was said of it before.
    pub fn forward(&mut self, forward: Forward, now: Instant) -> Result<(), CommandError> {
        let key = (forward.client, forward.number);
        if self.forwards.len() >= MAX_FORWARDS && !self.forwards.contains_key(&key) {
            self.prune(now);
            if self.forwards.len() >= MAX_FORWARDS {
                return Err(CommandError::TooManyChannels);
            }
        }
        let until = now + forward.life.min(MAX_LIFE);
        self.forwards.insert(key, (forward.target, until));
        let bucket = self.buckets.entry(forward.client).or_insert(Bucket {
            quota: forward.quota,
            left: forward.quota.burst,
            at: now,
        });
        bucket.quota = forward.quota;
        Ok(())
    }

    /// Passes nothing on any more, from this client or to it.
    pub fn end_forwards(&mut self, client: SocketAddr) {
        self.forwards
            .retain(|(from, _), (to, _)| *from != client && to.remote != client);
        self.buckets.remove(&client);
    }

    /// Says where ChannelData goes; `size` bytes count for its sender's quota if it goes on.
    pub fn route(&mut self, from: SocketAddr, number: u16, size: usize, now: Instant) -> Route {
        let key = (from, number);
        if let Some(until) = self.own.get(&key) {
            if until.is_none_or(|until| now < until) {
                return Route::Peer;
            }
            self.own.remove(&key);
        }
        match self.forwards.get(&key) {
            Some((target, until)) if now < *until => {
                let target = *target;
                let bucket = self.buckets.get_mut(&from);
                if bucket.is_some_and(|bucket| bucket.take(size as u64, now)) {
                    Route::Forward(target)
                } else {
                    Route::Quota
                }
            }
            _ => Route::Unknown,
        }
    }

    fn prune(&mut self, now: Instant) {
        self.forwards.retain(|_, (_, until)| now < *until);
        let forwards = &self.forwards;
        self.buckets
            .retain(|client, _| forwards.keys().any(|(from, _)| from == client));
    }
}
