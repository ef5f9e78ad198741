//! The machine as the threads and the application share it.
//!
//! Setting a peer waits for no batch: a thread that the kernel stopped in the middle of one holds the
//! machine for some milliseconds. What is costly of a peer is made first, and whoever takes the machine
//! next takes the peer in before anything else, so that it is there for all that follows. Other
//! commands wait for the machine.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use super::clock;
use super::sync::{AtomicBool, Mutex, MutexGuard, lock};
use crate::machine::{CommandError, IN_MODELS, MAX_PEERS, Machine, Maker, PeerConfig, Prepared};

/// Peers that may wait: a thread takes the machine within a tick, so many come in a flood of them only.
const MAX_WAITING: usize = if IN_MODELS { 1 } else { 1024 };

/// A machine behind its lock, and the peers that are to join it.
pub(super) struct Held {
    machine: Mutex<Machine>,
    maker: Maker,
    /// Locked for a moment only, and after `machine` where both are.
    joining: Mutex<Joining>,
    /// Whether some wait there.
    has_joining: AtomicBool,
}

#[derive(Default)]
struct Joining {
    /// The keys of all peers, waiting or not.
    known: HashSet<[u8; 32]>,
    /// In their order.
    waiting: Vec<Prepared>,
}

impl Held {
    pub(super) fn new(machine: Machine) -> Self {
        Self {
            maker: machine.maker(),
            machine: Mutex::new(machine),
            joining: Mutex::new(Joining::default()),
            has_joining: AtomicBool::new(false),
        }
    }

    /// The machine, with all peers that were set before.
    pub(super) fn lock(&self) -> MutexGuard<'_, Machine> {
        let mut machine = lock(&self.machine);
        if self.has_joining.load(Ordering::Acquire) {
            let waiting = self.take(&mut lock(&self.joining));
            take_in(&mut machine, waiting);
        }
        machine
    }

    fn take(&self, joining: &mut Joining) -> Vec<Prepared> {
        self.has_joining.store(false, Ordering::Relaxed);
        std::mem::take(&mut joining.waiting)
    }

    /// Adds a peer or changes it as a whole. A batch that is under way ends without it.
    pub(super) fn set_peer(&self, config: PeerConfig) -> Result<(), CommandError> {
        let key = config.public_key;
        let is_new = lock(&self.joining).is_new(&key)?;
        let prepared = self.maker.prepare(config, is_new)?;
        let mut joining = lock(&self.joining);
        while joining.waiting.len() >= MAX_WAITING {
            drop(joining);
            drop(self.lock());
            joining = lock(&self.joining);
        }
        joining.is_new(&key)?;
        joining.known.insert(key);
        joining.waiting.push(prepared);
        self.has_joining.store(true, Ordering::Release);
        Ok(())
    }

    /// Removes a peer and its keys.
    pub(super) fn remove_peer(&self, public_key: &[u8; 32]) -> Result<(), CommandError> {
        let mut machine = lock(&self.machine);
        let waiting = {
            let mut joining = lock(&self.joining);
            joining.known.remove(public_key);
            self.take(&mut joining)
        };
        take_in(&mut machine, waiting);
        machine.remove_peer(public_key)
    }
}

impl Joining {
    /// Says whether a peer is not known yet, if there is room for it then.
    fn is_new(&self, public_key: &[u8; 32]) -> Result<bool, CommandError> {
        let is_new = !self.known.contains(public_key);
        if is_new && self.known.len() >= MAX_PEERS {
            return Err(CommandError::TooManyPeers);
        }
        Ok(is_new)
    }
}

/// Takes in what was set, in its order.
fn take_in(machine: &mut Machine, waiting: Vec<Prepared>) {
    for prepared in waiting {
        let taken = machine.take_prepared(prepared, clock());
        assert!(taken.is_ok(), "checked before it waited");
    }
}

#[cfg(all(test, feature = "loom"))]
mod models;

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::{Arc, mpsc};
    use std::thread;
    use std::time::Duration;

    use super::{Held, MAX_WAITING, clock, lock};
    use crate::machine::{CommandError, MAX_PEERS, Path, PeerConfig, PeerStats};
    use crate::{Config, Counters, Machine};

    const PATIENCE: Duration = Duration::from_secs(30);
    const TURNS: u16 = if cfg!(miri) { 3 } else { 1_000 };

    pub(super) fn held() -> Held {
        let config = Config {
            private_key: [1; 32],
            control_ips: Vec::new(),
            mtu: 1420,
        };
        Held::new(Machine::new(config, Arc::new(Counters::new()), clock()))
    }

    fn place(port: u16) -> Path {
        Path::plain(SocketAddr::from(([192, 0, 2, 1], port)), None)
    }

    /// A peer at a port.
    pub(super) fn peer(number: usize, port: u16) -> PeerConfig {
        let mut public_key = [9; 32];
        public_key[..8].copy_from_slice(&number.to_le_bytes());
        PeerConfig {
            public_key,
            prefixes: vec!["10.0.0.0/24".parse().expect("a prefix")],
            endpoint: Some(place(port)),
            keepalive: None,
            preshared_key: None,
        }
    }

    pub(super) fn stats_of(held: &Held, number: usize) -> Option<PeerStats> {
        let key = peer(number, 0).public_key;
        let stats = held.lock().peer_stats(clock());
        stats.into_iter().find(|stats| stats.public_key == key)
    }

    /// Runs what must not wait for the machine, which the caller holds.
    fn without_waiting(work: impl FnOnce() + Send) {
        let (done, is_done) = mpsc::channel();
        thread::scope(|scope| {
            scope.spawn(move || {
                work();
                done.send(()).expect("somebody waits");
            });
            let result = is_done.recv_timeout(PATIENCE);
            if result.is_err() {
                eprintln!("it waits for the machine");
                std::process::abort(); // the scope would wait for ever
            }
        });
    }

    #[test]
    fn setting_a_peer_waits_for_no_batch_and_the_last_change_holds() {
        let held = held();
        let batch = held.lock();
        without_waiting(|| {
            for (number, port) in [(7, 1), (8, 2), (7, 3)] {
                assert_eq!(held.set_peer(peer(number, port)), Ok(()));
            }
        });
        assert_eq!(batch.peer_count(), 0);
        let own = PeerConfig {
            public_key: batch.public_key(),
            ..peer(0, 0)
        };
        drop(batch);
        assert_eq!(held.set_peer(own), Err(CommandError::OwnKey));
        let endpoint = |number| stats_of(&held, number).and_then(|stats| stats.endpoint);
        assert_eq!((endpoint(7), endpoint(8)), (Some(place(3)), Some(place(2))));
        assert_eq!(held.lock().peer_count(), 2);
    }

    #[test]
    fn a_peer_that_waits_is_removed_as_any_other() {
        let held = held();
        let key = peer(7, 0).public_key;
        for _ in 0..2 {
            assert_eq!(held.set_peer(peer(7, 1)), Ok(()));
            assert_eq!(held.remove_peer(&key), Ok(()));
            assert_eq!(held.remove_peer(&key), Err(CommandError::UnknownPeer));
        }
        assert_eq!(held.set_peer(peer(7, 1)), Ok(()));
        assert!(stats_of(&held, 7).is_some());
    }

    #[test]
    #[cfg(not(miri))] // thousands of keys
    fn there_are_limits_to_peers_and_to_those_that_wait() {
        let held = held();
        let mut most = 0;
        for number in 0..MAX_PEERS {
            assert_eq!(held.set_peer(peer(number, 1)), Ok(()));
            most = most.max(lock(&held.joining).waiting.len());
        }
        assert_eq!(most, MAX_WAITING);
        let refused = Err(CommandError::TooManyPeers);
        assert_eq!(held.set_peer(peer(MAX_PEERS, 1)), refused);
        assert_eq!(held.set_peer(peer(3, 2)), Ok(())); // a change
        assert_eq!(held.lock().peer_count(), MAX_PEERS);
        assert_eq!(held.remove_peer(&peer(3, 0).public_key), Ok(()));
        assert_eq!(held.set_peer(peer(MAX_PEERS, 1)), Ok(()));
    }

    /// Whatever other threads do: who set a peer finds it, who removed one does not.
    #[test]
    fn threads_find_what_they_did() {
        let held = held();
        let work = |own: usize| {
            for turn in 1..=TURNS {
                assert_eq!(held.set_peer(peer(own, turn)), Ok(()));
                assert_eq!(held.set_peer(peer(100, turn)), Ok(()));
                let endpoint = stats_of(&held, own).and_then(|stats| stats.endpoint);
                assert_eq!(endpoint, Some(place(turn)));
                assert_eq!(held.remove_peer(&peer(own, 0).public_key), Ok(()));
                assert_eq!(stats_of(&held, own), None);
                // Another may have been quicker.
                let _ = held.remove_peer(&peer(100, 0).public_key);
            }
        };
        thread::scope(|scope| {
            for own in 0..3 {
                scope.spawn(move || work(own));
            }
        });
        let _ = held.remove_peer(&peer(100, 0).public_key);
        assert_eq!(held.lock().peer_count(), 0);
        assert!(lock(&held.joining).known.is_empty());
    }

    #[test]
    fn a_thread_that_panics_with_all_of_it_leaves_it_usable() {
        let held = held();
        let result = thread::scope(|scope| {
            let panics = scope.spawn(|| {
                let _all = (held.lock(), lock(&held.joining));
                panic!("injected by a test");
            });
            panics.join()
        });
        assert!(result.is_err());
        assert_eq!(held.set_peer(peer(7, 1)), Ok(()));
        assert!(stats_of(&held, 7).is_some());
    }
}
