//! Identity scheme "v4": secp256k1 keys, node ids, signatures, key agreement.
//!
//! Source: EIP-778, "v4" Identity Scheme; discv5-theory.md, "Identity-Specific Cryptography".

use secp256k1::ecdh::shared_secret_point;
use secp256k1::ecdsa::Signature;
use secp256k1::{Message, PublicKey, SECP256K1, SecretKey};
use sha3::{Digest, Keccak256};

/// The bytes are no key, or no point of the curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidKey;

/// A public key that was found to be a point of the curve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point(PublicKey);

impl Point {
    /// Reads a compressed key.
    ///
    /// # Errors
    /// Another size, or no point of the curve.
    pub fn parse(compressed: &[u8]) -> Result<Self, InvalidKey> {
        let compressed = compressed.try_into().map_err(|_| InvalidKey)?;
        PublicKey::from_byte_array_compressed(compressed)
            .map(Self)
            .map_err(|_| InvalidKey)
    }

    /// The node id: keccak256 of the uncompressed point without its first byte.
    #[must_use]
    pub fn node_id(&self) -> [u8; 32] {
        keccak(&self.0.serialize_uncompressed()[1..])
    }

    /// Whether `r || s` signs the digest; a high s is refused.
    #[must_use]
    pub fn verify(&self, digest: &[u8; 32], signature: &[u8; 64]) -> bool {
        Signature::from_compact(signature).is_ok_and(|signature| {
            let message = Message::from_digest(*digest);
            SECP256K1.verify_ecdsa(message, &signature, &self.0).is_ok()
        })
    }

    /// The shared secret: the compressed product point, found in constant time.
    ///
    /// # Errors
    /// The private key is 0, or the group's order or more.
    pub fn agree(&self, private_key: [u8; 32]) -> Result<[u8; 33], InvalidKey> {
        let product = shared_secret_point(&self.0, &secret(private_key)?);
        let mut compressed = [0; 33];
        compressed[0] = 2 + (product[63] & 1);
        compressed[1..].copy_from_slice(&product[..32]);
        Ok(compressed)
    }
}

/// The compressed public key of a private key.
///
/// # Errors
/// The private key is 0, or the group's order or more.
pub fn public_key(private_key: [u8; 32]) -> Result<[u8; 33], InvalidKey> {
    Ok(secret(private_key)?.public_key(SECP256K1).serialize())
}

/// The deterministic signature `r || s` of a digest.
///
/// # Errors
/// The private key is 0, or the group's order or more.
pub fn sign(private_key: [u8; 32], digest: [u8; 32]) -> Result<[u8; 64], InvalidKey> {
    let signature = SECP256K1.sign_ecdsa(Message::from_digest(digest), &secret(private_key)?);
    Ok(signature.serialize_compact())
}

/// Keccak-256, the hash of node ids and records.
#[must_use]
pub fn keccak(data: &[u8]) -> [u8; 32] {
    Keccak256::digest(data).into()
}

fn secret(private_key: [u8; 32]) -> Result<SecretKey, InvalidKey> {
    SecretKey::from_byte_array(private_key).map_err(|_| InvalidKey)
}
