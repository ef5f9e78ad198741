//! What the two ends of a pair need for their consent.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::SocketAddr;
use std::time::Duration;

use ginnel_dataplane::Path;
use ginnel_dataplane::consent::ConsentConfig;

pub const ANNA: [u8; 32] = [1; 32];
pub const BEN: [u8; 32] = [2; 32];
pub const CONTROLLED: u16 = 0x8029;
pub const CONTROLLING: u16 = 0x802A;

pub fn path(from: u16, to: u16) -> Path {
    let end = |port| SocketAddr::from(([127, 0, 0, 1], port));
    Path::plain(end(to), Some(end(from).ip()))
}

pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap();
    let mut data = [&kind.to_be_bytes(), &length.to_be_bytes(), value].concat();
    data.resize(data.len().next_multiple_of(4), 0);
    data
}

pub fn config(peer: [u8; 32], controlling: bool) -> ConsentConfig {
    let (ours, theirs) = if controlling {
        ("anna", "ben")
    } else {
        ("ben", "anna")
    };
    let role = if controlling { CONTROLLING } else { CONTROLLED };
    ConsentConfig {
        public_key: peer,
        path: if controlling { path(1, 2) } else { path(2, 1) },
        username: format!("{ours}:{theirs}").into_bytes(),
        local_password: format!("{ours} password").into_bytes(),
        remote_password: format!("{theirs} password").into_bytes(),
        attributes: [
            attribute(0x0006, format!("{theirs}:{ours}").as_bytes()),
            attribute(0x0024, &[0, 0, 1, 0]),
            attribute(role, &[7; 8]),
        ]
        .concat(),
        controlling,
        interval: Duration::from_secs(4),
        patience: Duration::from_millis(250),
    }
}
