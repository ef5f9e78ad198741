//! A flag that `poll` can wait for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

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

    /// Makes the descriptor unreadable; callers that race with `raise` hold a lock.
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
