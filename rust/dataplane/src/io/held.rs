//! The machine as the threads and the application share it.
//!
//! Adding a peer never waits for a batch: a thread that the kernel stopped in the middle of one holds
//! the machine for some milliseconds. The peer is made first, and whoever takes the machine next
//! takes it in before anything else, so that it is there for all that follows.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use super::{clock, lock};
use crate::machine::{CommandError, MAX_PEERS, Machine, Maker, PeerConfig, Prepared};

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
            joining: Mutex::default(),
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

    /// Adds a peer or changes it as a whole.
    pub(super) fn set_peer(&self, config: PeerConfig) -> Result<(), CommandError> {
        let key = config.public_key;
        let is_new = !lock(&self.joining).known.contains(&key);
        let prepared = self.maker.prepare(config, is_new)?;
        let mut joining = lock(&self.joining);
        if joining.known.len() >= MAX_PEERS && !joining.known.contains(&key) {
            return Err(CommandError::TooManyPeers);
        }
        joining.known.insert(key);
        joining.waiting.push(prepared);
        self.has_joining.store(true, Ordering::Release);
        Ok(())
    }

    /// Removes a peer and its keys.
    pub(super) fn remove_peer(&self, public_key: &[u8; 32]) -> Result<(), CommandError> {
        let mut machine = lock(&self.machine);
        let mut joining = lock(&self.joining);
        take_in(&mut machine, self.take(&mut joining));
        joining.known.remove(public_key);
        machine.remove_peer(public_key)
    }
}

fn take_in(machine: &mut Machine, waiting: Vec<Prepared>) {
    for prepared in waiting {
        let taken = machine.take_prepared(prepared, clock());
        debug_assert!(taken.is_ok(), "checked before it waited");
    }
}
