//! Inner packets with room around them for what WireGuard adds: they are sealed where they lie.
//!
//! gotatun frames a packet in memory of its own, to which it copies it. So it is given a stub, and the
//! cipher seals the packet in the stub's place (`ring::aead::seal_instead`), with the key and the nonce
//! that gotatun meant for it; header and tag are then copied to the packet's ends. Sessions, counters
//! and timers stay gotatun's.
//!
//! Frames of a batch lie one behind the other, so that most trains go to the kernel as one piece.
//!
//! Source: WireGuard whitepaper 5.4.6.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};

use bytes::BytesMut;
use gotatun::noise::Tunn;
use gotatun::packet::Packet;
use ring::aead::seal_instead;

/// Type, receiver index and counter in front of the packet.
const HEADER_SIZE: usize = 16; // bytes
const TAG_SIZE: usize = 16; // bytes
/// What a message has besides the padded packet, in bytes.
pub(crate) const OVERHEAD: usize = HEADER_SIZE + TAG_SIZE;
/// WireGuard pads to this.
const PADDING: usize = 16; // bytes
/// What stands for a packet: not nothing, which would be a keepalive.
const STUB: [u8; 1] = [0];
/// Headers that each packet of a train repeats: IPv6, and TCP with a timestamp.
const INNER_HEADERS: usize = 72; // bytes
/// What one read of the TUN takes: 64 KiB, and what is added to 64 packets of it. More of them, as small
/// ones, go to memory of their own.
const ROOM_OF_A_READ: usize = 65_536 + 64 * (OVERHEAD + PADDING + INNER_HEADERS);
/// Bytes of a chunk: two such reads, or many small ones.
const CHUNK: usize = 2 * ROOM_OF_A_READ;
/// Chunks of a batch: a full one at an MTU of 1500 has two; larger packets end it earlier.
const MAX_CHUNKS: usize = 4;
/// Chunks that are kept, with those that others still hold.
const MAX_KEPT_CHUNKS: usize = 2 * MAX_CHUNKS;

/// An inner packet, with room for header, padding and tag.
pub struct Frame {
    /// Header, packet, and zeros where padding and tag come.
    bytes: BytesMut,
    /// Bytes of the packet.
    length: usize,
}

impl Frame {
    /// Copies a packet to memory of its own.
    pub fn copy_from(packet: &[u8]) -> Self {
        let padded = packet.len().next_multiple_of(PADDING);
        let mut memory = BytesMut::with_capacity(padded + OVERHEAD);
        Self::write(&mut memory, [packet, &[]], padded)
    }

    /// Writes both parts of a packet to the memory's begin and takes that.
    fn write(memory: &mut BytesMut, parts: [&[u8]; 2], padded: usize) -> Self {
        const ZEROS: [u8; PADDING + TAG_SIZE] = [0; PADDING + TAG_SIZE];
        let length = parts[0].len() + parts[1].len();
        memory.extend_from_slice(&ZEROS[..HEADER_SIZE]);
        memory.extend_from_slice(parts[0]);
        memory.extend_from_slice(parts[1]);
        memory.extend_from_slice(&ZEROS[..padded - length + TAG_SIZE]);
        let bytes = memory.split();
        Self { bytes, length }
    }

    /// Pads the packet as far as `mtu` allows and seals it in the peer's session; returns the datagram.
    ///
    /// # Errors
    /// There is no session that may be used; gives the frame back.
    ///
    /// # Panics
    /// If gotatun gives out a message that the cipher has not sealed: nothing leaves then.
    pub(crate) fn seal(mut self, tunn: &mut Tunn, mtu: usize) -> Result<Packet, Self> {
        let room = self.bytes.len() - OVERHEAD;
        let end = HEADER_SIZE + padded(self.length, mtu).min(room);
        let text = &mut self.bytes[HEADER_SIZE..end];
        let (message, is_sealed) = seal_instead(text, || {
            tunn.encapsulate_with_session(Packet::copy_from(&STUB[..]))
        });
        let Ok(message) = message else {
            return Err(self);
        };
        assert!(is_sealed, "the packet was not sealed");
        let message = message.into_bytes();
        self.bytes[..HEADER_SIZE].copy_from_slice(&message[..HEADER_SIZE]);
        let tag = &message[HEADER_SIZE + STUB.len()..];
        self.bytes[end..end + TAG_SIZE].copy_from_slice(tag);
        self.bytes.truncate(end + TAG_SIZE);
        Ok(Packet::from_bytes(self.bytes))
    }
}

impl Deref for Frame {
    type Target = [u8];

    /// The packet.
    fn deref(&self) -> &[u8] {
        &self.bytes[HEADER_SIZE..HEADER_SIZE + self.length]
    }
}

impl DerefMut for Frame {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[HEADER_SIZE..HEADER_SIZE + self.length]
    }
}

/// Pads to 16 bytes, but not beyond the MTU, as wireguard-go does.
fn padded(length: usize, mtu: usize) -> usize {
    length.next_multiple_of(PADDING).min(mtu).max(length)
}

/// Memory for the frames of batches, in chunks that are used again once their frames are gone. What
/// waits for the next batch holds its chunk only: the fewer are in turn, the nearer their cache.
pub struct Frames {
    chunks: VecDeque<BytesMut>,
    /// How many of them the batch has begun; the last of these is the first of `chunks`.
    begun: usize,
    mtu: usize,
}

impl Frames {
    /// Takes no memory before the first packet.
    pub fn new() -> Self {
        Self {
            chunks: VecDeque::new(),
            begun: 0,
            mtu: 0,
        }
    }

    /// Begins a batch, whose packets will be padded as far as `mtu` allows.
    pub fn begin(&mut self, mtu: u16) {
        self.mtu = mtu.into();
        self.begun = 0;
    }

    /// Makes room for what one more read brings; false if the batch has all that it may have.
    pub fn make_room(&mut self) -> bool {
        if self.begun > 0 && self.room() >= ROOM_OF_A_READ {
            return true;
        }
        if self.begun == MAX_CHUNKS {
            return false;
        }
        let chunk = self.take_chunk();
        self.chunks.push_front(chunk);
        self.begun += 1;
        true
    }

    /// Takes the chunk that was used last of those that are free, or a new one.
    fn take_chunk(&mut self) -> BytesMut {
        for place in self.begun..self.chunks.len() {
            if self.chunks[place].try_reclaim(CHUNK)
                && let Some(chunk) = self.chunks.remove(place)
            {
                return chunk;
            }
        }
        // Chunks that others hold live on with them.
        self.chunks.truncate(MAX_KEPT_CHUNKS - 1);
        BytesMut::with_capacity(CHUNK)
    }

    fn room(&self) -> usize {
        self.chunks.front().map_or(0, BytesMut::capacity)
    }

    /// Places a packet behind the one before it; alone, without room.
    pub fn place(&mut self, packet: &[u8]) -> Frame {
        self.place_parts([packet, &[]])
    }

    /// The same for a packet in two parts.
    pub(crate) fn place_parts(&mut self, parts: [&[u8]; 2]) -> Frame {
        let padded = padded(parts[0].len() + parts[1].len(), self.mtu);
        let size = padded + OVERHEAD;
        match self.chunks.front_mut() {
            Some(chunk) if self.begun > 0 && chunk.capacity() >= size => {
                Frame::write(chunk, parts, padded)
            }
            _ => Frame::write(&mut BytesMut::with_capacity(size), parts, padded),
        }
    }
}

impl Default for Frames {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::{CHUNK, Frame, Frames, HEADER_SIZE, MAX_CHUNKS, MAX_KEPT_CHUNKS, TAG_SIZE, padded};

    fn begun(mtu: u16) -> Frames {
        let mut frames = Frames::new();
        frames.begin(mtu);
        assert!(frames.make_room());
        frames
    }

    #[test]
    fn padding_stays_below_the_mtu() {
        for (length, mtu, wanted) in [
            (1, 1420, 16),
            (16, 1420, 16),
            (1409, 1420, 1420),
            (1420, 1420, 1420),
            (1430, 1420, 1430),
        ] {
            assert_eq!(padded(length, mtu), wanted);
        }
    }

    #[test]
    fn a_packet_has_room_around_it() {
        for frame in [Frame::copy_from(&[7; 33]), begun(1420).place(&[7; 33])] {
            assert_eq!(frame[..], [7; 33]);
            assert_eq!(frame.bytes.len(), HEADER_SIZE + 48 + TAG_SIZE);
            assert!(
                frame.bytes[HEADER_SIZE + 33..]
                    .iter()
                    .all(|byte| *byte == 0)
            );
        }
    }

    #[test]
    fn packets_lie_one_behind_the_other() {
        let mut frames = begun(1420);
        let placed: Vec<Frame> = (0..40).map(|byte| frames.place(&[byte; 1420])).collect();
        for (number, pair) in placed.windows(2).enumerate() {
            assert_eq!(pair[0].bytes.as_ptr_range().end, pair[1].bytes.as_ptr());
            assert_eq!(pair[1][..], [number as u8 + 1; 1420]);
        }
    }

    #[test]
    fn a_batch_has_so_much_room_and_no_more() {
        let mut frames = Frames::new();
        for _ in 0..3 {
            frames.begin(1420);
            let mut placed = Vec::new();
            while frames.make_room() {
                placed.extend((0..46).map(|_| frames.place(&[1; 1420])));
            }
            assert_eq!(placed.len(), 2 * MAX_CHUNKS * 46);
        }
        // What one read brings has room everywhere, but for packets with next to nothing in them.
        frames.begin(1420);
        assert!(frames.make_room());
        let own = frames.place(&[1; 1420]);
        let small: Vec<Frame> = (0..3 * CHUNK / 64)
            .map(|_| frames.place(&[2; 20]))
            .collect();
        assert_eq!(own[..], [1; 1420]);
        assert!(small.iter().all(|frame| frame[..] == [2; 20]));
    }

    #[test]
    fn memory_is_used_again_once_its_packets_are_gone() {
        let mut frames = begun(1420);
        let first = frames.place(&[1; 1420]);
        let place = first.bytes.as_ptr();
        let mut held = vec![first];
        for byte in 2..30 {
            frames.begin(1420);
            assert!(frames.make_room());
            let next = frames.place(&[byte; 1420]);
            assert_ne!(next.bytes.as_ptr(), place); // somebody holds that memory
            held.push(next);
            assert!(frames.chunks.len() <= MAX_KEPT_CHUNKS);
        }
        for (byte, frame) in (1..).zip(&held) {
            assert_eq!(frame[..], [byte; 1420]);
        }
        drop(held);
        frames.begin(1420);
        assert!(frames.make_room());
        let place = frames.place(&[1; 1420]).bytes.as_ptr();
        frames.begin(1420);
        assert!(frames.make_room());
        assert_eq!(frames.place(&[2; 1420]).bytes.as_ptr(), place);
    }
}
