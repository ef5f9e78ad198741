//! What goes with datagrams besides their bytes: our own address, congestion marks, trains.
//!
//! Written and read by hand, on the stack: a packet that comes alone finds cold caches, and there an
//! allocation and code for all that the kernel could say cost more than the cipher.
//!
//! Source: ip(7), ipv6(7), udp(7), cmsg(3); RFC 3542 4 and 6.5.

use std::ffi::c_int;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use crate::ecn;
use crate::machine::Path;

const ECN_MASK: u8 = 3; // the lower two bits of TOS and traffic class; RFC 3168 5
/// The kernel's `cmsghdr`: a length of a word, which counts itself, the level and the type.
const WORD: usize = size_of::<usize>();
const INT: usize = size_of::<c_int>();
const HEADER_SIZE: usize = WORD + 2 * INT;
/// Of `in_pktinfo`: the interface, the source, and what a received datagram was for.
const INFO4_SIZE: usize = 12;
/// Of `in6_pktinfo`: the address, then the interface.
const INFO6_SIZE: usize = 20;
const SPACE: usize = space(INFO4_SIZE) + space(INFO6_SIZE) + 2 * space(INT);

const fn space(size: usize) -> usize {
    HEADER_SIZE + size.next_multiple_of(WORD)
}

/// The control messages of one call, as the kernel reads and writes them.
#[repr(C, align(8))] // of a word or more
pub(super) struct Control {
    bytes: [u8; SPACE],
    size: usize,
}

impl Control {
    /// Room for what a call receives.
    pub(super) fn room() -> Self {
        Self {
            bytes: [0; SPACE],
            size: SPACE,
        }
    }

    /// What goes with a datagram, or with a train of `segment` bytes each.
    pub(super) fn outgoing(path: Path, segment: Option<u16>, ecn: u8) -> Self {
        let mut control = Self::room();
        control.size = 0;
        let is_ipv6 = matches!(path.remote, SocketAddr::V6(_));
        match path.local {
            Some(IpAddr::V4(ip)) if !is_ipv6 => {
                let mut info = [0; INFO4_SIZE];
                info[4..8].copy_from_slice(&ip.octets());
                control.put(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            Some(IpAddr::V6(ip)) if is_ipv6 => {
                let mut info = [0; INFO6_SIZE];
                info[..16].copy_from_slice(&ip.octets());
                control.put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            _ => {}
        }
        if ecn != ecn::NOT_ECT {
            let mark = c_int::from(ecn).to_ne_bytes();
            if is_ipv6 {
                control.put(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &mark);
            } else {
                control.put(libc::IPPROTO_IP, libc::IP_TOS, &mark);
            }
        }
        if let Some(segment) = segment {
            control.put(libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        control
    }

    fn put(&mut self, level: c_int, kind: c_int, data: &[u8]) {
        let fields = [
            &(HEADER_SIZE + data.len()).to_ne_bytes()[..],
            &level.to_ne_bytes(),
            &kind.to_ne_bytes(),
            data,
        ];
        let mut place = self.size;
        for field in fields {
            self.bytes[place..place + field.len()].copy_from_slice(field);
            place += field.len();
        }
        self.size += space(data.len());
    }

    /// What the kernel reads, or where it writes to.
    pub(super) fn as_mut_bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.size]
    }

    /// Reads what came in the first `size` bytes.
    pub(super) fn told(&self, size: usize) -> Told {
        let mut told = Told::default();
        let mut rest = &self.bytes[..size.min(SPACE)];
        while let Some((length, after)) = rest.split_first_chunk() {
            let length = usize::from_ne_bytes(*length);
            let Some(message) = after.get(..length.saturating_sub(WORD)) else {
                break; // none of the kernel's, which cuts what it has no room for to what it says
            };
            told.take(message);
            let next = length.max(HEADER_SIZE).next_multiple_of(WORD);
            rest = rest.get(next..).unwrap_or_default();
        }
        told
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
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) local: Option<IpAddr>,
    /// Bytes of each datagram of a train but the last.
    pub(super) segment: Option<usize>,
    pub(super) ecn: u8,
}

impl Told {
    /// Takes a message: its level, type and data.
    fn take(&mut self, message: &[u8]) {
        let Some((level, rest)) = take_int(message) else {
            return;
        };
        let Some((kind, data)) = take_int(rest) else {
            return;
        };
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                if let Some(Ok(ip)) = data.get(8..12).map(<[u8; 4]>::try_from) {
                    self.local = Some(Ipv4Addr::from(ip).into());
                }
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                if let Some(ip) = data.first_chunk::<16>() {
                    self.local = Some(Ipv6Addr::from(*ip).to_canonical());
                }
            }
            (libc::SOL_UDP, libc::UDP_GRO) => {
                self.segment = take_int(data).and_then(|(size, _)| usize::try_from(size).ok());
            }
            (libc::IPPROTO_IP, libc::IP_TOS) => {
                self.ecn = data.first().map_or(0, |tos| tos & ECN_MASK);
            }
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                // The kernel's number has 8 bits.
                self.ecn = take_int(data).map_or(0, |(class, _)| class as u8 & ECN_MASK);
            }
            _ => {}
        }
    }
}

fn take_int(bytes: &[u8]) -> Option<(c_int, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((c_int::from_ne_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use super::{Control, HEADER_SIZE, SPACE, Told, WORD};
    use crate::machine::Path;

    fn path(remote: &str, local: Option<&str>) -> Path {
        let local = local.map(|ip| ip.parse().expect("an address"));
        Path::plain(remote.parse::<SocketAddr>().expect("an address"), local)
    }

    /// What `cmsg(3)`'s macros would write, on a machine of 64 bits.
    #[cfg(all(target_pointer_width = "64", target_endian = "little"))]
    #[test]
    fn messages_are_written_as_the_kernel_reads_them() {
        let path4 = path("192.0.2.1:7", Some("198.51.100.9"));
        let wanted4 = [
            &[28, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0][..], // SOL_IP, IP_PKTINFO
            &[0, 0, 0, 0, 198, 51, 100, 9, 0, 0, 0, 0, 0, 0, 0, 0],
            &[20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], // IP_TOS
            &[3, 0, 0, 0, 0, 0, 0, 0],
            &[18, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 0, 103, 0, 0, 0], // SOL_UDP, UDP_SEGMENT
            &[0x90, 5, 0, 0, 0, 0, 0, 0],
        ];
        let mut control = Control::outgoing(path4, Some(0x590), 3);
        assert_eq!(control.as_mut_bytes(), wanted4.concat());
        let path6 = path("[2001:db8::1]:7", Some("2001:db8::9"));
        let wanted6 = [
            &[36, 0, 0, 0, 0, 0, 0, 0, 41, 0, 0, 0, 50, 0, 0, 0][..], // IPV6_PKTINFO
            &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9],
            &[0; 8],
            &[20, 0, 0, 0, 0, 0, 0, 0, 41, 0, 0, 0, 67, 0, 0, 0], // IPV6_TCLASS
            &[1, 0, 0, 0, 0, 0, 0, 0],
        ];
        let mut control = Control::outgoing(path6, None, 1);
        assert_eq!(control.as_mut_bytes(), wanted6.concat());
        let mut nothing = Control::outgoing(path("192.0.2.1:7", Some("::1")), None, 0);
        assert_eq!(nothing.as_mut_bytes(), []);
    }

    fn received(messages: &[(i32, i32, &[u8])]) -> (Control, usize) {
        let mut control = Control::room();
        control.size = 0;
        for (level, kind, data) in messages {
            control.put(*level, *kind, data);
        }
        let size = control.size;
        (control, size)
    }

    #[test]
    fn what_the_kernel_tells_is_read() {
        let info4 = [2, 0, 0, 0, 1, 1, 1, 1, 203, 0, 113, 2];
        let size = 1448i32.to_ne_bytes();
        let (control, length) = received(&[
            (libc::IPPROTO_IP, libc::IP_PKTINFO, &info4),
            (libc::IPPROTO_IP, libc::IP_TOS, &[0xFE]),
            (libc::SOL_UDP, libc::UDP_GRO, &size),
        ]);
        let local: Option<IpAddr> = Some([203, 0, 113, 2].into());
        let (segment, ecn) = (Some(1448), 2);
        assert_eq!(
            control.told(length),
            Told {
                local,
                segment,
                ecn
            }
        );
        let mapped = [&[0; 10][..], &[255, 255, 192, 0, 2, 1, 3, 0, 0, 0]].concat();
        let class = 0xB5i32.to_ne_bytes();
        let (control, length) = received(&[
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &mapped),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &class),
        ]);
        let told = control.told(length);
        assert_eq!(told.local, Some([192, 0, 2, 1].into()));
        assert_eq!((told.segment, told.ecn), (None, 1));
    }

    /// Nothing that is short, strange or no message at all is a panic, or read beyond its end.
    #[test]
    fn other_messages_say_nothing() {
        for length in [0, 1, WORD, HEADER_SIZE, SPACE, usize::MAX] {
            let mut control = Control::room();
            control.bytes[..WORD].copy_from_slice(&length.to_ne_bytes());
            for size in [0, 3, WORD, HEADER_SIZE + 1, SPACE, SPACE + 1] {
                assert_eq!(control.told(size), Told::default());
            }
        }
        for (level, kind) in [
            (libc::IPPROTO_IP, libc::IP_PKTINFO),
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO),
            (libc::SOL_UDP, libc::UDP_GRO),
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
            (libc::SOL_SOCKET, 1),
        ] {
            let (control, length) = received(&[(level, kind, &[1, 2])]);
            assert_eq!(control.told(length), Told::default());
        }
    }
}
