//! Which peer an inner address belongs to: the longest allowed prefix decides.

use std::net::IpAddr;
use std::str::FromStr;

use ip_network::IpNetwork;
use ip_network_table::IpNetworkTable;

/// Number of a peer inside the machine; numbers of removed peers are used again.
pub(crate) type PeerId = usize;

/// An IP prefix; bits behind its length are cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix(IpNetwork);

impl FromStr for Prefix {
    type Err = String;

    /// Reads `10.0.0.0/8`, or an address alone.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not an IP prefix");
        let (ip, length) = match text.split_once('/') {
            Some((ip, length)) => (ip, Some(length)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
        let full = if ip.is_ipv4() { 32 } else { 128 };
        let length = match length {
            Some(length) => length.parse().map_err(|_| wrong())?,
            None => full,
        };
        IpNetwork::new_truncate(ip, length)
            .map(Prefix)
            .map_err(|_| wrong())
    }
}

/// Answers that are kept, 24 KiB of them: a walk through the table costs as much as a twentieth of
/// a packet's encryption.
const RECENT: usize = 512;

/// Allowed prefixes of all peers; the last to claim a prefix has it, as with `wg set`.
pub(crate) struct Routes {
    table: IpNetworkTable<PeerId>,
    /// What was found last for the addresses of each slot; empty after any change.
    recent: Vec<Option<(IpAddr, PeerId)>>,
}

impl Routes {
    pub(crate) fn new() -> Self {
        Self {
            table: IpNetworkTable::new(),
            recent: Vec::new(),
        }
    }

    pub(crate) fn insert(&mut self, prefix: Prefix, peer: PeerId) {
        self.recent.clear();
        self.table.insert(prefix.0, peer);
    }

    /// Removes the prefix if it still belongs to this peer.
    pub(crate) fn remove(&mut self, prefix: Prefix, peer: PeerId) {
        self.recent.clear();
        if self.table.exact_match(prefix.0) == Some(&peer) {
            self.table.remove(prefix.0);
        }
    }

    pub(crate) fn lookup(&mut self, ip: IpAddr) -> Option<PeerId> {
        let slot = slot_of(ip);
        if let Some(Some((known, peer))) = self.recent.get(slot)
            && *known == ip
        {
            return Some(*peer);
        }
        let peer = self.table.longest_match(ip).map(|(_, peer)| *peer)?;
        if self.recent.is_empty() {
            self.recent.resize(RECENT, None);
        }
        self.recent[slot] = Some((ip, peer));
        Some(peer)
    }
}

/// The slot of an address: neighbours have different ones.
fn slot_of(ip: IpAddr) -> usize {
    let low = match ip {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => {
            let bits = ip.to_bits();
            (bits as u64) ^ ((bits >> 64) as u64)
        }
    };
    ((low ^ (low >> 9)) % RECENT as u64) as usize
}
