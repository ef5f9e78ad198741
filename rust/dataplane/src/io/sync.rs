//! What the threads share by: std's, but loom's where its models run (`scripts/loom`).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::PoisonError;

use nix::sys::eventfd::{EfdFlags, EventFd};

#[cfg(all(test, feature = "loom"))]
pub(super) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU16},
};
#[cfg(not(all(test, feature = "loom")))]
pub(super) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU16},
};

/// Locks; a panic elsewhere is reported by [`super::FailureGuard`], so its poison adds nothing.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An eventfd: a counter that is readable while it is not zero.
pub(super) struct Event {
    fd: EventFd,
    /// The kernel's own lock, which loom can't see.
    #[cfg(all(test, feature = "loom"))]
    kernel: Mutex<()>,
}

impl Event {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self {
            fd: EventFd::from_value_and_flags(0, flags)?,
            #[cfg(all(test, feature = "loom"))]
            kernel: Mutex::new(()),
        })
    }

    /// Makes it readable.
    pub(super) fn add(&self) {
        #[cfg(all(test, feature = "loom"))]
        let _kernel = lock(&self.kernel);
        // Adding 1 to a counter of 64 bits that is cleared in between can't fail.
        let _ = self.fd.write(1);
    }

    /// Makes it unreadable; says whether it was readable.
    pub(super) fn clear(&self) -> bool {
        #[cfg(all(test, feature = "loom"))]
        let _kernel = lock(&self.kernel);
        self.fd.read().is_ok()
    }

    /// Says whether it is readable; for tests where there is no `poll`: under Miri and in models.
    #[cfg(test)]
    pub(super) fn is_readable(&self) -> bool {
        #[cfg(feature = "loom")]
        let _kernel = lock(&self.kernel);
        let is_readable = self.fd.read().is_ok();
        if is_readable {
            let _ = self.fd.write(1);
        }
        is_readable
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
