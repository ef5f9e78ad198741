//! Threads that panic: nothing hangs, and whoever waits for the engine learns of it. Trains that wait.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/common/engine_node.rs"]
mod engine_node;
#[path = "../../tests/common/host_packets.rs"]
mod host_packets;

use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use bytes::BytesMut;
use engine_node::EngineNode;
use host_packets::{build, train};
use nix::sys::socket::{setsockopt, sockopt};

use super::tun::Tun;
use super::udp::{Sockets, give_back, take_joined};
use super::{Shared, lock};
use crate::offload::Trains;
use crate::{Counter, Counters, Cut, Packet, Path, Transmit};

/// Two sockets, and the path to the second.
fn line() -> (UdpSocket, UdpSocket, Path) {
    let [own, other] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    other
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let path = Path::plain(other.local_addr().unwrap(), None);
    (own, other, path)
}

/// Sends without checksums from now on: Linux then refuses trains (EINVAL).
fn send_without_checksums(socket: &UdpSocket) {
    let (yes, size): (libc::c_int, _) = (1, size_of::<libc::c_int>() as libc::socklen_t);
    let place = (&raw const yes).cast();
    // SAFETY: the socket is open, and SO_NO_CHECK reads one int.
    let result = unsafe {
        let fd = socket.as_raw_fd();
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_NO_CHECK, place, size)
    };
    assert_eq!(result, 0);
}

fn panics(_: &Shared) {
    panic!("injected by a test");
}

fn panics_with_everything_held(shared: &Shared) {
    let _held = (
        shared.machine.lock(),
        lock(&shared.inbox),
        lock(&shared.channels),
    );
    panic!("injected by a test");
}

#[test]
fn a_panic_is_told_by_the_descriptor_for_good_and_the_end_does_not_hang() {
    for work in [panics as fn(&Shared), panics_with_everything_held] {
        let mut node = EngineNode::start(1);
        assert!(!node.engine.has_failed());
        assert!(!node.waits(0));
        node.engine.spawn("wg-broken", work).unwrap();
        node.wait();
        assert!(node.engine.has_failed());
        // Taking what there is does not end the report.
        assert!(node.engine.receive(64).is_empty());
        assert_eq!(node.engine.poll_event(), None);
        assert!(node.waits(0));
        assert_eq!(node.engine.peer_count(), 0);
        node.engine.close();
        assert!(node.engine.has_failed());
    }
}

#[test]
fn a_thread_that_ends_by_itself_is_no_failure() {
    let mut engine = EngineNode::start(1).engine;
    engine.spawn("wg-done", |_| {}).unwrap();
    engine.close();
    assert!(!engine.has_failed());
}

/// Datagrams in one piece of memory, some of them apart: the same ones arrive, as a train or one by one.
#[test]
fn what_lies_together_leaves_as_one_piece() {
    let (own, other, path) = line();
    let sockets = Sockets::new(Some(own.as_fd()), None).unwrap();
    let (mut trains, counters) = (Trains::default(), Counters::new());
    let sizes: [usize; 8] = [500, 500, 500, 500, 500, 500, 500, 77];
    for refused in [false, true] {
        let mut memory = BytesMut::zeroed(8 * 500);
        let mut transmits: Vec<Transmit> = Vec::new();
        for (number, size) in (0u8..).zip(sizes) {
            let mut data = memory.split_to(500);
            data.fill(number);
            if number == 3 {
                data = BytesMut::from(&data[..]); // apart
            }
            data.truncate(size);
            let data = Packet::from_bytes(data);
            let (cut, ecn) = (Cut::AsNeeded, 0);
            transmits.push(Transmit {
                data,
                path,
                cut,
                ecn,
            });
        }
        let members: Vec<usize> = (0..8).collect();
        let pieces = take_joined(&mut transmits, &members);
        let lengths: Vec<usize> = pieces.iter().map(BytesMut::len).collect();
        assert_eq!(lengths, [1500, 500, 1577]);
        give_back(pieces, 500, &mut transmits, &members);
        let inside = Path {
            channel: Some(0x4000),
            ..path
        };
        transmits
            .iter_mut()
            .for_each(|transmit| transmit.path = inside);
        let pieces = take_joined(&mut transmits, &members);
        assert_eq!(pieces.len(), 8); // each has a header of its own
        give_back(pieces, 500, &mut transmits, &members);
        transmits
            .iter_mut()
            .for_each(|transmit| transmit.path = path);
        if refused {
            send_without_checksums(&own);
        }
        sockets.send_all(&mut transmits, false, &mut trains, &counters);
        let mut buffer = [0; 1500];
        for (number, size) in (0u8..).zip(sizes) {
            assert_eq!(other.recv(&mut buffer).unwrap(), size);
            assert!(buffer[..size].iter().all(|byte| *byte == number));
        }
    }
    assert_eq!(counters.get(Counter::UdpTxPackets), 16);
}

#[test]
fn a_train_that_waits_for_more_leaves_with_them_in_order() {
    let (own, other, path) = line();
    let datagram = |number: u8| Transmit {
        data: Packet::copy_from(&[number; 1000][..]),
        path,
        cut: Cut::AsNeeded,
        ecn: 0,
    };
    let sockets = Sockets::new(Some(own.as_fd()), None).unwrap();
    let (mut trains, counters) = (Trains::default(), Counters::new());
    let mut transmits: Vec<Transmit> = (0..70).map(datagram).collect();
    sockets.send_all(&mut transmits, true, &mut trains, &counters);
    let waiting: Vec<u8> = transmits.iter().map(|transmit| transmit.data[0]).collect();
    assert_eq!(waiting, (64..70).collect::<Vec<u8>>()); // 64 are what one send takes
    transmits.push(datagram(70));
    sockets.send_all(&mut transmits, false, &mut trains, &counters);
    assert!(transmits.is_empty());
    assert_eq!(counters.get(Counter::UdpTxPackets), 71);
    let mut buffer = [0; 1500];
    for number in 0..71 {
        assert_eq!(other.recv(&mut buffer).unwrap(), 1000);
        assert_eq!(buffer[0], number);
    }
}

/// A socket stands for the TUN of a kernel that refuses what is large.
#[test]
fn a_kernel_that_refuses_a_big_packet_gets_all_of_it_in_smaller_ones() {
    let (device, peer) = UnixDatagram::pair().unwrap();
    setsockopt(&device, sockopt::SndBuf, &40_000).unwrap(); // Linux doubles it
    peer.set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let own = [[100, 64, 0, 2].into()];
    let tun = Tun::with(device.into(), true, (true, true), &own);
    let counters = Counters::new();
    assert!(tun.takes_big());
    for _ in 0..2 {
        let packets = build(&train(true, false, 100, 1368));
        let mut batch: Vec<Packet> = packets.iter().map(|p| Packet::copy_from(&p[..])).collect();
        let receive = || {
            let (mut buffer, mut payload) = (vec![0; 100_000], 0);
            while payload < 100 * 1368 {
                let size = peer.recv(&mut buffer).unwrap();
                assert!(size <= 65_545);
                payload += size - 62; // both headers
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(receive);
            tun.write(&mut batch, &counters);
        });
        assert!(!tun.takes_big());
    }
    assert_eq!(counters.get(Counter::TunTxPackets), 200);
    assert_eq!(counters.get(Counter::TunTxBig), 0);
    assert_eq!(counters.get(Counter::TunWriteError), 0);
}
