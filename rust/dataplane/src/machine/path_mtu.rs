//! The largest inner packet of each peer's path: what does not fit is answered, never lost unsaid.
//!
//! The application finds it by probes and tells it here. Until then everything that the TUN takes is
//! sent, and may be fragmented on its way. An inner IPv6 packet of up to 1280 bytes can't be refused
//! (RFC 8200 5); where the path takes less, it is fragmented here, on the node that it comes from.

use std::time::{Duration, Instant};

use gotatun::packet::Packet;

use super::{CommandError, Cut, Machine, Output};
use crate::counters::Counter;
use crate::ecn;
use crate::fragment;
use crate::frame::Frame;
use crate::icmp;
use crate::inner::{self, Inner};
use crate::routes::PeerId;

/// What every IPv6 link carries (RFC 8200 5).
const IPV6_MIN_MTU: usize = 1280;
/// Answers to packets of one peer in a row, one for each of many flows at once.
const ANSWERS_BURST: u32 = 32;
/// After this long there is room for one answer more (RFC 4443 2.4 f).
const ANSWER_INTERVAL: Duration = Duration::from_millis(10);

/// What becomes of a packet.
pub(super) enum Fit {
    /// It is sent as it is.
    Whole,
    /// It is sent in fragments.
    Parts(Vec<Frame>),
    /// It is not sent.
    Not,
}

/// How many answers may be given; `None` until the first.
#[derive(Default)]
pub(crate) struct Answers(Option<(Instant, u32)>);

impl Answers {
    fn take(&mut self, now: Instant) -> bool {
        let (since, left) = self.0.unwrap_or((now, ANSWERS_BURST));
        let passed = now.saturating_duration_since(since);
        let earned = (passed.as_millis() / ANSWER_INTERVAL.as_millis()) as u32; // 497 days of them
        let total = left.saturating_add(earned).min(ANSWERS_BURST);
        let since = if earned > 0 { now } else { since };
        self.0 = Some((since, total.saturating_sub(1)));
        total > 0
    }
}

impl Machine {
    /// Tells the largest inner packet that the peer's path takes; `None`: it is not known.
    pub fn set_path_mtu(
        &mut self,
        public_key: &[u8; 32],
        mtu: Option<u16>,
    ) -> Result<(), CommandError> {
        let id = self.find(public_key)?;
        if let Some(peer) = self.peers[id].as_mut() {
            peer.path_mtu = mtu;
        }
        Ok(())
    }

    /// Sends an inner packet of the application's as a probe: as long as it is, and never in parts.
    pub fn send_probe(
        &mut self,
        public_key: &[u8; 32],
        packet: &[u8],
        out: &mut Output,
    ) -> Result<(), CommandError> {
        let id = self.find(public_key)?;
        let whole = inner::parse(packet).is_some_and(|parsed| parsed.length == packet.len());
        if !whole || packet.len() > usize::from(self.mtu) {
            return Err(CommandError::BadPacket);
        }
        let Some(peer) = self.peers[id].as_mut() else {
            return Err(CommandError::UnknownPeer);
        };
        let Some(path) = peer.endpoint else {
            return Err(CommandError::NoEndpoint);
        };
        // Without a session there is nothing to probe: the packet is dropped, as on a lossy path.
        if let Ok(data) = Frame::copy_from(packet).seal(&mut peer.tunn, packet.len()) {
            peer.tx_bytes += packet.len() as u64;
            out.transmits.push(super::Transmit {
                data,
                path,
                cut: Cut::Never,
                ecn: ecn::NOT_ECT,
            });
        }
        Ok(())
    }

    /// Says how a packet of the TUN may be sent; where it may not, that is answered.
    pub(super) fn check_size(
        &mut self,
        id: PeerId,
        packet: &[u8],
        parsed: &Inner,
        now: Instant,
        out: &mut Output,
    ) -> Fit {
        let Some(peer) = self.peers[id].as_mut() else {
            return Fit::Not;
        };
        let Some(mtu) = peer.path_mtu else {
            return Fit::Whole;
        };
        if parsed.length <= usize::from(mtu) {
            return Fit::Whole;
        }
        let is_ipv6 = parsed.source.is_ipv6();
        if is_ipv6 && parsed.length <= IPV6_MIN_MTU {
            self.fragmented = self.fragmented.wrapping_add(1);
            let packet = &packet[..parsed.length];
            return match fragment::ipv6(packet, usize::from(mtu), self.fragmented) {
                Some(parts) => Fit::Parts(parts.iter().map(|p| Frame::copy_from(p)).collect()),
                None => Fit::Whole, // perhaps it gets there in outer fragments
            };
        }
        self.counters.count(Counter::DropTooBig);
        if peer.idle.answers.take(now) {
            let told = if is_ipv6 {
                mtu.max(IPV6_MIN_MTU as u16)
            } else {
                mtu
            };
            if let Some(answer) = icmp::too_big(&packet[..parsed.length], told) {
                self.counters.count(Counter::TooBigAnswered);
                out.inner.push(Packet::copy_from(&answer));
            }
        }
        Fit::Not
    }
}
