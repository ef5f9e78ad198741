//! Memory for what the sockets receive.

use bytes::BytesMut;

/// No datagram and no train of them is larger.
const BUFFER_SIZE: usize = 65_536;
/// Bytes of a batch: a full one at an MTU of 1500, and a train; larger datagrams end it earlier.
const ARENA_SIZE: usize = 4 * BUFFER_SIZE;

/// Room for the datagrams of a batch, which are opened and written to the TUN where they are.
pub(super) struct Arena(BytesMut);

impl Arena {
    pub(super) fn new() -> Self {
        Self(BytesMut::zeroed(ARENA_SIZE))
    }

    /// Returns room for one call, or `None` if the batch must end.
    pub(super) fn room(&mut self) -> Option<&mut [u8]> {
        self.0.get_mut(..BUFFER_SIZE)
    }

    /// Takes what a call has written to the room.
    pub(super) fn take(&mut self, size: usize) -> BytesMut {
        self.0.split_to(size)
    }

    /// Makes all of it room again, once the parts taken are gone.
    pub(super) fn reclaim(&mut self) {
        if self.0.len() == ARENA_SIZE {
            return;
        }
        self.0.clear();
        if self.0.try_reclaim(ARENA_SIZE) && self.0.capacity() == ARENA_SIZE {
            // SAFETY: this is the allocation of `new`, whole again: all its ARENA_SIZE bytes were
            // initialised there, and nothing can make them uninitialised.
            unsafe { self.0.set_len(ARENA_SIZE) };
        } else {
            *self = Self::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ARENA_SIZE, Arena, BUFFER_SIZE};

    /// Fills the room as often as there is some and keeps what was taken.
    fn fill(arena: &mut Arena, size: usize, value: u8) -> Vec<bytes::BytesMut> {
        let mut taken = Vec::new();
        while let Some(room) = arena.room() {
            room[..size].fill(value);
            taken.push(arena.take(size));
        }
        taken
    }

    #[test]
    fn room_is_whole_again_once_the_parts_are_gone() {
        let mut arena = Arena::new();
        for (round, size) in [BUFFER_SIZE, 9000, 0x9000].into_iter().enumerate() {
            let place = arena.0.as_ptr();
            let taken = fill(&mut arena, size, round as u8);
            assert!(taken.iter().all(|part| part[..] == vec![round as u8; size]));
            drop(taken);
            arena.reclaim();
            assert_eq!(arena.0.len(), ARENA_SIZE);
            assert_eq!(arena.0.as_ptr(), place);
            // Every byte may be read: Miri would say that one is not initialised.
            assert_ne!(arena.0[..], vec![0xFF; ARENA_SIZE]);
        }
    }

    #[test]
    fn a_part_that_is_kept_stays_what_it_is() {
        let mut arena = Arena::new();
        let mut taken = fill(&mut arena, BUFFER_SIZE, 7);
        let kept = taken.remove(1);
        drop(taken);
        arena.reclaim();
        assert_eq!(arena.0.len(), ARENA_SIZE);
        fill(&mut arena, BUFFER_SIZE, 9);
        assert!(kept.iter().all(|byte| *byte == 7));
        drop(kept);
        arena.reclaim();
        assert_eq!(arena.0.len(), ARENA_SIZE);
    }

    #[test]
    fn an_arena_that_nothing_was_taken_from_stays() {
        let mut arena = Arena::new();
        let place = arena.0.as_ptr();
        arena.reclaim();
        assert_eq!(arena.0.as_ptr(), place);
        let empty = arena.take(0);
        drop(empty);
        arena.reclaim();
        assert_eq!(arena.0.len(), ARENA_SIZE);
    }
}
