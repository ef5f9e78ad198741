//! Every order in which threads can meet where the application is told.

use std::sync::Arc;

use loom::thread;

use super::{Descriptors, Engine, FailureGuard, Shared};
use crate::machine::{Config, Event, Output};
use crate::offload::Trains;

/// What threads would share, without them.
fn engine() -> Engine {
    let config = Config {
        private_key: [1; 32],
        control_ips: Vec::new(),
        mtu: 1420,
    };
    let descriptors = Descriptors {
        udp4: None,
        udp6: None,
        tun: None,
        big_for: Vec::new(),
    };
    let shared = Shared::new(config, &descriptors).expect("eventfds");
    Engine {
        shared: Arc::new(shared),
        threads: Vec::new(),
    }
}

fn tell(shared: &Shared) {
    let mut out = Output::default();
    out.events.push(Event::InnerReceived {
        public_key: [2; 32],
        packet: Vec::new(),
    });
    shared.flush(&mut out, &mut Trains::default());
}

#[test]
fn a_failure_is_told_whatever_else_is_told_or_taken() {
    loom::model(|| {
        let engine = engine();
        let (fails, tells) = (Arc::clone(&engine.shared), Arc::clone(&engine.shared));
        let fails = thread::spawn(move || drop(FailureGuard(&fails)));
        let tells = thread::spawn(move || tell(&tells));
        let taken = engine.poll_event();
        fails.join().expect("no panic");
        tells.join().expect("no panic");
        assert!(engine.has_failed());
        assert!(engine.shared.waiting.is_readable());
        assert!(taken.or_else(|| engine.poll_event()).is_some());
        assert!(engine.shared.waiting.is_readable());
    });
}

#[test]
fn events_are_told_until_they_are_taken() {
    loom::model(|| {
        let engine = engine();
        let shared = Arc::clone(&engine.shared);
        let tells = thread::spawn(move || {
            tell(&shared);
            tell(&shared);
        });
        let mut taken = 0;
        for _ in 0..2 {
            taken += usize::from(engine.poll_event().is_some());
        }
        tells.join().expect("no panic");
        assert_eq!(engine.shared.waiting.is_readable(), taken < 2);
        while engine.poll_event().is_some() {
            taken += 1;
        }
        assert_eq!(taken, 2);
        assert!(!engine.shared.waiting.is_readable());
    });
}
