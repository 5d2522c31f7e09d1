//! The Internet checksum (RFC 1071).

/// Sum 16-bit big-endian words, an odd last byte padded; not folded, so that sums can be added.
///
/// Words are added in the machine's order, four lanes of 64 bits at a time, and turned at the end: the one's complement
/// sum does not depend on byte order (RFC 1071 2, B).
pub fn sum(data: &[u8]) -> u64 {
    let mut lanes = [0u64; 8];
    let mut blocks = data.chunks_exact(32);
    for block in &mut blocks {
        for (lane, word) in lanes.iter_mut().zip(block.chunks_exact(4)) {
            *lane += u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
        }
    }
    let mut total: u64 = lanes.iter().map(|lane| (lane & 0xFFFF_FFFF) + (lane >> 32)).sum();
    let mut words = blocks.remainder().chunks_exact(2);
    for word in &mut words {
        total += u64::from(u16::from_ne_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        total += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    u64::from(u16::from_be(fold(total)))
}

/// Fold a sum to 16 bits, carries added back in.
pub fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    sum as u16
}

/// Sum the pseudo-header of an upper layer (RFC 793 3.1, RFC 8200 8.1), whose addresses lie in `addresses`.
pub fn pseudo(addresses: &[u8], protocol: u8, length: usize) -> u64 {
    sum(addresses) + u64::from(protocol) + length as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(data: &[u8]) -> u16 {
        let words = data.chunks(2).map(|w| u64::from(w[0]) << 8 | w.get(1).map_or(0, |b| u64::from(*b)));
        fold(words.sum())
    }

    #[test]
    fn sum_is_that_of_the_words_at_every_length() {
        let data: Vec<u8> = (0..1500u32).map(|n| (n * 167 + 13) as u8).collect();
        for length in (0..200).chain([1399, 1400, 1499, 1500]) {
            assert_eq!(fold(sum(&data[..length])), naive(&data[..length]), "{length}");
        }
        assert_eq!(fold(sum(&[0xFF; 4096])), 0xFFFF);
    }
}
