//! UDP datagrams by the batch: one system call takes many, each with the local address it came to.
//!
//! Nothing blocks, and no socket is owned here. Addresses are canonical: never v4-mapped.
//!
//! Source: recvmmsg(2), sendmmsg(2), ip(7) `IP_PKTINFO`, ipv6(7) `IPV6_PKTINFO`.

use std::io;
use std::mem::{size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::RawFd;
use std::ptr;

/// Datagrams taken by one system call.
pub const BATCH: usize = 16;
/// Bytes for what comes with a datagram: one `in6_pktinfo` and to spare.
const CONTROL_SIZE: usize = 64;

/// Control messages begin where a `cmsghdr` may.
#[derive(Clone, Copy)]
#[repr(align(8))]
struct Control([u8; CONTROL_SIZE]);

/// A datagram that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived<'data> {
    /// Its bytes, as many as the buffer holds.
    pub data: &'data [u8],
    /// Whether it was longer than the buffer.
    pub is_truncated: bool,
    /// Who sent it; `None`: of neither IP version.
    pub source: Option<SocketAddr>,
    /// The address it was sent to, where the socket was asked to tell.
    pub local: Option<IpAddr>,
}

/// A datagram to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing<'data> {
    /// Its bytes.
    pub data: &'data [u8],
    /// Where to.
    pub destination: SocketAddr,
    /// The address to send from; `None`: the kernel's choice.
    pub source: Option<IpAddr>,
}

/// Room for a batch of datagrams of at most `size` bytes each.
pub struct Receiver {
    size: usize,
    data: Vec<u8>,
    names: Vec<libc::sockaddr_storage>,
    controls: Vec<Control>,
}

impl Receiver {
    /// Makes room; the system gives pages only as they are used.
    #[must_use]
    pub fn new(size: usize) -> Self {
        // SAFETY: a sockaddr_storage is plain data, for which zeros are a value.
        let name: libc::sockaddr_storage = unsafe { zeroed() };
        Self {
            size,
            data: vec![0; size * BATCH],
            names: vec![name; BATCH],
            controls: vec![Control([0; CONTROL_SIZE]); BATCH],
        }
    }

    /// Takes up to `limit` datagrams of at most `size` bytes, and no more than a batch; tells each.
    ///
    /// # Errors
    /// None waits (`WouldBlock`), or what the kernel has to say of one sent before.
    pub fn receive(
        &mut self,
        fd: RawFd,
        limit: usize,
        size: usize,
        mut tell: impl FnMut(Arrived<'_>),
    ) -> io::Result<usize> {
        let count = limit.min(BATCH);
        let mut slices: [libc::iovec; BATCH] = std::array::from_fn(|number| libc::iovec {
            iov_base: self.data[number * self.size..].as_mut_ptr().cast(),
            iov_len: size.min(self.size),
        });
        let mut headers: [libc::mmsghdr; BATCH] = std::array::from_fn(|number| {
            header(
                &mut slices[number],
                &mut self.names[number],
                size_of::<libc::sockaddr_storage>(),
                self.controls[number].0.as_mut_ptr(),
                CONTROL_SIZE,
            )
        });
        // SAFETY: `headers` has `count` entries or more; all that they point to is borrowed mutably
        // from `self` or is on this stack, has the lengths that they tell, and outlives the call.
        let taken = unsafe {
            libc::recvmmsg(
                fd,
                headers.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let taken = usize::try_from(taken).map_err(|_| io::Error::last_os_error())?;
        for (number, message) in headers.iter().enumerate().take(taken) {
            let at = number * self.size;
            let end = at + (message.msg_len as usize).min(self.size);
            tell(Arrived {
                data: &self.data[at..end],
                is_truncated: message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
                source: address_of(&self.names[number]),
                local: local_of(&message.msg_hdr),
            });
        }
        Ok(taken)
    }
}

/// Sends datagrams; tells the number of each that the kernel refused, and why.
///
/// `is_ipv6`: the socket is of IPv6, and may serve IPv4 by mapped addresses.
pub fn send(
    fd: RawFd,
    is_ipv6: bool,
    outgoing: &[Outgoing<'_>],
    mut refused: impl FnMut(usize, io::Error),
) {
    let mut names: Vec<libc::sockaddr_storage> = Vec::with_capacity(outgoing.len());
    let mut slices: Vec<libc::iovec> = Vec::with_capacity(outgoing.len());
    let mut controls = vec![Control([0; CONTROL_SIZE]); outgoing.len()];
    let mut sizes: Vec<usize> = Vec::with_capacity(outgoing.len());
    let mut control_sizes: Vec<usize> = Vec::with_capacity(outgoing.len());
    for (datagram, control) in outgoing.iter().zip(&mut controls) {
        let (name, size) = name_of(datagram.destination, is_ipv6);
        names.push(name);
        sizes.push(size);
        control_sizes.push(write_source(control, datagram.source, is_ipv6));
        slices.push(libc::iovec {
            iov_base: datagram.data.as_ptr().cast_mut().cast(), // sending only reads
            iov_len: datagram.data.len(),
        });
    }
    let mut headers: Vec<libc::mmsghdr> = (0..outgoing.len())
        .map(|number| {
            header(
                &mut slices[number],
                &mut names[number],
                sizes[number],
                controls[number].0.as_mut_ptr(),
                control_sizes[number],
            )
        })
        .collect();
    let mut done = 0;
    while done < headers.len() {
        let rest = &mut headers[done..];
        let count = rest.len().min(BATCH);
        // SAFETY: `rest` has `count` entries or more; all that they point to lives in the vectors
        // above or in the caller's data, has the lengths that they tell, and outlives the call.
        let sent = unsafe {
            libc::sendmmsg(
                fd,
                rest.as_mut_ptr(),
                count as libc::c_uint,
                libc::MSG_DONTWAIT,
            )
        };
        match usize::try_from(sent) {
            Ok(sent) => done += sent,
            Err(_) => {
                refused(done, io::Error::last_os_error());
                done += 1;
            }
        }
    }
}

fn header(
    slice: &mut libc::iovec,
    name: &mut libc::sockaddr_storage,
    name_size: usize,
    control: *mut u8,
    control_size: usize,
) -> libc::mmsghdr {
    // SAFETY: an mmsghdr is plain data, for which zeros are a value.
    let mut header: libc::mmsghdr = unsafe { zeroed() };
    header.msg_hdr.msg_name = ptr::from_mut(name).cast();
    header.msg_hdr.msg_namelen = name_size as libc::socklen_t;
    header.msg_hdr.msg_iov = slice;
    header.msg_hdr.msg_iovlen = 1;
    if control_size > 0 {
        header.msg_hdr.msg_control = control.cast();
        header.msg_hdr.msg_controllen = control_size as _;
    }
    header
}

fn address_of(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the kernel wrote a sockaddr_in, says the family; a storage has room for it
            // and its alignment.
            let name = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(name.sin_addr.s_addr));
            Some(SocketAddr::new(ip.into(), u16::from_be(name.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above, with a sockaddr_in6.
            let name = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(name.sin6_addr.s6_addr).to_canonical();
            Some(SocketAddr::new(ip, u16::from_be(name.sin6_port)))
        }
        _ => None,
    }
}

fn local_of(header: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: the kernel has filled the control buffer of this header, which is still there, and
    // has set its length; CMSG_FIRSTHDR and CMSG_NXTHDR stay within it, and the data of a message
    // of these kinds has the type named (it may lie unaligned).
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            let data = libc::CMSG_DATA(message);
            match ((*message).cmsg_level, (*message).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info: libc::in_pktinfo = ptr::read_unaligned(data.cast());
                    let ip = Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr));
                    return Some(ip.into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info: libc::in6_pktinfo = ptr::read_unaligned(data.cast());
                    return Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).to_canonical());
                }
                _ => message = libc::CMSG_NXTHDR(header, message),
            }
        }
    }
    None
}

fn name_of(address: SocketAddr, is_ipv6: bool) -> (libc::sockaddr_storage, usize) {
    // SAFETY: a sockaddr_storage is plain data, for which zeros are a value.
    let mut name: libc::sockaddr_storage = unsafe { zeroed() };
    let address = match address {
        SocketAddr::V4(four) if is_ipv6 => {
            SocketAddrV6::new(four.ip().to_ipv6_mapped(), four.port(), 0, 0).into()
        }
        other => other,
    };
    let size = match address {
        SocketAddr::V4(four) => write_ipv4(&mut name, four),
        SocketAddr::V6(six) => write_ipv6(&mut name, six),
    };
    (name, size)
}

fn write_ipv4(name: &mut libc::sockaddr_storage, address: SocketAddrV4) -> usize {
    // SAFETY: a storage has room for a sockaddr_in and its alignment.
    let name = unsafe { &mut *ptr::from_mut(name).cast::<libc::sockaddr_in>() };
    name.sin_family = libc::AF_INET as libc::sa_family_t;
    name.sin_port = address.port().to_be();
    name.sin_addr.s_addr = u32::from(*address.ip()).to_be();
    size_of::<libc::sockaddr_in>()
}

fn write_ipv6(name: &mut libc::sockaddr_storage, address: SocketAddrV6) -> usize {
    // SAFETY: a storage has room for a sockaddr_in6 and its alignment.
    let name = unsafe { &mut *ptr::from_mut(name).cast::<libc::sockaddr_in6>() };
    name.sin6_family = libc::AF_INET6 as libc::sa_family_t;
    name.sin6_port = address.port().to_be();
    name.sin6_addr.s6_addr = address.ip().octets();
    size_of::<libc::sockaddr_in6>()
}

/// Writes the control message that chooses where a datagram is sent from; returns its size.
fn write_source(control: &mut Control, source: Option<IpAddr>, is_ipv6: bool) -> usize {
    match (source, is_ipv6) {
        (None, _) => 0,
        (Some(IpAddr::V4(ip)), false) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from(ip).to_be(),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            write_control(control, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
        }
        (Some(ip), _) => {
            let ip = match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: ip.octets(),
                },
                ipi6_ifindex: 0,
            };
            write_control(control, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
        }
    }
}

fn write_control<Info>(control: &mut Control, level: i32, kind: i32, info: Info) -> usize {
    let size = size_of::<Info>() as libc::c_uint;
    // SAFETY: these two only compute, and `Info` is an in_pktinfo or in6_pktinfo: 40 bytes at most
    // with the header, where 64 are. The buffer is aligned as a cmsghdr wants; the data is written
    // unaligned behind it.
    unsafe {
        let message = control.0.as_mut_ptr().cast::<libc::cmsghdr>();
        (*message).cmsg_level = level;
        (*message).cmsg_type = kind;
        (*message).cmsg_len = libc::CMSG_LEN(size) as _;
        ptr::write_unaligned(libc::CMSG_DATA(message).cast(), info);
        libc::CMSG_SPACE(size) as usize
    }
}
