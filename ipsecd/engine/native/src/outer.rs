//! The IP headers ahead of AH: where it begins, and what of them its ICV covers (RFC 4302 3.3.3.1, appendix A).
//!
//! What routers may change is taken as zero: in IPv4 TOS, flags, fragment offset, TTL, checksum and whole options of
//! kinds that change; in IPv6 traffic class, flow label, hop limit and the data of options that say so themselves.

use crate::drops::Reason;
use crate::ip::{AH, DESTINATION, FRAGMENT, HOP_BY_HOP, MAX_EXTENSION_BYTES, MAX_EXTENSION_HEADERS, ROUTING};

/// An IPv4 header without options, and an IPv6 header.
pub const V4_BYTES: usize = 20;
/// See `V4_BYTES`.
pub const V6_BYTES: usize = 40;
/// RFC 4302 appendix A1: options that are covered.  The table has the others, and unknown ones, as mutable.
const IMMUTABLE_OPTIONS: [u8; 5] = [130, 133, 134, 148, 149];
const END: u8 = 0;
/// An option of one byte.
pub const NO_OPERATION: u8 = 1;
/// Where the IPv4 header names what is behind it.
pub const V4_NAMED_AT: usize = 9;
/// The same of the IPv6 header.
pub const V6_NAMED_AT: usize = 6;
const PAD1: u8 = 0;
/// RFC 8200 4.2: the third-highest bit of an option's type.
const CHANGES_EN_ROUTE: u8 = 0x20;
/// More fragments, and offset.
const FRAGMENTED: u16 = 0x3FFF;

/// The headers with what is mutable zeroed; AH begins behind them, and the packet ends at `end`.
pub struct Outer {
    covered: [u8; V6_BYTES + MAX_EXTENSION_BYTES],
    /// Where AH begins.
    pub at: usize,
    /// Where the packet ends.
    pub end: usize,
    /// IP version.
    pub version: u8,
    /// Where the headers say that AH follows.
    pub named_at: usize,
}

impl Outer {
    /// What the ICV covers of the headers.
    pub fn covered(&self) -> &[u8] {
        &self.covered[..self.at]
    }
}

/// Read the headers of a whole packet, up to AH.
pub fn read(packet: &[u8]) -> Result<Outer, Reason> {
    match packet.first().map(|first| first >> 4) {
        Some(4) => read_v4(packet),
        Some(6) => read_v6(packet),
        _ => Err(Reason::AhMalformed),
    }
}

/// Zero what is mutable in an IPv4 header without options, or in an IPv6 header without extensions.
pub fn mask(header: &mut [u8]) {
    let mutable: &[usize] = if header[0] >> 4 == 4 { &[1, 6, 7, 8, 10, 11] } else { &[1, 2, 3, 7] };
    for at in mutable {
        header[*at] = 0;
    }
    if header[0] >> 4 == 6 {
        header[0] = 0x60;
    }
}

fn read_v4(packet: &[u8]) -> Result<Outer, Reason> {
    if packet.len() < V4_BYTES {
        return Err(Reason::AhShort);
    }
    let header = usize::from(packet[0] & 15) * 4;
    let end = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    if header < V4_BYTES || end < header || end > packet.len() || packet[9] != AH {
        return Err(Reason::AhMalformed);
    }
    if u16::from_be_bytes([packet[6], packet[7]]) & FRAGMENTED != 0 {
        return Err(Reason::AhFragment);
    }
    let covered = [0; V6_BYTES + MAX_EXTENSION_BYTES];
    let mut outer = Outer { covered, at: header, end, version: 4, named_at: V4_NAMED_AT };
    outer.covered[..header].copy_from_slice(&packet[..header]);
    mask(&mut outer.covered[..V4_BYTES]);
    mask_options(&mut outer.covered[V4_BYTES..header], 0).ok_or(Reason::AhMalformed)?;
    Ok(outer)
}

/// Fill IPv4 options that change, as a whole (RFC 4302 3.3.3.1.1.2); `None` for lengths that are wrong.
pub fn mask_options(options: &mut [u8], fill: u8) -> Option<()> {
    let mut at = 0;
    while at < options.len() && options[at] != END {
        if options[at] == NO_OPERATION {
            at += 1;
            continue;
        }
        let length = usize::from(*options.get(at + 1)?);
        if length < 2 || at + length > options.len() {
            return None;
        }
        if !IMMUTABLE_OPTIONS.contains(&options[at]) {
            options[at..at + length].fill(fill);
        }
        at += length;
    }
    Some(())
}

fn read_v6(packet: &[u8]) -> Result<Outer, Reason> {
    if packet.len() < V6_BYTES {
        return Err(Reason::AhShort);
    }
    let end = V6_BYTES + usize::from(u16::from_be_bytes([packet[4], packet[5]]));
    if end > packet.len() {
        return Err(Reason::AhMalformed);
    }
    let covered = [0; V6_BYTES + MAX_EXTENSION_BYTES];
    let mut outer = Outer { covered, at: V6_BYTES, end, version: 6, named_at: V6_NAMED_AT };
    outer.covered[..V6_BYTES].copy_from_slice(&packet[..V6_BYTES]);
    mask(&mut outer.covered[..V6_BYTES]);
    let (mut following, mut seen) = (packet[6], 0);
    while following != AH {
        seen += 1;
        let at = outer.at;
        match following {
            // Whole when it comes from the kernel (RFC 4302 3.4.1).
            FRAGMENT => return Err(Reason::AhFragment),
            HOP_BY_HOP if at != V6_BYTES => return Err(Reason::AhMalformed),
            HOP_BY_HOP | ROUTING | DESTINATION if at + 8 <= end => {}
            _ => return Err(Reason::AhMalformed),
        }
        let behind = at + (usize::from(packet[at + 1]) + 1) * 8;
        if behind > end || behind - V6_BYTES > MAX_EXTENSION_BYTES || seen > MAX_EXTENSION_HEADERS {
            return Err(Reason::AhMalformed);
        }
        let covered = &mut outer.covered[at..behind];
        covered.copy_from_slice(&packet[at..behind]);
        if following != ROUTING {
            mask_extension(covered).ok_or(Reason::AhMalformed)?;
        }
        following = packet[at];
        (outer.named_at, outer.at) = (at, behind);
    }
    Ok(outer)
}

/// Zero the data of options that may change (RFC 4302 3.3.3.1.2.2); `None` for lengths that are wrong.
fn mask_extension(header: &mut [u8]) -> Option<()> {
    let mut at = 2;
    while at < header.len() {
        if header[at] == PAD1 {
            at += 1;
            continue;
        }
        let behind = at + 2 + usize::from(*header.get(at + 1)?);
        if behind > header.len() {
            return None;
        }
        if header[at] & CHANGES_EN_ROUTE != 0 {
            header[at + 2..behind].fill(0);
        }
        at = behind;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn option_that_changes_counts_as_zero_and_a_wrong_length_is_refused() {
        let mut options = [1, 148, 4, 7, 7, 131, 3, 9, 0, 9, 9, 9];
        assert!(mask_options(&mut options, 0).is_some());
        assert_eq!(options, [1, 148, 4, 7, 7, 0, 0, 0, 0, 9, 9, 9]);
        assert!(mask_options(&mut [131, 1, 0, 0], 0).is_none());
        assert!(mask_options(&mut [131, 5, 0, 0], 0).is_none());
        assert!(mask_options(&mut [1, 1, 1, 131], 0).is_none());
    }

    #[test]
    fn extension_says_itself_what_may_change() {
        let mut header = [51, 1, 0x05, 2, 1, 1, 0x3E, 4, 1, 1, 1, 1, 0, 1, 0, 0];
        assert!(mask_extension(&mut header).is_some());
        assert_eq!(header, [51, 1, 0x05, 2, 1, 1, 0x3E, 4, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert!(mask_extension(&mut [51, 0, 5, 5, 0, 0, 0, 0]).is_none());
    }

    #[test]
    fn bytes_of_every_length_end_within_the_packet() {
        for length in 0..120 {
            for first in [0x45, 0x4F, 0x60, 0x50] {
                for following in [AH, HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION, 17] {
                    let mut packet = vec![following; length];
                    packet.iter_mut().take(1).for_each(|byte| *byte = first);
                    if let Ok(outer) = read(&packet) {
                        assert!(outer.at <= outer.end && outer.end <= length);
                    }
                }
            }
        }
    }
}
