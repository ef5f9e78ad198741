//! The data plane of Ginnel: one UDP port shared by WireGuard, STUN and discv5, and a TUN device.
//!
//! Reading order: [`demux`] tells datagrams apart, [`channels`] knows those of TURN servers, [`inner`] reads the packets inside the tunnel,
//! [`frame`] has room for what WireGuard adds to them,
//! [`machine`] is the state of all peers (no IO, time passed in), [`inbox`] holds what waits for
//! the application, [`offload`] splits and merges what the kernel takes in large pieces, and [`io`]
//! moves bytes between sockets, TUN and machine on two threads.
//!
//! The handshake, its cookies and timers, and the transport keys come from `gotatun::noise`.
//! Its timers read a clock of their own; all other time comes in as `now`.

// The helpers of tests/ name the crate, also where a test inside of it uses them.
#[cfg(test)]
extern crate self as ginnel_dataplane;

pub mod channels;
pub mod consent;
pub mod counters;
pub mod demux;
pub mod ecn;
pub mod fragment;
pub mod frame;
pub mod icmp;
pub mod inbox;
pub mod inner;
pub mod io;
pub mod machine;
pub mod offload;
mod peer;
mod prefetch;
mod routes;
mod silence;

pub use counters::{Counter, Counters};
pub use frame::{Frame, Frames};
pub use gotatun::packet::Packet;
pub use machine::{Config, Cut, Event, Machine, Output, Path, PeerConfig, PeerStats, Transmit};
pub use ring::aead::implementation as cipher;
pub use routes::Prefix;
