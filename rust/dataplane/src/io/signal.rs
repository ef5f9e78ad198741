//! A flag that `poll` can wait for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Callers of `raise` and `lower` that may meet hold one lock, or a late `lower` could take back a
/// `raise` that found it raised. A signal that is never lowered needs none.
pub(super) struct Signal {
    fd: EventFd,
    /// What `fd` says, to save system calls.
    raised: AtomicBool,
}

impl Signal {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self {
            fd: EventFd::from_value_and_flags(0, flags)?,
            raised: AtomicBool::new(false),
        })
    }

    /// Makes the descriptor readable.
    pub(super) fn raise(&self) {
        if !self.raised.swap(true, Ordering::AcqRel) {
            // Adding 1 to a counter of 64 bits that is lowered in between can't fail.
            let _ = self.fd.write(1);
        }
    }

    /// Says whether the descriptor is readable; for tests under Miri, which has no `poll`.
    #[cfg(test)]
    pub(super) fn is_readable(&self) -> bool {
        let is_readable = self.fd.read().is_ok();
        if is_readable {
            let _ = self.fd.write(1);
        }
        is_readable
    }

    /// Makes the descriptor unreadable.
    pub(super) fn lower(&self) {
        if self.raised.swap(false, Ordering::AcqRel) {
            let _ = self.fd.read();
        }
    }
}

impl AsFd for Signal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::Signal;
    use crate::io::lock;

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
                let is_readable = signal.fd.read().is_ok();
                assert_eq!(is_readable, *waiting > 0);
                if is_readable {
                    signal.fd.write(1).expect("room in the counter");
                    taken += std::mem::take(&mut *waiting);
                    signal.lower();
                }
            }
        });
        assert!(signal.fd.read().is_err());
    }
}
