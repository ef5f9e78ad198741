//! Hours and days on a driven clock: keys change while packets flow, and die when none do.
//!
//! `cargo test -p ginnel-dataplane --features mock_clock --test clock`

mod common;

use std::time::Duration;

use common::{Node, carry, connected, ipv4_udp};
use ginnel_dataplane::Transmit;
use ginnel_dataplane::machine::TICK_INTERVAL;
use mock_instant::thread_local::MockClock;

const REKEY_AFTER: u64 = 120; // seconds; whitepaper 6.1
const REJECT_AFTER: u64 = 180; // seconds; whitepaper 6.1

/// Lets a tick of time pass on both sides and carries what their timers say; returns how much.
fn tick(left: &mut Node, right: &mut Node) -> usize {
    MockClock::advance(TICK_INTERVAL);
    left.now += TICK_INTERVAL;
    right.now += TICK_INTERVAL;
    let sent = left.run(|machine, now, out| machine.handle_timers(now, out));
    let mut said = sent.len();
    carry(left, right, sent);
    let sent = right.run(|machine, now, out| machine.handle_timers(now, out));
    said += sent.len();
    carry(right, left, sent);
    said
}

/// Lets time pass; returns how many datagrams the timers sent.
fn pass(left: &mut Node, right: &mut Node, time: Duration) -> usize {
    let ticks = time.as_millis() / TICK_INTERVAL.as_millis();
    (0..ticks).map(|_| tick(left, right)).sum()
}

/// Sends one packet and says whether it arrived at once.
fn arrives(from: &mut Node, to: &mut Node) -> bool {
    let packet = ipv4_udp(from.overlay, to.overlay, 80, b"data");
    let before = to.inner.len();
    let sent = from.read_tun(&packet);
    carry(from, to, sent);
    to.inner.len() == before + 1
}

#[test]
fn a_day_of_packets_changes_keys_every_two_minutes_and_loses_none() {
    let (mut left, mut right) = connected();
    let before = left.handshakes();
    let hours = 24;
    for second in 0..hours * 3600 {
        assert!(arrives(&mut left, &mut right), "lost after {second} s");
        assert!(arrives(&mut right, &mut left), "lost after {second} s");
        pass(&mut left, &mut right, Duration::from_secs(1));
        left.inner.clear();
        right.inner.clear();
    }
    let done = (left.handshakes() - before) as u64;
    let expected = hours * 3600 / REKEY_AFTER;
    assert!(
        (expected * 9 / 10..=expected).contains(&done),
        "{done} handshakes"
    );
}

#[test]
fn only_the_initiator_begins_anew() {
    let (mut left, mut right) = connected();
    for _ in 0..2 * REKEY_AFTER {
        assert!(arrives(&mut right, &mut left));
        pass(&mut left, &mut right, Duration::from_secs(1));
    }
    assert!(
        left.handshakes() >= 2,
        "the first to begin renews, though it only receives"
    );
}

#[test]
fn silent_keys_are_rejected_and_replaced() {
    let (mut left, mut right) = connected();
    assert!(arrives(&mut left, &mut right));
    // What was sealed under the old keys and comes late is not taken.
    let packet = ipv4_udp(left.overlay, right.overlay, 80, b"late");
    let late = left.read_tun(&packet);
    pass(&mut left, &mut right, Duration::from_secs(REJECT_AFTER + 1));
    let before = right.inner.len();
    carry(&mut left, &mut right, late);
    assert_eq!(right.inner.len(), before);
    let handshakes = left.handshakes();
    assert!(
        arrives(&mut left, &mut right),
        "the handshake comes first, then the packet"
    );
    assert_eq!(left.handshakes(), handshakes + 1);
}

#[test]
fn an_idle_peer_is_silent_until_it_is_wanted() {
    let (mut left, mut right) = connected();
    assert!(arrives(&mut left, &mut right));
    // One empty packet answers the data (whitepaper 6.5).
    assert_eq!(pass(&mut left, &mut right, Duration::from_secs(60)), 1);
    assert_eq!(pass(&mut left, &mut right, Duration::from_secs(3600)), 0);
    assert!(arrives(&mut right, &mut left));
}

#[test]
fn a_keepalive_answers_data_that_nobody_answers() {
    let (mut left, mut right) = connected();
    assert!(arrives(&mut left, &mut right));
    pass(&mut left, &mut right, Duration::from_secs(9));
    let mut said: Vec<Transmit> = Vec::new();
    for _ in 0..8 {
        MockClock::advance(TICK_INTERVAL);
        left.now += TICK_INTERVAL;
        right.now += TICK_INTERVAL;
        said.extend(right.run(|machine, now, out| machine.handle_timers(now, out)));
    }
    // Whitepaper 6.5: after 10 s, empty, so header and tag alone.
    let sizes: Vec<usize> = said.iter().map(|transmit| transmit.data.len()).collect();
    assert_eq!(sizes, [32]);
}

#[test]
fn handshakes_that_nobody_answers_end_and_begin_with_new_data() {
    let (mut left, right) = connected();
    let mut lost = 0;
    MockClock::advance(Duration::from_secs(REJECT_AFTER + 1));
    left.now += Duration::from_secs(REJECT_AFTER + 1);
    left.run(|machine, now, out| machine.handle_timers(now, out));
    let packet = ipv4_udp(left.overlay, right.overlay, 80, b"data");
    lost += left.read_tun(&packet).len();
    for _ in 0..120 * 4 {
        MockClock::advance(TICK_INTERVAL);
        left.now += TICK_INTERVAL;
        lost += left
            .run(|machine, now, out| machine.handle_timers(now, out))
            .len();
    }
    // Whitepaper 6.4: every 5 s for 90 s.
    assert!((15..=19).contains(&lost), "{lost} initiations");
    assert_eq!(left.read_tun(&packet).len(), 1);
}
