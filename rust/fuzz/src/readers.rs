//! What looks at one datagram, packet or text and keeps nothing.

use std::net::IpAddr;
use std::str::FromStr;

use ginnel_dataplane::demux::{Kind, classify};
use ginnel_dataplane::{Prefix, fragment as fragments, icmp as messages, inner as packets};

use crate::input::{Input, packet};

const IPV6_HEADER: usize = 40; // bytes
const FRAGMENT_HEADER: usize = 8; // bytes

/// Tells a datagram apart, with no channel known and with all.
pub fn demux(data: &[u8]) {
    let kind = classify(data, |_| true);
    let without = classify(data, |_| false);
    match kind {
        Kind::WireGuard => {
            assert!(data.len() >= 32 && (1..=4).contains(&data[0]) && data[1..4] == [0; 3]);
        }
        Kind::Stun => assert!(data.len() >= 20 && data[0] < 0x40),
        Kind::ChannelData => {
            assert!(data.len() >= 4 && (0x40..0x50).contains(&data[0]));
            assert_eq!(without, Kind::Discv5);
        }
        Kind::Discv5 => {}
    }
    assert!(kind == without || kind == Kind::ChannelData);
}

/// One datagram of each kind.
pub fn demux_seeds() -> Vec<Vec<u8>> {
    let sized = |head: [u8; 4], size: usize| {
        let mut data = head.to_vec();
        data.resize(size, 0x5A);
        data
    };
    let mut stun = vec![0, 1, 0, 8, 0x21, 0x12, 0xA4, 0x42];
    stun.extend([7; 20]);
    vec![
        sized([1, 0, 0, 0], 148),
        sized([2, 0, 0, 0], 92),
        sized([3, 0, 0, 0], 64),
        sized([4, 0, 0, 0], 96),
        sized([0x40, 1, 0, 5], 9),
        sized([0x40, 1, 0, 5], 12),
        stun,
        Vec::new(),
    ]
}

/// Reads a packet that may have padding behind it.
pub fn inner(data: &[u8]) {
    let Some(found) = packets::parse(data) else {
        return;
    };
    assert!(found.length <= data.len());
    assert_eq!(found.source.is_ipv4(), data[0] >> 4 == 4);
    // Padding changes nothing.
    assert_eq!(packets::parse(&data[..found.length]), Some(found));
}

/// Whole packets of each kind.
pub fn packet_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for ipv6 in [false, true] {
        seeds.push(packet(ipv6, None, &[1; 60]));
        seeds.push(packet(ipv6, Some(9), &[2; 1200]));
    }
    let mut fragment = packet(true, None, &[3; 40]);
    fragment[6] = 44;
    fragment[40] = 17;
    let mut error = packet(false, None, &[4; 40]);
    error[9] = 1;
    error[20] = 3;
    seeds.extend([fragment, error]);
    seeds
}

/// The same behind an MTU.
pub fn sized_packet_seeds() -> Vec<Vec<u8>> {
    let with_mtu = |mtu: u16| {
        packet_seeds().into_iter().map(move |packet| {
            let mut seed = mtu.to_be_bytes().to_vec();
            seed.extend(packet);
            seed
        })
    };
    [0, 56, 500, 1280].into_iter().flat_map(with_mtu).collect()
}

/// Cuts a whole IPv6 packet and puts it together again.
pub fn fragment(data: &[u8]) {
    let mut input = Input(data);
    let mtu = usize::from(input.short());
    let Some(parts) = fragments::ipv6(input.0, mtu, 7) else {
        return;
    };
    let mut payload = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        assert!(part.len() <= mtu);
        assert_eq!(part[6], 44);
        assert_eq!(
            part.len(),
            IPV6_HEADER + usize::from(u16::from_be_bytes([part[4], part[5]]))
        );
        let offset = u16::from_be_bytes([part[42], part[43]]);
        assert_eq!(usize::from(offset & !7), payload.len());
        assert_eq!(offset & 1 == 1, number + 1 < parts.len());
        payload.extend_from_slice(&part[IPV6_HEADER + FRAGMENT_HEADER..]);
    }
    assert_eq!(payload, input.0[IPV6_HEADER..]);
}

/// Answers a whole packet that does not fit.
pub fn icmp(data: &[u8]) {
    let mut input = Input(data);
    let mtu = input.short();
    // The machine gives it only what `inner::parse` took, without padding.
    let Some(whole) = packets::parse(input.0) else {
        return;
    };
    let Some(answer) = messages::too_big(&input.0[..whole.length], mtu) else {
        return;
    };
    let read = packets::parse(&answer);
    assert!(read.is_some_and(
        |answer| answer.source == whole.destination && answer.destination == whole.source
    ));
    assert_eq!(read.map(|read| read.length), Some(answer.len()));
    assert!(answer.len() <= if whole.source.is_ipv4() { 576 } else { 1280 });
    // An error is never answered with another.
    assert_eq!(messages::too_big(&answer, mtu), None);
}

/// Reads a prefix of an administrator or of a signed object.
pub fn prefix(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if Prefix::from_str(text).is_err() {
        return;
    }
    let address = text.split('/').next().unwrap_or_default();
    assert!(address.parse::<IpAddr>().is_ok());
}

/// Some of each form.
pub fn prefix_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "10.0.0.0/8",
        "fd00::1/64",
        "100.64.0.1",
        "::/0",
        "1.2.3.4/33",
        "/",
        "::ffff:1.2.3.4/128",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}
