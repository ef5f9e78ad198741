//! The TUN device (IFF_NO_PI), with a virtio header in front of each packet where it was made so.
//!
//! With that header one read or write moves a whole train of segments. A device without it, or
//! anything else that carries packets, moves one at a time.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use gotatun::packet::Packet;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::uio::{readv, writev};
use nix::sys::utsname::uname;

use super::sync::{AtomicBool, Mutex, lock};
use crate::counters::{Counter, Counters};
use crate::frame::{Frame, Frames};
use crate::offload::{HEADER_SIZE, Merger, VirtioHeader, Written, split};

/// No packet that is read is larger: an IPv6 header and 16 bits of payload.
const BUFFER_SIZE: usize = 40 + 65_535;
/// What is written is big from here on: more than the length field of an IPv4 header can say.
const BIG_SIZE: usize = HEADER_SIZE + 65_536;

// linux/if_tun.h
const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54D0;
const TUNGETIFF: libc::c_ulong = 0x8004_54D2;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54D8;
const IFF_VNET_HDR: libc::c_short = 0x4000;
const TUN_F_CSUM: libc::c_ulong = 0x01;
const TUN_F_TSO4: libc::c_ulong = 0x02;
const TUN_F_TSO6: libc::c_ulong = 0x04;
const TUN_F_USO4: libc::c_ulong = 0x20;
const TUN_F_USO6: libc::c_ulong = 0x40;

pub(super) struct Tun {
    fd: OwnedFd,
    has_header: bool,
    /// None where the device splits nothing; only one thread merges for long.
    merger: Option<Mutex<Merger>>,
    splits_udp: bool,
    /// Whether TCP to this host is written in packets of more than 64 KiB.
    takes_big: AtomicBool,
}

/// Where a read goes.
pub(super) struct ReadBuffer(Vec<u8>);

impl ReadBuffer {
    pub(super) fn new() -> Self {
        Self(vec![0; BUFFER_SIZE])
    }
}

impl Tun {
    /// Takes a device; for `big_for` see [`Merger::new`].
    pub(super) fn new(fd: BorrowedFd<'_>, big_for: &[Ipv4Addr]) -> io::Result<Self> {
        let fd = super::duplicate(fd)?;
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let has_header = has_virtio_header(&fd);
        if has_header {
            set_header_size(&fd)?;
        }
        let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
        let splits_udp = has_header && set_offload(&fd, tcp | TUN_F_USO4 | TUN_F_USO6);
        let splits_tcp = splits_udp || has_header && set_offload(&fd, tcp);
        let big_for = if kernel_takes_big() { big_for } else { &[] };
        Ok(Self::with(
            fd,
            has_header,
            (splits_tcp, splits_udp),
            big_for,
        ))
    }

    /// Takes a device of which all is known.
    pub(super) fn with(
        fd: OwnedFd,
        has_header: bool,
        (splits_tcp, splits_udp): (bool, bool),
        big_for: &[Ipv4Addr],
    ) -> Self {
        Self {
            fd,
            has_header,
            merger: splits_tcp.then(|| Mutex::new(Merger::new(splits_udp, big_for.to_vec()))),
            splits_udp,
            takes_big: AtomicBool::new(splits_tcp && !big_for.is_empty()),
        }
    }

    /// Whether TCP segments cross in trains.
    pub(super) fn splits_tcp(&self) -> bool {
        self.merger.is_some()
    }

    /// Whether UDP datagrams cross in trains.
    pub(super) fn splits_udp(&self) -> bool {
        self.splits_udp
    }

    /// Whether TCP to this host may come in packets of more than 64 KiB.
    pub(super) fn takes_big(&self) -> bool {
        self.takes_big.load(Ordering::Relaxed)
    }

    /// Reads once and appends the packets that came; false if there is nothing.
    pub(super) fn read(
        &self,
        buffer: &mut ReadBuffer,
        (frames, packets): (&mut Frames, &mut Vec<Frame>),
        counters: &Counters,
    ) -> Result<bool, Errno> {
        let mut header = [0; HEADER_SIZE];
        let header_size = if self.has_header { HEADER_SIZE } else { 0 };
        let mut slices = [
            IoSliceMut::new(&mut header[..header_size]),
            IoSliceMut::new(&mut buffer.0),
        ];
        let size = match readv(&self.fd, &mut slices) {
            Ok(0) => return Err(Errno::EIO), // the other end is gone
            Ok(size) => size.saturating_sub(header_size),
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(false),
            Err(error) => return Err(error),
        };
        let before = packets.len();
        let header = VirtioHeader::decode(&header);
        let emit = |packet| packets.push(packet);
        if split(header, &mut buffer.0[..size], frames, emit).is_err() {
            counters.count(Counter::DropBadOffload);
        }
        counters.add(Counter::TunRxPackets, (packets.len() - before) as u64);
        Ok(true)
    }

    /// Writes packets; a device that is down or full loses them, as a network would.
    pub(super) fn write(&self, packets: &mut Vec<Packet>, counters: &Counters) {
        match &self.merger {
            Some(merger) if packets.len() > 1 => {
                let mut merger = lock(merger);
                merger.merge(packets, |parts, count| {
                    self.write_parts(parts, count, counters)
                });
                if !self.takes_big() {
                    merger.make_none_big();
                }
            }
            _ => {
                let header = VirtioHeader::default().encode();
                let header: &[u8] = if self.has_header { &header } else { &[] };
                for packet in packets.iter() {
                    let parts = [IoSlice::new(header), IoSlice::new(packet)];
                    let _ = self.write_parts(&parts, 1, counters); // one packet is not big
                }
            }
        }
        packets.clear();
    }

    /// Writes one packet or what many were merged to; says whether it was a big one that must go in
    /// smaller ones.
    fn write_parts(&self, parts: &[IoSlice<'_>], count: usize, counters: &Counters) -> Written {
        let size: usize = parts.iter().map(|part| part.len()).sum();
        let is_big = size >= BIG_SIZE;
        match writev(&self.fd, parts) {
            Ok(_) => {
                counters.add(Counter::TunTxPackets, count as u64);
                counters.add(Counter::TunTxBig, u64::from(is_big));
                Written::Done
            }
            // It asks the kernel for more memory in one piece than others do.
            Err(Errno::ENOBUFS | Errno::ENOMEM) if is_big => Written::TooBig,
            Err(Errno::EINVAL | Errno::EMSGSIZE) if is_big => {
                self.takes_big.store(false, Ordering::Relaxed);
                Written::TooBig
            }
            Err(_) => {
                counters.add(Counter::TunWriteError, count as u64);
                Written::Done
            }
        }
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Says whether the kernel knows IPv4's BIG TCP, by its version: nothing else tells.
fn kernel_takes_big() -> bool {
    let Ok(system) = uname() else { return false };
    let release = system.release().to_string_lossy();
    let mut numbers = release
        .split(|letter: char| !letter.is_ascii_digit())
        .map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(3))
}

/// Asks the device; what is none (a socket in a test) has no header.
fn has_virtio_header(fd: &OwnedFd) -> bool {
    // SAFETY: an ifreq is plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open, and TUNGETIFF writes one ifreq.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), TUNGETIFF as _, &raw mut request) };
    // SAFETY: TUNGETIFF has set this member; before, it was zeroed.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    result == 0 && flags & IFF_VNET_HDR != 0
}

fn set_header_size(fd: &OwnedFd) -> io::Result<()> {
    let size = HEADER_SIZE as libc::c_int;
    // SAFETY: the descriptor is open, and TUNSETVNETHDRSZ reads one int.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETVNETHDRSZ as _, &raw const size) };
    Ok(Errno::result(result).map(drop)?)
}

/// Says what the device may leave to us; false if it knows less.
fn set_offload(fd: &OwnedFd, flags: libc::c_ulong) -> bool {
    // SAFETY: the descriptor is open, and TUNSETOFFLOAD takes a number.
    unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETOFFLOAD as _, flags) == 0 }
}
