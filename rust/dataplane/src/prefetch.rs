//! Brings a peer's state into the cache while packets of others are sealed or opened.
//!
//! Where a thousand peers talk in turns, a peer's state has left the nearest caches by its next packet:
//! fifteen lines of 64 bytes, half as dear as the encryption if they are waited for one by one. This
//! changes only when memory is read, never what is done.
//!
//! gotatun's state is private, so that where its busy parts lie was looked up in its layout (`rustc
//! -Zprint-type-sizes`). If a compiler or a version lays it out otherwise, the wrong lines are asked
//! for, which costs time and nothing more: `cargo run --release --example packet_cost` shows it.

use std::mem::{offset_of, size_of};

use gotatun::noise::Tunn;

use crate::peer::Peer;

const LINE: usize = 64; // bytes, on all that runs this
/// The end of a [`Tunn`]: timers, the current session's number, and its counters.
const TIMERS: usize = 608;
/// Sessions of a [`Tunn`], at its begin; the newest takes the place of the oldest.
const SESSIONS: usize = 8;
/// What a [`Tunn`] has besides.
const TUNN_REST: usize = 1536;
/// Of one session: keys, whose size is the cipher's affair, counters and the window against replays.
const SESSION: usize = size_of::<Tunn>().saturating_sub(TUNN_REST) / SESSIONS;
/// Of these what each packet needs: keys and counters, and the last word, behind the window.
const SESSION_HEAD: usize = SESSION.saturating_sub(1056);

/// Asks for what a packet to or from the peer will need.
pub(crate) fn peer(peer: &Peer) {
    let begin = std::ptr::from_ref(peer).cast::<u8>();
    let tunn = begin.wrapping_add(offset_of!(Peer, tunn));
    let newest = peer.handshakes.wrapping_sub(1) % SESSIONS;
    let session = tunn.wrapping_add(newest * SESSION);
    lines(session, SESSION_HEAD);
    lines(
        session.wrapping_add(SESSION.saturating_sub(size_of::<u64>())),
        1,
    );
    let busy = size_of::<Tunn>().saturating_sub(TIMERS);
    lines(
        tunn.wrapping_add(busy),
        offset_of!(Peer, idle) - offset_of!(Peer, tunn) - busy,
    );
}

/// Asks for the lines of so many bytes.
fn lines(begin: *const u8, size: usize) {
    let skew = begin.addr() % LINE;
    for offset in (0..skew + size).step_by(LINE) {
        line(begin.wrapping_add(offset).wrapping_sub(skew));
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
fn line(place: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch is a hint: it neither faults at any address nor changes what is read.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) };
}

/// Elsewhere there is no stable way to ask.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
fn line(_place: *const u8) {}
