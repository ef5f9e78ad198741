//! ChaCha20-Poly1305 (RFC 8439) by the quickest audited or widely used code of this machine.
//!
//! gotatun takes its cipher from `aws-lc-rs` or from `ring`, by name. AWS-LC has no code for AVX-512,
//! so this crate stands in for `ring`: with Intel's library where that helps, with AWS-LC elsewhere.
//! Of ring's interface it has what gotatun calls.

#[cfg(has_ipsec_mb)]
mod ipsec_mb;
mod loan;

/// Errors.
pub mod error {
    /// It failed; ring does not say why either.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Unspecified;

    impl std::fmt::Display for Unspecified {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("unspecified")
        }
    }

    impl std::error::Error for Unspecified {}
}

/// Ciphers that authenticate.
pub mod aead {
    use aws_lc_rs::aead as aws;
    #[cfg(has_ipsec_mb)]
    use aws_lc_rs::constant_time::verify_slices_are_equal;
    use zeroize::Zeroizing;

    use crate::error::Unspecified;
    pub use crate::loan::seal_instead;

    pub(crate) const KEY_SIZE: usize = 32; // bytes
    pub(crate) const NONCE_SIZE: usize = 12; // bytes
    pub(crate) const TAG_SIZE: usize = 16; // bytes

    /// A cipher.
    pub struct Algorithm(());

    /// RFC 8439: the only one here.
    pub static CHACHA20_POLY1305: Algorithm = Algorithm(());

    /// Data that is authenticated only.
    pub struct Aad<A>(A);

    impl<A: AsRef<[u8]>> From<A> for Aad<A> {
        fn from(data: A) -> Self {
            Self(data)
        }
    }

    /// A number that a key uses once.
    pub struct Nonce([u8; NONCE_SIZE]);

    impl Nonce {
        /// The caller promises that.
        pub fn assume_unique_for_key(nonce: [u8; NONCE_SIZE]) -> Self {
            Self(nonce)
        }
    }

    /// What authenticates a ciphertext.
    pub struct Tag([u8; TAG_SIZE]);

    impl AsRef<[u8]> for Tag {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    /// A key that no cipher has taken yet.
    pub struct UnboundKey(Zeroizing<[u8; KEY_SIZE]>);

    impl UnboundKey {
        /// Takes 32 bytes.
        ///
        /// # Errors
        /// For any other number.
        pub fn new(_algorithm: &'static Algorithm, key: &[u8]) -> Result<Self, Unspecified> {
            let key: [u8; KEY_SIZE] = key.try_into().map_err(|_| Unspecified)?;
            Ok(Self(Zeroizing::new(key)))
        }
    }

    /// A key whose nonces the caller chooses.
    pub struct LessSafeKey(Kind);

    enum Kind {
        #[cfg(has_ipsec_mb)]
        IpsecMb(Zeroizing<[u8; KEY_SIZE]>),
        AwsLc(aws::LessSafeKey),
    }

    impl LessSafeKey {
        /// Takes the quickest cipher here.
        pub fn new(key: UnboundKey) -> Self {
            #[cfg(has_ipsec_mb)]
            if crate::ipsec_mb::is_usable() {
                return Self(Kind::IpsecMb(key.0));
            }
            Self::with_aws_lc(&key)
        }

        /// Takes AWS-LC's.
        pub fn with_aws_lc(key: &UnboundKey) -> Self {
            Self(Kind::AwsLc(aws_lc_key(&key.0)))
        }

        /// Seals in place and returns the tag.
        ///
        /// # Errors
        /// Where AWS-LC refuses: for more than RFC 8439 allows.
        pub fn seal_in_place_separate_tag<A: AsRef<[u8]>>(
            &self,
            nonce: Nonce,
            aad: Aad<A>,
            data: &mut [u8],
        ) -> Result<Tag, Unspecified> {
            crate::loan::take(data, |data| self.seal(&nonce, aad.0.as_ref(), data))
        }

        fn seal(&self, nonce: &Nonce, aad: &[u8], data: &mut [u8]) -> Result<Tag, Unspecified> {
            match &self.0 {
                #[cfg(has_ipsec_mb)]
                Kind::IpsecMb(key) => {
                    match crate::ipsec_mb::run(false, (key, &nonce.0), aad, data) {
                        Some(tag) => Ok(Tag(tag)),
                        None => seal_by_aws_lc(&aws_lc_key(key), nonce, aad, data),
                    }
                }
                Kind::AwsLc(key) => seal_by_aws_lc(key, nonce, aad, data),
            }
        }

        /// Opens a ciphertext with its tag behind it in place and returns what it says.
        ///
        /// # Errors
        /// If it was not sealed so; `data` is of no use then.
        pub fn open_in_place<'data, A: AsRef<[u8]>>(
            &self,
            nonce: Nonce,
            aad: Aad<A>,
            data: &'data mut [u8],
        ) -> Result<&'data mut [u8], Unspecified> {
            match &self.0 {
                #[cfg(has_ipsec_mb)]
                Kind::IpsecMb(key) => {
                    let size = data.len().checked_sub(TAG_SIZE).ok_or(Unspecified)?;
                    let keys = (&**key, &nonce.0);
                    let text = &mut data[..size];
                    let Some(wanted) = crate::ipsec_mb::run(true, keys, aad.0.as_ref(), text)
                    else {
                        return open_by_aws_lc(&aws_lc_key(key), &nonce, aad.0.as_ref(), data);
                    };
                    let (text, tag) = data.split_at_mut(size);
                    if verify_slices_are_equal(&wanted, tag).is_err() {
                        text.fill(0); // nobody shall use what nobody vouches for
                        return Err(Unspecified);
                    }
                    Ok(text)
                }
                Kind::AwsLc(key) => open_by_aws_lc(key, &nonce, aad.0.as_ref(), data),
            }
        }
    }

    pub(crate) fn aws_lc_key(key: &[u8; KEY_SIZE]) -> aws::LessSafeKey {
        let key = aws::UnboundKey::new(&aws::CHACHA20_POLY1305, key)
            .unwrap_or_else(|_| unreachable!("a key of 32 bytes fits"));
        aws::LessSafeKey::new(key)
    }

    fn seal_by_aws_lc(
        key: &aws::LessSafeKey,
        nonce: &Nonce,
        aad: &[u8],
        data: &mut [u8],
    ) -> Result<Tag, Unspecified> {
        let nonce = aws::Nonce::assume_unique_for_key(nonce.0);
        let tag = key
            .seal_in_place_separate_tag(nonce, aws::Aad::from(aad), data)
            .map_err(|_| Unspecified)?;
        Ok(Tag(tag.as_ref().try_into().map_err(|_| Unspecified)?))
    }

    fn open_by_aws_lc<'data>(
        key: &aws::LessSafeKey,
        nonce: &Nonce,
        aad: &[u8],
        data: &'data mut [u8],
    ) -> Result<&'data mut [u8], Unspecified> {
        let nonce = aws::Nonce::assume_unique_for_key(nonce.0);
        key.open_in_place(nonce, aws::Aad::from(aad), data)
            .map_err(|_| Unspecified)
    }

    /// Names the code that new keys use.
    pub fn implementation() -> &'static str {
        #[cfg(has_ipsec_mb)]
        if crate::ipsec_mb::is_usable() {
            return "ipsec-mb, AVX-512";
        }
        "AWS-LC"
    }
}
