//! What the sockets' thread waits for.
//!
//! By epoll, which looks again only at what woke it, and not at all that it might have been: of a packet
//! that comes alone every look is a delay.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::lease::Lease;
use super::milliseconds;
use super::signal::Signal;
use super::tun::Tun;
use super::udp::Sockets;

/// Sources: the end, the TUN, the return of it, and two sockets.
const MAX_SOURCES: usize = 5;
/// The places of their bits, the sockets' by number behind these.
const STOP: u64 = 0;
const TUN: u64 = 1;
const FIRST_SOCKET: u64 = 2;

/// What is ready: bits of the sources, in their order.
pub(super) struct Ready(u32);

impl Ready {
    /// Says whether the TUN may be read, or has come back.
    pub(super) fn has_tun(&self) -> bool {
        self.has(TUN)
    }

    /// Says whether a socket is readable or has an error.
    pub(super) fn has_socket(&self, number: usize) -> bool {
        self.has(FIRST_SOCKET + number as u64)
    }

    fn has(&self, place: u64) -> bool {
        self.0 >> place & 1 != 0
    }
}

pub(super) struct Watch(Epoll);

impl Watch {
    /// Watches all of these, with the TUN at home.
    pub(super) fn new(
        stop: &Signal,
        tun: Option<&Tun>,
        lease: &Lease,
        sockets: &Sockets,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let add =
            |fd: BorrowedFd<'_>, place| epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, place));
        add(stop.as_fd(), STOP)?;
        if let Some(tun) = tun {
            add(tun.as_fd(), TUN)?;
            add(lease.returned(), TUN)?;
        }
        for (socket, place) in sockets.iter().zip(FIRST_SOCKET..) {
            add(socket.as_fd(), place)?;
        }
        Ok(Self(epoll))
    }

    /// Watches the TUN or no longer.
    pub(super) fn set_tun(&self, tun: &Tun, is_wanted: bool) {
        let wanted = if is_wanted {
            EpollFlags::EPOLLIN
        } else {
            EpollFlags::EPOLLONESHOT // errors would be told for ever, whatever is wanted
        };
        // It asks for no memory, and the descriptor is ours: nothing can fail.
        let _ = self.0.modify(tun, &mut EpollEvent::new(wanted, TUN));
    }

    /// Waits until something is ready or the time is over; `None` if it is time to end.
    pub(super) fn wait(&self, wait: Duration) -> Option<Ready> {
        let wait = EpollTimeout::try_from(milliseconds(wait)).unwrap_or(EpollTimeout::MAX);
        let mut events = [EpollEvent::empty(); MAX_SOURCES];
        // An error here is EINTR; the next round tries again.
        let count = self.0.wait(&mut events, wait).unwrap_or(0);
        let bits = events[..count]
            .iter()
            .fold(0, |bits, event| bits | 1 << event.data());
        let ready = Ready(bits);
        (!ready.has(STOP)).then_some(ready)
    }
}

#[cfg(all(test, not(miri)))] // Miri has no sockets
mod tests {
    use std::io::Write;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::{Lease, Signal, Sockets, Tun, Watch};

    const PATIENCE: Duration = Duration::from_secs(30);

    struct Scene {
        stop: Signal,
        tun: Tun,
        /// The other end of what stands for the TUN.
        far: UnixStream,
        lease: Lease,
        watch: Watch,
        /// Of IPv6 where this machine has it, as the second.
        udp: UdpSocket,
        number: usize,
    }

    fn scene() -> Scene {
        let udp4 = UdpSocket::bind("127.0.0.1:0").expect("a loopback");
        let udp6 = UdpSocket::bind("[::1]:0").ok();
        let sockets = Sockets::new(Some(udp4.as_fd()), udp6.as_ref().map(AsFd::as_fd));
        let sockets = sockets.expect("sockets of this host");
        let (near, far) = UnixStream::pair().expect("a pair");
        let tun = Tun::with(near.into(), false, (false, false), &[]);
        let (stop, lease) = (Signal::new().expect("one"), Lease::new().expect("two"));
        let watch = Watch::new(&stop, Some(&tun), &lease, &sockets).expect("an epoll");
        let number = usize::from(udp6.is_some());
        Scene {
            stop,
            tun,
            far,
            lease,
            watch,
            udp: udp6.unwrap_or(udp4),
            number,
        }
    }

    impl Scene {
        /// Says it of the TUN, the socket and what is none.
        fn wait(&self, wait: Duration) -> [bool; 3] {
            let ready = self.watch.wait(wait).expect("not the end");
            let others = [1 - self.number, 2].map(|number| ready.has_socket(number));
            [
                ready.has_tun(),
                ready.has_socket(self.number),
                others.contains(&true),
            ]
        }
    }

    #[test]
    fn what_is_readable_is_told_by_its_place() {
        let mut scene = scene();
        assert_eq!(scene.wait(Duration::ZERO), [false; 3]);
        let to = scene.udp.local_addr().expect("bound");
        scene.udp.send_to(b"x", to).expect("room");
        assert_eq!(scene.wait(PATIENCE), [false, true, false]);
        scene.far.write_all(b"x").expect("room");
        assert_eq!(scene.wait(PATIENCE), [true, true, false]);
        scene.stop.raise();
        assert!(scene.watch.wait(PATIENCE).is_none());
    }

    #[test]
    fn a_tun_that_is_lent_is_not_told_of_but_its_return_is() {
        let mut scene = scene();
        scene.far.write_all(b"x").expect("room");
        scene.watch.set_tun(&scene.tun, false);
        scene.lease.lend();
        let _ = scene.wait(Duration::ZERO); // may tell once what it is to tell no more
        assert_eq!(scene.wait(Duration::ZERO), [false; 3]);
        scene.lease.give_back();
        assert_eq!(scene.wait(PATIENCE), [true, false, false]);
        assert!(scene.lease.is_home());
        assert_eq!(scene.wait(Duration::ZERO), [false; 3]);
        scene.watch.set_tun(&scene.tun, true);
        assert_eq!(scene.wait(PATIENCE), [true, false, false]);
        // The error of a device that is gone stays; it must not keep the thread awake.
        scene.watch.set_tun(&scene.tun, false);
        drop(scene.far);
        assert!(
            scene
                .watch
                .wait(PATIENCE)
                .is_some_and(|ready| ready.has_tun())
        );
        assert!(
            scene
                .watch
                .wait(Duration::ZERO)
                .is_some_and(|ready| !ready.has_tun())
        );
    }
}
