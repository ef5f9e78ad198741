//! Consent between two data planes, and what is left to the application.

mod common;
#[path = "common/consents.rs"]
mod consents;

use std::time::{Duration, Instant};

use common::start_of_time;
use consents::{ANNA, BEN, config, path};
use ginnel_dataplane::consent::{Consented, Consents};
use ginnel_dataplane::machine::TICK_INTERVAL;
use ginnel_dataplane::{Event, Path};
use proptest::prelude::*;

struct Pair {
    anna: Consents,
    ben: Consents,
    now: Instant,
    events: Vec<Event>,
    asked: Vec<Instant>,
}

impl Pair {
    fn new() -> Self {
        let (mut anna, mut ben, now) = (Consents::default(), Consents::default(), start_of_time());
        anna.watch(config(BEN, true), now).expect("valid");
        ben.watch(config(ANNA, false), now).expect("valid");
        Self {
            anna,
            ben,
            now,
            events: Vec::new(),
            asked: Vec::new(),
        }
    }

    /// One tick of Anna's; what she asks arrives only if the path works.
    fn tick(&mut self, works: bool) {
        self.now += TICK_INTERVAL;
        let mut out = Consented::default();
        self.anna.tick(self.now, &mut out);
        self.events.append(&mut out.events);
        for sent in out.sent {
            self.asked.push(self.now);
            assert_eq!(sent.path, path(1, 2));
            if !works {
                continue;
            }
            let mut back = Consented::default();
            assert!(self.ben.handle(&sent.data, path(2, 1), self.now, &mut back));
            assert_eq!(back.sent.len(), 1);
            let mut end = Consented::default();
            let answer = &back.sent[0].data;
            assert!(self.anna.handle(answer, path(1, 2), self.now, &mut end));
            assert!(!self.anna.handle(answer, path(1, 2), self.now, &mut end));
            self.events.append(&mut end.events);
        }
    }

    fn request(&mut self) -> Vec<u8> {
        loop {
            self.now += TICK_INTERVAL;
            let mut out = Consented::default();
            self.anna.tick(self.now, &mut out);
            if let Some(sent) = out.sent.pop() {
                return sent.data;
            }
        }
    }
}

#[test]
fn a_path_that_answers_is_asked_every_four_seconds_with_jitter() {
    let mut pair = Pair::new();
    for _ in 0..800 {
        pair.tick(true);
    }
    let gaps: Vec<f64> = pair
        .asked
        .windows(2)
        .map(|two| (two[1] - two[0]).as_secs_f64())
        .collect();
    assert!(gaps.len() > 40);
    assert!(
        gaps.iter().all(|gap| (2.9..=4.81).contains(gap)),
        "{gaps:?}"
    );
    assert!(gaps.iter().any(|gap| *gap > 4.3) && gaps.iter().any(|gap| *gap < 3.7));
    assert_eq!(pair.events.len(), 1); // the first latency
    assert!(matches!(
        pair.events[0],
        Event::ConsentAnswered {
            public_key: BEN,
            ..
        }
    ));
}

#[test]
fn an_answer_that_stays_out_is_told_in_time_and_ends_the_asking() {
    for _ in 0..20 {
        let mut pair = Pair::new();
        let answered_at = pair.now;
        for _ in 0..40 {
            pair.tick(false);
        }
        assert_eq!(pair.asked.len(), 1);
        let [
            Event::ConsentMissed {
                public_key,
                silence,
            },
        ] = pair.events[..]
        else {
            panic!("{:?}", pair.events);
        };
        assert_eq!(public_key, BEN);
        assert!(silence <= Duration::from_millis(5310), "{silence:?}");
        assert!(answered_at + silence <= pair.now);
    }
}

#[test]
fn what_is_not_dull_is_left_to_the_application() {
    let mut pair = Pair::new();
    let request = pair.request();
    let mut out = Consented::default();
    let mut refused = |ben: &mut Consents, data: &[u8], came: Path| {
        assert!(!ben.handle(data, came, start_of_time(), &mut out));
    };
    refused(&mut pair.ben, &request, path(2, 9)); // from elsewhere
    let mut forged = request.clone();
    forged[9] ^= 1; // its seal is wrong
    refused(&mut pair.ben, &forged, path(2, 1));
    for cut in 0..request.len() {
        refused(&mut pair.ben, &request[..cut], path(2, 1));
    }
    let mut rival = config(ANNA, false); // one who has our role
    rival.controlling = true;
    pair.ben.watch(rival, pair.now).expect("valid");
    refused(&mut pair.ben, &request, path(2, 1));
    pair.ben
        .watch(config(ANNA, false), pair.now)
        .expect("valid");
    assert!(
        pair.ben
            .handle(&request, path(2, 1), pair.now, &mut Consented::default())
    );
    pair.ben.forget(&ANNA);
    refused(&mut pair.ben, &request, path(2, 1));
    assert!(out.sent.is_empty() && out.events.is_empty());
}

#[test]
fn an_answer_counts_only_from_the_pair_and_sealed() {
    let mut pair = Pair::new();
    let request = pair.request();
    let mut back = Consented::default();
    assert!(pair.ben.handle(&request, path(2, 1), pair.now, &mut back));
    let answer = back.sent.pop().expect("valid").data;
    let mut out = Consented::default();
    assert!(!pair.anna.handle(&answer, path(1, 9), pair.now, &mut out));
    let mut forged = answer.clone();
    forged[25] ^= 1;
    assert!(!pair.anna.handle(&forged, path(1, 2), pair.now, &mut out));
    assert!(pair.anna.handle(&answer, path(1, 2), pair.now, &mut out));
}

proptest! {
    #[test]
    fn any_bytes_are_left_to_the_application(
        kind in prop_oneof![Just([0u8, 1]), Just([1u8, 1]), any::<[u8; 2]>()],
        rest in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        let mut pair = Pair::new();
        let data = [&kind[..], &rest].concat();
        let mut out = Consented::default();
        prop_assert!(!pair.ben.handle(&data, path(2, 1), pair.now, &mut out));
        prop_assert!(out.sent.is_empty());
    }
}
