//! One peer: its handshake and keys, where it is, and what waits for it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use gotatun::noise::Tunn;
use gotatun::packet::{Packet, WgKind};

use crate::machine::path_mtu::Answers;
use crate::machine::{Event, Output, Path};
use crate::routes::Prefix;
use crate::silence::Silence;

/// Packets that may wait for one peer's handshake: a few round trips of a start, not a bulk flow.
pub(crate) const MAX_STAGED_PER_PEER: usize = 32;
/// Answered handshakes that may wait for their first packet: gotatun keeps as many sessions.
const MAX_UNCONFIRMED: usize = 8;
/// Handshakes that one peer may start in a period (Linux: 50 a second).
const MAX_INITIATIONS: u32 = 50;
/// The period of that limit.
const INITIATION_PERIOD: Duration = Duration::from_secs(1);

pub(crate) struct Peer {
    pub(crate) public_key: [u8; 32],
    pub(crate) tunn: Tunn,
    pub(crate) prefixes: Vec<Prefix>,
    pub(crate) endpoint: Option<Path>,
    pub(crate) keepalive: Option<u16>,
    /// Padded inner packets and when they came; they leave when the handshake is done.
    pub(crate) staged: VecDeque<(Instant, Packet)>,
    /// Indices of sessions that we answered, oldest first, until a packet proves that the peer has
    /// one. Several: an answer may be lost while an earlier one arrives.
    unconfirmed: VecDeque<u32>,
    pub(crate) last_handshake: Option<Instant>,
    /// Start of the current period, and the handshakes that the peer started in it.
    initiations: Option<(Instant, u32)>,
    /// When a peer with keepalive tries again after all attempts of a handshake failed.
    retry_at: Option<Instant>,
    pub(crate) silence: Silence,
    /// The largest inner packet that the path takes, once that is known.
    pub(crate) path_mtu: Option<u16>,
    /// How often the sender of what does not fit is told so.
    pub(crate) answers: Answers,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
}

impl Peer {
    pub(crate) fn new(public_key: [u8; 32], tunn: Tunn) -> Self {
        Self {
            public_key,
            tunn,
            prefixes: Vec::new(),
            endpoint: None,
            keepalive: None,
            staged: VecDeque::new(),
            unconfirmed: VecDeque::new(),
            last_handshake: None,
            initiations: None,
            retry_at: None,
            silence: Silence::default(),
            path_mtu: None,
            answers: Answers::default(),
            rx_bytes: 0,
            tx_bytes: 0,
        }
    }

    /// Takes the endpoint that the application wants.
    pub(crate) fn override_endpoint(&mut self, path: Path, now: Instant) {
        if self.endpoint != Some(path) {
            // A handshake that failed elsewhere may succeed here at once.
            self.retry_at = Some(now);
            self.endpoint = Some(path);
        }
    }

    /// Takes the endpoint that an authenticated packet came from.
    pub(crate) fn learn_endpoint(&mut self, path: Path, out: &mut Output) {
        let known = self.endpoint;
        let local = path.local.or(known.and_then(|known| known.local));
        let path = Path { local, ..path };
        self.endpoint = Some(path);
        let place = |path: Path| (path.remote, path.channel);
        if known.is_none_or(|known| place(known) != place(path)) {
            self.sync_keepalive();
            out.events.push(Event::EndpointRoamed {
                public_key: self.public_key,
                path,
            });
        }
    }

    /// Tells that data stays unanswered, once for each step.
    pub(crate) fn tell_silence(&mut self, now: Instant, out: &mut Output) {
        if let Some(silence) = self.silence.take(now) {
            out.events.push(Event::Unanswered {
                public_key: self.public_key,
                silence,
            });
        }
    }

    /// Turns keepalives on only while there is somewhere to send them to; a change sends one.
    pub(crate) fn sync_keepalive(&mut self) {
        let wanted = self.keepalive.filter(|_| self.endpoint.is_some());
        if self.tunn.persistent_keepalive() != wanted {
            self.tunn.set_persistent_keepalive(wanted);
        }
    }

    /// Notes a session that waits for its first packet.
    pub(crate) fn expect_confirmation(&mut self, index: u32) {
        if self.unconfirmed.len() >= MAX_UNCONFIRMED {
            self.unconfirmed.pop_front();
        }
        self.unconfirmed.push_back(index);
    }

    /// Says whether a packet of this session is the first; forgets the sessions before it.
    pub(crate) fn confirm(&mut self, index: u32) -> bool {
        let found = self.unconfirmed.iter().position(|known| *known == index);
        if let Some(position) = found {
            self.unconfirmed.drain(..=position);
        }
        found.is_some()
    }

    /// Notes that both sides have the keys of a handshake.
    pub(crate) fn complete_handshake(&mut self, path: Path, now: Instant, out: &mut Output) {
        self.last_handshake = Some(now);
        self.retry_at = None;
        out.events.push(Event::HandshakeCompleted {
            public_key: self.public_key,
            path,
        });
    }

    /// Says whether the peer starts handshakes too fast.
    pub(crate) fn initiates_too_fast(&self, now: Instant) -> bool {
        self.initiations.is_some_and(|(since, count)| {
            count >= MAX_INITIATIONS && now.saturating_duration_since(since) < INITIATION_PERIOD
        })
    }

    /// Notes a handshake that the peer started; only for authenticated ones, so that nobody else
    /// can use up its share.
    pub(crate) fn note_initiation(&mut self, now: Instant) {
        self.initiations = match self.initiations {
            Some((since, count)) if now.saturating_duration_since(since) < INITIATION_PERIOD => {
                Some((since, count.saturating_add(1)))
            }
            _ => Some((now, 1)),
        };
    }

    /// Does what WireGuard's timers want.
    pub(crate) fn handle_timers(&mut self, now: Instant) -> Option<WgKind> {
        if let Ok(action) = self.tunn.update_timers() {
            return action;
        }
        // All attempts failed, or nothing was said for nine minutes.
        self.staged.clear();
        self.endpoint?;
        let wait = Duration::from_secs(self.keepalive?.into());
        if now < *self.retry_at.get_or_insert(now + wait) {
            return None;
        }
        self.retry_at = None;
        self.tunn.format_handshake_initiation(false).map(Into::into)
    }
}
