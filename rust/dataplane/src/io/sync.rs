//! What the threads share by: std's, but loom's where its models run (`scripts/loom`).
//!
//! A panic elsewhere is reported by [`super::FailureGuard`], so a lock's poison adds nothing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::PoisonError;

use nix::sys::eventfd::{EfdFlags, EventFd};

#[cfg(all(test, feature = "loom"))]
pub(super) use loom::sync::{
    Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard,
    atomic::{AtomicBool, AtomicU16},
};
#[cfg(not(all(test, feature = "loom")))]
pub(super) use std::sync::{
    Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard,
    atomic::{AtomicBool, AtomicU16},
};

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn read<T>(shared: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    shared.read().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn write<T>(shared: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    shared.write().unwrap_or_else(PoisonError::into_inner)
}

/// An eventfd: a counter that `poll` finds readable while it is not zero.
pub(super) struct Readable {
    fd: EventFd,
    /// Stands for the lock that the kernel takes to read and write, which loom can't see.
    #[cfg(all(test, feature = "loom"))]
    kernel: Mutex<()>,
}

impl Readable {
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

    /// Makes it unreadable.
    pub(super) fn clear(&self) {
        #[cfg(all(test, feature = "loom"))]
        let _kernel = lock(&self.kernel);
        // It fails if there is nothing to take.
        let _ = self.fd.read();
    }

    /// Says whether it is readable; for tests: neither Miri nor a model has `poll`.
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

impl AsFd for Readable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
