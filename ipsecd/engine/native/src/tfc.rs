//! Traffic flow confidentiality (RFC 4303 2.6, 2.7): the twin of ipsecd/ipsec/tfc.py.

use aws_lc_rs::rand;

/// Next header of a dummy, which its receiver discards.
pub const NO_NEXT_HEADER: u8 = 59;
/// Below the largest UDP datagram, where the path is not known.
pub const MAX_DUMMY_BYTES: usize = 65_000;

/// How packets of a pair are padded.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)]
pub struct Tfc {
    pub pad_to: usize,
    pub randomly: bool,
}

impl Tfc {
    /// The size to which a packet of `length` is padded; `largest` fits the path, 0 where not known.
    pub fn padded_bytes(&self, length: usize, largest: usize) -> usize {
        if largest <= length {
            return length;
        }
        match self.pad_to {
            _ if self.randomly => length + random_below(largest - length + 1),
            0 => length,
            step => length.next_multiple_of(step).min(largest),
        }
    }

    /// The size that `padded_bytes` comes to at the most.
    pub fn most_bytes(&self, length: usize, largest: usize) -> usize {
        if self.randomly { length.max(largest) } else { self.padded_bytes(length, largest) }
    }
}

/// Any number below `limit`, which is far below 2^32; without chance the largest, which hides most.
fn random_below(limit: usize) -> usize {
    let mut bytes = [0u8; 8];
    match rand::fill(&mut bytes) {
        // The remainder is biased by less than limit / 2^64.
        Ok(()) => (u64::from_le_bytes(bytes) % limit as u64) as usize,
        Err(_) => limit - 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_padded_to_steps_within_the_path() {
        let tfc = Tfc { pad_to: 500, randomly: false };
        let sizes = [40, 500, 501, 1399, 1400, 1500].map(|length| tfc.padded_bytes(length, 1400));
        assert_eq!(sizes, [500, 500, 1000, 1400, 1400, 1500]);
        assert_eq!(tfc.padded_bytes(40, 0), 40);
        assert_eq!(Tfc::default().padded_bytes(40, 1400), 40);
        assert_eq!((tfc.most_bytes(40, 1400), tfc.most_bytes(40, 0)), (500, 40));
        let random = Tfc { pad_to: 0, randomly: true };
        assert_eq!((random.most_bytes(40, 1400), random.most_bytes(40, 0)), (1400, 40));
    }

    #[test]
    fn random_sizes_cover_what_the_path_carries() {
        let tfc = Tfc { pad_to: 0, randomly: true };
        let sizes: std::collections::HashSet<usize> = (0..10_000).map(|_| tfc.padded_bytes(1300, 1309)).collect();
        assert_eq!(sizes, (1300..=1309).collect());
    }
}
