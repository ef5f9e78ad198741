//! Consent of two ends: requests with any attributes under the right seal, and spoilt messages.

#[path = "../../dataplane/tests/common/consents.rs"]
mod consents;

use std::time::{Duration, Instant};

use consents::{ANNA, BEN, CONTROLLED, CONTROLLING, attribute, config, path};
use ginnel_dataplane::Path;
use ginnel_dataplane::consent::{ConsentConfig, Consented, Consents, Sent};

use crate::common::start_of_time;
use crate::input::{Input, altered, block};

const MAX_STEPS: usize = 40; // of one input
const LATER: Duration = Duration::from_secs(5); // any interval of `config` is over
const PRINT: usize = 8; // bytes of FINGERPRINT, the last attribute: not under the seal
const HEAD: usize = 4; // bytes; type and length, of which the latter is not either
const SUCCESS: [u8; 2] = [1, 1]; // Binding

/// One end as it is asked: nothing but a sealed message may lead to anything.
fn give(end: &mut Consents, data: &[u8], came: Path, now: Instant) -> (bool, Vec<Sent>) {
    let mut out = Consented::default();
    let taken = end.handle(data, came, now, &mut out);
    assert!(taken || (out.sent.is_empty() && out.events.is_empty()));
    (taken, out.sent)
}

fn asked(end: &mut Consents, now: Instant) -> Vec<Sent> {
    let mut out = Consented::default();
    end.tick(now, &mut out);
    out.sent
}

/// What is taken is what was sent, but for what comes behind the seal.
fn check(taken: bool, original: &[u8], changed: &[u8]) {
    if taken {
        let covered = HEAD..original.len() - PRINT;
        assert_eq!(changed.get(covered.clone()), original.get(covered));
        assert_eq!(changed[..2], original[..2]);
    } else {
        assert_ne!(changed, original);
    }
}

/// One request of Anna's on its way to Ben and the answer's way back, both perhaps changed.
fn exchange(anna: &mut Consents, ben: &mut Consents, now: Instant, input: &mut Input<'_>) {
    for request in asked(anna, now) {
        let came = if input.byte() & 15 == 15 {
            path(9, 9)
        } else {
            path(2, 1)
        };
        let changed = altered(request.data.clone(), input);
        let (taken, answers) = give(ben, &changed, came, now);
        assert!(!taken || came == path(2, 1));
        if came == path(2, 1) {
            check(taken, &request.data, &changed);
        }
        assert_eq!(answers.len(), usize::from(taken));
        for answer in answers {
            assert_eq!((answer.path, &answer.data[..2]), (came, &SUCCESS[..]));
            assert_eq!(answer.data[4..20], request.data[4..20]);
            let changed = altered(answer.data.clone(), input);
            let (taken, none) = give(anna, &changed, path(1, 2), now);
            check(taken, &answer.data, &changed);
            assert!(none.is_empty());
        }
    }
}

/// A request that is sealed as the peer's, with any attributes.
fn forged(attributes: &[u8], now: Instant) -> Vec<Sent> {
    let config = ConsentConfig {
        attributes: attributes.to_vec(),
        ..config(BEN, true)
    };
    let mut forger = Consents::default();
    assert!(forger.watch(config, now).is_ok());
    asked(&mut forger, now + LATER)
}

/// Two ends, a wire on which anything may happen, and a peer that says anything.
pub fn consent(data: &[u8]) {
    let mut input = Input(data);
    let (mut anna, mut ben) = (Consents::default(), Consents::default());
    let mut now = start_of_time();
    assert!(ben.watch(config(ANNA, false), now).is_ok());
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        match input.byte() & 3 {
            0 => {
                // No stranger has the password.
                let raw = input.block();
                assert!(!give(&mut anna, raw, path(1, 2), now).0);
                assert!(!give(&mut ben, raw, path(2, 1), now).0);
            }
            1 => {
                assert!(anna.watch(config(BEN, true), now).is_ok());
                now += LATER;
                exchange(&mut anna, &mut ben, now, &mut input);
            }
            2 => {
                now += Duration::from_millis(input.short().into());
                exchange(&mut anna, &mut ben, now, &mut input);
            }
            _ => {
                for request in forged(input.block(), now) {
                    let (taken, answers) = give(&mut ben, &request.data, path(2, 1), now);
                    assert_eq!(answers.len(), usize::from(taken));
                }
            }
        }
    }
}

/// Exchanges that go well, spoilt ones, requests that are dull and such that are not.
pub fn consent_seeds() -> Vec<Vec<u8>> {
    let attributes = |priority: &[u8], role: u16, more: &[u8]| {
        let all = [
            attribute(0x0006, b"ben:anna"),
            attribute(0x0024, priority),
            attribute(role, &[7; 8]),
            more.to_vec(),
        ];
        [vec![3], block(&all.concat())].concat()
    };
    let well = vec![1, 0, 0, 0, 0, 0, 2, 0x13, 0x88, 0, 0, 0, 0, 0];
    let request = |length: u8| {
        let mut data = vec![0, 1, 0, length, 0x21, 0x12, 0xA4, 0x42];
        data.extend([5; 12]);
        data.extend(attribute(0x0006, b"ben:anna"));
        data.extend(attribute(0x0008, &[6; 20]));
        [vec![0], block(&data)].concat()
    };
    vec![
        [well.clone(), well].concat(),
        vec![1, 0, 1, 0, 30, 9, 0],
        vec![1, 15, 0, 0],
        vec![1, 0, 0, 0, 1, 0, 40, 1, 0],
        attributes(&[0, 0, 1, 0], CONTROLLING, &[]),
        attributes(&[0, 0, 1], CONTROLLING, &attribute(0x8022, b"software")),
        attributes(&[0, 0, 1, 0], CONTROLLED, &attribute(0x0025, &[])),
        attributes(&[0, 0, 1, 0], CONTROLLING, &attribute(0x0008, &[3; 20])),
        attributes(&[0, 0, 1, 0], CONTROLLING, &attribute(0x8028, &[3; 4])),
        [request(36), request(35), request(0)].concat(),
    ]
}
