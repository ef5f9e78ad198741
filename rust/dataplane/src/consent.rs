//! Consent of idle peers (RFC 7675), asked and answered without waking the application.
//!
//! Only what is dull is done here: a request of the other side on the pair that is in use, an answer
//! in time, the next request. All else is left to the application: what does not fit is not taken,
//! and the first answer that stays out ends the asking with an event.
//!
//! Source: RFC 8489 (messages), RFC 8445 7.3 (answers), RFC 7675 5.1 (intervals).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;

use crate::machine::{CommandError, Event, MAX_PEERS, Path, TICK_INTERVAL};

const HEADER: usize = 20; // bytes; RFC 8489 5
const COOKIE: [u8; 4] = [0x21, 0x12, 0xA4, 0x42];
const REQUEST: [u8; 2] = [0x00, 0x01]; // Binding
const SUCCESS: [u8; 2] = [0x01, 0x01];
const USERNAME: u16 = 0x0006;
const INTEGRITY: u16 = 0x0008;
const INTEGRITY_SIZE: usize = 20; // bytes of HMAC-SHA1
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const PRIORITY: u16 = 0x0024;
const USE_CANDIDATE: u16 = 0x0025;
const FINGERPRINT: u16 = 0x8028;
const FINGERPRINT_XOR: u32 = 0x5354_554E;
const CONTROLLED: u16 = 0x8029;
const CONTROLLING: u16 = 0x802A;
/// Part of the interval by which it varies to both sides (RFC 7675 5.1).
const JITTER: f64 = 0.2;
/// A latency is told again if it differs from the told one by a quarter and by this.
const LATENCY_STEP: Duration = Duration::from_millis(5);
/// How often a latency is told at most.
const LATENCY_PAUSE: Duration = Duration::from_secs(30);

/// A transaction id.
type Id = [u8; 12];
type Key = [u8; 32];

/// What a selected pair's consent needs.
pub struct ConsentConfig {
    /// The peer's WireGuard key, by which events name it.
    pub public_key: Key,
    /// The pair.
    pub path: Path,
    /// USERNAME of its requests: our ufrag, a colon, its ufrag.
    pub username: Vec<u8>,
    /// Our password: of its requests and our answers.
    pub local_password: Vec<u8>,
    /// Its password: of our requests and its answers.
    pub remote_password: Vec<u8>,
    /// Our requests' attributes, encoded, up to MESSAGE-INTEGRITY.
    pub attributes: Vec<u8>,
    /// Our role.
    pub controlling: bool,
    /// Between an answer and the next request, on average.
    pub interval: Duration,
    /// After which an answer is late.
    pub patience: Duration,
}

struct Watch {
    config: ConsentConfig,
    local: hmac::Key,
    remote: hmac::Key,
    answered_at: Instant,
    /// When to ask next; none once an answer stayed out.
    next_at: Option<Instant>,
    asked: Option<(Id, Instant)>,
    told: Option<(Duration, Instant)>,
}

/// A datagram to send.
pub struct Sent {
    /// Its bytes.
    pub data: Vec<u8>,
    /// Where from and to.
    pub path: Path,
}

/// What a tick or a datagram led to.
#[derive(Default)]
pub struct Consented {
    /// To send.
    pub sent: Vec<Sent>,
    /// To tell.
    pub events: Vec<Event>,
}

/// All selected pairs that the application has lent.
#[derive(Default)]
pub struct Consents {
    watches: HashMap<Key, Watch>,
    by_username: HashMap<Vec<u8>, Key>,
    by_id: HashMap<Id, Key>,
}

impl Consents {
    /// Takes a pair, in the place of the peer's one before; the other side has just answered.
    pub fn watch(&mut self, config: ConsentConfig, now: Instant) -> Result<(), CommandError> {
        self.forget(&config.public_key);
        if self.watches.len() >= MAX_PEERS {
            return Err(CommandError::TooManyPeers);
        }
        let key = |password: &[u8]| hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password);
        let watch = Watch {
            local: key(&config.local_password),
            remote: key(&config.remote_password),
            answered_at: now,
            next_at: Some(now + pause(config.interval)),
            asked: None,
            told: None,
            config,
        };
        let public_key = watch.config.public_key;
        self.by_username
            .insert(watch.config.username.clone(), public_key);
        self.watches.insert(public_key, watch);
        Ok(())
    }

    /// Gives a pair back; nothing is asked or answered for it any more.
    pub fn forget(&mut self, public_key: &Key) {
        if let Some(watch) = self.watches.remove(public_key) {
            self.by_username.remove(&watch.config.username);
            if let Some((id, _)) = watch.asked {
                self.by_id.remove(&id);
            }
        }
    }

    /// Asks where it is time, and tells of answers that stayed out.
    pub fn tick(&mut self, now: Instant, out: &mut Consented) {
        for (key, watch) in &mut self.watches {
            if let Some((id, at)) = watch.asked {
                if now.saturating_duration_since(at) >= watch.config.patience {
                    self.by_id.remove(&id);
                    (watch.asked, watch.next_at) = (None, None);
                    out.events.push(Event::ConsentMissed {
                        public_key: *key,
                        silence: now.saturating_duration_since(watch.answered_at),
                    });
                }
            } else if watch.next_at.is_some_and(|at| at <= now)
                && let Some(id) = random()
            {
                let data = encode(REQUEST, &id, &watch.config.attributes, &watch.remote);
                watch.asked = Some((id, now));
                self.by_id.insert(id, *key);
                let path = watch.config.path;
                out.sent.push(Sent { data, path });
            }
        }
    }

    /// Takes a STUN message; false leaves it to the application.
    pub fn handle(&mut self, data: &[u8], path: Path, now: Instant, out: &mut Consented) -> bool {
        let (Some(head), Some(id)) = (data.first_chunk::<2>(), id_of(data)) else {
            return false;
        };
        match *head {
            REQUEST => self.on_request(data, path, out),
            SUCCESS => self.on_answer(data, id, path, now, out),
            _ => false,
        }
    }

    fn on_request(&self, data: &[u8], path: Path, out: &mut Consented) -> bool {
        let Some(message) = Message::parse(data) else {
            return false;
        };
        let watch = message
            .get(USERNAME)
            .and_then(|name| self.by_username.get(name))
            .and_then(|key| self.watches.get(key));
        let Some(watch) = watch.filter(|watch| same_ends(watch.config.path, path)) else {
            return false;
        };
        let (theirs, ours) = if watch.config.controlling {
            (CONTROLLED, CONTROLLING)
        } else {
            (CONTROLLING, CONTROLLED)
        };
        let is_dull = message.attributes.iter().all(|(kind, value)| match *kind {
            PRIORITY => value.len() == 4,
            kind if kind == theirs => value.len() == 8,
            USERNAME | USE_CANDIDATE => true,
            kind => kind >= 0x8000 && kind != ours,
        }) && message.get(PRIORITY).is_some()
            && message.get(theirs).is_some();
        if !is_dull || !message.verify(&watch.local) {
            return false;
        }
        let id = message.id;
        let mapped = attribute(XOR_MAPPED_ADDRESS, &xored(path.remote, &id));
        let data = encode(SUCCESS, &id, &mapped, &watch.local);
        out.sent.push(Sent { data, path });
        true
    }

    fn on_answer(
        &mut self,
        data: &[u8],
        id: Id,
        path: Path,
        now: Instant,
        out: &mut Consented,
    ) -> bool {
        let Some(key) = self.by_id.get(&id).copied() else {
            return false;
        };
        let (Some(watch), Some(message)) = (self.watches.get_mut(&key), Message::parse(data))
        else {
            return false;
        };
        let Some((_, asked_at)) = watch.asked else {
            return false;
        };
        let is_right = same_ends(watch.config.path, path)
            && message.get(XOR_MAPPED_ADDRESS).is_some()
            && message.verify(&watch.remote);
        if !is_right {
            return false;
        }
        self.by_id.remove(&id);
        watch.asked = None;
        watch.answered_at = now;
        watch.next_at = Some(now + pause(watch.config.interval));
        let latency = now.saturating_duration_since(asked_at);
        let is_news = watch.told.is_none_or(|(told, at)| {
            latency.abs_diff(told) > (told / 4).max(LATENCY_STEP)
                && now.saturating_duration_since(at) >= LATENCY_PAUSE
        });
        if is_news {
            watch.told = Some((latency, now));
            out.events.push(Event::ConsentAnswered {
                public_key: key,
                latency,
            });
        }
        true
    }
}

/// Returns the time to the next request; a tick earlier, because ticks come late.
fn pause(interval: Duration) -> Duration {
    let chance = random::<4>().map_or(0.5, |bytes| {
        f64::from(u32::from_be_bytes(bytes)) / f64::from(u32::MAX)
    });
    interval
        .mul_f64(1.0 + JITTER * (2.0 * chance - 1.0))
        .saturating_sub(TICK_INTERVAL)
}

fn random<const SIZE: usize>() -> Option<[u8; SIZE]> {
    let mut bytes = [0; SIZE];
    aws_lc_rs::rand::fill(&mut bytes).ok()?;
    Some(bytes)
}

/// Says whether a datagram came on the pair; our own address may be unknown on either side.
fn same_ends(pair: Path, came: Path) -> bool {
    let locals = pair.local.zip(came.local);
    let ends = |path: Path| (path.remote, path.channel);
    ends(pair) == ends(came) && locals.is_none_or(|(one, other)| one == other)
}

fn id_of(data: &[u8]) -> Option<Id> {
    data.get(8..HEADER)?.try_into().ok()
}

/// A message whose attributes were found; nothing of it is verified.
struct Message<'data> {
    id: Id,
    data: &'data [u8],
    /// Those before MESSAGE-INTEGRITY.
    attributes: Vec<(u16, &'data [u8])>,
    /// Where MESSAGE-INTEGRITY begins, and its value.
    seal: (usize, &'data [u8]),
}

impl<'data> Message<'data> {
    /// Returns none if it has no MESSAGE-INTEGRITY, or anything but a right fingerprint after it.
    fn parse(data: &'data [u8]) -> Option<Self> {
        let id = id_of(data)?;
        let length = u16::from_be_bytes(data.get(2..4)?.try_into().ok()?);
        if usize::from(length) + HEADER != data.len() {
            return None;
        }
        let mut attributes = Vec::with_capacity(6);
        let mut seal = None;
        let mut at = HEADER;
        while at < data.len() {
            let kind = u16::from_be_bytes([*data.get(at)?, *data.get(at + 1)?]);
            let length = usize::from(u16::from_be_bytes([*data.get(at + 2)?, *data.get(at + 3)?]));
            let value = data.get(at + 4..at + 4 + length)?;
            match (kind, seal) {
                (INTEGRITY, None) if length == INTEGRITY_SIZE => seal = Some((at, value)),
                (FINGERPRINT, Some(_)) => {
                    let right = crc32(with_length(data.get(..at)?, 8)?.as_slice());
                    if value != (right ^ FINGERPRINT_XOR).to_be_bytes() {
                        return None;
                    }
                }
                (_, Some(_)) | (INTEGRITY | FINGERPRINT, None) => return None,
                _ => attributes.push((kind, value)),
            }
            at += 4 + length.next_multiple_of(4);
        }
        let seal = seal?;
        Some(Self {
            id,
            data,
            attributes,
            seal,
        })
    }

    fn get(&self, kind: u16) -> Option<&'data [u8]> {
        let found = self.attributes.iter().find(|(known, _)| *known == kind);
        found.map(|(_, value)| *value)
    }

    fn verify(&self, key: &hmac::Key) -> bool {
        let (at, value) = self.seal;
        let head = self.data.get(..at);
        head.and_then(|head| with_length(head, 4 + INTEGRITY_SIZE))
            .is_some_and(|covered| hmac::verify(key, &covered, value).is_ok())
    }
}

/// Returns the head of a message with the length that it has with `more` bytes of attributes.
fn with_length(head: &[u8], more: usize) -> Option<Vec<u8>> {
    let length = u16::try_from(head.len().checked_sub(HEADER)? + more).ok()?;
    let mut copy = head.to_vec();
    copy.get_mut(2..4)?.copy_from_slice(&length.to_be_bytes());
    Some(copy)
}

fn encode(kind: [u8; 2], id: &Id, attributes: &[u8], key: &hmac::Key) -> Vec<u8> {
    let mut data = [kind.as_slice(), &[0, 0], &COOKIE, id, attributes].concat();
    let tail = 4 + INTEGRITY_SIZE;
    set_length(&mut data, tail);
    let seal = hmac::sign(key, &data);
    data.extend(attribute(INTEGRITY, seal.as_ref()));
    set_length(&mut data, 8);
    let print = crc32(&data) ^ FINGERPRINT_XOR;
    data.extend(attribute(FINGERPRINT, &print.to_be_bytes()));
    data
}

/// Writes the length that the message will have with `more` bytes.
fn set_length(data: &mut [u8], more: usize) {
    let length = u16::try_from(data.len() - HEADER + more).unwrap_or(u16::MAX);
    if let Some(field) = data.get_mut(2..4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
    let mut data = [&kind.to_be_bytes(), &length.to_be_bytes(), value].concat();
    data.resize(data.len().next_multiple_of(4), 0);
    data
}

/// Returns the value of XOR-MAPPED-ADDRESS (RFC 8489 14.2).
fn xored(address: SocketAddr, id: &Id) -> Vec<u8> {
    let port = address.port() ^ u16::from_be_bytes([COOKIE[0], COOKIE[1]]);
    let (family, ip) = match address.ip() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    let mask = COOKIE.iter().chain(id);
    let ip = ip.iter().zip(mask).map(|(byte, mask)| byte ^ mask);
    [0, family]
        .into_iter()
        .chain(port.to_be_bytes())
        .chain(ip)
        .collect()
}

/// CRC-32 of ITU V.42, as FINGERPRINT has it.
fn crc32(data: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg())
        })
    };
    !data.iter().fold(!0, step)
}
