//! Anti-replay window (RFC 4303 3.4.3) and the high half of extended sequence numbers (RFC 4303 appendix A2).

use crate::drops::Reason;

/// Smallest and largest window; RFC 4303 3.4.3 asks for 32 at least.
pub const SIZES: std::ops::RangeInclusive<u32> = 64..=8192;
const WORD: u64 = 64;

/// Remembers which sequence numbers were received.  A size of 0 switches the refusals off.
///
/// A ring of bits, one for each number of the window, in as many words as hold the window and one more (RFC 6479):
/// moving on clears whole words instead of shifting all of them.  All numbers up to 0 count as received from the
/// start, so that 0 is never valid and what was never sent is not counted as lost.
pub struct Window {
    bits: Box<[u64]>,
    size: u64,
    /// Highest number received.
    pub top: u64,
    /// Numbers that left the window without being received.
    pub lost: u64,
}

impl Window {
    /// An empty window; `None` for a size outside `SIZES` that is not 0.
    pub fn new(size: u32) -> Option<Window> {
        if size != 0 && !SIZES.contains(&size) {
            return None;
        }
        let words = (u64::from(size).div_ceil(WORD) + 1).next_power_of_two() as usize;
        // Numbers up to 0 count as received: bits from the window's bottom up to 0 itself.
        let mut window =
            Window { bits: vec![u64::MAX; words].into_boxed_slice(), size: u64::from(size), top: 0, lost: 0 };
        window.bits[0] = 1;
        Some(window)
    }

    /// Why this number is refused, `None` when it is new.  Changes nothing.
    pub fn check(&self, sequence: u64) -> Option<Reason> {
        if sequence == 0 {
            return Some(Reason::EspTooOld); // RFC 4303 3.3.3: the first packet has 1
        }
        if sequence > self.top || self.size == 0 {
            return None;
        }
        if self.top - sequence >= self.size {
            return Some(Reason::EspTooOld);
        }
        self.has(sequence).then_some(Reason::EspReplayed)
    }

    /// Remember the number of an authenticated packet; refuse, unchanged, what `check` refuses by then.
    pub fn commit(&mut self, sequence: u64) -> Option<Reason> {
        if sequence <= self.top {
            let refused = self.check(sequence);
            if refused.is_none() && self.size > 0 {
                self.set(sequence);
            }
            return refused;
        }
        if self.size > 0 {
            self.advance(sequence);
        }
        self.top = sequence;
        None
    }

    /// Move the window up so that it ends at `sequence`, counting what was never received.
    fn advance(&mut self, sequence: u64) {
        let ahead = sequence - self.top;
        if ahead == 1 && self.top >= self.size {
            // Nearly always: one number leaves for the one that enters.
            self.lost += u64::from(!self.has(self.top - self.size + 1));
        } else if ahead == 1 {
            // What leaves lies before the first packet.
        } else if ahead >= self.size {
            self.lost += ahead - self.received();
        } else {
            // `leaving` numbers of the window go, none before 1 counts.
            let bottom = self.top.saturating_sub(self.size - 1);
            let leaving = sequence.saturating_sub(self.size - 1);
            self.lost += (bottom.max(1)..leaving.max(1)).filter(|number| !self.has(*number)).count() as u64;
        }
        self.clear_up_to(sequence);
        self.set(sequence);
    }

    /// How many numbers of the window were received, those before 1 among them.
    fn received(&self) -> u64 {
        let first = self.top.saturating_sub(self.size - 1).max(1);
        let before = self.size - self.top.saturating_sub(first - 1);
        before + (first..=self.top).filter(|number| self.has(*number)).count() as u64
    }

    /// Make room for numbers above `top`: words that they enter begin empty.
    fn clear_up_to(&mut self, sequence: u64) {
        let (from, to) = (self.top / WORD, sequence / WORD);
        let words = self.bits.len() as u64;
        for word in (from + 1)..=to.min(from + words) {
            self.bits[(word & (words - 1)) as usize] = 0;
        }
    }

    fn place(&self, sequence: u64) -> (usize, u64) {
        ((sequence / WORD) as usize & (self.bits.len() - 1), 1 << (sequence % WORD))
    }

    fn has(&self, sequence: u64) -> bool {
        let (word, bit) = self.place(sequence);
        self.bits[word] & bit != 0
    }

    fn set(&mut self, sequence: u64) {
        let (word, bit) = self.place(sequence);
        self.bits[word] |= bit;
    }
}

/// The 64-bit number that low 32 bits stand for, seen from a window of `size` ending at `top`; `None` means "before the
/// first packet".  A wrong guess fails authentication, which covers the number.
pub fn full_sequence(low: u32, top: u64, size: u64) -> Option<u64> {
    let size = if size == 0 { u64::from(*SIZES.start()) } else { size };
    let (high, top_low, low) = (top >> 32, top & 0xFFFF_FFFF, u64::from(low));
    if top_low + 1 >= size {
        // A2.2 case A: the window lies within one epoch.
        let high = if low >= top_low + 1 - size { high } else { high.checked_add(1)? };
        return (high <= 0xFFFF_FFFF).then_some(high << 32 | low);
    }
    // Case B: it spans two.
    let bottom = (1u64 << 32) + top_low + 1 - size;
    let high = if low >= bottom { high.checked_sub(1)? } else { high };
    Some(high << 32 | low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The window as a set of all numbers ever received.
    struct Naive {
        size: u64,
        top: u64,
        seen: BTreeSet<u64>,
    }

    impl Naive {
        fn check(&self, sequence: u64) -> Option<Reason> {
            if sequence == 0 || (self.size > 0 && sequence <= self.top && self.top - sequence >= self.size) {
                return Some(Reason::EspTooOld);
            }
            (self.size > 0 && self.seen.contains(&sequence)).then_some(Reason::EspReplayed)
        }

        fn commit(&mut self, sequence: u64) -> Option<Reason> {
            let refused = self.check(sequence);
            if refused.is_none() {
                self.seen.insert(sequence);
                self.top = self.top.max(sequence);
            }
            refused
        }

        fn lost(&self) -> u64 {
            let left = (self.top + 1).saturating_sub(self.size).max(1);
            (1..left).filter(|number| !self.seen.contains(number)).count() as u64
        }
    }

    /// A linear congruential generator: repeatable and enough to visit every branch.
    fn chance(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    }

    #[test]
    fn window_answers_as_a_set_of_all_numbers_does() {
        for (size, seed) in [(0, 1), (64, 2), (65, 3), (100, 4), (128, 5), (1000, 6), (8192, 7)] {
            let mut window = Window::new(size).unwrap();
            let mut naive = Naive { size: u64::from(size), top: 0, seen: BTreeSet::new() };
            let mut state = seed;
            for _ in 0..4000 {
                let reach = if chance(&mut state) % 20 == 0 { 3 * u64::from(size) + 70 } else { 12 };
                let forward = chance(&mut state) % 2 == 0;
                let step = chance(&mut state) % (reach + 1);
                let sequence = if forward { naive.top + step } else { naive.top.saturating_sub(step) };
                assert_eq!(window.check(sequence), naive.check(sequence), "{size} {sequence}");
                assert_eq!(window.commit(sequence), naive.commit(sequence), "{size} {sequence}");
                assert_eq!(window.top, naive.top);
            }
            if size > 0 {
                assert_eq!(window.lost, naive.lost(), "{size}");
            }
        }
    }

    #[test]
    fn sizes_outside_the_limits_are_refused() {
        assert!(Window::new(63).is_none());
        assert!(Window::new(8193).is_none());
    }

    #[test]
    fn high_half_follows_the_window() {
        assert_eq!(full_sequence(5, 0, 64), Some(5));
        assert_eq!(full_sequence(0xFFFF_FFF0, 0, 64), None);
        assert_eq!(full_sequence(3, 0xFFFF_FFFE, 64), Some((1 << 32) + 3));
        assert_eq!(full_sequence(0xFFFF_FFF0, (1 << 32) + 5, 64), Some(0xFFFF_FFF0));
        assert_eq!(full_sequence(100, (7 << 32) + 5, 64), Some((7 << 32) + 100));
    }
}
