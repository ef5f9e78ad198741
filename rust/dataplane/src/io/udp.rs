//! The shared UDP sockets, one for each family, with the local address of each datagram.
//!
//! They stay as they are (blocking or not): each call says `MSG_DONTWAIT`. Where the kernel can, one
//! call carries a train of datagrams of one size: `UDP_SEGMENT` out, `UDP_GRO` in.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use bytes::BytesMut;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockaddrLike, SockaddrStorage, getsockname, getsockopt, setsockopt, sockopt,
};

use super::control::{self, Control};
use super::fragments::{self, Cutting};
use super::message;
use super::sync::AtomicBool;
use crate::channels;
use crate::counters::{Counter, Counters};
use crate::ecn;
use crate::machine::{Cut, Path, Transmit};
use crate::offload::Trains;

/// Wanted socket buffers, both ways: what wireguard-go wants. The kernel may give less.
const SOCKET_BUFFER: usize = 7 * 1024 * 1024;
/// A socket with less has the system's default (Linux: 208 KiB), which nobody has chosen.
const USUAL_BUFFER: usize = 1024 * 1024;
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

pub(super) struct Socket {
    fd: OwnedFd,
    /// Whether trains may be sent; turned off when a device refuses them.
    sends_trains: AtomicBool,
    receives_trains: bool,
}

pub(super) struct Sockets {
    v4: Option<Socket>,
    v6: Option<Socket>,
    cutting: Cutting,
}

/// What one call received.
pub(super) struct Received {
    /// All bytes.
    pub(super) size: usize,
    /// Bytes of each datagram but the last.
    pub(super) segment: usize,
    pub(super) path: Path,
    /// The mark of the outer header.
    pub(super) ecn: u8,
}

impl Sockets {
    pub(super) fn new(v4: Option<BorrowedFd<'_>>, v6: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        let v4 = v4.map(Socket::new).transpose()?;
        let v6 = v6.map(Socket::new).transpose()?;
        if let Some(socket) = &v4 {
            control::ask(&socket.fd, false)?;
        }
        if let Some(socket) = &v6 {
            control::ask(&socket.fd, true)?;
        }
        Ok(Self {
            v4,
            v6,
            cutting: Cutting::new(),
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Socket> {
        self.v4.iter().chain(&self.v6)
    }

    /// Whether every socket sends trains, and whether every one receives them.
    pub(super) fn carries_trains(&self) -> (bool, bool) {
        let sends = |socket: &Socket| socket.sends_trains.load(Ordering::Relaxed);
        (
            self.iter().all(sends),
            self.iter().all(|socket| socket.receives_trains),
        )
    }

    /// Sends datagrams in trains, waiting a moment for room in the socket.
    ///
    /// If `more` follow at once, those of a train that has room for them stay in `transmits`.
    pub(super) fn send_all(
        &self,
        transmits: &mut Vec<Transmit>,
        more: bool,
        trains: &mut Trains,
        counters: &Counters,
    ) {
        if let [alone] = &transmits[..]
            && !more
        {
            self.send_alone(alone, counters);
            return transmits.clear();
        }
        for members in trains.plan(transmits, more) {
            if members.len() > 1 && self.send_train(transmits, members, counters) {
                continue;
            }
            for number in members {
                self.send_alone(&transmits[*number], counters);
            }
        }
        let mut number = 0..;
        transmits.retain(|_| {
            let is_left = |at| trains.left().binary_search(&at).is_ok();
            number.next().is_some_and(is_left)
        });
    }

    /// Sends a train; false if its datagrams must go one by one.
    fn send_train(
        &self,
        transmits: &mut [Transmit],
        members: &[usize],
        counters: &Counters,
    ) -> bool {
        let first = &transmits[members[0]];
        let (path, ecn, length) = (first.path, first.ecn, first.data.len());
        let sends_trains = |socket: &&Socket| socket.sends_trains.load(Ordering::Relaxed);
        let Some(socket) = self.of(path.remote).filter(sends_trains) else {
            return false;
        };
        let Ok(size) = u16::try_from(first.wire_size()) else {
            return false;
        };
        let pieces = take_joined(transmits, members);
        let data = pieces.iter().map(|piece| &piece[..]);
        let headers = headers(path, data.clone());
        let slices = wrap(&headers, data);
        let send = || socket.send(&slices, path, Some(size), ecn);
        let mut result = self.cutting.as_needed(send);
        if matches!(result, Err(Errno::EAGAIN)) {
            counters.count(Counter::SendFull);
            socket.wait_for_room();
            result = self.cutting.as_needed(send);
        }
        match result {
            Ok(bytes) => {
                counters.add(Counter::UdpTxPackets, members.len() as u64);
                counters.add(Counter::UdpTxBytes, bytes as u64);
                true
            }
            Err(Errno::EAGAIN) => {
                counters.add(Counter::SendFull, members.len() as u64);
                true
            }
            Err(error) => {
                if matches!(error, Errno::EIO | Errno::EOPNOTSUPP | Errno::ENOPROTOOPT) {
                    // The way out has no checksum offload (udp(7)), now or for good.
                    socket.sends_trains.store(false, Ordering::Relaxed);
                }
                // Else perhaps one is too large for the path: each datagram's own send will tell.
                give_back(pieces, length, transmits, members);
                false
            }
        }
    }

    fn of(&self, remote: SocketAddr) -> Option<&Socket> {
        match remote {
            SocketAddr::V4(_) => self.v4.as_ref(),
            SocketAddr::V6(_) => self.v6.as_ref(),
        }
    }

    /// Sends without waiting.
    pub(super) fn send(
        &self,
        data: &[u8],
        path: Path,
        ecn: u8,
        counters: &Counters,
    ) -> Result<(), SendError> {
        let Some(socket) = self.of(path.remote) else {
            counters.count(Counter::SendNoSocket);
            return Err(SendError::Lost);
        };
        let sent = self
            .cutting
            .as_needed(|| socket.send_retrying(data, path, ecn));
        self.account(sent, counters)
    }

    /// Sends one datagram as it is or not at all.
    fn send_whole(&self, data: &[u8], path: Path, counters: &Counters) {
        let Some(socket) = self.of(path.remote) else {
            counters.count(Counter::SendNoSocket);
            return;
        };
        let sent = self.cutting.never(
            |cut| fragments::set(&socket.fd, path.remote.is_ipv6(), cut),
            || socket.send_retrying(data, path, ecn::NOT_ECT),
        );
        // A probe may find no room like any other packet: it is sent again by who waits for it.
        let _ = self.account(sent, counters);
    }

    fn account(&self, sent: Result<usize, Errno>, counters: &Counters) -> Result<(), SendError> {
        let error = match sent {
            Ok(size) => {
                counters.count(Counter::UdpTxPackets);
                counters.add(Counter::UdpTxBytes, size as u64);
                return Ok(());
            }
            Err(error) => error,
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

    /// Sends one datagram, waiting a moment for room if it may be cut.
    fn send_alone(&self, transmit: &Transmit, counters: &Counters) {
        let Transmit { path, ecn, .. } = *transmit;
        if transmit.cut == Cut::Never {
            return self.send_whole(&transmit.data, path, counters);
        }
        if self.send(&transmit.data, path, ecn, counters) == Err(SendError::Full) {
            if let Some(socket) = self.of(path.remote) {
                socket.wait_for_room();
            }
            // Both tries are counted: `send_full` says how often there was no room.
            let _ = self.send(&transmit.data, path, ecn, counters);
        }
    }
}

impl Socket {
    fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let fd = super::duplicate(fd)?;
        enlarge_buffers(&fd);
        let sends_trains = AtomicBool::new(getsockopt(&fd, sockopt::UdpGsoSegment).is_ok());
        if let Ok(address) = getsockname::<SockaddrStorage>(fd.as_raw_fd()) {
            let is_ipv6 = address.family() == Some(AddressFamily::Inet6);
            fragments::set(&fd, is_ipv6, Cut::AsNeeded);
        }
        let receives_trains = setsockopt(&fd, sockopt::UdpGroSegment, &true).is_ok();
        Ok(Self {
            fd,
            sends_trains,
            receives_trains,
        })
    }

    fn wait_for_room(&self) {
        let mut wanted = [PollFd::new(self.as_fd(), PollFlags::POLLOUT)];
        // Whatever it says, the second try shows whether there is room.
        let _ = poll(&mut wanted, PollTimeout::from(SEND_PATIENCE_MS));
    }

    /// Receives one datagram or one train; `None` if there is none.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Result<Option<Received>, Errno> {
        let mut control = Control::room();
        let (size, remote, told) = match message::receive(self.as_fd(), buffer, &mut control) {
            Ok(received) => received,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(error) => return Err(error),
        };
        let told = control.told(told);
        Ok(Some(Received {
            size,
            segment: told.segment.unwrap_or(size).clamp(1, size.max(1)),
            path: Path::plain(remote, told.local),
            ecn: told.ecn,
        }))
    }

    /// Sends; an earlier datagram's error, or a source address that is gone, earns a second try.
    fn send_retrying(&self, data: &[u8], path: Path, ecn: u8) -> Result<usize, Errno> {
        let header = path
            .channel
            .map(|number| channels::header(number, data.len()));
        let slices = [
            IoSlice::new(header.as_slice().as_flattened()),
            IoSlice::new(data),
        ];
        let slices = &slices[usize::from(header.is_none())..];
        match self.send(slices, path, None, ecn) {
            Err(Errno::ECONNREFUSED | Errno::EINTR) => self.send(slices, path, None, ecn),
            Err(Errno::EINVAL | Errno::EADDRNOTAVAIL) if path.local.is_some() => {
                let local = None;
                self.send(slices, Path { local, ..path }, None, ecn)
            }
            result => result,
        }
    }

    /// Sends one datagram, or several of `segment` bytes each; returns how many bytes.
    fn send(
        &self,
        slices: &[IoSlice<'_>],
        path: Path,
        segment: Option<u16>,
        ecn: u8,
    ) -> Result<usize, Errno> {
        let mut control = Control::outgoing(path, segment, ecn);
        message::send(self.as_fd(), slices, path.remote, &mut control)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The socket is also the caller's, who need not know of trains.
        let _ = setsockopt(&self.fd, sockopt::UdpGroSegment, &false);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Asks for larger buffers where the opener has not: best effort, for the kernel caps them by its
/// own limits, above which only root may go.
fn enlarge_buffers(fd: &OwnedFd) {
    // The kernel doubles what is asked for. Without its leave a large buffer would shrink.
    if let Ok(size) = getsockopt(fd, sockopt::RcvBuf)
        && size < 2 * SOCKET_BUFFER
        && setsockopt(fd, sockopt::RcvBufForce, &SOCKET_BUFFER).is_err()
        && size < USUAL_BUFFER
    {
        let _ = setsockopt(fd, sockopt::RcvBuf, &SOCKET_BUFFER);
    }
    if let Ok(size) = getsockopt(fd, sockopt::SndBuf)
        && size < 2 * SOCKET_BUFFER
        && setsockopt(fd, sockopt::SndBufForce, &SOCKET_BUFFER).is_err()
        && size < USUAL_BUFFER
    {
        let _ = setsockopt(fd, sockopt::SndBuf, &SOCKET_BUFFER);
    }
}

/// Takes the bytes of a train. Those that lie one behind the other become one piece, of which the
/// kernel makes less work; in a channel each is a piece, for its header.
pub(super) fn take_joined(transmits: &mut [Transmit], members: &[usize]) -> Vec<BytesMut> {
    let mut pieces: Vec<BytesMut> = Vec::with_capacity(members.len());
    for number in members {
        let transmit = &mut transmits[*number];
        let is_plain = transmit.path.channel.is_none();
        let data = std::mem::take(transmit.data.buf_mut());
        match pieces.last_mut() {
            Some(last) if is_plain && last.as_ptr_range().end == data.as_ptr() => {
                last.unsplit(data)
            }
            _ => pieces.push(data),
        }
    }
    pieces
}

/// Gives a train's datagrams their bytes back, `length` each but the last.
pub(super) fn give_back(
    pieces: Vec<BytesMut>,
    length: usize,
    transmits: &mut [Transmit],
    members: &[usize],
) {
    let mut numbers = members.iter();
    for mut piece in pieces {
        while !piece.is_empty()
            && let Some(number) = numbers.next()
        {
            let data = piece.split_to(length.min(piece.len()));
            *transmits[*number].data.buf_mut() = data;
        }
    }
}

/// Returns the headers of datagrams in a channel; none, where they are in none.
fn headers<'data>(
    path: Path,
    data: impl Iterator<Item = &'data [u8]>,
) -> Vec<[u8; channels::HEADER_SIZE]> {
    match path.channel {
        Some(number) => data
            .map(|data| channels::header(number, data.len()))
            .collect(),
        None => Vec::new(),
    }
}

/// Returns what is sent: the datagrams, each behind its header, if there are any.
fn wrap<'data>(
    headers: &'data [[u8; channels::HEADER_SIZE]],
    data: impl Iterator<Item = &'data [u8]>,
) -> Vec<IoSlice<'data>> {
    let mut headers = headers.iter();
    data.flat_map(|data| {
        let header = headers.next().map(|header| IoSlice::new(header));
        header.into_iter().chain([IoSlice::new(data)])
    })
    .collect()
}
