//! Panics to order, in the worst place of each direction, for tests of what a panic leaves behind.  The feature `faults`
//! has them; such a build has another name (see python.rs), and no configuration can load it.

/// What a packet holds that is to bring a thread down.
#[cfg(feature = "faults")]
const ORDER: &[u8] = b"ipsecd: panic at this packet";

/// Fail where a packet orders it.
#[cfg(feature = "faults")]
pub fn obey(packet: &[u8]) {
    assert!(!packet.windows(ORDER.len()).any(|window| window == ORDER), "ordered by a packet");
}

/// Do nothing.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub fn obey(_: &[u8]) {}
