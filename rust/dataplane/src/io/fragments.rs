//! Whether the kernel may fragment what a UDP socket sends.
//!
//! Linux has no such choice for each datagram of IPv4, so the socket's options are changed around it.
//!
//! Source: ip(7) IP_MTU_DISCOVER, ipv6(7) IPV6_MTU_DISCOVER; RFC 3542 11.2 IPV6_DONTFRAG.

use std::os::fd::{AsRawFd, OwnedFd};

use crate::machine::Cut;

const DONT: libc::c_int = libc::IP_PMTUDISC_DONT; // routers may fragment; the same for IPv6
const PROBE: libc::c_int = libc::IP_PMTUDISC_PROBE; // never in fragments, whatever is known

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
