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

/// Answers that are kept at least, 24 KiB of them: a walk through the table costs as much as a
/// twentieth of a packet's encryption.
const MIN_RECENT: usize = 512;
/// Answers that are kept at most, 768 KiB; between these twice as many as there are prefixes.
const MAX_RECENT: usize = 16_384;

/// Allowed prefixes of all peers; the last to claim a prefix has it, as with `wg set`.
pub(crate) struct Routes {
    table: IpNetworkTable<PeerId>,
    /// How many there are.
    count: usize,
    /// What was found last for the addresses of each slot; empty after any change.
    recent: Vec<Option<(IpAddr, PeerId)>>,
    /// How many of them, a power of two.
    slots: usize,
}

impl Routes {
    pub(crate) fn new() -> Self {
        Self {
            table: IpNetworkTable::new(),
            count: 0,
            recent: Vec::new(),
            slots: MIN_RECENT,
        }
    }

    pub(crate) fn insert(&mut self, prefix: Prefix, peer: PeerId) {
        if self.table.insert(prefix.0, peer).is_none() {
            self.count += 1;
        }
        self.forget();
    }

    /// Removes the prefix if it still belongs to this peer.
    pub(crate) fn remove(&mut self, prefix: Prefix, peer: PeerId) {
        if self.table.exact_match(prefix.0) == Some(&peer) {
            self.table.remove(prefix.0);
            self.count -= 1;
        }
        self.forget();
    }

    pub(crate) fn lookup(&mut self, ip: IpAddr) -> Option<PeerId> {
        let slot = self.slot_of(ip);
        if let Some(Some((known, peer))) = self.recent.get(slot)
            && *known == ip
        {
            return Some(*peer);
        }
        let peer = self.table.longest_match(ip).map(|(_, peer)| *peer)?;
        if self.recent.is_empty() {
            self.recent.resize(self.slots, None);
        }
        self.recent[slot] = Some((ip, peer));
        Some(peer)
    }

    /// The slot of an address: neighbours have different ones.
    fn slot_of(&self, ip: IpAddr) -> usize {
        let low = match ip {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            IpAddr::V6(ip) => {
                let bits = ip.to_bits();
                (bits as u64) ^ ((bits >> 64) as u64)
            }
        };
        (low ^ (low >> 9)) as usize & (self.slots - 1)
    }

    /// Begins anew with what was found, with room for as many prefixes as there are.
    fn forget(&mut self) {
        self.recent.clear();
        self.slots = (2 * self.count)
            .next_power_of_two()
            .clamp(MIN_RECENT, MAX_RECENT);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::{MIN_RECENT, Prefix, Routes};

    const PEERS: usize = if cfg!(miri) { 20 } else { 2_000 };

    fn address(peer: usize) -> IpAddr {
        Ipv4Addr::from_bits(0x0A00_0000 + peer as u32).into()
    }

    fn prefix(peer: usize) -> Prefix {
        address(peer).to_string().parse().expect("an address")
    }

    /// More addresses than the least number of kept answers, taken and given up in between.
    #[test]
    fn each_peer_is_found_while_there_are_more_and_fewer() {
        let mut routes = Routes::new();
        for peer in 0..PEERS {
            routes.insert(prefix(peer), peer);
            routes.insert(prefix(peer), peer); // again: it counts once
        }
        for _ in 0..2 {
            assert!((0..PEERS).all(|peer| routes.lookup(address(peer)) == Some(peer)));
        }
        for peer in 0..PEERS {
            routes.remove(prefix(peer), peer + 1); // not its own
            assert_eq!(routes.lookup(address(peer)), Some(peer));
            routes.remove(prefix(peer), peer);
            assert_eq!(routes.lookup(address(peer)), None);
        }
        assert_eq!((routes.count, routes.slots), (0, MIN_RECENT));
    }
}
