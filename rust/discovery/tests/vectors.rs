//! The vectors of the specification.

use ginnel_discovery::identity::{Point, public_key, sign};
use ginnel_discovery::packet::{self, IV_SIZE, STATIC_SIZE};

type Failure = Box<dyn std::error::Error>;

fn of(part: &str) -> Result<impl Fn(&str) -> Vec<u8>, Failure> {
    let all: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/vectors/discv5-vectors.json"))?;
    let part = all.pointer(part).ok_or("no such vector")?.clone();
    Ok(move |name: &str| hex(part[name].as_str().unwrap_or_default()))
}

fn hex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[test]
fn the_first_packet_is_opened_and_made_again() -> Result<(), Failure> {
    let (keys, vector) = (of("/keys")?, of("/packets/0")?);
    let private: [u8; 32] = keys("node_b").as_slice().try_into()?;
    let point = Point::parse(&public_key(private).map_err(|_| "key")?).map_err(|_| "point")?;
    let node_id = point.node_id();
    let mask: packet::Key = node_id[..16].try_into()?;
    let raw = vector("packet");
    let found = packet::unmask(&mask, &raw).ok_or("too short")?;
    let (protocol, version, flag, nonce) = found.fields();
    assert_eq!((protocol, version, flag), (&b"discv5"[..], 1, 0));
    assert_eq!(nonce, vector("nonce"));
    assert_eq!(found.authdata().len(), 32);
    let key: packet::Key = vector("read_key").as_slice().try_into()?;
    let nonce = nonce.try_into()?;
    let sealed = &raw[found.message_at.ok_or("no message")?..];
    let message = packet::open(&key, &nonce, sealed, &found.start).ok_or("not authentic")?;
    let made = packet::seal(&mask, &found.start, &key, &nonce, &message);
    assert_eq!(made, Ok(raw.clone()));
    let wrong = packet::open(&mask, &nonce, sealed, &found.start);
    assert_eq!(wrong, None);
    Ok(())
}

#[test]
fn keys_agree_and_signatures_hold() -> Result<(), Failure> {
    let mut private = [[0x11; 32], [0x22; 32]];
    private[0][31] = 1;
    let points = private.map(|key| Point::parse(&public_key(key).unwrap_or([0; 33])));
    let [Ok(one), Ok(other)] = points else {
        return Err("no points".into());
    };
    assert_eq!(one.agree(private[1]), other.agree(private[0]));
    let signature = sign(private[0], [7; 32]).map_err(|_| "key")?;
    assert!(one.verify(&[7; 32], &signature));
    assert!(!other.verify(&[7; 32], &signature));
    assert!(!one.verify(&[8; 32], &signature));
    assert!(sign([0; 32], [7; 32]).is_err());
    assert!(one.agree([0xff; 32]).is_err());
    Ok(())
}

#[test]
fn short_bytes_are_no_packet() {
    let mask = [3; 16];
    for size in 0..IV_SIZE + STATIC_SIZE {
        assert_eq!(packet::unmask(&mask, &vec![0; size]), None);
    }
    assert!(packet::mask(&mask, &[0; 15]).is_err());
    assert!(packet::seal(&mask, &[0; 15], &mask, &[0; 12], b"x").is_err());
}
