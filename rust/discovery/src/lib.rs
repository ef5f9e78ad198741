//! What costs time in discv5: the ciphers of packets, public keys and signatures, and datagrams in
//! and out.
//!
//! What a packet or a record means is decided elsewhere.

pub mod identity;
pub mod packet;
pub mod udp;
