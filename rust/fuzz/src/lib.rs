//! Fuzz targets: everything in the data plane that reads bytes from the network, from the TUN or
//! from an administrator. None may panic, and each is held to what its output must be.
//!
//! `scripts/fuzz` runs them under libFuzzer with coverage on stable Rust; `tests/short.rs` runs each
//! on its seeds and on some thousand mutations of them.

mod channels;
#[path = "../../dataplane/tests/common/mod.rs"]
mod common;
mod consent;
pub mod input;
mod machine;
mod offload;
mod readers;

/// One thing to feed bytes to.
pub struct Target {
    /// Its name for `scripts/fuzz`.
    pub name: &'static str,
    /// Takes any bytes; panics if what comes of them is wrong.
    pub run: fn(&[u8]),
    /// Inputs that reach far.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target {
        name: "demux",
        run: readers::demux,
        seeds: readers::demux_seeds,
    },
    Target {
        name: "inner",
        run: readers::inner,
        seeds: readers::packet_seeds,
    },
    Target {
        name: "fragment",
        run: readers::fragment,
        seeds: readers::sized_packet_seeds,
    },
    Target {
        name: "icmp",
        run: readers::icmp,
        seeds: readers::sized_packet_seeds,
    },
    Target {
        name: "prefix",
        run: readers::prefix,
        seeds: readers::prefix_seeds,
    },
    Target {
        name: "split",
        run: offload::split_one,
        seeds: offload::split_seeds,
    },
    Target {
        name: "merge",
        run: offload::merge_all,
        seeds: offload::merge_seeds,
    },
    Target {
        name: "streams",
        run: offload::streams,
        seeds: offload::streams_seeds,
    },
    Target {
        name: "trains",
        run: offload::trains,
        seeds: offload::trains_seeds,
    },
    Target {
        name: "channels",
        run: channels::channels,
        seeds: channels::channels_seeds,
    },
    Target {
        name: "consent",
        run: consent::consent,
        seeds: consent::consent_seeds,
    },
    Target {
        name: "messages",
        run: machine::messages,
        seeds: machine::message_seeds,
    },
    Target {
        name: "session",
        run: machine::session,
        seeds: machine::session_seeds,
    },
];
