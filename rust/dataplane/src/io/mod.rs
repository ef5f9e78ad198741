//! Sockets, TUN and the two threads that move packets; the only place that reads the clock.
//!
//! One waits for the sockets, drains them in batches, and ticks the timers; the other does the same
//! for the TUN while a bulk comes from it ([`lease`]). Both hold the machine for a batch only, never
//! during a system call.
//! Each drains what waits and flushes at the end of a batch, so that segmentation offloads have
//! something to join; after a rest it moves first what came first.

mod arena;
mod control;
mod fragments;
mod held;
mod lease;
mod message;
#[cfg(all(test, feature = "loom"))]
mod models;
mod signal;
mod sync;
#[cfg(all(test, not(miri)))] // Miri has no sockets
mod tests;
mod tun;
mod udp;
mod upward;
mod watch;
mod workers;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::SigSet;

use crate::channels::{Channels, Forward};
use crate::consent::{ConsentConfig, Consented, Consents};
use crate::counters::{Counter, Counters};
use crate::ecn;
use crate::inbox::{Inbox, Passed};
use crate::machine::{CommandError, Config, Event, Machine, Output, Path, PeerConfig, PeerStats};
use crate::offload::Trains;
use held::Held;
use lease::Lease;
use signal::Signal;
use sync::{AtomicBool, AtomicU16, Mutex, MutexGuard, lock};
use tun::Tun;
use udp::{SendError, Sockets};
use watch::Watch;

/// The descriptors that an engine works on; it takes copies of its own.
pub struct Descriptors<'fd> {
    /// A bound UDP socket of IPv4.
    pub udp4: Option<BorrowedFd<'fd>>,
    /// A bound UDP socket of IPv6.
    pub udp6: Option<BorrowedFd<'fd>>,
    /// A TUN device without packet information, with a virtio header (IFF_VNET_HDR) or without.
    pub tun: Option<BorrowedFd<'fd>>,
    /// Addresses of this host, to which TCP may cross the TUN in packets of more than 64 KiB.
    pub big_for: Vec<Ipv4Addr>,
}

/// What the threads and the application share.
struct Shared {
    machine: Held,
    /// Our own overlay addresses: what arrives there came through the tunnel itself.
    overlay_ips: Vec<IpAddr>,
    inbox: Mutex<Inbox>,
    channels: Mutex<Channels>,
    consents: Mutex<Consents>,
    counters: Arc<Counters>,
    sockets: Sockets,
    tun: Option<Tun>,
    lease: Lease,
    /// The sockets' thread's.
    watch: Watch,
    /// Readable while something waits for the application.
    waiting: Signal,
    /// Readable once the threads are to end.
    stop: Signal,
    failed: AtomicBool,
    /// Of the TUN.
    mtu: AtomicU16,
}

/// Which offloads of the kernel are in use; all work without them, slower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// TCP crosses the TUN in trains of segments.
    pub tun_tcp: bool,
    /// TCP to this host is written to the TUN in packets of more than 64 KiB.
    pub tun_big: bool,
    /// UDP crosses the TUN in trains of datagrams.
    pub tun_udp: bool,
    /// `UDP_SEGMENT`: the sockets send in trains.
    pub udp_send: bool,
    /// `UDP_GRO`: the sockets receive in trains.
    pub udp_receive: bool,
}

/// A running data plane; dropping it ends its threads.
pub struct Engine {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Engine {
    /// Starts the threads. Everything that restricts them (Landlock, uid) must be done before.
    pub fn start(config: Config, descriptors: &Descriptors<'_>) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(config, descriptors)?);
        let mut engine = Self {
            shared,
            threads: Vec::new(),
        };
        engine.spawn("wg-udp", workers::serve_sockets)?;
        if engine.shared.tun.is_some() {
            engine.spawn("wg-tun", workers::serve_tun)?;
        }
        Ok(engine)
    }

    fn spawn(&mut self, name: &str, work: fn(&Shared)) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                // Signals are the application's: one that lands here would not wake its loop.
                let _ = SigSet::all().thread_block();
                let guard = FailureGuard(&shared);
                work(&shared);
                std::mem::forget(guard);
            })?;
        self.threads.push(thread);
        Ok(())
    }

    /// The descriptor that is readable while something waits for the application.
    pub fn waiting_fd(&self) -> BorrowedFd<'_> {
        self.shared.waiting.as_fd()
    }

    /// Our own public key.
    pub fn public_key(&self) -> [u8; 32] {
        self.shared.machine.lock().public_key()
    }

    /// Says whether a thread ended by a panic; the engine is of no use then.
    pub fn has_failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }

    /// Takes up to `limit` datagrams; fewer mean that none are left.
    pub fn receive(&self, limit: usize) -> Vec<Passed> {
        let mut inbox = lock(&self.shared.inbox);
        let mut taken = Vec::new();
        while taken.len() < limit
            && let Some(passed) = inbox.pop_datagram()
        {
            taken.push(passed);
        }
        self.shared.settle(&inbox);
        taken
    }

    /// Takes the next event.
    pub fn poll_event(&self) -> Option<Event> {
        let mut inbox = lock(&self.shared.inbox);
        let event = inbox.pop_event();
        self.shared.settle(&inbox);
        event
    }

    /// Sends a datagram of the application's; false if the socket has no room just now.
    pub fn send(&self, data: &[u8], remote: SocketAddr, local: Option<IpAddr>) -> bool {
        let path = Path::plain(remote, local);
        match self
            .shared
            .sockets
            .send(data, path, ecn::NOT_ECT, &self.shared.counters)
        {
            Ok(()) => true,
            Err(error) => error != SendError::Full,
        }
    }

    /// Adds a peer or changes it as a whole, from the next batch on. It waits for none, but where very
    /// many are set at once.
    pub fn set_peer(&self, config: PeerConfig) -> Result<(), CommandError> {
        self.shared.machine.set_peer(config)
    }

    /// Follows the MTU of the TUN.
    pub fn set_mtu(&self, mtu: u16) {
        let mut machine = self.shared.machine.lock();
        machine.set_mtu(mtu);
        // With the machine held: of two that change it, one comes last at both places.
        self.shared.mtu.store(mtu, Ordering::Relaxed);
    }

    /// Removes a peer and its keys.
    pub fn remove_peer(&self, public_key: &[u8; 32]) -> Result<(), CommandError> {
        self.shared.machine.remove_peer(public_key)
    }

    /// Starts a handshake now.
    pub fn start_handshake(&self, public_key: &[u8; 32]) -> Result<(), CommandError> {
        let mut out = Output::default();
        self.shared
            .machine
            .lock()
            .start_handshake(public_key, &mut out)?;
        self.shared.flush(&mut out, &mut Trains::default());
        Ok(())
    }

    /// Sends an inner packet to a peer.
    pub fn send_inner(&self, public_key: &[u8; 32], packet: &[u8]) -> Result<(), CommandError> {
        let mut out = Output::default();
        let mut trains = Trains::default();
        let mut machine = self.shared.machine.lock();
        machine.send_inner(public_key, packet, clock(), &mut out)?;
        self.shared.release(machine, &mut out, &mut trains);
        self.shared.flush(&mut out, &mut trains);
        Ok(())
    }

    /// Tells the largest inner packet that a peer's path takes.
    pub fn set_path_mtu(&self, key: &[u8; 32], mtu: Option<u16>) -> Result<(), CommandError> {
        self.shared.machine.lock().set_path_mtu(key, mtu)
    }

    /// Sends an inner packet to a peer, never in fragments.
    pub fn send_probe(&self, public_key: &[u8; 32], packet: &[u8]) -> Result<(), CommandError> {
        let mut out = Output::default();
        self.shared
            .machine
            .lock()
            .send_probe(public_key, packet, &mut out)?;
        self.shared.flush(&mut out, &mut Trains::default());
        Ok(())
    }

    /// Hears a channel of a TURN server: WireGuard's packets in it are a peer's.
    pub fn open_channel(&self, server: SocketAddr, number: u16) -> Result<(), CommandError> {
        lock(&self.shared.channels).open(server, number, clock())
    }

    /// Hears a channel for a few seconds more.
    pub fn close_channel(&self, server: SocketAddr, number: u16) {
        lock(&self.shared.channels).close(server, number, clock());
    }

    /// Passes a client's channel on to another client.
    pub fn forward(&self, forward: Forward) -> Result<(), CommandError> {
        lock(&self.shared.channels).forward(forward, clock())
    }

    /// Passes nothing on any more, from this client or to it.
    pub fn end_forwards(&self, client: SocketAddr) {
        lock(&self.shared.channels).end_forwards(client);
    }

    /// Asks for consent on a pair, and answers for it, until an answer stays out.
    pub fn watch_consent(&self, config: ConsentConfig) -> Result<(), CommandError> {
        lock(&self.shared.consents).watch(config, clock())
    }

    /// Leaves a peer's consent to the application again.
    pub fn forget_consent(&self, public_key: &[u8; 32]) {
        lock(&self.shared.consents).forget(public_key);
    }

    /// Counters of each peer.
    pub fn peer_stats(&self) -> Vec<PeerStats> {
        self.shared.machine.lock().peer_stats(clock())
    }

    /// How many peers there are.
    pub fn peer_count(&self) -> usize {
        self.shared.machine.lock().peer_count()
    }

    /// Which offloads are in use just now.
    pub fn offloads(&self) -> Offloads {
        let (udp_send, udp_receive) = self.shared.sockets.carries_trains();
        let tun = self.shared.tun.as_ref();
        Offloads {
            tun_tcp: tun.is_some_and(Tun::splits_tcp),
            tun_big: tun.is_some_and(Tun::takes_big),
            tun_udp: tun.is_some_and(Tun::splits_udp),
            udp_send,
            udp_receive,
        }
    }

    /// Counters of the whole engine.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Ends the threads and waits for them: they look up at the latest after one batch.
    pub fn close(&mut self) {
        self.shared.stop.raise();
        for thread in self.threads.drain(..) {
            // A thread that panicked has raised `failed` already.
            let _ = thread.join();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn new(config: Config, descriptors: &Descriptors<'_>) -> io::Result<Self> {
        let counters = Arc::new(Counters::new());
        let (overlay_ips, mtu) = (config.control_ips.clone(), config.mtu);
        let machine = Machine::new(config, Arc::clone(&counters), clock());
        let take_tun = |fd| Tun::new(fd, &descriptors.big_for);
        let tun = descriptors.tun.map(take_tun).transpose()?;
        let sockets = Sockets::new(descriptors.udp4, descriptors.udp6)?;
        let (lease, stop) = (Lease::new()?, Signal::new()?);
        let watch = Watch::new(&stop, tun.as_ref(), &lease, &sockets)?;
        Ok(Self {
            machine: Held::new(machine),
            overlay_ips,
            inbox: Mutex::new(Inbox::default()),
            channels: Mutex::new(Channels::default()),
            consents: Mutex::new(Consents::default()),
            counters,
            sockets,
            tun,
            lease,
            watch,
            waiting: Signal::new()?,
            stop,
            failed: AtomicBool::new(false),
            mtu: AtomicU16::new(mtu),
        })
    }

    /// Lets the machine go; before, sends what has waited for a handshake, if there is some, so that the
    /// other thread seals nothing that overtakes it.
    fn release(&self, machine: MutexGuard<'_, Machine>, out: &mut Output, trains: &mut Trains) {
        if std::mem::take(&mut out.has_staged) {
            self.sockets
                .send_all(&mut out.transmits, false, trains, &self.counters);
        }
        drop(machine);
    }

    /// Sends, writes and queues what the machine put out.
    fn flush(&self, out: &mut Output, trains: &mut Trains) {
        self.flush_before(false, out, trains);
    }

    /// The same, but trains that have room wait if `more` follow at once.
    fn flush_before(&self, more: bool, out: &mut Output, trains: &mut Trains) {
        self.sockets
            .send_all(&mut out.transmits, more, trains, &self.counters);
        match &self.tun {
            Some(tun) => tun.write(&mut out.inner, &self.counters),
            None => {
                let lost = out.inner.drain(..).len();
                self.counters.add(Counter::DropNoTun, lost as u64);
            }
        }
        if !out.events.is_empty() {
            let mut inbox = lock(&self.inbox);
            for event in out.events.drain(..) {
                inbox.push_event(event, &self.counters);
            }
            self.settle(&inbox);
        }
    }

    /// Sends and tells what consents put out.
    fn flush_consents(&self, out: &mut Consented) {
        for sent in out.sent.drain(..) {
            // A full socket loses it: the next one follows, or the application asks.
            let _ = self
                .sockets
                .send(&sent.data, sent.path, ecn::NOT_ECT, &self.counters);
        }
        if !out.events.is_empty() {
            let mut inbox = lock(&self.inbox);
            for event in out.events.drain(..) {
                inbox.push_event(event, &self.counters);
            }
            self.settle(&inbox);
        }
    }

    /// Makes the descriptor readable exactly while something waits; called with the inbox held.
    fn settle(&self, inbox: &Inbox) {
        if inbox.is_empty() && !self.failed.load(Ordering::Acquire) {
            self.waiting.lower();
        } else {
            self.waiting.raise();
        }
    }
}

/// Reports a thread that panics: it is dropped only then.
struct FailureGuard<'shared>(&'shared Shared);

impl Drop for FailureGuard<'_> {
    fn drop(&mut self) {
        // `settle` must not lower what is raised here. The thread's own locks are gone already.
        let _inbox = lock(&self.0.inbox);
        self.0.failed.store(true, Ordering::Release);
        self.0.waiting.raise();
    }
}

/// The monotonic clock of the data plane.
#[expect(clippy::disallowed_methods, reason = "the one place that reads it")]
fn clock() -> Instant {
    Instant::now()
}

/// The milliseconds of a wait, rounded up, so that a rest below one does not spin.
fn milliseconds(wait: Duration) -> i32 {
    i32::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
}

/// A copy of a descriptor that closes with its owner and is not inherited.
fn duplicate(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    fd.try_clone_to_owned()
}

/// How long a thread rests after an error that would else come back at once.
const ERROR_PAUSE: Duration = Duration::from_millis(20);
