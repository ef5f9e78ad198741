//! Whether the kernel may fragment what a UDP socket sends.
//!
//! Linux has no such choice for each datagram of IPv4, so the socket's options are changed around it.
//!
//! Source: ip(7) IP_MTU_DISCOVER, ipv6(7) IPV6_MTU_DISCOVER; RFC 3542 11.2 IPV6_DONTFRAG.

use std::os::fd::{AsRawFd, OwnedFd};

use super::sync::{RwLock, read, write};
use crate::machine::Cut;

const DONT: libc::c_int = libc::IP_PMTUDISC_DONT; // routers may fragment; the same for IPv6
const PROBE: libc::c_int = libc::IP_PMTUDISC_PROBE; // never in fragments, whatever is known

/// Keeps apart what may be cut and what may not, so that neither goes out as the other.
pub(super) struct Cutting(RwLock<()>);

impl Cutting {
    pub(super) fn new() -> Self {
        Self(RwLock::new(()))
    }

    /// Sends what may be cut, beside others of its kind.
    pub(super) fn as_needed<T>(&self, send: impl FnOnce() -> T) -> T {
        let _plain = read(&self.0);
        send()
    }

    /// Sends what may not, while nobody else sends; `set` changes the socket.
    pub(super) fn never<T>(&self, set: impl Fn(Cut), send: impl FnOnce() -> T) -> T {
        let _alone = write(&self.0);
        set(Cut::Never);
        let sent = send();
        set(Cut::AsNeeded);
        sent
    }
}

/// Sets the options; best effort: without them a datagram is sent as before.
pub(super) fn set(fd: &OwnedFd, is_ipv6: bool, cut: Cut) {
    let discover = if cut == Cut::Never { PROBE } else { DONT };
    if !is_ipv6 {
        set_option(fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, discover);
        return;
    }
    let whole = libc::c_int::from(cut == Cut::Never);
    set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, discover);
    set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_DONTFRAG, whole);
}

fn set_option(fd: &OwnedFd, level: libc::c_int, name: libc::c_int, value: libc::c_int) {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel reads `size` bytes of `value` at most.
    unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), size) };
}

#[cfg(all(test, feature = "loom"))]
mod models {
    use std::sync::Arc;

    use loom::sync::atomic::{AtomicBool, Ordering};
    use loom::thread;

    use super::Cutting;
    use crate::machine::Cut;

    #[test]
    fn neither_goes_out_as_the_other() {
        loom::model(|| {
            let (cutting, is_whole) = (
                Arc::new(Cutting::new()),
                Arc::new(AtomicBool::new(false)), // the socket's option
            );
            let sends = || {
                let (cutting, is_whole) = (Arc::clone(&cutting), Arc::clone(&is_whole));
                move || cutting.as_needed(|| is_whole.load(Ordering::Relaxed))
            };
            let others = [thread::spawn(sends()), thread::spawn(sends())];
            let set = |cut| is_whole.store(cut == Cut::Never, Ordering::Relaxed);
            assert!(cutting.never(set, || is_whole.load(Ordering::Relaxed)));
            for other in others {
                assert!(!other.join().expect("no panic"));
            }
        });
    }
}
