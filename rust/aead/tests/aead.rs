//! ChaCha20-Poly1305 against RFC 8439, and both kinds of code against each other.
#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::collection::vec;
use proptest::prelude::*;
use ring::aead::{
    Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey, implementation, seal_instead,
};

fn keys(bytes: &[u8; 32]) -> [LessSafeKey; 2] {
    let unbound = || UnboundKey::new(&CHACHA20_POLY1305, bytes).unwrap();
    [
        LessSafeKey::new(unbound()),
        LessSafeKey::with_aws_lc(&unbound()),
    ]
}

fn seal(key: &LessSafeKey, nonce: [u8; 12], aad: &[u8], text: &[u8]) -> Vec<u8> {
    let mut data = text.to_vec();
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = key
        .seal_in_place_separate_tag(nonce, Aad::from(aad), &mut data)
        .unwrap();
    data.extend_from_slice(tag.as_ref());
    data
}

fn open(key: &LessSafeKey, nonce: [u8; 12], aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let mut data = sealed.to_vec();
    let nonce = Nonce::assume_unique_for_key(nonce);
    let text = key.open_in_place(nonce, Aad::from(aad), &mut data).ok()?;
    Some(text.to_vec())
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

#[test]
fn rfc_8439_2_8_2() {
    let text = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for \
                 the future, sunscreen would be it.";
    let aad = bytes("50515253c0c1c2c3c4c5c6c7");
    let nonce = bytes("070000004041424344454647").try_into().unwrap();
    let sealed = bytes(
        "d31a8d34648e60db7b86afbc53ef7ec2 a4aded51296e08fea9e2b5a736ee62d6
         3dbea45e8ca9671282fafb69da92728b 1a71de0a9e060b2905d6a5b67ecd3b36
         92ddbd7f2d778b8c9803aee328091b58 fab324e4fad675945585808b4831d7bc
         3ff4def08e4b7a9de576d26586cec64b 6116 1ae10b594f09e26a7e902ecbd0600691",
    );
    for key in keys(&std::array::from_fn(|place| 0x80 + place as u8)) {
        assert_eq!(seal(&key, nonce, &aad, text), sealed);
        assert_eq!(open(&key, nonce, &aad, &sealed).unwrap(), text);
    }
}

#[test]
fn what_is_too_short_or_no_key_is_refused() {
    assert!(UnboundKey::new(&CHACHA20_POLY1305, &[0; 31]).is_err());
    for key in keys(&[1; 32]) {
        for size in 0..16 {
            assert_eq!(open(&key, [0; 12], &[], &vec![0; size]), None);
        }
        let nothing = seal(&key, [0; 12], &[], &[]);
        assert_eq!(open(&key, [0; 12], &[], &nothing), Some(Vec::new()));
    }
}

#[cfg(has_ipsec_mb)]
#[test]
fn the_quick_code_is_used_where_it_can_be() {
    let library = std::path::Path::new("/usr/lib/x86_64-linux-gnu/libIPSec_MB.so.1");
    if library.exists() && std::arch::is_x86_feature_detected!("avx512ifma") {
        assert_eq!(implementation(), "ipsec-mb, AVX-512");
    }
}

/// The first seal of the work takes what was lent; the key, the nonce and the tag are that seal's.
#[test]
fn one_seal_takes_what_was_lent_instead() {
    for key in keys(&[3; 32]) {
        let mut lent = [9; 1420];
        let ((stub, next), is_sealed) = seal_instead(&mut lent, || {
            let stub = seal(&key, [1; 12], &[], &[0]);
            (stub, seal(&key, [2; 12], &[], b"next"))
        });
        assert!(is_sealed);
        assert_eq!(stub[0], 0); // untouched
        assert_eq!(
            [&lent[..], &stub[1..]].concat(),
            seal(&key, [1; 12], &[], &[9; 1420])
        );
        assert_eq!(open(&key, [2; 12], &[], &next).unwrap(), b"next");
    }
}

#[test]
fn threads_do_not_share_a_state() {
    let [key, other] = keys(&[7; 32]);
    let wanted: Vec<Vec<u8>> = (0..64)
        .map(|n| seal(&other, [n; 12], &[n], &[n; 1420]))
        .collect();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    for (n, wanted) in (0u8..).zip(&wanted) {
                        assert_eq!(&seal(&key, [n; 12], &[n], &[n; 1420]), wanted);
                    }
                }
            });
        }
    });
}

proptest! {
    #[test]
    fn both_kinds_agree_and_open_nothing_else(
        key in any::<[u8; 32]>(),
        nonce in any::<[u8; 12]>(),
        aad in vec(any::<u8>(), 0..40),
        text in vec(any::<u8>(), 0..9100),
        (place, bit) in (any::<prop::sample::Index>(), 0u8..8),
    ) {
        let [quick, aws_lc] = keys(&key);
        let sealed = seal(&quick, nonce, &aad, &text);
        prop_assert_eq!(&sealed, &seal(&aws_lc, nonce, &aad, &text), "{}", implementation());
        let mut changed = sealed.clone();
        changed[place.index(sealed.len())] ^= 1 << bit;
        for key in [quick, aws_lc] {
            prop_assert_eq!(open(&key, nonce, &aad, &sealed), Some(text.clone()));
            prop_assert_eq!(open(&key, nonce, &aad, &changed), None);
            prop_assert_eq!(open(&key, nonce, &[&aad[..], &[0]].concat(), &sealed), None);
        }
    }
}
