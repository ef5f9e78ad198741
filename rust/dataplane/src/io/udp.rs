//! The shared UDP sockets, one for each family, with the local address of each datagram.
//!
//! They stay as they are (blocking or not): each call says `MSG_DONTWAIT`.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage,
    recvmsg, sendmsg, setsockopt, sockopt,
};

use crate::counters::{Counter, Counters};
use crate::machine::Path;

/// Wanted socket buffers, both ways: 5 ms at 3 Gbit/s. The kernel may give less.
const SOCKET_BUFFER: usize = 2 * 1024 * 1024;
/// How long a thread waits for room in a socket, so that TCP inside sees a queue, not loss.
const SEND_PATIENCE_MS: u16 = 10;

/// Why a datagram was not sent; counted already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SendError {
    /// The socket has no room just now.
    Full,
    /// Anything else: the datagram is lost.
    Lost,
}

pub(super) struct Socket(OwnedFd);

pub(super) struct Sockets {
    v4: Option<Socket>,
    v6: Option<Socket>,
}

/// Space for one control message of either family.
pub(super) struct ControlBuffer(Vec<u8>);

impl ControlBuffer {
    pub(super) fn new() -> Self {
        Self(nix::cmsg_space!(libc::in_pktinfo, libc::in6_pktinfo))
    }
}

impl Sockets {
    pub(super) fn new(v4: Option<BorrowedFd<'_>>, v6: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        let v4 = v4.map(Socket::new).transpose()?;
        let v6 = v6.map(Socket::new).transpose()?;
        if let Some(socket) = &v4 {
            setsockopt(&socket.0, sockopt::Ipv4PacketInfo, &true)?;
        }
        if let Some(socket) = &v6 {
            setsockopt(&socket.0, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
        Ok(Self { v4, v6 })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Socket> {
        self.v4.iter().chain(&self.v6)
    }

    /// Sends without waiting.
    pub(super) fn send(
        &self,
        data: &[u8],
        path: Path,
        counters: &Counters,
    ) -> Result<(), SendError> {
        let socket = match path.remote {
            SocketAddr::V4(_) => &self.v4,
            SocketAddr::V6(_) => &self.v6,
        };
        let Some(socket) = socket else {
            counters.count(Counter::SendNoSocket);
            return Err(SendError::Lost);
        };
        let Err(error) = socket.send_retrying(data, path) else {
            counters.count(Counter::UdpTxPackets);
            counters.add(Counter::UdpTxBytes, data.len() as u64);
            return Ok(());
        };
        counters.count(match error {
            Errno::EAGAIN | Errno::ENOBUFS => Counter::SendFull,
            Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::ENETDOWN => Counter::SendUnreachable,
            Errno::ECONNREFUSED => Counter::SendRefused,
            Errno::EPERM | Errno::EACCES => Counter::SendForbidden,
            Errno::EMSGSIZE => Counter::SendTooLarge,
            _ => Counter::SendOther,
        });
        if error == Errno::EAGAIN {
            Err(SendError::Full)
        } else {
            Err(SendError::Lost)
        }
    }

    /// Sends, waiting a moment for room.
    pub(super) fn send_patiently(&self, data: &[u8], path: Path, counters: &Counters) {
        if self.send(data, path, counters) == Err(SendError::Full) {
            let sockets = if path.remote.is_ipv4() {
                &self.v4
            } else {
                &self.v6
            };
            if let Some(socket) = sockets {
                let mut wanted = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                // Whatever it says, the second try shows whether there is room.
                let _ = poll(&mut wanted, PollTimeout::from(SEND_PATIENCE_MS));
            }
            // Both tries are counted: `send_full` says how often there was no room.
            let _ = self.send(data, path, counters);
        }
    }
}

impl Socket {
    fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let fd = super::duplicate(fd)?;
        // Best effort: the kernel caps them by its own limits.
        let _ = setsockopt(&fd, sockopt::RcvBuf, &SOCKET_BUFFER);
        let _ = setsockopt(&fd, sockopt::SndBuf, &SOCKET_BUFFER);
        Ok(Self(fd))
    }

    /// Receives one datagram; `None` if there is none.
    pub(super) fn receive(
        &self,
        buffer: &mut [u8],
        control: &mut ControlBuffer,
    ) -> Result<Option<(usize, Path)>, Errno> {
        let mut slices = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message = match recvmsg::<SockaddrStorage>(
            self.0.as_raw_fd(),
            &mut slices,
            Some(&mut control.0),
            flags,
        ) {
            Ok(message) => message,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(remote) = message.address.as_ref().and_then(socket_address) else {
            return Err(Errno::EAFNOSUPPORT);
        };
        let local = message.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into())
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).to_canonical())
            }
            _ => None,
        });
        Ok(Some((message.bytes, Path { remote, local })))
    }

    /// Sends; an earlier datagram's error, or a source address that is gone, earns a second try.
    fn send_retrying(&self, data: &[u8], path: Path) -> Result<(), Errno> {
        match self.send(data, path) {
            Err(Errno::ECONNREFUSED | Errno::EINTR) => self.send(data, path),
            Err(Errno::EINVAL | Errno::EADDRNOTAVAIL) if path.local.is_some() => self.send(
                data,
                Path {
                    local: None,
                    ..path
                },
            ),
            result => result,
        }
    }

    fn send(&self, data: &[u8], path: Path) -> Result<(), Errno> {
        let fd = self.0.as_raw_fd();
        let slices = [IoSlice::new(data)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        match path.remote {
            SocketAddr::V4(remote) => {
                let remote = SockaddrIn::from(remote);
                let info = path.local.and_then(source_ipv4);
                let control = info.as_ref().map(ControlMessage::Ipv4PacketInfo);
                sendmsg(fd, &slices, control.as_slice(), flags, Some(&remote))?;
            }
            SocketAddr::V6(remote) => {
                let remote = SockaddrIn6::from(remote);
                let info = path.local.and_then(source_ipv6);
                let control = info.as_ref().map(ControlMessage::Ipv6PacketInfo);
                sendmsg(fd, &slices, control.as_slice(), flags, Some(&remote))?;
            }
        }
        Ok(())
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn socket_address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::new(v4.ip().into(), v4.port()));
    }
    let v6 = storage.as_sockaddr_in6()?;
    match v6.ip().to_canonical() {
        IpAddr::V4(ip) => Some(SocketAddr::new(ip.into(), v6.port())),
        // The scope is kept: a link-local address is of no use without it.
        IpAddr::V6(_) => Some(SocketAddr::V6((*v6).into())),
    }
}

fn source_ipv4(ip: IpAddr) -> Option<libc::in_pktinfo> {
    let IpAddr::V4(ip) = ip else { return None };
    Some(libc::in_pktinfo {
        ipi_ifindex: 0,
        ipi_spec_dst: libc::in_addr {
            s_addr: u32::from(ip).to_be(),
        },
        ipi_addr: libc::in_addr { s_addr: 0 },
    })
}

fn source_ipv6(ip: IpAddr) -> Option<libc::in6_pktinfo> {
    let IpAddr::V6(ip) = ip else { return None };
    Some(libc::in6_pktinfo {
        ipi6_addr: libc::in6_addr {
            s6_addr: ip.octets(),
        },
        ipi6_ifindex: 0,
    })
}
