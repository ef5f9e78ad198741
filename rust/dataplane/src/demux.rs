//! Tells the datagrams of the shared port apart.
//!
//! The same rules exist in Python (`ginnel.base.demux`); `tests/vectors/demux.json` binds both.
//!
//! Source: WireGuard whitepaper 5.4; RFC 8489 5 and 6; RFC 8656 12.4; discv5-wire.

/// What a datagram on the shared port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A message that WireGuard's types and sizes allow.
    WireGuard,
    /// A STUN message by its cookie and length.
    Stun,
    /// TURN channel data on a channel that is in use.
    ChannelData,
    /// All else: discv5 is masked and has no mark of its own.
    Discv5,
}

const HANDSHAKE_INIT_SIZE: usize = 148; // bytes; whitepaper 5.4.2
const HANDSHAKE_RESPONSE_SIZE: usize = 92; // bytes; whitepaper 5.4.3
const COOKIE_REPLY_SIZE: usize = 64; // bytes; whitepaper 5.4.7
const DATA_MIN_SIZE: usize = 32; // bytes; whitepaper 5.4.6: header and tag around nothing
const STUN_HEADER_SIZE: usize = 20; // bytes; RFC 8489 5
const STUN_MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42]; // RFC 8489 5
const CHANNEL_HEADER_SIZE: usize = 4; // bytes; RFC 8656 12.4
const CHANNEL_ALIGNMENT: usize = 4; // bytes; RFC 8656 12.5: padding is allowed over UDP

/// Says what `data` is; `known_channel` tells whether a channel number is bound with its source.
pub fn classify(data: &[u8], known_channel: impl FnOnce(u16) -> bool) -> Kind {
    if is_wireguard(data) {
        Kind::WireGuard
    } else if is_stun(data) {
        Kind::Stun
    } else if is_channel_data(data, known_channel) {
        Kind::ChannelData
    } else {
        Kind::Discv5
    }
}

fn is_wireguard(data: &[u8]) -> bool {
    let [kind, 0, 0, 0, ..] = data else {
        return false;
    };
    match kind {
        1 => data.len() == HANDSHAKE_INIT_SIZE,
        2 => data.len() == HANDSHAKE_RESPONSE_SIZE,
        3 => data.len() == COOKIE_REPLY_SIZE,
        4 => data.len() >= DATA_MIN_SIZE,
        _ => false,
    }
}

fn is_stun(data: &[u8]) -> bool {
    data.len() >= STUN_HEADER_SIZE
        && data[0] & 0xC0 == 0
        && data[4..8] == STUN_MAGIC_COOKIE
        && usize::from(u16::from_be_bytes([data[2], data[3]])) == data.len() - STUN_HEADER_SIZE
}

fn is_channel_data(data: &[u8], known_channel: impl FnOnce(u16) -> bool) -> bool {
    let [first @ 0x40..=0x4F, second, high, low, payload @ ..] = data else {
        return false;
    };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let padded = length.next_multiple_of(CHANNEL_ALIGNMENT);
    debug_assert_eq!(payload.len() + CHANNEL_HEADER_SIZE, data.len());
    (payload.len() == length || payload.len() == padded)
        && known_channel(u16::from_be_bytes([*first, *second]))
}
