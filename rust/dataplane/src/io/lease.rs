//! Which thread reads the TUN.
//!
//! While little comes from it, the thread of the sockets does, so that an answer that the kernel
//! gives at once (to a ping, a segment) leaves without another thread being woken. A bulk is lent to
//! the TUN's own thread, which gives it back when it is over.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

use super::signal::Signal;
use super::sync::AtomicBool;

/// The right to read the TUN; the sockets' thread has it first.
pub(super) struct Lease {
    is_lent: AtomicBool,
    /// Raised while the TUN's thread has it.
    lent: Signal,
    /// Raised once it was given back, until the sockets' thread has seen that.
    returned: Signal,
}

// Each signal is raised and lowered by the thread that has the lease, so that the two never meet:
// `is_lent` changes after the one and before the other.
impl Lease {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            is_lent: AtomicBool::new(false),
            lent: Signal::new()?,
            returned: Signal::new()?,
        })
    }

    /// Says whether the sockets' thread has it; only for that thread.
    pub(super) fn is_home(&self) -> bool {
        if self.is_lent() {
            return false;
        }
        self.returned.lower();
        true
    }

    /// Gives it to the TUN's thread; only for the sockets' thread, at home.
    pub(super) fn lend(&self) {
        self.is_lent.store(true, Ordering::Release);
        self.lent.raise();
    }

    /// Gives it back; only for the TUN's thread.
    pub(super) fn give_back(&self) {
        self.lent.lower();
        self.returned.raise();
        self.is_lent.store(false, Ordering::Release);
    }

    /// Says whether the TUN's thread has it.
    pub(super) fn is_lent(&self) -> bool {
        self.is_lent.load(Ordering::Acquire)
    }

    /// Readable while the TUN's thread has it.
    pub(super) fn lent(&self) -> BorrowedFd<'_> {
        self.lent.as_fd()
    }

    /// Readable when it is at home again.
    pub(super) fn returned(&self) -> BorrowedFd<'_> {
        self.returned.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::{Lease, Signal};

    const TURNS: usize = if cfg!(miri) { 6 } else { 5_000 };

    fn wait(signal: &Signal) {
        if cfg!(miri) {
            while !signal.is_readable() {
                std::thread::yield_now();
            }
        } else {
            let mut wanted = [PollFd::new(signal.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut wanted, PollTimeout::from(30_000u16)), Ok(1));
        }
    }

    /// One has it at a time, and each turn is told to the other.
    #[test]
    fn the_threads_take_turns() {
        let lease = Lease::new().expect("eventfds");
        let holders = AtomicUsize::new(0);
        let work = || {
            assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
            assert_eq!(holders.fetch_sub(1, Ordering::SeqCst), 1);
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..TURNS {
                    wait(&lease.lent);
                    work();
                    lease.give_back();
                }
            });
            for _ in 0..TURNS {
                assert!(lease.is_home());
                assert!(!lease.returned.is_readable());
                work();
                lease.lend();
                while !lease.is_home() {
                    wait(&lease.returned);
                }
            }
        });
        assert!(!lease.lent.is_readable());
    }
}

#[cfg(all(test, feature = "loom"))]
mod models {
    use std::sync::Arc;

    use loom::sync::atomic::{AtomicUsize, Ordering};
    use loom::thread;

    use super::Lease;

    /// One has it at a time, sees what the other did with it, and is told. This finds a wrong order of
    /// what is done; that `is_lent` has an order at all it can't ask for: the signals have one too.
    #[test]
    fn the_threads_take_turns() {
        loom::model(|| {
            let lease = Arc::new(Lease::new().expect("eventfds"));
            // Without an order of its own: only the lease can tell of a turn.
            let turns = Arc::new(AtomicUsize::new(0));
            let work = |turns: &AtomicUsize, turn| {
                assert_eq!(turns.load(Ordering::Relaxed), turn);
                turns.store(turn + 1, Ordering::Relaxed);
            };
            let (borrows, their_turns) = (Arc::clone(&lease), Arc::clone(&turns));
            let borrows = thread::spawn(move || {
                for turn in [1, 3] {
                    while !borrows.lent.is_readable() {
                        thread::yield_now();
                    }
                    work(&their_turns, turn);
                    borrows.give_back();
                }
            });
            assert!(lease.is_home());
            for (turn, waits) in [(0, true), (2, false)] {
                work(&turns, turn);
                lease.lend();
                while !((lease.returned.is_readable() || !waits) && lease.is_home()) {
                    thread::yield_now();
                }
                assert!(!lease.returned.is_readable());
            }
            work(&turns, 4);
            assert!(!lease.lent.is_readable());
            borrows.join().expect("no panic");
        });
    }
}
