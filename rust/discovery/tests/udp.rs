//! Batches of datagrams on the loopback.

use std::io::{ErrorKind, Result};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use ginnel_discovery::udp::{BATCH, Outgoing, Receiver, send};

const SIZE: usize = 100; // bytes a datagram may have

fn pair() -> Result<(UdpSocket, UdpSocket, SocketAddr)> {
    let (one, other) = (
        UdpSocket::bind("127.0.0.1:0")?,
        UdpSocket::bind("127.0.0.1:0")?,
    );
    let target = other.local_addr()?;
    Ok((one, other, target))
}

fn to(destination: SocketAddr, data: &[u8]) -> Outgoing<'_> {
    Outgoing {
        data,
        destination,
        source: None,
    }
}

/// Data, whether it was longer, source.
type Taken = (Vec<u8>, bool, SocketAddr);

fn take(socket: &UdpSocket, limit: usize) -> (Vec<Taken>, Option<ErrorKind>) {
    let mut taken = Vec::new();
    let outcome = Receiver::new(SIZE).receive(socket.as_raw_fd(), limit, SIZE, |arrived| {
        taken.extend(
            arrived
                .source
                .map(|source| (arrived.data.to_vec(), arrived.is_truncated, source)),
        );
    });
    (taken, outcome.err().map(|error| error.kind()))
}

#[test]
fn datagrams_keep_their_order_and_bounds() -> Result<()> {
    let (one, other, target) = pair()?;
    let sent: Vec<Vec<u8>> = (0..BATCH as u8 + 4)
        .map(|n| vec![n; usize::from(n)])
        .collect();
    let outgoing: Vec<Outgoing<'_>> = sent.iter().map(|data| to(target, data)).collect();
    send(one.as_raw_fd(), false, &outgoing, |number, error| {
        panic!("{number}: {error}");
    });
    let source = one.local_addr()?;
    let (first, _) = take(&other, 3);
    let (second, _) = take(&other, 1000);
    let (third, _) = take(&other, 1000);
    assert_eq!([first.len(), second.len(), third.len()], [3, BATCH, 1]);
    let all: Vec<_> = first.into_iter().chain(second).chain(third).collect();
    let wanted: Vec<_> = sent.into_iter().map(|data| (data, false, source)).collect();
    assert_eq!(all, wanted);
    assert_eq!(take(&other, 1000), (vec![], Some(ErrorKind::WouldBlock)));
    Ok(())
}

#[test]
fn one_that_is_too_long_is_marked() -> Result<()> {
    let (one, other, target) = pair()?;
    one.send_to(&[1; SIZE + 1], target)?;
    one.send_to(&[2; SIZE], target)?;
    let (taken, _) = take(&other, 2);
    let sizes: Vec<_> = taken
        .iter()
        .map(|(data, is_truncated, _)| (data.len(), *is_truncated))
        .collect();
    assert_eq!(sizes, [(SIZE, true), (SIZE, false)]);
    Ok(())
}

#[test]
fn a_refused_one_does_not_hold_up_the_others() -> Result<()> {
    let (one, other, target) = pair()?;
    let (large, six) = ([0; 70_000], SocketAddr::from(([0_u16; 8], 9)));
    let outgoing = [
        to(target, b"a"),
        to(target, &large),
        to(six, b"b"),
        to(target, b"c"),
    ];
    let mut refused = Vec::new();
    send(one.as_raw_fd(), false, &outgoing, |number, error| {
        refused.push((number, error.raw_os_error()));
    });
    let wanted = [(1, Some(libc::EMSGSIZE)), (2, Some(libc::EAFNOSUPPORT))];
    assert_eq!(refused, wanted);
    let data: Vec<_> = take(&other, 10)
        .0
        .into_iter()
        .map(|taken| taken.0)
        .collect();
    assert_eq!(data, [b"a", b"c"]);
    Ok(())
}

#[test]
fn sources_are_chosen_and_mapped_addresses_never_seen() -> Result<()> {
    let (_, other, target) = pair()?;
    let both = UdpSocket::bind("[::]:0")?;
    let local: IpAddr = [127, 0, 0, 3].into();
    let outgoing = [Outgoing {
        data: b"x",
        destination: target,
        source: Some(local),
    }];
    send(both.as_raw_fd(), true, &outgoing, |_, error| {
        panic!("{error}")
    });
    let seen = SocketAddr::new(local, both.local_addr()?.port());
    assert_eq!(take(&other, 1).0, [(b"x".to_vec(), false, seen)]);
    other.send_to(b"y", seen)?;
    assert_eq!(take(&both, 1).0, [(b"y".to_vec(), false, target)]);
    Ok(())
}
