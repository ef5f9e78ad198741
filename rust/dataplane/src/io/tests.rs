//! A thread that panics: nothing hangs, and whoever waits for the engine learns of it.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::UdpSocket;
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Descriptors, Engine, Shared, lock};
use crate::machine::Config;

fn start() -> (Engine, UdpSocket) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let config = Config {
        private_key: [1; 32],
        control_ips: vec![],
        mtu: 1420,
    };
    let descriptors = Descriptors {
        udp4: Some(socket.as_fd()),
        udp6: None,
        tun: None,
    };
    (Engine::start(config, &descriptors).unwrap(), socket)
}

fn waits(engine: &Engine, patience_ms: u16) -> bool {
    let mut wanted = [PollFd::new(engine.waiting_fd(), PollFlags::POLLIN)];
    poll(&mut wanted, PollTimeout::from(patience_ms)).unwrap() == 1
}

fn panics(_: &Shared) {
    panic!("injected by a test");
}

fn panics_with_everything_held(shared: &Shared) {
    let _held = (
        lock(&shared.machine),
        lock(&shared.inbox),
        lock(&shared.channels),
    );
    panic!("injected by a test");
}

#[test]
fn a_panic_is_told_by_the_descriptor_for_good_and_the_end_does_not_hang() {
    for work in [panics as fn(&Shared), panics_with_everything_held] {
        let (mut engine, _socket) = start();
        assert!(!engine.has_failed());
        assert!(!waits(&engine, 0));
        engine.spawn("wg-broken", work).unwrap();
        assert!(waits(&engine, 30_000));
        assert!(engine.has_failed());
        // Taking what there is does not end the report.
        assert!(engine.receive(64).is_empty());
        assert_eq!(engine.poll_event(), None);
        assert!(waits(&engine, 0));
        assert_eq!(engine.peer_count(), 0);
        engine.close();
        assert!(engine.has_failed());
    }
}

#[test]
fn a_thread_that_ends_by_itself_is_no_failure() {
    let (mut engine, _socket) = start();
    engine.spawn("wg-done", |_| {}).unwrap();
    engine.close();
    assert!(!engine.has_failed());
}
