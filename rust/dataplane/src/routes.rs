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

/// Allowed prefixes of all peers; the last to claim a prefix has it, as with `wg set`.
pub(crate) struct Routes(IpNetworkTable<PeerId>);

impl Routes {
    pub(crate) fn new() -> Self {
        Self(IpNetworkTable::new())
    }

    pub(crate) fn insert(&mut self, prefix: Prefix, peer: PeerId) {
        self.0.insert(prefix.0, peer);
    }

    /// Removes the prefix if it still belongs to this peer.
    pub(crate) fn remove(&mut self, prefix: Prefix, peer: PeerId) {
        if self.0.exact_match(prefix.0) == Some(&peer) {
            self.0.remove(prefix.0);
        }
    }

    pub(crate) fn lookup(&self, ip: IpAddr) -> Option<PeerId> {
        self.0.longest_match(ip).map(|(_, peer)| *peer)
    }
}
