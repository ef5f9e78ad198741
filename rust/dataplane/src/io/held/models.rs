//! Every order in which threads can meet at the machine, with a real one in it.

use std::sync::Arc;

use loom::thread::{Builder, JoinHandle};

use super::tests::{held, peer, stats_of};
use super::{Held, lock};
use crate::machine::{CommandError, MAX_PEERS};

/// Words of a thread's stack: making peers takes more than loom gives.
const STACK_SIZE: usize = 1 << 17;

fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let thread = Builder::new().stack_size(STACK_SIZE).spawn(work);
    thread.expect("loom has more threads")
}

/// Runs a model in every order.
fn explore(model: fn(Arc<Held>)) {
    loom::model(move || {
        let run = move || model(Arc::new(held()));
        spawn(run).join().expect("no panic");
    });
}

fn key(number: usize) -> [u8; 32] {
    peer(number, 0).public_key
}

/// Says on which port a peer is.
fn port_of(held: &Held, number: usize) -> Option<u16> {
    let stats = stats_of(held, number)?;
    Some(stats.endpoint?.remote.port())
}

/// All that was set is in the machine, and nothing else.
fn is_settled(held: &Held, count: usize) -> bool {
    let machine = held.lock();
    let joining = lock(&held.joining);
    machine.peer_count() == count && joining.known.len() == count && joining.waiting.is_empty()
}

#[test]
fn who_sets_a_peer_finds_it() {
    explore(|held| {
        let also = Arc::clone(&held);
        let other = spawn(move || {
            assert_eq!(also.set_peer(peer(8, 1)), Ok(()));
            assert_eq!(port_of(&also, 8), Some(1));
        });
        assert_eq!(held.set_peer(peer(7, 2)), Ok(()));
        assert_eq!(port_of(&held, 7), Some(2));
        other.join().expect("no panic");
        assert!(is_settled(&held, 2));
    });
}

#[test]
fn the_last_change_holds_whoever_takes_it_in() {
    explore(|held| {
        let also = Arc::clone(&held);
        let batch = spawn(move || also.lock().peer_count());
        assert_eq!(held.set_peer(peer(7, 1)), Ok(()));
        assert_eq!(held.set_peer(peer(7, 2)), Ok(()));
        assert_eq!(port_of(&held, 7), Some(2));
        assert!(batch.join().expect("no panic") <= 1);
        assert!(is_settled(&held, 1));
    });
}

#[test]
fn a_peer_is_changed_or_removed_first() {
    explore(|held| {
        assert_eq!(held.set_peer(peer(7, 1)), Ok(()));
        let also = Arc::clone(&held);
        let removes = spawn(move || also.remove_peer(&key(7)));
        assert_eq!(held.set_peer(peer(7, 2)), Ok(()));
        let port = port_of(&held, 7);
        assert!([None, Some(2)].contains(&port));
        assert_eq!(removes.join().expect("no panic"), Ok(()));
        let port = port_of(&held, 7);
        assert!(is_settled(&held, port.iter().count()));
    });
}

#[test]
fn who_removes_a_peer_finds_it_no_more() {
    explore(|held| {
        let also = Arc::clone(&held);
        let batch = spawn(move || drop(also.lock()));
        assert_eq!(held.set_peer(peer(7, 1)), Ok(()));
        assert_eq!(held.remove_peer(&key(7)), Ok(()));
        assert_eq!(port_of(&held, 7), None);
        batch.join().expect("no panic");
        assert!(is_settled(&held, 0));
    });
}

#[test]
fn one_key_that_two_set_is_one_peer() {
    explore(|held| {
        let also = Arc::clone(&held);
        let other = spawn(move || also.set_peer(peer(7, 1)));
        assert_eq!(held.set_peer(peer(7, 2)), Ok(()));
        assert_eq!(other.join().expect("no panic"), Ok(()));
        assert!([Some(1), Some(2)].contains(&port_of(&held, 7)));
        assert!(is_settled(&held, 1));
    });
}

#[test]
fn a_peer_is_set_and_removed_while_a_batch_begins() {
    explore(|held| {
        let (sets, removes) = (Arc::clone(&held), Arc::clone(&held));
        let sets = spawn(move || sets.set_peer(peer(7, 1)));
        let removes = spawn(move || removes.remove_peer(&key(7)));
        assert!(held.lock().peer_count() <= 1);
        assert_eq!(sets.join().expect("no panic"), Ok(()));
        let is_removed = removes.join().expect("no panic").is_ok();
        assert_eq!(port_of(&held, 7).is_none(), is_removed);
        assert!(is_settled(&held, usize::from(!is_removed)));
    });
}

#[test]
fn the_last_place_is_one_peers() {
    explore(|held| {
        assert_eq!(held.set_peer(peer(6, 1)), Ok(()));
        let also = Arc::clone(&held);
        let other = spawn(move || also.set_peer(peer(8, 1)));
        let results = [held.set_peer(peer(7, 1)), other.join().expect("no panic")];
        assert!(results.contains(&Ok(())));
        assert!(results.contains(&Err(CommandError::TooManyPeers)));
        assert!(is_settled(&held, MAX_PEERS));
    });
}

/// What waits in a full machine never takes a place that is not free.
#[test]
fn a_place_is_taken_once_it_is_free() {
    explore(|held| {
        for number in [6, 7] {
            assert_eq!(held.set_peer(peer(number, 1)), Ok(()));
        }
        let also = Arc::clone(&held);
        let removes = spawn(move || also.remove_peer(&key(6)));
        let result = held.set_peer(peer(8, 1));
        assert!([Ok(()), Err(CommandError::TooManyPeers)].contains(&result));
        assert_eq!(removes.join().expect("no panic"), Ok(()));
        assert!(is_settled(&held, 1 + usize::from(result.is_ok())));
    });
}
