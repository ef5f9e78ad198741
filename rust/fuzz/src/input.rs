//! Values out of a fuzzer's bytes, packets to begin with, and mutations without a fuzzer.

use ginnel_dataplane::offload::{internet_checksum, pseudo_header_sum};

/// Reads values from the front; what is missing is zero.
pub struct Input<'data>(pub &'data [u8]);

impl<'data> Input<'data> {
    /// Takes one byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    /// Takes two bytes, big endian.
    pub fn short(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// Takes up to `count` bytes.
    pub fn bytes(&mut self, count: usize) -> &'data [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Takes a length of two bytes and so many bytes.
    pub fn block(&mut self) -> &'data [u8] {
        let count = usize::from(self.short());
        self.bytes(count)
    }

    /// Says whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Changes a message as the input says: pairs of place and value, then perhaps a new length.
pub fn altered(mut message: Vec<u8>, input: &mut Input<'_>) -> Vec<u8> {
    for _ in 0..input.byte() % 4 {
        let at = usize::from(input.short()) % message.len().max(1);
        if let Some(byte) = message.get_mut(at) {
            *byte ^= input.byte();
        }
    }
    if input.byte() & 7 == 7 {
        message.truncate(usize::from(input.short()));
    }
    message
}

/// Puts the length of `data`, below 65,536, in front of it: what [`Input::block`] reads.
pub fn block(data: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(data.len())
        .unwrap_or(u16::MAX)
        .to_be_bytes()
        .to_vec();
    bytes.extend_from_slice(data);
    bytes
}

/// An IP packet with TCP (`tcp_sequence`) or UDP in it and right checksums.
pub fn packet(ipv6: bool, tcp_sequence: Option<u32>, payload: &[u8]) -> Vec<u8> {
    let (protocol, at) = if tcp_sequence.is_some() {
        (6, 16)
    } else {
        (17, 6)
    };
    let mut transport = vec![0x13, 0x88, 0x14, 0x51]; // ports
    match tcp_sequence {
        Some(sequence) => {
            transport.extend(sequence.to_be_bytes());
            transport.extend([0, 0, 0, 7, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
        }
        None => {
            transport.extend((8 + payload.len() as u16).to_be_bytes());
            transport.extend([0, 0]);
        }
    }
    transport.extend_from_slice(payload);
    let length = transport.len() as u16;
    let mut whole = if ipv6 {
        let mut header = vec![0x60, 0, 0, 0];
        header.extend(length.to_be_bytes());
        header.extend([protocol, 64]);
        header.extend([0xFD; 15].iter().chain(&[1]));
        header.extend([0xFD; 15].iter().chain(&[2]));
        header
    } else {
        let mut header = vec![0x45, 0];
        header.extend((length + 20).to_be_bytes());
        header.extend([
            0, 0, 0x40, 0, 64, protocol, 0, 0, 100, 64, 0, 1, 100, 64, 0, 2,
        ]);
        let checksum = internet_checksum(&header, 0).to_be_bytes();
        header[10..12].copy_from_slice(&checksum);
        header
    };
    let addresses = if ipv6 { 8..40 } else { 12..20 };
    let pseudo = pseudo_header_sum(&whole[addresses], protocol, length);
    let checksum = internet_checksum(&transport, pseudo).to_be_bytes();
    transport[at..at + 2].copy_from_slice(&checksum);
    whole.extend(transport);
    whole
}

/// Changes bytes by chance that comes from `seed`: the same seed does the same.
pub fn mutate(data: &mut Vec<u8>, seed: u64) {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = |limit: usize| {
        // xorshift64*: even enough to choose places and values.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        let drawn = state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        drawn as usize % limit.max(1)
    };
    for _ in 0..=next(4) {
        let at = next(data.len());
        match next(5) {
            0 => data.truncate(at),
            1 => data.insert(at.min(data.len()), next(256) as u8),
            2 => {
                let copy = data[at.min(data.len())..].to_vec();
                data.extend(copy);
            }
            kind => {
                if let Some(byte) = data.get_mut(at) {
                    *byte = [next(256) as u8, [0, 1, 0x7F, 0x80, 0xFF][next(5)]][kind % 2];
                }
            }
        }
    }
    data.truncate(MAX_INPUT);
}

/// Bytes of an input: several packets of the largest kind.
pub const MAX_INPUT: usize = 200_000;
