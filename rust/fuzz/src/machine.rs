//! The machine of all peers: messages of anybody, and what a peer seals.

use std::net::SocketAddr;
use std::time::Duration;

use ginnel_dataplane::inner;

use crate::common::raw_peer::RawPeer;
use crate::common::{carry, ipv4_udp, pair};
use crate::input::{Input, altered, block, packet};

const MAX_STEPS: usize = 40; // of one input
const PEER: [u8; 4] = [100, 64, 0, 7]; // overlay address of `RawPeer`
const OWN: [u8; 4] = [100, 64, 0, 2]; // of the machine that it speaks with
const MOST_ANSWERS: usize = 4096; // of one input: what was staged, and its fragments

fn stranger(number: u8) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, number], 7))
}

/// Two machines and a wire on which anything may happen.
pub fn messages(data: &[u8]) {
    let mut input = Input(data);
    let (mut left, mut right) = pair();
    let mut answers = 0;
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        let step = input.byte();
        let from = if step & 0x80 == 0 {
            left.address
        } else {
            stranger(step)
        };
        let sent = match step & 7 {
            0 => vec![input.block().to_vec()],
            1 => bytes_of(left.start_handshake(right.key())),
            2 => {
                let init = bytes_of(right.start_handshake(left.key()));
                let to_left = right.address;
                let response = init.iter().flat_map(|init| left.receive(init, to_left));
                bytes_of(response.collect())
            }
            3 => {
                let later = Duration::from_millis(input.short().into());
                right.now += later;
                left.now += later;
                let out = right.run(|machine, now, out| machine.handle_timers(now, out));
                answers += out.len();
                continue;
            }
            4 => {
                answers += right.read_tun(input.block()).len();
                continue;
            }
            5 => {
                let first = left.start_handshake(right.key());
                carry(&mut left, &mut right, first);
                continue;
            }
            6 => {
                let mtu = input.short();
                let key = left.key();
                assert!(
                    right
                        .machine
                        .set_path_mtu(&key, (mtu > 0).then_some(mtu))
                        .is_ok()
                );
                continue;
            }
            _ => {
                let data = ipv4_udp(left.overlay, right.overlay, 80, input.block());
                bytes_of(left.read_tun(&data))
            }
        };
        for message in sent {
            let message = altered(message, &mut input);
            answers += right.receive(&message, from).len();
        }
    }
    assert!(answers <= MOST_ANSWERS);
    for delivered in &right.inner {
        assert!(inner::parse(delivered).is_some_and(|read| read.length == delivered.len()));
    }
}

fn bytes_of(transmits: Vec<ginnel_dataplane::Transmit>) -> Vec<Vec<u8>> {
    transmits
        .iter()
        .map(|transmit| transmit.data.to_vec())
        .collect()
}

/// A handshake each way, data, timers, raw bytes, and each of them spoilt.
pub fn message_seeds() -> Vec<Vec<u8>> {
    let inner = packet(false, None, &[6; 90]);
    let raw = |head: u8, size: usize| {
        let mut message = vec![head, 0, 0, 0];
        message.resize(size, 1);
        [vec![0x80], block(&message), vec![0, 0]].concat()
    };
    vec![
        vec![1, 0, 0, 2, 0, 0],
        vec![2, 1, 0, 9, 5, 0, 1, 0, 0],
        [vec![5], vec![7], block(&[1; 40]), vec![0, 0]].concat(),
        [
            vec![5],
            vec![7],
            block(&[1; 40]),
            vec![2, 0, 3, 1, 0, 30, 9, 0],
        ]
        .concat(),
        [
            vec![4],
            block(&inner),
            vec![3, 0x13, 0x88, 5, 6, 2, 0, 4],
            block(&inner),
        ]
        .concat(),
        [raw(1, 148), raw(2, 92), raw(3, 64), raw(4, 80)].concat(),
    ]
}

/// A peer that seals whatever it likes.
pub fn session(data: &[u8]) {
    let mut input = Input(data);
    let mut peer = RawPeer::connect();
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        peer.send(input.block());
    }
    for delivered in &peer.node.inner {
        let read = inner::parse(delivered);
        assert!(read.is_some_and(|read| read.length == delivered.len()));
        assert_eq!(read.map(|read| read.source), Some(PEER.into()));
    }
}

/// Packets of the peer's own address, of another's, for the control port, and broken ones.
pub fn session_seeds() -> Vec<Vec<u8>> {
    let (left, right) = (PEER.into(), OWN.into());
    let own = ipv4_udp(left, right, 80, &[1; 30]);
    let control = ipv4_udp(left, right, 41_641, &[2; 30]);
    let foreign = ipv4_udp(right, left, 80, &[3; 30]);
    let mut fragment = control.clone();
    fragment[6] = 0x20;
    let all: Vec<u8> = [&own, &control, &foreign, &fragment]
        .iter()
        .flat_map(|p| block(p))
        .collect();
    vec![
        all,
        block(&own),
        block(&packet(true, None, &[4; 50])),
        block(&packet(true, Some(3), &[4; 50])),
        block(&[0x45]),
        block(&[]),
    ]
}
