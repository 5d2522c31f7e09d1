//! Transport mode with AH (RFC 4302 3.1.1): which headers of a packet stay ahead of AH, and the packet made of it again.
//!
//! ```text
//! IPv4   header, options | AH | upper layer
//! IPv6   header, hop-by-hop, routing, and what stands ahead of those | AH | destination options | upper layer
//! ```
//!
//! Unlike ESP, AH has its headers from the packet itself and we write them, so IP options are carried.  A packet whose
//! route they prescribe is not: its destination is another at each hop.  What routers may change is not authentic, so it
//! does not reach the host: options that change become no-operations, and data of IPv6 options that do become zero.

use crate::checksum;
use crate::drops::Reason;
use crate::ip::{self, DESTINATION, DONT_FRAGMENT, FRAGMENT, HOP_BY_HOP, ROUTING, be16};
use crate::outer::{NO_OPERATION, Outer, V4_BYTES, V4_NAMED_AT, V6_BYTES, V6_NAMED_AT, mask_options};
use crate::sad::Path;
use crate::transport::{Ends, HOP_LIMIT, Part, stands_inside};
use std::net::IpAddr;

/// RFC 791 3.1: loose and strict.
const SOURCE_ROUTES: [u8; 2] = [131, 137];
const MOST_OPTIONS: usize = 40;

/// What of a packet, whose headers `ip::parse` has found to be sound, stands behind AH.
pub fn part_of(packet: &[u8]) -> Result<Part, Reason> {
    if packet[0] >> 4 == 6 {
        return part_of_v6(packet);
    }
    if be16(packet, 6) & 0x3FFF != 0 {
        return Err(Reason::OutboundFragment);
    }
    let start = usize::from(packet[0] & 15) * 4;
    if is_source_routed(&packet[V4_BYTES..start]) {
        return Err(Reason::TransportOptions);
    }
    Ok(Part { next_header: packet[V4_NAMED_AT], start, end: be16(packet, 2), named_at: V4_NAMED_AT })
}

fn part_of_v6(packet: &[u8]) -> Result<Part, Reason> {
    let end = V6_BYTES + be16(packet, 4);
    let (mut start, mut at, mut named_at, mut said_at) = (V6_BYTES, V6_BYTES, V6_NAMED_AT, V6_NAMED_AT);
    while matches!(packet[said_at], HOP_BY_HOP | ROUTING | DESTINATION) {
        let kind = packet[said_at];
        said_at = at;
        // RFC 8200 4.4: segments left.
        if kind == ROUTING && packet[at + 3] != 0 {
            return Err(Reason::TransportOptions);
        }
        at += (usize::from(packet[at + 1]) + 1) * 8;
        if kind != DESTINATION {
            (start, named_at) = (at, said_at);
        }
    }
    if packet[said_at] == FRAGMENT {
        return Err(Reason::OutboundFragment);
    }
    Ok(Part { next_header: packet[named_at], start, end, named_at })
}

fn is_source_routed(options: &[u8]) -> bool {
    let mut at = 0;
    while at < options.len() && options[at] != 0 {
        if SOURCE_ROUTES.contains(&options[at]) {
            return true;
        }
        let length = usize::from(options.get(at + 1).copied().unwrap_or(2)).max(2);
        at += if options[at] == NO_OPERATION { 1 } else { length };
    }
    false
}

/// Make the headers that `out` begins with those ahead of AH, between the addresses of a path; false where those are of
/// the other family.  Checksum and Identification of IPv4 are as `Ah::seal` has them.
pub fn write_head(out: &mut [u8], part: &Part, path: &Path, sequence: u64) -> bool {
    let length = out.len();
    match (out[0] >> 4, path.local.ip(), path.remote.ip()) {
        (4, IpAddr::V4(source), IpAddr::V4(destination)) => {
            out[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            if out[4..6] == [0, 0] {
                out[4..6].copy_from_slice(&((sequence % 0xFFFF) as u16 + 1).to_be_bytes());
            }
            out[6..8].copy_from_slice(&[DONT_FRAGMENT, 0]);
            out[10..12].fill(0);
            out[12..16].copy_from_slice(&source.octets());
            out[16..20].copy_from_slice(&destination.octets());
        }
        (6, IpAddr::V6(source), IpAddr::V6(destination)) => {
            out[4..6].copy_from_slice(&((length - V6_BYTES) as u16).to_be_bytes());
            out[8..24].copy_from_slice(&source.octets());
            out[24..40].copy_from_slice(&destination.octets());
        }
        _ => return false,
    }
    out[part.named_at] = ip::AH;
    true
}

/// Make the packet of a verified one between the two hosts of its pair, in place; returns where it begins.
pub fn restore(packet: &mut [u8], outer: &Outer, ah_bytes: usize, ends: &Ends) -> Result<usize, Reason> {
    let next_header = packet[outer.at];
    if !stands_inside(next_header) {
        return Err(Reason::AhNextHeader);
    }
    let (tos, length) = (ip::traffic_class(packet), outer.end - ah_bytes);
    let mut options = [0; MOST_OPTIONS];
    if outer.version == 4 {
        let options = &mut options[..outer.at - V4_BYTES];
        options.copy_from_slice(&packet[V4_BYTES..outer.at]);
        mask_options(options, NO_OPERATION).ok_or(Reason::AhMalformed)?;
    }
    let head = &mut packet[ah_bytes..ah_bytes + outer.at];
    head.copy_from_slice(outer.covered());
    head[outer.named_at] = next_header;
    match (outer.version, ends.local, ends.remote) {
        (4, IpAddr::V4(local), IpAddr::V4(remote)) => {
            head[1] = tos;
            head[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            head[6..8].copy_from_slice(&[DONT_FRAGMENT, 0]);
            head[8] = HOP_LIMIT;
            head[12..16].copy_from_slice(&remote.octets());
            head[16..20].copy_from_slice(&local.octets());
            let room = head.len() - V4_BYTES;
            head[V4_BYTES..].copy_from_slice(&options[..room]);
            let sum = !checksum::fold(checksum::sum(head));
            head[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (6, IpAddr::V6(local), IpAddr::V6(remote)) => {
            head[..4].copy_from_slice(&(6u32 << 28 | u32::from(tos) << 20).to_be_bytes());
            head[4..6].copy_from_slice(&((length - V6_BYTES) as u16).to_be_bytes());
            head[7] = HOP_LIMIT;
            head[8..24].copy_from_slice(&remote.octets());
            head[24..40].copy_from_slice(&local.octets());
        }
        _ => return Err(Reason::InnerMalformed),
    }
    Ok(ah_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet_v6(chain: &[(u8, u8)]) -> Vec<u8> {
        let mut packet = vec![0; V6_BYTES];
        packet[0] = 0x60;
        let mut said_at = V6_NAMED_AT;
        for (kind, segments_left) in chain {
            packet[said_at] = *kind;
            said_at = packet.len();
            packet.extend([17, 0, 0, *segments_left, 0, 0, 0, 0]);
        }
        packet.extend([4, 210, 19, 196, 0, 8, 0, 0]);
        if chain.is_empty() {
            packet[V6_NAMED_AT] = 17;
        }
        let length = (packet.len() - V6_BYTES) as u16;
        packet[4..6].copy_from_slice(&length.to_be_bytes());
        packet
    }

    fn starts(chain: &[(u8, u8)]) -> Result<(usize, u8), Reason> {
        part_of(&packet_v6(chain)).map(|part| (part.start, part.next_header))
    }

    #[test]
    fn ah_stands_behind_hop_by_hop_and_routing_and_ahead_of_the_last_destination_options() {
        assert_eq!(starts(&[]), Ok((40, 17)));
        assert_eq!(starts(&[(HOP_BY_HOP, 0)]), Ok((48, 17)));
        assert_eq!(starts(&[(DESTINATION, 0)]), Ok((40, DESTINATION)));
        assert_eq!(starts(&[(HOP_BY_HOP, 0), (DESTINATION, 0)]), Ok((48, DESTINATION)));
        assert_eq!(starts(&[(DESTINATION, 0), (ROUTING, 0), (DESTINATION, 0)]), Ok((56, DESTINATION)));
        assert_eq!(starts(&[(ROUTING, 1)]), Err(Reason::TransportOptions));
        assert_eq!(starts(&[(DESTINATION, 0), (FRAGMENT, 0)]), Err(Reason::OutboundFragment));
    }

    #[test]
    fn source_routes_are_found_among_options_of_any_lengths() {
        assert!(is_source_routed(&[1, 148, 4, 0, 0, 131, 3, 4]));
        assert!(is_source_routed(&[7, 0, 137]));
        assert!(!is_source_routed(&[148, 4, 0, 0, 0, 131, 3, 4]));
        assert!(!is_source_routed(&[7]));
    }
}
