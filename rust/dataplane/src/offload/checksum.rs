//! The Internet checksum (RFC 1071).

/// Adds up 16-bit words, a last odd byte padded with zero; the result is folded later.
fn sum(bytes: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has what it needs.
        return unsafe { sum_avx2(bytes) };
    }
    sum_lanes(bytes)
}

/// The same with twice as wide vectors.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(bytes: &[u8]) -> u64 {
    sum_lanes(bytes)
}

/// Words are added in the host's order, in lanes that a compiler turns into vectors.
#[inline(always)]
fn sum_lanes(bytes: &[u8]) -> u64 {
    let mut lanes = [0u64; 8];
    let (blocks, rest) = bytes.as_chunks::<32>();
    for block in blocks {
        let (words, _) = block.as_chunks::<4>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let mut total: u64 = lanes.iter().sum();
    let (words, odd) = rest.as_chunks::<2>();
    for word in words {
        total += u64::from(u16::from_ne_bytes(*word));
    }
    if let [byte] = odd {
        total += u64::from(u16::from_ne_bytes([*byte, 0]));
    }
    total
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    // Words were added in the host's order; the sum has that order too (RFC 1071 2 B).
    u16::from_be(sum as u16)
}

/// Returns the checksum of `bytes` and a sum from before; over right data with its checksum it is 0.
pub fn internet_checksum(bytes: &[u8], before: u16) -> u16 {
    !fold(sum(bytes) + u64::from(before.to_be()))
}

/// Returns the sum, not inverted, of the pseudo header of an IP packet's transport.
///
/// `addresses` are both addresses in the packet's order; RFC 9293 3.1, RFC 8200 8.1.
pub fn pseudo_header_sum(addresses: &[u8], protocol: u8, length: u16) -> u16 {
    let tail = u64::from(u16::from(protocol).to_be()) + u64::from(length.to_be());
    fold(sum(addresses) + tail)
}
