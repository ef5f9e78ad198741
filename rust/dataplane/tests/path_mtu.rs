//! What does not fit a peer's path: answered to its sender, or sent in fragments where it must be.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use common::{MTU, connected, ipv4_udp, path};
use ginnel_dataplane::offload::{internet_checksum, pseudo_header_sum};
use ginnel_dataplane::{Counter, Cut, Packet, PeerConfig, Transmit, fragment, icmp};

const V6: [&str; 2] = ["fd00::1", "fd00::2"];

fn v4(payload: usize) -> Vec<u8> {
    ipv4_udp(
        [100, 64, 0, 1].into(),
        [100, 64, 0, 2].into(),
        80,
        &vec![7; payload],
    )
}

fn v6(payload: usize) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, 6, 64];
    packet[4..6].copy_from_slice(&u16::try_from(payload).unwrap().to_be_bytes());
    for text in V6 {
        packet.extend(text.parse::<Ipv6Addr>().unwrap().octets());
    }
    packet.extend(vec![7; payload]);
    packet
}

/// Checks an answer's headers and checksums; returns type, code, MTU and what it quotes.
fn read(answer: &[u8]) -> (u8, u8, u16, &[u8]) {
    let is_ipv6 = answer[0] >> 4 == 6;
    let body = if is_ipv6 {
        assert_eq!(
            usize::from(u16::from_be_bytes([answer[4], answer[5]])) + 40,
            answer.len()
        );
        assert_eq!(answer[6], 58);
        let sum = pseudo_header_sum(&answer[8..40], 58, (answer.len() - 40) as u16);
        assert_eq!(internet_checksum(&answer[40..], sum), 0);
        &answer[40..]
    } else {
        assert_eq!(
            usize::from(u16::from_be_bytes([answer[2], answer[3]])),
            answer.len()
        );
        assert_eq!((answer[0], answer[9]), (0x45, 1));
        assert_eq!(internet_checksum(&answer[..20], 0), 0);
        assert_eq!(internet_checksum(&answer[20..], 0), 0);
        &answer[20..]
    };
    let mtu = u16::from_be_bytes([body[6], body[7]]);
    (body[0], body[1], mtu, &body[8..])
}

/// Puts fragments together as a host does, and checks each.
fn joined(fragments: &[Vec<u8>], mtu: usize) -> Vec<u8> {
    let mut whole = fragments[0][..40].to_vec();
    whole[6] = fragments[0][40];
    for (number, fragment) in fragments.iter().enumerate() {
        assert!(fragment.len() <= mtu);
        assert_eq!(
            usize::from(u16::from_be_bytes([fragment[4], fragment[5]])) + 40,
            fragment.len()
        );
        assert_eq!((fragment[6], fragment[40], fragment[41]), (44, whole[6], 0));
        assert_eq!(fragment[44..48], fragments[0][44..48]);
        let field = u16::from_be_bytes([fragment[42], fragment[43]]);
        assert_eq!(usize::from(field & !7), whole.len() - 40);
        assert_eq!(field & 1 == 1, number + 1 < fragments.len());
        whole.extend_from_slice(&fragment[48..]);
    }
    let length = (whole.len() - 40) as u16;
    whole[4..6].copy_from_slice(&length.to_be_bytes());
    whole
}

#[test]
fn any_packet_is_whole_again_and_what_cannot_be_split_is_left() {
    for payload in [0, 1, 7, 8, 9, 500, 1239, 1240] {
        for mtu in [56, 57, 63, 64, 512, 1220, 1279] {
            let packet = v6(payload);
            let fragments = fragment::ipv6(&packet, mtu, 7).unwrap();
            if payload > 0 {
                assert_eq!(joined(&fragments, mtu), packet);
            }
        }
    }
    assert!(fragment::ipv6(&v6(100), 55, 7).is_none());
    assert!(fragment::ipv6(&v4(100), 512, 7).is_none());
    for header in [0, 43, 44] {
        let mut packet = v6(600);
        packet[6] = header;
        assert!(fragment::ipv6(&packet, 512, 7).is_none());
    }
    for length in 0..48 {
        fragment::ipv6(&v6(40)[..length], 512, 7);
    }
}

fn cuts(sent: &[Transmit]) -> Vec<Cut> {
    sent.iter().map(|transmit| transmit.cut).collect()
}

#[test]
fn what_fits_is_sent_and_padded_no_further_than_the_path() {
    let (mut left, right) = connected();
    left.machine.set_path_mtu(&right.key(), Some(1241)).unwrap();
    let sent = left.read_tun(&v4(1241 - 28));
    assert_eq!(sent[0].data.len(), 1241 + 32);
    assert_eq!(cuts(&sent), [Cut::AsNeeded]);
    assert_eq!(left.count(Counter::DropTooBig), 0);
    assert!(left.inner.is_empty());
}

#[test]
fn ipv4_that_does_not_fit_is_answered_by_fragmentation_needed() {
    let (mut left, right) = connected();
    left.machine.set_path_mtu(&right.key(), Some(1240)).unwrap();
    let packet = v4(1241 - 28);
    assert!(left.read_tun(&packet).is_empty());
    let answer = left.inner.pop().unwrap();
    assert_eq!(answer[12..16], packet[16..20]);
    assert_eq!(answer[16..20], packet[12..16]);
    let (kind, code, mtu, quoted) = read(&answer);
    assert_eq!((kind, code, mtu), (3, 4, 1240));
    assert_eq!(quoted, &packet[..548]);
    assert_eq!(left.count(Counter::DropTooBig), 1);
    assert_eq!(left.count(Counter::TooBigAnswered), 1);
}

#[test]
fn ipv6_that_does_not_fit_is_answered_by_packet_too_big_but_never_below_1280() {
    let (mut left, mut right) = connected();
    right.set(PeerConfig {
        prefixes: vec!["fd00::1/128".parse().unwrap()],
        ..left.peer_config()
    });
    left.set(PeerConfig {
        prefixes: vec!["fd00::2/128".parse().unwrap()],
        ..right.peer_config()
    });
    for (path_mtu, told) in [(1400, 1400), (1200, 1280)] {
        left.machine
            .set_path_mtu(&right.key(), Some(path_mtu))
            .unwrap();
        let packet = v6(1401 - 40);
        assert!(left.read_tun(&packet).is_empty());
        let answer = left.inner.pop().unwrap();
        assert_eq!(answer[8..24], packet[24..40]);
        assert_eq!(answer[24..40], packet[8..24]);
        let (kind, code, mtu, quoted) = read(&answer);
        assert_eq!((kind, code, mtu), (2, 0, told));
        assert_eq!(quoted, &packet[..1280 - 48]);
    }
    let packet = v6(1280 - 40);
    let sent = left.read_tun(&packet);
    assert_eq!(sent.len(), 2);
    for transmit in &sent {
        right.receive(&transmit.data, left.address);
    }
    assert_eq!(joined(&right.inner, 1200), packet);
    assert!(left.inner.is_empty());
}

#[test]
fn what_is_not_known_is_not_enforced() {
    let (mut left, right) = connected();
    let whole = v4(usize::from(MTU) - 28);
    assert_eq!(left.read_tun(&whole).len(), 1);
    left.machine.set_path_mtu(&right.key(), Some(1280)).unwrap();
    assert!(left.read_tun(&whole).is_empty());
    left.machine.set_path_mtu(&right.key(), None).unwrap();
    assert_eq!(left.read_tun(&whole).len(), 1);
    assert!(left.machine.set_path_mtu(&[9; 32], None).is_err());
}

#[test]
fn answers_are_few_and_come_again() {
    let (mut left, right) = connected();
    left.machine.set_path_mtu(&right.key(), Some(1280)).unwrap();
    for _ in 0..100 {
        left.read_tun(&v4(1300));
    }
    assert_eq!(left.inner.len(), 32);
    left.now += Duration::from_millis(25);
    for _ in 0..10 {
        left.read_tun(&v4(1300));
    }
    assert_eq!(left.inner.len(), 34);
    assert_eq!(left.count(Counter::DropTooBig), 110);
    assert_eq!(left.count(Counter::TooBigAnswered), 34);
}

#[test]
fn nothing_is_said_of_errors_fragments_and_to_no_host() {
    let mut error = v4(600);
    error[9] = 1;
    error[20] = 3;
    assert!(icmp::too_big(&error, 500).is_none());
    error[20] = 8; // an echo
    assert!(icmp::too_big(&error, 500).is_some());
    let mut fragment = v4(600);
    fragment[7] = 1;
    assert!(icmp::too_big(&fragment, 500).is_none());
    for (at, value) in [(12, 0), (12, 224), (16, 239), (16, 255), (12, 127)] {
        let mut packet = v4(600);
        packet[at] = value;
        assert!(icmp::too_big(&packet, 500).is_none());
    }
    let mut error = v6(600);
    error[6] = 58;
    error[40] = 2;
    assert!(icmp::too_big(&error, 500).is_none());
    error[40] = 128;
    assert!(icmp::too_big(&error, 500).is_some());
    let mut packet = v6(600);
    packet[8..24].fill(0);
    assert!(icmp::too_big(&packet, 500).is_none());
    for length in 0..60 {
        icmp::too_big(&v4(600)[..length], 500);
        icmp::too_big(&v6(600)[..length], 500);
    }
}

#[test]
fn a_probe_has_its_length_and_is_never_cut() {
    let (mut left, mut right) = connected();
    left.machine.set_path_mtu(&right.key(), Some(1280)).unwrap();
    let packet = v4(1401 - 28);
    let key = right.key();
    let sent = left.run(|machine, _, out| machine.send_probe(&key, &packet, out).unwrap());
    assert_eq!(cuts(&sent), [Cut::Never]);
    assert_eq!(sent[0].data.len(), 1401 + 32);
    right.receive(&sent[0].data, left.address);
    assert_eq!(right.inner, [packet]);
    let refused = left.run(|machine, _, out| {
        assert!(
            machine
                .send_probe(&key, &v4(usize::from(MTU)), out)
                .is_err()
        );
        assert!(machine.send_probe(&[9; 32], &v4(9), out).is_err());
    });
    assert!(refused.is_empty());
}

#[test]
fn probes_travel_alone() {
    use ginnel_dataplane::offload::Trains;
    let to: IpAddr = [192, 0, 2, 1].into();
    let transmit = |cut| Transmit {
        data: Packet::copy_from(&[0; 100][..]),
        path: path((to, 9).into()),
        cut,
        ecn: 0,
    };
    let all = [
        Cut::AsNeeded,
        Cut::Never,
        Cut::AsNeeded,
        Cut::AsNeeded,
        Cut::Never,
    ];
    let mut trains = Trains::default();
    let planned: Vec<Vec<usize>> = trains
        .plan(&all.map(transmit), false)
        .map(<[usize]>::to_vec)
        .collect();
    assert_eq!(planned, [vec![0], vec![1], vec![2, 3], vec![4]]);
}
