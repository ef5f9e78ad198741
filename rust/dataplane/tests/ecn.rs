//! Congestion marks as RFC 6040 wants them, alone, through a tunnel, and on real sockets.

mod common;
#[path = "common/engine_node.rs"]
mod engine_node;

use std::net::{IpAddr, UdpSocket};

use common::{Node, connected, ipv4_udp};
use ginnel_dataplane::ecn::{CE, ECT_0, ECT_1, NOT_ECT, combine, of};
use ginnel_dataplane::{Counter, Packet};

/// The sum over an IPv4 header, which is all ones where the checksum is right.
fn header_sum(packet: &[u8]) -> u16 {
    let words = packet[..20].chunks(2);
    let sum: u32 = words
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let sum = (sum & 0xFFFF) + (sum >> 16);
    ((sum & 0xFFFF) + (sum >> 16)) as u16
}

fn ipv4(mark: u8, rest: u8) -> Vec<u8> {
    let ips: [IpAddr; 2] = [[100, 64, 0, 1].into(), [100, 64, 0, rest].into()];
    let mut packet = ipv4_udp(ips[0], ips[1], 80, b"x");
    packet[1] = rest << 2 | mark;
    let sum = header_sum(&packet);
    packet[10..12].copy_from_slice(&(!sum).to_be_bytes());
    packet
}

fn ipv6(mark: u8) -> Vec<u8> {
    let mut packet = vec![0; 40];
    packet[..4].copy_from_slice(&[0x6A, 0x0F | mark << 4, 0xFF, 0xFF]);
    packet
}

/// RFC 6040 4.2, figure 4: inner, outer, what leaves (`None`: nothing).
const TABLE: [(u8, u8, Option<u8>); 16] = [
    (NOT_ECT, NOT_ECT, Some(NOT_ECT)),
    (NOT_ECT, ECT_0, Some(NOT_ECT)),
    (NOT_ECT, ECT_1, Some(NOT_ECT)),
    (NOT_ECT, CE, None),
    (ECT_0, NOT_ECT, Some(ECT_0)),
    (ECT_0, ECT_0, Some(ECT_0)),
    (ECT_0, ECT_1, Some(ECT_1)),
    (ECT_0, CE, Some(CE)),
    (ECT_1, NOT_ECT, Some(ECT_1)),
    (ECT_1, ECT_0, Some(ECT_1)),
    (ECT_1, ECT_1, Some(ECT_1)),
    (ECT_1, CE, Some(CE)),
    (CE, NOT_ECT, Some(CE)),
    (CE, ECT_0, Some(CE)),
    (CE, ECT_1, Some(CE)),
    (CE, CE, Some(CE)),
];

#[test]
fn marks_combine_and_all_else_stays() {
    for (inner, outer, wanted) in TABLE {
        for rest in 0..64 {
            let mut packet = ipv4(inner, rest);
            assert_eq!(header_sum(&packet), 0xFFFF);
            assert_eq!(combine(&mut packet, outer), wanted.is_some());
            if let Some(mark) = wanted {
                assert_eq!(packet, ipv4(mark, rest), "{inner} in {outer}");
            }
        }
        let mut packet = ipv6(inner);
        assert_eq!(combine(&mut packet, outer), wanted.is_some());
        if let Some(mark) = wanted {
            assert_eq!(packet, ipv6(mark), "{inner} in {outer}");
            assert_eq!(of(&packet), mark);
        }
    }
    for mut short in [vec![], vec![0x45], vec![0x46, 2, 0]] {
        assert!(combine(&mut short, ECT_1));
    }
}

fn marked(from: &Node, to: &Node, mark: u8) -> Vec<u8> {
    let mut packet = ipv4_udp(from.overlay, to.overlay, 80, b"marked");
    packet[1] = mark;
    packet
}

#[test]
fn a_tunnel_copies_the_mark_out_and_brings_it_in() {
    for (inner, outer, wanted) in TABLE {
        let (mut left, mut right) = connected();
        let packet = marked(&left, &right, inner);
        let sent = left.read_tun(&packet);
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].ecn, inner);
        let (data, path) = (Packet::copy_from(&sent[0].data[..]), left.path());
        let mut batch = vec![(data, path, outer)];
        right.run(|machine, now, out| machine.handle_all_marked(&mut batch, now, out));
        assert_eq!(right.inner.first().map(|packet| of(packet)), wanted);
        let lost = u64::from(wanted.is_none());
        assert_eq!(right.count(Counter::DropCongestion), lost);
    }
}

#[test]
fn handshakes_and_keepalives_have_no_mark() {
    let (mut left, right) = common::pair();
    let sent = left.start_handshake(right.key());
    assert_eq!(sent[0].ecn, NOT_ECT);
}

#[test]
fn what_waited_for_a_handshake_keeps_its_mark() {
    let (mut left, mut right) = common::pair();
    let packet = marked(&left, &right, ECT_0);
    let first = left.read_tun(&packet);
    let answer = right.receive(&first[0].data, left.address);
    let sent = left.receive(&answer[0].data, right.address);
    let marks: Vec<u8> = sent.iter().map(|transmit| transmit.ecn).collect();
    assert!(marks.contains(&ECT_0), "{marks:?}");
}

#[test]
fn sockets_send_marks_and_hear_them() {
    use std::os::fd::AsRawFd;

    use engine_node::EngineNode;
    use ginnel_dataplane::Path;
    use ginnel_dataplane::channels::{Forward, Quota};
    use nix::sys::socket::{
        ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt,
        sockopt,
    };

    let bind = || UdpSocket::bind("127.0.0.1:0").expect("a loopback socket");
    let (client, target, own) = (bind(), bind(), EngineNode::start(1));
    let address = |socket: &UdpSocket| socket.local_addr().expect("a bound socket");
    let forward = Forward {
        client: address(&client),
        number: 0x4000,
        target: Path {
            channel: Some(0x4001),
            ..Path::plain(address(&target), None)
        },
        life: std::time::Duration::from_secs(60),
        quota: Quota {
            rate: 1 << 20,
            burst: 1 << 20,
        },
    };
    own.engine.forward(forward).expect("room");
    setsockopt(&target, sockopt::IpRecvTos, &true).expect("IP_RECVTOS");
    let patience = Some(std::time::Duration::from_secs(30));
    target.set_read_timeout(patience).expect("a timeout");
    for mark in [NOT_ECT, ECT_1, ECT_0, CE] {
        let to = match own.address() {
            std::net::SocketAddr::V4(to) => SockaddrIn::from(to),
            std::net::SocketAddr::V6(_) => unreachable!("bound to IPv4"),
        };
        let data = [std::io::IoSlice::new(&[0x40, 0, 0, 1, 7])];
        let control = [ControlMessage::Ipv4Tos(&mark)];
        sendmsg(
            client.as_raw_fd(),
            &data,
            &control,
            MsgFlags::empty(),
            Some(&to),
        )
        .expect("sent");
        let mut buffer = [0; 16];
        let mut slices = [std::io::IoSliceMut::new(&mut buffer)];
        let mut space = nix::cmsg_space!(libc::c_int);
        let flags = MsgFlags::empty();
        let got = recvmsg::<()>(target.as_raw_fd(), &mut slices, Some(&mut space), flags);
        let got = got.expect("a datagram");
        let seen = got
            .cmsgs()
            .expect("messages")
            .find_map(|message| match message {
                ControlMessageOwned::Ipv4Tos(tos) => Some(tos & 3),
                _ => None,
            });
        assert_eq!((got.bytes, seen), (5, Some(mark)));
    }
}
