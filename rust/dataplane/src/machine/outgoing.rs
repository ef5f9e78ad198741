//! Packets on their way into the tunnel.

use std::time::Instant;

use gotatun::packet::Packet;

use super::path_mtu::Fit;
use super::{
    AHEAD, CONTROL_PORT, CommandError, Cut, MAX_STAGED, Machine, Output, Path, Transmit, push,
};
use crate::counters::Counter;
use crate::ecn;
use crate::frame::{Frame, OVERHEAD};
use crate::inner::{self, Inner};
use crate::peer::{MAX_STAGED_PER_PEER, Peer};
use crate::routes::PeerId;

impl Machine {
    /// Takes packets from the TUN, in their order, and sends each to the peer that has its
    /// destination.
    pub fn handle_inner_all(&mut self, packets: &mut Vec<Frame>, now: Instant, out: &mut Output) {
        if packets.len() == 1
            && let Some(packet) = packets.pop()
        {
            return self.handle_inner(packet, now, out);
        }
        let routed: Vec<_> = packets.iter().map(|packet| self.route(packet)).collect();
        let id = |place: usize| routed.get(place)?.map(|(id, _)| id);
        for (place, packet) in packets.drain(..).enumerate() {
            self.prefetch(id(place), id(place + AHEAD));
            if let Some((id, parsed)) = routed[place] {
                self.send_parsed((id, packet), parsed, now, out);
            }
        }
    }

    /// The same for one.
    pub fn handle_inner(&mut self, packet: Frame, now: Instant, out: &mut Output) {
        if let Some((id, parsed)) = self.route(&packet) {
            self.send_parsed((id, packet), parsed, now, out);
        }
    }

    /// Finds the peer that has the packet's destination.
    fn route(&mut self, packet: &[u8]) -> Option<(PeerId, Inner)> {
        let Some(parsed) = inner::parse(packet) else {
            self.counters.count(Counter::DropBadTunPacket);
            return None;
        };
        // Without an overlay address of ours there is no control port either.
        if parsed.udp_port == Some(CONTROL_PORT) && !self.control_ips.is_empty() {
            self.counters.count(Counter::DropControlFromTun);
            return None;
        }
        let id = self.routes.lookup(parsed.destination);
        if id.is_none() {
            self.counters.count(Counter::DropNoRoute);
        }
        id.map(|id| (id, parsed))
    }

    fn send_parsed(
        &mut self,
        (id, packet): (PeerId, Frame),
        parsed: Inner,
        now: Instant,
        out: &mut Output,
    ) {
        match self.check_size(id, &packet, &parsed, now, out) {
            Fit::Whole => self.send_to(id, packet, now, out),
            Fit::Parts(parts) => {
                for part in parts {
                    self.send_to(id, part, now, out);
                }
            }
            Fit::Not => {}
        }
    }

    /// Sends an inner packet of the application's to a peer, wherever it is addressed.
    pub fn send_inner(
        &mut self,
        public_key: &[u8; 32],
        packet: &[u8],
        now: Instant,
        out: &mut Output,
    ) -> Result<(), CommandError> {
        let id = self.find(public_key)?;
        let whole = inner::parse(packet).is_some_and(|parsed| parsed.length == packet.len());
        if !whole || packet.len() > usize::from(self.mtu) {
            return Err(CommandError::BadPacket);
        }
        self.send_to(id, Frame::copy_from(packet), now, out);
        Ok(())
    }

    fn send_to(&mut self, id: PeerId, packet: Frame, now: Instant, out: &mut Output) {
        if self.staged > 0 {
            // Of a handshake that the peer began gotatun may use the keys already.
            self.flush_staged(id, now, out);
        }
        let Some(peer) = self.peers[id].as_mut() else {
            return;
        };
        let path = peer.endpoint;
        let Err(packet) = seal(peer, packet, self.mtu).map(|sealed| {
            peer.silence.on_sent(now);
            peer.tell_silence(now, out); // at once, not with the next tick
            match path {
                Some(path) => out.transmits.push(sealed.to(path)),
                None => self.counters.count(Counter::DropNoEndpoint),
            }
        }) else {
            return;
        };
        if let Some(path) = peer.endpoint
            && let Some(init) = peer.tunn.format_handshake_initiation(false)
        {
            push(&mut self.by_index, id, init.into(), path, out);
        }
        if peer.idle.staged.len() >= MAX_STAGED_PER_PEER && peer.idle.staged.pop_front().is_some() {
            // The newest packets are the ones that somebody still waits for.
            self.staged -= 1;
            self.counters.count(Counter::DropStaged);
        }
        if self.staged >= MAX_STAGED {
            self.counters.count(Counter::DropStaged);
            return;
        }
        self.staged += 1;
        // A copy: the batch's memory is wanted again.
        let packet = Frame::copy_from(&packet);
        peer.idle.staged.push_back((now, packet));
    }

    /// Sends what waited for the peer's handshake.
    pub(super) fn flush_staged(&mut self, id: PeerId, now: Instant, out: &mut Output) {
        let Some(peer) = self.peers[id].as_mut() else {
            return;
        };
        let Some(path) = peer.endpoint else {
            return;
        };
        for kind in peer.tunn.get_queued_packets(&mut self.padding_mtu) {
            push(&mut self.by_index, id, kind, path, out);
        }
        while let Some((at, packet)) = peer.idle.staged.pop_front() {
            self.staged -= 1;
            if now.saturating_duration_since(at) > super::STAGED_LIFETIME {
                self.counters.count(Counter::DropStagedLost);
                continue;
            }
            match seal(peer, packet, self.mtu) {
                Ok(sealed) => {
                    out.transmits.push(sealed.to(path));
                    out.has_staged = true;
                }
                Err(packet) => {
                    self.staged += 1;
                    peer.idle.staged.push_front((at, packet));
                    return;
                }
            }
        }
    }
}

/// A datagram with its congestion mark.
struct Sealed(Packet, u8);

impl Sealed {
    fn to(self, path: Path) -> Transmit {
        let (data, cut, ecn) = (self.0, Cut::AsNeeded, self.1);
        Transmit {
            data,
            path,
            cut,
            ecn,
        }
    }
}

/// Seals a packet in the peer's session and counts it; gives it back where there is none.
fn seal(peer: &mut Peer, packet: Frame, mtu: u16) -> Result<Sealed, Frame> {
    let room = usize::from(peer.path_mtu.map_or(mtu, |known| known.min(mtu)));
    let ecn = ecn::of(&packet);
    let data = packet.seal(&mut peer.tunn, room)?;
    peer.tx_bytes += (data.len() - OVERHEAD) as u64;
    Ok(Sealed(data, ecn))
}
