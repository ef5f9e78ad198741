//! Packets of discv5: masked headers, encrypted messages.
//!
//! Contexts of ciphers are made anew for each packet: that takes a tenth of a microsecond, and
//! nothing has to be kept for each node.
//!
//! Source: devp2p discv5-wire.md, "Packet Encoding".

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;

/// Bytes of the masking IV in front of each packet.
pub const IV_SIZE: usize = 16;
/// Bytes of the static header: protocol id, version, flag, nonce, size of the authdata.
pub const STATIC_SIZE: usize = 23;
/// Bytes of a message's nonce.
pub const NONCE_SIZE: usize = 12;
/// Bytes of a message's authentication tag.
pub const TAG_SIZE: usize = 16;

/// Where the nonce begins in a static header.
const NONCE_AT: usize = 9;
/// Where the static header ends in a packet.
const STATIC_END: usize = IV_SIZE + STATIC_SIZE;

/// A key of AES-128, of headers and of messages.
pub type Key = [u8; 16];

/// What was to be masked is too short for it (a cipher itself doesn't fail).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooShort;

/// A packet without its mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmasked {
    /// Masking IV and header, unmasked: what a message's tag covers besides the message.
    pub start: Vec<u8>,
    /// Where the message begins in the packet; `None`: the authdata is longer than the packet.
    pub message_at: Option<usize>,
}

impl Unmasked {
    /// The header's fields as they are: protocol id, version, flag, nonce.
    #[must_use]
    pub fn fields(&self) -> (&[u8], u16, u8, &[u8]) {
        let head = &self.start[IV_SIZE..];
        let version = u16::from_be_bytes([head[6], head[7]]);
        (
            &head[..6],
            version,
            head[8],
            &head[NONCE_AT..NONCE_AT + NONCE_SIZE],
        )
    }

    /// The authdata, empty where the packet ends before it does.
    #[must_use]
    pub fn authdata(&self) -> &[u8] {
        &self.start[STATIC_END..]
    }
}

/// Takes the mask off a packet; `None` if it is shorter than a header.
#[must_use]
pub fn unmask(mask: &Key, packet: &[u8]) -> Option<Unmasked> {
    if packet.len() < STATIC_END {
        return None;
    }
    // Most packets are ordinary: their headers end here, and one pass suffices.
    let usual = packet.len().min(STATIC_END + 32);
    let mut start = apply_mask(mask, &packet[..usual])?;
    let size = usize::from(u16::from_be_bytes([
        start[STATIC_END - 2],
        start[STATIC_END - 1],
    ]));
    let end = STATIC_END + size;
    if end > packet.len() {
        start.truncate(STATIC_END);
        return Some(Unmasked {
            start,
            message_at: None,
        });
    }
    if end > usual {
        start = apply_mask(mask, &packet[..end])?;
    }
    start.truncate(end);
    Some(Unmasked {
        start,
        message_at: Some(end),
    })
}

/// Masks the header behind the IV in `start`, or takes the mask off.
///
/// # Errors
/// `start` is shorter than an IV.
pub fn mask(key: &Key, start: &[u8]) -> Result<Vec<u8>, TooShort> {
    apply_mask(key, start).ok_or(TooShort)
}

/// Returns a whole packet: the header behind the IV in `start` masked, the message encrypted.
///
/// # Errors
/// `start` is shorter than an IV.
pub fn seal(
    mask: &Key,
    start: &[u8],
    key: &Key,
    nonce: &[u8; NONCE_SIZE],
    message: &[u8],
) -> Result<Vec<u8>, TooShort> {
    let mut packet = Vec::with_capacity(start.len() + message.len() + TAG_SIZE);
    packet.extend_from_slice(start);
    packet.extend_from_slice(message);
    let (header, body) = packet.split_at_mut(start.len());
    let tag = gcm(key)
        .ok_or(TooShort)?
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(*nonce),
            Aad::from(&*header),
            body,
        )
        .map_err(|_| TooShort)?;
    let (iv, header) = header.split_at_mut_checked(IV_SIZE).ok_or(TooShort)?;
    stream(mask, iv, header).ok_or(TooShort)?;
    packet.extend_from_slice(tag.as_ref());
    Ok(packet)
}

/// Returns the ordinary packet that carries message number `count`, and its nonce.
///
/// `header` is that of any ordinary packet, its nonce is replaced: by the count and the last 8 of
/// `random`'s bytes. The first 16 are the masking IV.
///
/// # Errors
/// `header` is shorter than a static header.
pub fn seal_next(
    mask: &Key,
    header: &[u8],
    key: &Key,
    count: u32,
    random: &[u8; IV_SIZE + NONCE_SIZE - 4],
    message: &[u8],
) -> Result<(Vec<u8>, [u8; NONCE_SIZE]), TooShort> {
    let (iv, rest) = random.split_at(IV_SIZE);
    let mut nonce = [0; NONCE_SIZE];
    nonce[..4].copy_from_slice(&count.to_be_bytes());
    nonce[4..].copy_from_slice(rest);
    let mut start = Vec::with_capacity(IV_SIZE + header.len());
    start.extend_from_slice(iv);
    start.extend_from_slice(header);
    start
        .get_mut(IV_SIZE + NONCE_AT..IV_SIZE + NONCE_AT + NONCE_SIZE)
        .ok_or(TooShort)?
        .copy_from_slice(&nonce);
    Ok((seal(mask, &start, key, &nonce, message)?, nonce))
}

/// Returns the message, `None` if it was not encrypted under this key with this header.
#[must_use]
pub fn open(
    key: &Key,
    nonce: &[u8; NONCE_SIZE],
    ciphertext: &[u8],
    authenticated: &[u8],
) -> Option<Vec<u8>> {
    let mut message = ciphertext.to_vec();
    let size = gcm(key)?
        .open_in_place(
            Nonce::assume_unique_for_key(*nonce),
            Aad::from(authenticated),
            &mut message,
        )
        .ok()?
        .len();
    message.truncate(size);
    Some(message)
}

fn gcm(key: &Key) -> Option<LessSafeKey> {
    Some(LessSafeKey::new(UnboundKey::new(&AES_128_GCM, key).ok()?))
}

fn apply_mask(key: &Key, start: &[u8]) -> Option<Vec<u8>> {
    let mut masked = start.to_vec();
    let (iv, header) = masked.split_at_mut_checked(IV_SIZE)?;
    stream(key, iv, header)?;
    Some(masked)
}

/// Applies AES-CTR in place.
fn stream(key: &Key, iv: &[u8], data: &mut [u8]) -> Option<()> {
    let iv: [u8; IV_SIZE] = iv.try_into().ok()?;
    let key = UnboundCipherKey::new(&AES_128, key).ok()?;
    EncryptingKey::ctr(key)
        .ok()?
        .less_safe_encrypt(data, EncryptionContext::Iv128(FixedLength::from(iv)))
        .ok()?;
    Some(())
}
