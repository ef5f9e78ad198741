//! Counters that the machine and the IO threads share.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($variant:ident = $name:literal: $doc:literal,)*) => {
        /// What is counted: traffic, and each reason for which something was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Counter {
            $(#[doc = $doc] $variant,)*
        }

        impl Counter {
            /// All counters, in the order of their numbers.
            pub const ALL: &'static [Counter] = &[$(Counter::$variant,)*];

            /// The name that people and metrics see.
            pub const fn name(self) -> &'static str {
                match self { $(Counter::$variant => $name,)* }
            }
        }
    };
}

counters! {
    UdpRxPackets = "udp_rx_packets": "datagrams received",
    UdpRxBytes = "udp_rx_bytes": "bytes of datagrams received",
    UdpTxPackets = "udp_tx_packets": "datagrams sent",
    UdpTxBytes = "udp_tx_bytes": "bytes of datagrams sent",
    TunRxPackets = "tun_rx_packets": "packets read from the TUN",
    TunTxPackets = "tun_tx_packets": "packets written to the TUN",
    TunTxBig = "tun_tx_big": "writes of more than 64 KiB to the TUN: many packets of this host's TCP",
    PassedStun = "passed_stun": "STUN datagrams queued for the application",
    PassedDiscv5 = "passed_discv5": "other datagrams queued for the application",
    InnerReceived = "inner_received": "control port packets queued for the application",
    DropStunQueue = "stun_queue_full": "STUN datagrams for which the queue had no room",
    DropDiscv5Queue = "discv5_queue_full": "other datagrams for which the queue had no room",
    DropEventQueue = "event_queue_full": "events for which the queue had no room",
    DropInnerQueue = "inner_queue_full": "control port packets for which the queue had no room",
    RelayedPackets = "relayed_packets": "datagrams passed on from one client's channel to another's",
    RelayedBytes = "relayed_bytes": "bytes of data in them",
    DropRelayQuota = "relay_quota": "datagrams of clients that had more passed on than they may",
    DropOversized = "oversized_datagram": "datagrams larger than their kind may be",
    DropEmpty = "empty_datagram": "datagrams without a byte",
    DropFromOverlay = "from_overlay": "datagrams that came through the overlay itself",
    DropMalformed = "malformed": "WireGuard messages that do not parse",
    DropBadMac = "bad_mac": "handshake messages whose first MAC is wrong",
    DropHandshakeFlood = "handshake_flood": "handshake messages above the limit of the whole port",
    DropPeerFlood = "peer_handshake_flood": "handshakes that one peer started too fast",
    CookieSent = "cookie_sent": "handshake messages answered with a cookie",
    DropUnknownPeer = "unknown_peer": "handshakes of keys that are no peer",
    DropUnknownIndex = "unknown_index": "messages for no session of ours",
    DropBadHandshake = "bad_handshake": "handshake messages that do not authenticate",
    DropBadCookie = "bad_cookie": "cookies that do not authenticate",
    DropReplay = "replay": "packets or handshakes seen before, or too old",
    DropBadTag = "bad_tag": "data packets that do not authenticate",
    DropExpired = "expired_session": "data packets of a session that is over",
    DropBadInner = "bad_inner": "inner packets that are not whole IP packets",
    DropSource = "source_not_allowed": "inner packets from an address that the peer may not use",
    DropCongestion = "congestion": "inner packets without ECN whose way met congestion (RFC 6040 4.2)",
    DropControlFragment = "control_fragment": "fragmented packets for the control port",
    DropControlFromTun = "control_from_tun": "packets for the control port from the TUN",
    DropNoRoute = "no_route": "outgoing packets for which no peer has an address",
    DropBadTunPacket = "bad_tun_packet": "packets of the TUN that are not IP",
    DropTooBig = "too_big": "packets of the TUN that a peer's path does not take",
    TooBigAnswered = "too_big_answered": "packets that did not fit, whose sender was told so",
    DropNoEndpoint = "no_endpoint": "outgoing packets of a peer without endpoint",
    DropStaged = "staged_full": "packets that waited for a handshake for which there was no room",
    DropStagedLost = "staged_lost": "packets that waited for a handshake that never came",
    DropNoTun = "no_tun": "inner packets without a TUN to write to",
    DropBadOffload = "bad_offload": "packets of the TUN whose virtio header does not fit",
    TunReadError = "tun_read_error": "failed reads from the TUN",
    TunWriteError = "tun_write_error": "packets that the TUN did not take",
    UdpReceiveError = "udp_receive_error": "errors reported when receiving",
    SendNoSocket = "send_no_socket": "datagrams of a family without socket",
    SendUnreachable = "send_unreachable": "sends refused: no route, or host or network unreachable",
    SendRefused = "send_refused": "sends that reported an earlier refusal",
    SendForbidden = "send_forbidden": "sends that a firewall refused",
    SendTooLarge = "send_too_large": "sends of more than the path takes",
    SendFull = "send_full": "sends for which the socket had no room",
    SendOther = "send_other": "sends that failed for another reason",
}

/// One number for each [`Counter`]; shared by threads.
pub struct Counters([AtomicU64; Counter::ALL.len()]);

impl Counters {
    /// Starts at zero.
    pub fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    /// Adds one.
    pub fn count(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Adds `amount`.
    pub fn add(&self, counter: Counter, amount: u64) {
        // Statistics order nothing else, so relaxed is enough.
        self.0[counter as usize].fetch_add(amount, Ordering::Relaxed);
    }

    /// Reads one counter.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize].load(Ordering::Relaxed)
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}
