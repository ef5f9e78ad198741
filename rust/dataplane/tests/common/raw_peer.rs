//! A peer that is no machine.

use std::net::SocketAddr;
use std::sync::Arc;

use ginnel_dataplane::Packet;
use ginnel_dataplane::demux::{Kind, classify};
use gotatun::noise::Tunn;
use gotatun::noise::index_table::IndexTable;
use gotatun::noise::rate_limiter::RateLimiter;
use gotatun::packet::WgKind;
use gotatun::x25519::{PublicKey, StaticSecret};

use super::Node;

/// A peer of a machine that seals whatever it likes.
pub struct RawPeer {
    tunn: Tunn,
    pub node: Node,
    pub address: SocketAddr,
}

impl RawPeer {
    pub fn connect() -> Self {
        let mut node = Node::new(2);
        let like = Node::new(7);
        node.set(like.peer_config());
        let secret = StaticSecret::from([7; 32]);
        let public = PublicKey::from(&secret);
        let mut tunn = Tunn::new(
            secret,
            PublicKey::from(node.key()),
            None,
            None,
            IndexTable::from_os_rng(),
            Arc::new(RateLimiter::new(&public, 100)),
        );
        let init = tunn.format_handshake_initiation(false);
        let init: Packet = init.expect("the first handshake").into();
        let response = node.receive(&init, like.address).remove(0).data;
        let response = response.try_into_wg().expect("a handshake response");
        tunn.handle_incoming_packet(response);
        Self {
            tunn,
            node,
            address: like.address,
        }
    }

    pub fn send(&mut self, inner: &[u8]) {
        let sealed = self.tunn.encapsulate_with_session(Packet::copy_from(inner));
        let Ok(data) = sealed else {
            panic!("connected, so there is a session");
        };
        let data: Packet = WgKind::Data(data).into();
        assert_eq!(classify(&data, |_| false), Kind::WireGuard);
        let answers = self.node.receive(&data, self.address);
        assert!(answers.is_empty());
    }
}
