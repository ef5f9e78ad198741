//! Datagrams to one place, of one size and congestion mark, that one `UDP_SEGMENT` send carries.

use crate::machine::{Cut, Path, Transmit};

/// Datagrams of one send: older kernels take no more (`UDP_MAX_SEGMENTS`).
const MAX_MEMBERS: usize = 64;
/// Bytes of one send: what an IPv4 packet holds besides its headers.
const MAX_BYTES: usize = 65_507;
/// Trains that are looked at for a datagram's destination, latest first.
const MAX_LOOK_BACK: usize = 32;

/// Plans sends; keeps its memory between batches.
#[derive(Default)]
pub struct Trains {
    trains: Vec<Train>,
    used: usize,
    /// How many of them were planned; the rest, one at most, waits.
    planned: usize,
}

/// Datagrams of one send, by their places in the batch.
struct Train {
    path: Path,
    ecn: u8,
    members: Vec<usize>,
    size: usize,
    total: usize,
    is_open: bool,
}

impl Trains {
    /// Groups datagrams; those to one place keep their order from train to train.
    ///
    /// All of a train have the size of the first, but the last may be smaller. If `more` datagrams
    /// follow at once, the last train waits for them while it has room: see [`Self::left`].
    pub fn plan<'plan>(
        &'plan mut self,
        transmits: &[Transmit],
        more: bool,
    ) -> impl Iterator<Item = &'plan [usize]> + use<'plan> {
        self.used = 0;
        for (number, transmit) in transmits.iter().enumerate() {
            let start = self.used.saturating_sub(MAX_LOOK_BACK);
            let train = self.trains[start..self.used]
                .iter_mut()
                .rev()
                .find(|train| train.path == transmit.path);
            let joins = |train: &mut Train| train.append(number, transmit);
            if transmit.cut != Cut::AsNeeded || !train.is_some_and(joins) {
                self.start(number, transmit);
            }
        }
        let last = self.trains[..self.used].last();
        let waits = more && last.is_some_and(Train::has_room);
        self.planned = self.used - usize::from(waits);
        self.trains[..self.planned]
            .iter()
            .map(|train| train.members.as_slice())
    }

    /// Returns the datagrams that the last plan left out, in their order.
    pub fn left(&self) -> &[usize] {
        let left = self.trains[self.planned..self.used].first();
        left.map_or(&[], |train| &train.members)
    }

    fn start(&mut self, number: usize, transmit: &Transmit) {
        let size = transmit.wire_size();
        let is_open = size > 0 && transmit.cut == Cut::AsNeeded;
        let (path, ecn) = (transmit.path, transmit.ecn);
        match self.trains.get_mut(self.used) {
            Some(train) => {
                train.members.clear();
                train.members.push(number);
                (train.path, train.ecn) = (path, ecn);
                (train.size, train.total) = (size, size);
                train.is_open = is_open;
            }
            None => self.trains.push(Train {
                path,
                ecn,
                members: vec![number],
                size,
                total: size,
                is_open,
            }),
        }
        self.used += 1;
    }
}

impl Train {
    /// Says whether another datagram of the same size may join.
    fn has_room(&self) -> bool {
        self.is_open && self.total + self.size <= MAX_BYTES
    }

    fn append(&mut self, number: usize, transmit: &Transmit) -> bool {
        let size = transmit.wire_size();
        let fits = self.ecn == transmit.ecn && size <= self.size;
        if !self.is_open || !fits || size == 0 || self.total + size > MAX_BYTES {
            self.is_open = false;
            return false;
        }
        self.members.push(number);
        self.total += size;
        self.is_open = size == self.size && self.members.len() < MAX_MEMBERS;
        true
    }
}
