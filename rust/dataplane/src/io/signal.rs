//! A flag that `poll` can wait for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

use super::sync::{AtomicBool, Readable};

/// Callers of `raise` and `lower` that may meet hold one lock, or a late `lower` could take back a
/// `raise` that found it raised. A signal that is never lowered needs none.
pub(super) struct Signal {
    readable: Readable,
    /// What `readable` says, to save system calls.
    raised: AtomicBool,
}

impl Signal {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            readable: Readable::new()?,
            raised: AtomicBool::new(false),
        })
    }

    /// Makes the descriptor readable.
    pub(super) fn raise(&self) {
        if !self.raised.swap(true, Ordering::AcqRel) {
            self.readable.add();
        }
    }

    /// Makes the descriptor unreadable.
    pub(super) fn lower(&self) {
        if self.raised.swap(false, Ordering::AcqRel) {
            self.readable.clear();
        }
    }

    /// Says whether the descriptor is readable; for tests.
    #[cfg(test)]
    pub(super) fn is_readable(&self) -> bool {
        self.readable.is_readable()
    }
}

impl AsFd for Signal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readable.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::Signal;
    use crate::io::sync::{Mutex, lock};

    const ITEMS: usize = if cfg!(miri) { 6 } else { 20_000 };

    /// As the inbox is used: one thread queues and raises, another takes and lowers.
    #[test]
    fn the_descriptor_says_whether_something_waits() {
        let signal = Signal::new().expect("an eventfd");
        let queue = Mutex::new(0usize);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..ITEMS {
                    let mut waiting = lock(&queue);
                    *waiting += 1;
                    signal.raise();
                }
            });
            let mut taken = 0;
            while taken < ITEMS {
                let mut waiting = lock(&queue);
                assert_eq!(signal.is_readable(), *waiting > 0);
                if *waiting > 0 {
                    taken += std::mem::take(&mut *waiting);
                    signal.lower();
                }
            }
        });
        assert!(!signal.is_readable());
    }
}

#[cfg(all(test, feature = "loom"))]
mod models {
    use std::sync::Arc;

    use loom::thread;

    use super::Signal;
    use crate::io::sync::{Mutex, lock};

    fn signal() -> Arc<Signal> {
        Arc::new(Signal::new().expect("an eventfd"))
    }

    #[test]
    fn it_is_readable_exactly_while_something_waits() {
        loom::model(|| {
            let (signal, queue) = (signal(), Arc::new(Mutex::new(0)));
            let (raises, fills) = (Arc::clone(&signal), Arc::clone(&queue));
            let fills = thread::spawn(move || {
                for _ in 0..2 {
                    let mut waiting = lock(&fills);
                    *waiting += 1;
                    raises.raise();
                }
            });
            for _ in 0..2 {
                let mut waiting = lock(&queue);
                assert_eq!(signal.is_readable(), *waiting > 0);
                *waiting = 0;
                signal.lower();
            }
            fills.join().expect("no panic");
            assert_eq!(signal.is_readable(), *lock(&queue) > 0);
        });
    }

    #[test]
    fn one_that_is_never_lowered_needs_no_lock() {
        loom::model(|| {
            let signal = signal();
            let other = Arc::clone(&signal);
            let other = thread::spawn(move || other.raise());
            signal.raise();
            other.join().expect("no panic");
            assert!(signal.is_readable());
        });
    }

    /// What the lock is for; and a model that finds nothing would be none.
    #[test]
    #[should_panic = "a raise is lost"]
    fn one_that_is_lowered_needs_one() {
        loom::model(|| {
            let signal = signal();
            signal.raise();
            let lowers = Arc::clone(&signal);
            let lowers = thread::spawn(move || lowers.lower());
            signal.raise();
            lowers.join().expect("no panic");
            signal.raise();
            assert!(signal.is_readable(), "a raise is lost");
        });
    }
}
