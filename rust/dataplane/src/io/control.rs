//! What goes with datagrams besides their bytes: our own address, congestion marks, trains.
//!
//! Source: ip(7), ipv6(7), udp(7), cmsg(3); RFC 3542 4 and 6.5.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, setsockopt, sockopt};

use crate::ecn;
use crate::machine::Path;

const ECN_MASK: u8 = 3; // the lower two bits of TOS and traffic class; RFC 3168 5

/// Space for the control messages of one call.
pub(super) struct ControlBuffer(pub(super) Vec<u8>);

impl ControlBuffer {
    pub(super) fn new() -> Self {
        Self(nix::cmsg_space!(
            libc::in_pktinfo,
            libc::in6_pktinfo,
            libc::c_int,
            libc::c_int
        ))
    }
}

/// Asks for our own address of each datagram, and for its mark where the kernel tells it.
pub(super) fn ask(fd: &OwnedFd, is_ipv6: bool) -> Result<(), Errno> {
    if is_ipv6 {
        // Without marks all works, as over a path that has none.
        let _ = setsockopt(fd, sockopt::Ipv6RecvTClass, &true);
        setsockopt(fd, sockopt::Ipv6RecvPacketInfo, &true)
    } else {
        let _ = setsockopt(fd, sockopt::IpRecvTos, &true);
        setsockopt(fd, sockopt::Ipv4PacketInfo, &true)
    }
}

/// What came with a datagram or a train.
#[derive(Default)]
pub(super) struct Told {
    pub(super) local: Option<IpAddr>,
    /// Bytes of each datagram of a train but the last.
    pub(super) segment: Option<usize>,
    pub(super) ecn: u8,
}

impl Told {
    pub(super) fn take(&mut self, message: &ControlMessageOwned) {
        match message {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                self.local = Some(Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into());
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                self.local = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).to_canonical());
            }
            ControlMessageOwned::UdpGroSegments(bytes) => {
                self.segment = usize::try_from(*bytes).ok();
            }
            ControlMessageOwned::Ipv4Tos(tos) => self.ecn = tos & ECN_MASK,
            // The kernel's number has 8 bits.
            ControlMessageOwned::Ipv6TClass(class) => self.ecn = *class as u8 & ECN_MASK,
            _ => {}
        }
    }
}

/// What goes with a datagram or a train; kept while its messages are in use.
pub(super) struct Outgoing {
    is_ipv6: bool,
    info4: Option<libc::in_pktinfo>,
    info6: Option<libc::in6_pktinfo>,
    tos: u8,
    class: i32,
    segment: Option<u16>,
}

impl Outgoing {
    pub(super) fn new(path: Path, segment: Option<u16>, ecn: u8) -> Self {
        Self {
            is_ipv6: matches!(path.remote, SocketAddr::V6(_)),
            info4: path.local.and_then(source_ipv4),
            info6: path.local.and_then(source_ipv6),
            tos: ecn,
            class: ecn.into(),
            segment,
        }
    }

    /// Returns the messages and how many there are; the rest is of no use.
    pub(super) fn messages(&self) -> ([ControlMessage<'_>; 3], usize) {
        let source = if self.is_ipv6 {
            self.info6.as_ref().map(ControlMessage::Ipv6PacketInfo)
        } else {
            self.info4.as_ref().map(ControlMessage::Ipv4PacketInfo)
        };
        let mark = match (self.tos, self.is_ipv6) {
            (ecn::NOT_ECT, _) => None,
            (_, true) => Some(ControlMessage::Ipv6TClass(&self.class)),
            (_, false) => Some(ControlMessage::Ipv4Tos(&self.tos)),
        };
        let segment = self.segment.as_ref().map(ControlMessage::UdpGsoSegments);
        let mut messages = [ControlMessage::Ipv4Tos(&self.tos); 3];
        let wanted = [source, mark, segment].into_iter().flatten();
        let mut count = 0;
        for message in wanted {
            messages[count] = message;
            count += 1;
        }
        (messages, count)
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
