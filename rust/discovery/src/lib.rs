//! What costs time in discv5: the ciphers of packets, public keys and signatures.
//!
//! Pure functions of bytes. What a packet or a record means is decided elsewhere.

pub mod identity;
pub mod packet;
