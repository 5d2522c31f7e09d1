//! ESP or AH that came ahead of its SA: who answers an exchange may send at once, while we still verify the answer.
//!
//! Nothing of it is trusted: it waits as it came, for a second at most, and is opened like any other once its SA stands.
//! A flood of unknown SPIs only pushes out what waits.

use crate::inbound::Outside;
use std::collections::VecDeque;

/// A round trip's worth of a busy child; a rekey needs none, its responder waits for our first packet.
const MAX_DATAGRAMS: usize = 256;
const MAX_BYTES: usize = 512 * 1024;
/// Longer than a signature takes to verify on a busy machine.
const MAX_AGE_S: f64 = 1.0;

/// A datagram as it came.
pub struct Datagram {
    spi: u32,
    protocol: u8,
    /// Where from, and when.
    pub outside: Outside,
    /// ESP without anything before it; a whole IP packet with AH.
    pub data: Vec<u8>,
}

/// Those that wait, oldest first.
#[derive(Default)]
pub struct Early {
    waiting: VecDeque<Datagram>,
    bytes: usize,
}

impl Early {
    /// Keep a datagram; the oldest go for it.
    pub fn keep(&mut self, spi: u32, protocol: u8, data: &[u8], outside: &Outside) {
        self.bytes += data.len();
        self.waiting.push_back(Datagram { spi, protocol, outside: *outside, data: data.to_vec() });
        while self.waiting.len() > MAX_DATAGRAMS || self.bytes > MAX_BYTES {
            self.bytes -= self.waiting.pop_front().map_or(0, |oldest| oldest.data.len());
        }
    }

    /// Take what waits for an SA and is not too old at `now`, in the order it came.
    pub fn take(&mut self, spi: u32, protocol: u8, now: f64) -> Vec<Datagram> {
        let (found, others): (VecDeque<_>, VecDeque<_>) =
            self.waiting.drain(..).partition(|datagram| (datagram.spi, datagram.protocol) == (spi, protocol));
        self.waiting = others;
        self.bytes = self.waiting.iter().map(|datagram| datagram.data.len()).sum();
        found.into_iter().filter(|datagram| now - datagram.outside.now <= MAX_AGE_S).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip;
    use crate::sad::Path;

    fn at(now: f64) -> Outside {
        let end = "192.0.2.1:4500".parse().expect("an address");
        Outside { path: Path { local: end, remote: end }, tos: 0, now }
    }

    #[test]
    fn own_spi_is_taken_once_in_order_and_only_while_young() {
        let mut early = Early::default();
        early.keep(7, ip::AH, &[5], &at(1.9));
        for (spi, byte, now) in [(7, 1, 0.0), (7, 2, 1.5), (8, 3, 1.6), (7, 4, 1.7)] {
            early.keep(spi, ip::ESP, &[byte], &at(now));
        }
        let taken: Vec<_> = early.take(7, ip::ESP, 2.0).into_iter().map(|datagram| datagram.data).collect();
        assert_eq!(taken, [[2], [4]]);
        assert!(early.take(7, ip::ESP, 2.0).is_empty());
        assert_eq!(early.bytes, 2, "of another SPI, and of another protocol");
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_bytes() {
        let mut early = Early::default();
        for _ in 0..2 * MAX_DATAGRAMS {
            early.keep(7, ip::ESP, &[0; 4], &at(0.0));
        }
        assert_eq!(early.waiting.len(), MAX_DATAGRAMS);
        for _ in 0..20 {
            early.keep(7, ip::ESP, &vec![0; MAX_BYTES / 8], &at(0.0));
        }
        assert!(early.bytes <= MAX_BYTES);
    }
}
