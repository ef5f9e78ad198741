//! One peer: its handshake and keys, where it is, and what waits for it.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use gotatun::noise::{TimerParams, Tunn};
use gotatun::packet::WgKind;

use crate::frame::Frame;
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

/// WireGuard's timers, but with one jitter for all times that a peer does not answer.
///
/// gotatun would draw it anew with each packet that follows one of the peer's, and so touch memory
/// that nothing else needs. It is for the two ends not to begin at once: theirs are different, by the
/// order of their keys.
pub(crate) fn timer_params(keys_of_both: [&[u8; 32]; 2]) -> TimerParams {
    let mut hasher = DefaultHasher::new();
    keys_of_both.hash(&mut hasher);
    let params = TimerParams::default();
    let (start, end) = params.new_handshake_timeout.into_inner();
    let timeout = start + (end - start).mul_f64(hasher.finish() as f64 / u64::MAX as f64);
    TimerParams {
        new_handshake_timeout: timeout..=timeout,
        ..params
    }
}

/// Laid out as written: what each packet needs comes after the end of `tunn`, where gotatun has its
/// timers, so that it is together in the cache ([`crate::prefetch`]).
#[repr(C)]
pub(crate) struct Peer {
    pub(crate) tunn: Tunn,
    pub(crate) endpoint: Option<Path>,
    pub(crate) silence: Silence,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
    /// Indices of sessions that we answered, oldest first, until a packet proves that the peer has
    /// one. Several: an answer may be lost while an earlier one arrives.
    unconfirmed: VecDeque<u32>,
    /// The largest inner packet that the path takes, once that is known.
    pub(crate) path_mtu: Option<u16>,
    /// Handshakes that gave a session, in all.
    pub(crate) handshakes: usize,
    pub(crate) idle: Idle,
}

/// What a packet between two handshakes does not need.
pub(crate) struct Idle {
    pub(crate) public_key: [u8; 32],
    pub(crate) prefixes: Vec<Prefix>,
    pub(crate) keepalive: Option<u16>,
    /// Inner packets and when they came; they leave when the handshake is done.
    pub(crate) staged: VecDeque<(Instant, Frame)>,
    pub(crate) last_handshake: Option<Instant>,
    /// Start of the current period, and the handshakes that the peer started in it.
    initiations: Option<(Instant, u32)>,
    /// When a peer with keepalive tries again after all attempts of a handshake failed.
    retry_at: Option<Instant>,
    /// How often the sender of what does not fit is told so.
    pub(crate) answers: Answers,
}

impl Peer {
    pub(crate) fn new(public_key: [u8; 32], tunn: Tunn) -> Self {
        Self {
            tunn,
            endpoint: None,
            silence: Silence::default(),
            rx_bytes: 0,
            tx_bytes: 0,
            unconfirmed: VecDeque::new(),
            path_mtu: None,
            handshakes: 0,
            idle: Idle {
                public_key,
                prefixes: Vec::new(),
                keepalive: None,
                staged: VecDeque::new(),
                last_handshake: None,
                initiations: None,
                retry_at: None,
                answers: Answers::default(),
            },
        }
    }

    /// Takes the endpoint that the application wants.
    pub(crate) fn override_endpoint(&mut self, path: Path, now: Instant) {
        if self.endpoint != Some(path) {
            // A handshake that failed elsewhere may succeed here at once.
            self.idle.retry_at = Some(now);
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
                public_key: self.idle.public_key,
                path,
            });
        }
    }

    /// Tells that data stays unanswered, once for each step.
    pub(crate) fn tell_silence(&mut self, now: Instant, out: &mut Output) {
        if let Some(silence) = self.silence.take(now) {
            out.events.push(Event::Unanswered {
                public_key: self.idle.public_key,
                silence,
            });
        }
    }

    /// Turns keepalives on only while there is somewhere to send them to; a change sends one.
    pub(crate) fn sync_keepalive(&mut self) {
        let wanted = self.idle.keepalive.filter(|_| self.endpoint.is_some());
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
        self.idle.last_handshake = Some(now);
        self.idle.retry_at = None;
        out.events.push(Event::HandshakeCompleted {
            public_key: self.idle.public_key,
            path,
        });
    }

    /// Says whether the peer starts handshakes too fast.
    pub(crate) fn initiates_too_fast(&self, now: Instant) -> bool {
        self.idle.initiations.is_some_and(|(since, count)| {
            count >= MAX_INITIATIONS && now.saturating_duration_since(since) < INITIATION_PERIOD
        })
    }

    /// Notes a handshake that the peer started; only for authenticated ones, so that nobody else
    /// can use up its share.
    pub(crate) fn note_initiation(&mut self, now: Instant) {
        self.idle.initiations = match self.idle.initiations {
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
        self.idle.staged.clear();
        self.endpoint?;
        let wait = Duration::from_secs(self.idle.keepalive?.into());
        if now < *self.idle.retry_at.get_or_insert(now + wait) {
            return None;
        }
        self.idle.retry_at = None;
        self.tunn.format_handshake_initiation(false).map(Into::into)
    }
}
