//! The state of all peers, without IO: datagrams, inner packets and commands in; [`Output`] out.
//!
//! The caller holds the machine for a batch of packets and moves the output afterwards, so batches
//! and offloads are the caller's business. All memory is bounded by the constants here.
//!
//! Invariant: an endpoint changes only by a command or by a packet that authenticated.

mod incoming;
mod index;
mod joining;
mod outgoing;
pub(crate) mod path_mtu;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gotatun::noise::index_table::IndexTable;
use gotatun::noise::rate_limiter::RateLimiter;
use gotatun::packet::{Packet, WgKind};
use gotatun::tun::MtuWatcher;
use gotatun::x25519::{PublicKey, StaticSecret};

use crate::channels;
use crate::counters::{Counter, Counters};
use crate::ecn;
use crate::peer::Peer;
use crate::prefetch;
use crate::routes::{PeerId, Prefix, Routes};
use index::ByIndex;
pub(crate) use joining::{Maker, Prepared};

/// The port of the control protocol on a node's own overlay addresses.
pub const CONTROL_PORT: u16 = 41641;
/// How often [`Machine::handle_timers`] wants to be called; WireGuard's timers count seconds.
pub const TICK_INTERVAL: Duration = Duration::from_millis(250);
/// Peers of one machine: several times the largest mesh (a /20 has 4094 addresses).
pub const MAX_PEERS: usize = if IN_MODELS { 2 } else { 16_384 };
/// Whether threads are looked at in every order (`scripts/loom`), for which limits are near.
pub(crate) const IN_MODELS: bool = cfg!(all(test, feature = "loom"));
/// Prefixes of one peer: its two addresses and room for subnets.
pub const MAX_PREFIXES: usize = 256;

/// Packets that wait for handshakes of all peers together, about 3 MiB at an MTU of 1420.
const MAX_STAGED: usize = 2048;
/// After this a waiting packet is of no use to its sender.
const STAGED_LIFETIME: Duration = Duration::from_secs(10);
/// Handshake messages a second from one IP before it must show a cookie (wireguard-go: 20).
const HANDSHAKES_PER_SOURCE: u64 = 20;
/// Handshake messages a second from everybody before all must show a cookie.
const HANDSHAKES_UNDER_LOAD: u64 = 500;
/// Handshake messages a second beyond which they are dropped unread; bounds the limiters' tables.
const HANDSHAKES_MAX: u64 = 10_000;
/// How often the limits above start anew.
const LOAD_PERIOD: Duration = Duration::from_secs(1);
/// How often indices of sessions that are over are forgotten.
const PRUNE_INTERVAL: Duration = Duration::from_secs(10);
/// Packets between asking for a peer's state and needing it: two take as long as memory does.
const AHEAD: usize = 2;

/// Where a datagram comes from or goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The other end.
    pub remote: SocketAddr,
    /// Our own address, where it is known.
    pub local: Option<IpAddr>,
    /// The TURN channel in which the datagram comes or goes; `remote` is the server then.
    pub channel: Option<u16>,
}

impl Path {
    /// A datagram between two addresses, in no channel.
    pub fn plain(remote: SocketAddr, local: Option<IpAddr>) -> Self {
        Self {
            remote,
            local,
            channel: None,
        }
    }
}

/// Whether a datagram may be sent in fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Where the way is too narrow for it.
    AsNeeded,
    /// Never: a probe.
    Never,
}

/// One datagram to send.
pub struct Transmit {
    /// Its bytes.
    pub data: Packet,
    /// Where to.
    pub path: Path,
    /// In fragments or not.
    pub cut: Cut,
    /// The congestion mark of its IP header.
    pub ecn: u8,
}

impl Transmit {
    /// Bytes of the datagram with the channel's header.
    pub fn wire_size(&self) -> usize {
        let header = self.path.channel.map_or(0, |_| channels::HEADER_SIZE);
        self.data.len() + header
    }
}

/// What the application learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A control port packet of a peer; its source address was checked.
    InnerReceived {
        /// The peer.
        public_key: [u8; 32],
        /// The IP packet without padding.
        packet: Vec<u8>,
    },
    /// New transport keys with a peer, which has shown that it has them.
    HandshakeCompleted {
        /// The peer.
        public_key: [u8; 32],
        /// Where that packet came from.
        path: Path,
    },
    /// An authenticated packet came from another address than the peer's endpoint.
    EndpointRoamed {
        /// The peer.
        public_key: [u8; 32],
        /// The endpoint from now on.
        path: Path,
    },
    /// Data went both ways, and now nothing has come back for so long.
    Unanswered {
        /// The peer.
        public_key: [u8; 32],
        /// 1 s, later 15 s.
        silence: Duration,
    },
    /// A request for consent stayed unanswered; no more are sent.
    ConsentMissed {
        /// The peer.
        public_key: [u8; 32],
        /// Since the last answer.
        silence: Duration,
    },
    /// A request for consent was answered faster or slower than before.
    ConsentAnswered {
        /// The peer.
        public_key: [u8; 32],
        /// The round trip.
        latency: Duration,
    },
}

/// What a call produced; the caller sends, writes and queues it, in this order.
#[derive(Default)]
pub struct Output {
    /// Datagrams for the sockets.
    pub transmits: Vec<Transmit>,
    /// Inner packets for the TUN, without padding.
    pub inner: Vec<Packet>,
    /// Events for the application.
    pub events: Vec<Event>,
    /// Whether `transmits` has what waited for a handshake: the next inner packet might overtake it.
    pub has_staged: bool,
}

/// What a machine is made of.
pub struct Config {
    /// WireGuard's private key.
    pub private_key: [u8; 32],
    /// Our own overlay addresses: the control port's.
    pub control_ips: Vec<IpAddr>,
    /// Largest inner packet; padding stays below it.
    pub mtu: u16,
}

/// A peer as the application wants it.
pub struct PeerConfig {
    /// Its WireGuard public key.
    pub public_key: [u8; 32],
    /// Its inner addresses, all of them.
    pub prefixes: Vec<Prefix>,
    /// Where it is; `None` keeps what is known.
    pub endpoint: Option<Path>,
    /// Seconds between keepalives, if any.
    pub keepalive: Option<u16>,
    /// Mixed into handshakes from now on; live keys stay.
    pub preshared_key: Option<[u8; 32]>,
}

/// Counters of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStats {
    /// The peer.
    pub public_key: [u8; 32],
    /// Where it is.
    pub endpoint: Option<Path>,
    /// Inner bytes received, with padding.
    pub rx_bytes: u64,
    /// Inner bytes sent, with padding.
    pub tx_bytes: u64,
    /// Age of the last handshake.
    pub handshake_age: Option<Duration>,
}

/// Why a command was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// No such peer.
    UnknownPeer,
    /// There is no room for another peer.
    TooManyPeers,
    /// The peer has more prefixes than allowed.
    TooManyPrefixes,
    /// The key is our own.
    OwnKey,
    /// The packet is not a whole IP packet of at most the MTU.
    BadPacket,
    /// The peer has no endpoint yet.
    NoEndpoint,
    /// There is no room for another channel.
    TooManyChannels,
}

impl std::fmt::Display for CommandError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::UnknownPeer => "no such peer",
            Self::TooManyPeers => "too many peers",
            Self::TooManyPrefixes => "too many allowed IPs for one peer",
            Self::OwnKey => "a peer cannot have our own key",
            Self::BadPacket => "not a whole IP packet of at most the MTU",
            Self::NoEndpoint => "the peer has no endpoint yet",
            Self::TooManyChannels => "too many channels",
        })
    }
}

impl std::error::Error for CommandError {}

/// Handshake messages of the current second.
struct Load {
    since: Instant,
    seen: u64,
    verified: u64,
}

/// All peers of one node.
pub struct Machine {
    maker: Maker,
    control_ips: Vec<IpAddr>,
    mtu: u16,
    padding_mtu: MtuWatcher,
    peers: Vec<Option<Peer>>,
    free: Vec<PeerId>,
    by_key: HashMap<[u8; 32], PeerId>,
    by_index: ByIndex,
    routes: Routes,
    strict_limiter: Arc<RateLimiter>,
    load: Load,
    prune_at: Instant,
    staged: usize,
    /// Names the last packet that was fragmented.
    fragmented: u32,
    counters: Arc<Counters>,
}

impl Machine {
    /// Makes a machine without peers.
    pub fn new(config: Config, counters: Arc<Counters>, now: Instant) -> Self {
        let private_key = StaticSecret::from(config.private_key);
        let public_key = PublicKey::from(&private_key);
        Self {
            strict_limiter: Arc::new(RateLimiter::new(&public_key, 0)),
            maker: Maker {
                private_key,
                public_key,
                indices: IndexTable::from_os_rng(),
                limiter: Arc::new(RateLimiter::new(&public_key, HANDSHAKES_PER_SOURCE)),
            },
            control_ips: config.control_ips,
            mtu: config.mtu,
            padding_mtu: MtuWatcher::new(config.mtu),
            peers: Vec::new(),
            free: Vec::new(),
            by_key: HashMap::new(),
            by_index: ByIndex::default(),
            routes: Routes::new(),
            load: Load {
                since: now,
                seen: 0,
                verified: 0,
            },
            prune_at: now + PRUNE_INTERVAL,
            staged: 0,
            fragmented: 0,
            counters,
        }
    }

    /// Our own public key.
    pub fn public_key(&self) -> [u8; 32] {
        self.maker.public_key.to_bytes()
    }

    /// Changes the largest inner packet: padding stays below it.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu;
        self.padding_mtu = MtuWatcher::new(mtu);
    }

    /// Starts a handshake now, also while another one is under way.
    pub fn start_handshake(
        &mut self,
        public_key: &[u8; 32],
        out: &mut Output,
    ) -> Result<(), CommandError> {
        let id = self.find(public_key)?;
        let Some(peer) = self.peers[id].as_mut() else {
            return Err(CommandError::UnknownPeer);
        };
        let Some(path) = peer.endpoint else {
            return Err(CommandError::NoEndpoint);
        };
        if let Some(init) = peer.tunn.format_handshake_initiation(true) {
            push(&mut self.by_index, id, init.into(), path, out);
        }
        Ok(())
    }

    /// Asks for the state of the peer whose packet comes later; the present one's is there.
    fn prefetch(&self, present: Option<PeerId>, later: Option<PeerId>) {
        if later != present
            && let Some(peer) = later.and_then(|id| self.peers[id].as_ref())
        {
            prefetch::peer(peer);
        }
    }

    fn find(&self, public_key: &[u8; 32]) -> Result<PeerId, CommandError> {
        self.by_key
            .get(public_key)
            .copied()
            .ok_or(CommandError::UnknownPeer)
    }

    /// Does what WireGuard's timers want; a late or repeated call is harmless.
    pub fn handle_timers(&mut self, now: Instant, out: &mut Output) {
        self.maker.limiter.try_reset_count();
        self.strict_limiter.try_reset_count();
        for id in 0..self.peers.len() {
            let Some(peer) = self.peers[id].as_mut() else {
                continue;
            };
            let before = peer.idle.staged.len();
            let action = peer.handle_timers(now);
            let lost = before - peer.idle.staged.len();
            self.staged -= lost;
            self.counters.add(Counter::DropStagedLost, lost as u64);
            match (action, peer.endpoint) {
                (Some(kind), Some(path)) => push(&mut self.by_index, id, kind, path, out),
                (Some(_), None) => self.counters.count(Counter::DropNoEndpoint),
                (None, _) => {}
            }
            peer.tell_silence(now, out);
        }
        if now >= self.prune_at {
            self.prune_at = now + PRUNE_INTERVAL;
            let indices = &self.maker.indices;
            self.by_index.retain(|index, _| indices.in_use(*index));
        }
    }

    /// Counters of each peer.
    pub fn peer_stats(&self, now: Instant) -> Vec<PeerStats> {
        let stats = |peer: &Peer| PeerStats {
            public_key: peer.idle.public_key,
            endpoint: peer.endpoint,
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
            handshake_age: peer
                .idle
                .last_handshake
                .map(|at| now.saturating_duration_since(at)),
        };
        self.peers.iter().flatten().map(stats).collect()
    }

    /// How many peers there are.
    pub fn peer_count(&self) -> usize {
        self.by_key.len()
    }
}

/// Puts out a WireGuard message and notes the session index that answers to it will carry.
fn push(by_index: &mut ByIndex, id: PeerId, kind: WgKind, path: Path, out: &mut Output) {
    match &kind {
        WgKind::HandshakeInit(init) => by_index.insert(init.sender_idx.get(), id),
        WgKind::HandshakeResp(response) => by_index.insert(response.sender_idx.get(), id),
        WgKind::CookieReply(_) | WgKind::Data(_) => None,
    };
    out.transmits.push(Transmit {
        data: kind.into(),
        path,
        cut: Cut::AsNeeded,
        ecn: ecn::NOT_ECT,
    });
}
