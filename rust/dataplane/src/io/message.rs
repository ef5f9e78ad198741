//! One call of the kernel that sends or receives a datagram or a train.
//!
//! By hand for the reason that [`super::control`] gives.

use std::io::IoSlice;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use super::control::Control;

/// Of `sockaddr_in6`, the larger one.
const NAME_SIZE: usize = 28;

/// Sends without waiting; returns how many bytes.
pub(super) fn send(
    fd: BorrowedFd<'_>,
    slices: &[IoSlice<'_>],
    remote: SocketAddr,
    control: &mut Control,
) -> Result<usize, Errno> {
    let mut name = [0; NAME_SIZE];
    let size = write_name(&mut name, remote);
    let mut message = message(&mut name[..size], control);
    // An IoSlice is an iovec (std), which sendmsg only reads.
    message.msg_iov = slices.as_ptr().cast_mut().cast();
    message.msg_iovlen = slices.len() as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: what the message points to outlives the call, with the sizes that it says.
    let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, flags) };
    Errno::result(sent).map(isize::cast_unsigned)
}

/// Receives without waiting; returns how many bytes, and from where. What comes with them is in
/// `control`, of which the kernel says how much it wrote.
pub(super) fn receive(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
    control: &mut Control,
) -> Result<(usize, SocketAddr, usize), Errno> {
    let mut name = [0; NAME_SIZE];
    let mut slice = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut message = message(&mut name, control);
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    // SAFETY: what the message points to outlives the call and is ours alone, with the sizes that it
    // says; all of it may hold any bytes.
    let got = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let size = Errno::result(got)?.cast_unsigned();
    let told: usize = message.msg_controllen as _;
    let remote = read_name(&name).ok_or(Errno::EAFNOSUPPORT)?;
    Ok((size, remote, told))
}

fn message(name: &mut [u8], control: &mut Control) -> libc::msghdr {
    let control = control.as_mut_bytes();
    // SAFETY: a msghdr is plain data, for which zeros are valid; where it has padding, that must be zero.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = name.as_mut_ptr().cast();
    message.msg_namelen = name.len() as _; // at most NAME_SIZE
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = control.len() as _;
    message
}

/// Writes a `sockaddr_in` or `sockaddr_in6`; returns its size.
fn write_name(name: &mut [u8; NAME_SIZE], remote: SocketAddr) -> usize {
    let family = match remote {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    };
    name[..2].copy_from_slice(&(family as libc::sa_family_t).to_ne_bytes());
    name[2..4].copy_from_slice(&remote.port().to_be_bytes());
    match remote {
        SocketAddr::V4(remote) => {
            name[4..8].copy_from_slice(&remote.ip().octets());
            16 // with 8 bytes of padding
        }
        SocketAddr::V6(remote) => {
            name[4..8].copy_from_slice(&remote.flowinfo().to_ne_bytes());
            name[8..24].copy_from_slice(&remote.ip().octets());
            name[24..].copy_from_slice(&remote.scope_id().to_ne_bytes());
            NAME_SIZE
        }
    }
}

/// Reads one; `None` for another family's.
fn read_name(name: &[u8; NAME_SIZE]) -> Option<SocketAddr> {
    let [f0, f1, p0, p1, middle @ .., s0, s1, s2, s3] = *name;
    let port = u16::from_be_bytes([p0, p1]);
    let (first, rest) = middle.split_first_chunk::<4>()?;
    let family = libc::c_int::from(libc::sa_family_t::from_ne_bytes([f0, f1]));
    if family == libc::AF_INET {
        return Some(SocketAddrV4::new(Ipv4Addr::from(*first), port).into());
    }
    if family != libc::AF_INET6 {
        return None;
    }
    let ip = Ipv6Addr::from(*rest.first_chunk::<16>()?);
    if let Some(ip) = ip.to_ipv4_mapped() {
        return Some(SocketAddrV4::new(ip, port).into());
    }
    // The scope is kept: a link-local address is of no use without it.
    let scope = u32::from_ne_bytes([s0, s1, s2, s3]);
    Some(SocketAddrV6::new(ip, port, u32::from_ne_bytes(*first), scope).into())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::{NAME_SIZE, read_name, write_name};

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn addresses_are_written_as_the_kernel_reads_them() {
        let mut name = [0; NAME_SIZE];
        assert_eq!(write_name(&mut name, address("192.0.2.1:41641")), 16);
        assert_eq!(
            name[2..16],
            [0xA2, 0xA9, 192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(read_name(&name), Some(address("192.0.2.1:41641")));
        let linked = address("[fe80::7%3]:9");
        assert_eq!(write_name(&mut name, linked), NAME_SIZE);
        assert_eq!(name[2..10], [0, 9, 0, 0, 0, 0, 0xFE, 0x80]);
        assert_eq!(name[24..], 3u32.to_ne_bytes());
        assert_eq!(read_name(&name), Some(linked));
    }

    #[test]
    fn a_mapped_address_is_what_it_stands_for_and_another_family_none() {
        let mut name = [0; NAME_SIZE];
        assert_eq!(read_name(&name), None);
        write_name(&mut name, address("[::ffff:192.0.2.1]:5"));
        assert_eq!(read_name(&name), Some(address("192.0.2.1:5")));
    }
}
