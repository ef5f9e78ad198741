//! The TUN device: one packet for each read and write (IFF_NO_PI, no virtio header).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::counters::{Counter, Counters};

pub(super) struct Tun(OwnedFd);

impl Tun {
    pub(super) fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let fd = super::duplicate(fd)?;
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        Ok(Self(fd))
    }

    /// Reads one packet; `None` if there is none.
    pub(super) fn read(&self, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
        match nix::unistd::read(&self.0, buffer) {
            Ok(0) => Err(Errno::EIO), // the other end is gone
            Ok(size) => Ok(Some(size)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes one packet; a device that is down or full loses it, as a network would.
    pub(super) fn write(&self, packet: &[u8], counters: &Counters) {
        match nix::unistd::write(&self.0, packet) {
            Ok(_) => counters.count(Counter::TunTxPackets),
            Err(_) => counters.count(Counter::TunWriteError),
        }
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
