//! Peers that come, change and go.

use std::sync::Arc;
use std::time::Instant;

use gotatun::noise::Tunn;
use gotatun::noise::index_table::IndexTable;
use gotatun::noise::rate_limiter::RateLimiter;
use gotatun::x25519::{PublicKey, StaticSecret};

use super::{CommandError, MAX_PEERS, MAX_PREFIXES, Machine, PeerConfig};
use crate::peer::{self, Peer};
use crate::routes::PeerId;

/// Makes peers without the machine: their keys cost as much as some dozens of packets.
#[derive(Clone)]
pub(crate) struct Maker {
    pub(super) private_key: StaticSecret,
    pub(super) public_key: PublicKey,
    pub(super) indices: IndexTable,
    pub(super) limiter: Arc<RateLimiter>,
}

/// A peer as it is wanted, and all of it that could be made in advance.
pub(crate) struct Prepared {
    config: PeerConfig,
    made: Option<Box<Peer>>,
}

impl Maker {
    /// Checks a peer, and makes its keys if it is new.
    pub(crate) fn prepare(
        &self,
        config: PeerConfig,
        is_new: bool,
    ) -> Result<Prepared, CommandError> {
        if config.public_key == self.public_key.to_bytes() {
            return Err(CommandError::OwnKey);
        }
        if config.prefixes.len() > MAX_PREFIXES {
            return Err(CommandError::TooManyPrefixes);
        }
        let made = is_new.then(|| Box::new(self.make(&config)));
        Ok(Prepared { config, made })
    }

    fn make(&self, config: &PeerConfig) -> Peer {
        // The keepalive waits until an endpoint is known: see `Peer::sync_keepalive`.
        let mut tunn = Tunn::new(
            self.private_key.clone(),
            PublicKey::from(config.public_key),
            config.preshared_key,
            None,
            self.indices.clone(),
            Arc::clone(&self.limiter),
        );
        let keys = [self.public_key.as_bytes(), &config.public_key];
        tunn.dangerously_set_timer_params(peer::timer_params(keys));
        Peer::new(config.public_key, tunn)
    }
}

impl Machine {
    /// What makes peers for this machine.
    pub(crate) fn maker(&self) -> Maker {
        self.maker.clone()
    }

    /// Adds a peer or changes it as a whole.
    pub fn set_peer(&mut self, config: PeerConfig, now: Instant) -> Result<(), CommandError> {
        let prepared = self.maker.prepare(config, false)?;
        self.take_prepared(prepared, now)
    }

    /// Adds a peer that was prepared, or changes it as a whole; makes what was not made yet.
    pub(crate) fn take_prepared(
        &mut self,
        Prepared { config, made }: Prepared,
        now: Instant,
    ) -> Result<(), CommandError> {
        let id = match self.by_key.get(&config.public_key) {
            Some(id) => *id,
            None if self.by_key.len() >= MAX_PEERS => return Err(CommandError::TooManyPeers),
            None => self.add(made.map_or_else(|| self.maker.make(&config), |made| *made)),
        };
        let Some(peer) = self.peers[id].as_mut() else {
            return Err(CommandError::UnknownPeer);
        };
        for prefix in std::mem::take(&mut peer.idle.prefixes) {
            self.routes.remove(prefix, id);
        }
        for prefix in &config.prefixes {
            self.routes.insert(*prefix, id);
        }
        peer.idle.prefixes = config.prefixes;
        peer.tunn.set_preshared_key(config.preshared_key);
        peer.idle.keepalive = config.keepalive.filter(|seconds| *seconds > 0);
        if let Some(path) = config.endpoint {
            peer.override_endpoint(path, now);
        }
        peer.sync_keepalive();
        Ok(())
    }

    fn add(&mut self, peer: Peer) -> PeerId {
        let key = peer.idle.public_key;
        let id = if let Some(id) = self.free.pop() {
            self.peers[id] = Some(peer);
            id
        } else {
            self.peers.push(Some(peer));
            self.peers.len() - 1
        };
        self.by_key.insert(key, id);
        id
    }

    /// Removes a peer and its keys.
    pub fn remove_peer(&mut self, public_key: &[u8; 32]) -> Result<(), CommandError> {
        let id = self
            .by_key
            .remove(public_key)
            .ok_or(CommandError::UnknownPeer)?;
        if let Some(peer) = self.peers[id].take() {
            for prefix in peer.idle.prefixes {
                self.routes.remove(prefix, id);
            }
            self.staged -= peer.idle.staged.len();
        }
        self.by_index.retain(|_, owner| *owner != id);
        self.free.push(id);
        Ok(())
    }
}
