//! WireGuard messages from the network.

use std::time::Instant;

use gotatun::noise::TunnResult;
use gotatun::noise::errors::WireGuardError;
use gotatun::noise::handshake::parse_handshake_anon;
use gotatun::packet::{Packet, WgCookieReply, WgData, WgHandshakeInit, WgHandshakeResp, WgKind};

use super::{
    AHEAD, CONTROL_PORT, Cut, Event, HANDSHAKES_MAX, HANDSHAKES_UNDER_LOAD, LOAD_PERIOD, Load,
    Machine, Output, Path, Transmit, push,
};
use crate::counters::Counter;
use crate::ecn;
use crate::inner;
use crate::routes::PeerId;

/// The first byte of a data packet; whitepaper 5.4.6.
const DATA: u8 = 4;

impl Machine {
    /// Takes one datagram that [`crate::demux`] found to be WireGuard's.
    pub fn handle_datagram(&mut self, data: Packet, path: Path, now: Instant, out: &mut Output) {
        self.handle_marked(data, path, ecn::NOT_ECT, now, out);
    }

    /// Takes several, in their order, each with the congestion mark of its IP header.
    pub fn handle_all_marked(
        &mut self,
        datagrams: &mut Vec<(Packet, Path, u8)>,
        now: Instant,
        out: &mut Output,
    ) {
        if datagrams.len() == 1
            && let Some((data, path, ecn)) = datagrams.pop()
        {
            return self.handle_marked(data, path, ecn, now, out);
        }
        let owners = datagrams.iter().map(|(data, ..)| self.owner_of_data(data));
        let owners: Vec<Option<PeerId>> = owners.collect();
        for (place, (data, path, ecn)) in datagrams.drain(..).enumerate() {
            self.prefetch(owners[place], owners.get(place + AHEAD).copied().flatten());
            self.handle_marked(data, path, ecn, now, out);
        }
    }

    /// The same for one whose IP header had a congestion mark.
    pub fn handle_marked(
        &mut self,
        data: Packet,
        path: Path,
        ecn: u8,
        now: Instant,
        out: &mut Output,
    ) {
        let kind = if matches!(data.first(), Some(1 | 2)) {
            match self.verify_handshake(data, path, now, out) {
                Some(kind) => kind,
                None => return,
            }
        } else if let Ok(kind) = data.try_into_wg() {
            kind
        } else {
            self.counters.count(Counter::DropMalformed);
            return;
        };
        match kind {
            WgKind::HandshakeInit(init) => self.on_initiation(init, path, now, out),
            WgKind::HandshakeResp(response) => self.on_response(response, path, now, out),
            WgKind::CookieReply(reply) => self.on_cookie(reply),
            WgKind::Data(data) => self.on_data(data, (path, ecn), now, out),
        }
    }

    /// Checks the MACs, and answers with a cookie where there is too much to do.
    fn verify_handshake(
        &mut self,
        data: Packet,
        path: Path,
        now: Instant,
        out: &mut Output,
    ) -> Option<WgKind> {
        if now.saturating_duration_since(self.load.since) >= LOAD_PERIOD {
            self.load = Load {
                since: now,
                seen: 0,
                verified: 0,
            };
            self.maker.limiter.try_reset_count();
            self.strict_limiter.try_reset_count();
        }
        self.load.seen += 1;
        if self.load.seen > HANDSHAKES_MAX {
            self.counters.count(Counter::DropHandshakeFlood);
            return None;
        }
        let limiter = if self.load.verified >= HANDSHAKES_UNDER_LOAD {
            &self.strict_limiter
        } else {
            &self.maker.limiter
        };
        match limiter.verify_packet(path.remote, data) {
            Ok(kind) => {
                self.load.verified += 1;
                return Some(kind);
            }
            Err(TunnResult::WriteToNetwork(cookie)) => {
                self.load.verified += 1;
                self.counters.count(Counter::CookieSent);
                out.transmits.push(Transmit {
                    data: cookie.into(),
                    path,
                    cut: Cut::AsNeeded,
                    ecn: ecn::NOT_ECT,
                });
            }
            Err(TunnResult::Err(WireGuardError::InvalidMac)) => {
                self.counters.count(Counter::DropBadMac);
            }
            Err(_) => self.counters.count(Counter::DropMalformed),
        }
        None
    }

    fn on_initiation(
        &mut self,
        init: Packet<WgHandshakeInit>,
        path: Path,
        now: Instant,
        out: &mut Output,
    ) {
        let Ok(half) = parse_handshake_anon(&self.maker.private_key, &self.maker.public_key, &init)
        else {
            self.counters.count(Counter::DropBadHandshake);
            return;
        };
        let id = self.by_key.get(&half.peer_static_public).copied();
        let Some((id, peer)) = id.and_then(|id| Some((id, self.peers[id].as_mut()?))) else {
            self.counters.count(Counter::DropUnknownPeer);
            return;
        };
        if peer.initiates_too_fast(now) {
            self.counters.count(Counter::DropPeerFlood);
            return;
        }
        match peer
            .tunn
            .handle_incoming_packet(WgKind::HandshakeInit(init))
        {
            TunnResult::WriteToNetwork(WgKind::HandshakeResp(response)) => {
                peer.handshakes += 1;
                peer.note_initiation(now);
                peer.expect_confirmation(response.sender_idx.get());
                peer.learn_endpoint(path, out);
                push(&mut self.by_index, id, response.into(), path, out);
            }
            TunnResult::Err(WireGuardError::WrongTai64nTimestamp) => {
                self.counters.count(Counter::DropReplay);
            }
            _ => self.counters.count(Counter::DropBadHandshake),
        }
    }

    fn on_response(
        &mut self,
        response: Packet<WgHandshakeResp>,
        path: Path,
        now: Instant,
        out: &mut Output,
    ) {
        let index = response.receiver_idx.get();
        let Some(id) = self.owner(index) else {
            return;
        };
        let Some(peer) = self.peers[id].as_mut() else {
            return;
        };
        match peer
            .tunn
            .handle_incoming_packet(WgKind::HandshakeResp(response))
        {
            TunnResult::WriteToNetwork(keepalive) => {
                peer.handshakes += 1;
                peer.silence.on_heard(false, now);
                peer.learn_endpoint(path, out);
                peer.complete_handshake(path, now, out);
                push(&mut self.by_index, id, keepalive, path, out);
                self.flush_staged(id, now, out);
            }
            _ => self.counters.count(Counter::DropBadHandshake),
        }
    }

    fn on_cookie(&mut self, reply: Packet<WgCookieReply>) {
        let Some(id) = self.owner(reply.receiver_idx.get()) else {
            return;
        };
        let Some(peer) = self.peers[id].as_mut() else {
            return;
        };
        let result = peer.tunn.handle_incoming_packet(WgKind::CookieReply(reply));
        if !matches!(result, TunnResult::Done) {
            self.counters.count(Counter::DropBadCookie);
        }
    }

    fn on_data(
        &mut self,
        data: Packet<WgData>,
        (path, ecn): (Path, u8),
        now: Instant,
        out: &mut Output,
    ) {
        let index = data.header.receiver_idx.get();
        let Some(id) = self.owner(index) else {
            return;
        };
        let Some(peer) = self.peers[id].as_mut() else {
            return;
        };
        let packet = match peer.tunn.handle_incoming_packet(WgKind::Data(data)) {
            TunnResult::WriteToTunnel(packet) => packet,
            TunnResult::Err(error) => {
                self.counters.count(data_error(&error));
                return;
            }
            TunnResult::Done | TunnResult::WriteToNetwork(_) => return,
        };
        peer.rx_bytes += packet.len() as u64;
        peer.silence.on_heard(!packet.is_empty(), now);
        peer.learn_endpoint(path, out);
        if peer.confirm(index) {
            peer.complete_handshake(path, now, out);
            self.flush_staged(id, now, out);
        }
        if !packet.is_empty() {
            self.deliver(id, packet, ecn, out);
        }
    }

    /// Checks an inner packet's source and gives it to the TUN or the application.
    fn deliver(&mut self, id: PeerId, mut packet: Packet, ecn: u8, out: &mut Output) {
        let Some(parsed) = inner::parse(&packet) else {
            self.counters.count(Counter::DropBadInner);
            return;
        };
        if self.routes.lookup(parsed.source) != Some(id) {
            self.counters.count(Counter::DropSource);
            return;
        }
        packet.truncate(parsed.length);
        if !ecn::combine(packet.buf_mut(), ecn) {
            self.counters.count(Counter::DropCongestion);
            return;
        }
        let control =
            parsed.udp_port == Some(CONTROL_PORT) && self.control_ips.contains(&parsed.destination);
        if !control {
            out.inner.push(packet);
        } else if parsed.fragment {
            self.counters.count(Counter::DropControlFragment);
        } else if let Some(peer) = &self.peers[id] {
            out.events.push(Event::InnerReceived {
                public_key: peer.idle.public_key,
                packet: packet.to_vec(),
            });
        }
    }

    /// The peer that a data packet seems to come from.
    fn owner_of_data(&self, data: &[u8]) -> Option<PeerId> {
        let [DATA, _, _, _, first, second, third, fourth, ..] = *data else {
            return None;
        };
        let index = u32::from_le_bytes([first, second, third, fourth]);
        self.by_index.get(&index).copied()
    }

    fn owner(&self, index: u32) -> Option<PeerId> {
        let owner = self.by_index.get(&index).copied();
        if owner.is_none() {
            self.counters.count(Counter::DropUnknownIndex);
        }
        owner
    }
}

fn data_error(error: &WireGuardError) -> Counter {
    match error {
        WireGuardError::DuplicateCounter | WireGuardError::InvalidCounter => Counter::DropReplay,
        WireGuardError::InvalidAeadTag => Counter::DropBadTag,
        WireGuardError::NoCurrentSession | WireGuardError::ConnectionExpired => {
            Counter::DropExpired
        }
        _ => Counter::DropMalformed,
    }
}
