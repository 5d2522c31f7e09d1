//! Transport mode (RFC 4301 3.2): what of a packet goes into ESP, and the packet made of what comes out of it; see
//! ah_transport for AH.
//!
//! ```text
//! IPv4   header | upper layer                          ESP carries all behind the header
//! IPv6   header | [destination options] | upper layer  and here too (RFC 4303 3.1.1)
//! ```
//!
//! The header itself travels as that of the outer datagram; on the other side one is made with the addresses that the SA
//! is for.  Options of IPv4, hop-by-hop options and routing headers would stand ahead of ESP, where a datagram socket has
//! no place for them, and an SA in transport mode carries no fragments (RFC 4301 7).

use crate::checksum;
use crate::drops::Reason;
use crate::ip::{DESTINATION, DONT_FRAGMENT, FRAGMENT, HOP_BY_HOP, ICMPV6, ROUTING, TCP, UDP, be16};
use std::net::IpAddr;

/// The sender's is not told, and the way was one hop.
pub const HOP_LIMIT: u8 = 64;
const DCCP: u8 = 33;
const UDP_LITE: u8 = 136;

/// What of a packet is protected: `packet[start..end]`, whose next header is named at `packet[named_at]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Part {
    pub next_header: u8,
    pub start: usize,
    pub end: usize,
    pub named_at: usize,
}

impl Part {
    /// Tunnel mode: everything, and nothing in front names it.
    pub fn whole(packet: &[u8]) -> Part {
        let next_header = if packet[0] < 0x60 { crate::ip::IPV4 } else { crate::ip::IPV6 };
        Part { next_header, start: 0, end: packet.len(), named_at: 0 }
    }

    /// What of a packet, whose headers `ip::parse` has found to be sound, is protected.
    pub fn of(packet: &[u8]) -> Result<Part, Reason> {
        if packet[0] >> 4 == 4 {
            if be16(packet, 6) & 0x3FFF != 0 {
                return Err(Reason::OutboundFragment);
            }
            if packet[0] != 0x45 {
                return Err(Reason::TransportOptions);
            }
            return Ok(Part { next_header: packet[9], start: 20, end: be16(packet, 2), named_at: 9 });
        }
        let end = 40 + be16(packet, 4);
        match behind_options(&packet[40..end], packet[6]).0 {
            FRAGMENT => Err(Reason::OutboundFragment),
            HOP_BY_HOP | ROUTING => Err(Reason::TransportOptions),
            _ => Ok(Part { next_header: packet[6], start: 40, end, named_at: 6 }),
        }
    }
}

/// Whether a header may stand inside of ESP (RFC 4303 3.1.1: these are ahead of it).
pub fn stands_inside(next_header: u8) -> bool {
    !matches!(next_header, HOP_BY_HOP | ROUTING | FRAGMENT)
}

/// The two hosts of a pair, and what NATs between them took from the sum of both addresses.
#[allow(missing_docs)]
pub struct Ends {
    pub local: IpAddr,
    pub remote: IpAddr,
    pub nat_sum: u16,
}

impl Ends {
    /// Append the packet from the peer to `out`; `tos` is its byte of DSCP and ECN.
    pub fn rebuild(&self, payload: &[u8], next_header: u8, tos: u8, out: &mut Vec<u8>) {
        let at = out.len();
        match (self.local, self.remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                // Whole, and so without an identification (RFC 6864 4.1).
                out.extend([0x45, tos, 0, 0, 0, 0, DONT_FRAGMENT, 0, HOP_LIMIT, next_header, 0, 0]);
                out.extend(remote.octets());
                out.extend(local.octets());
                out[at + 2..at + 4].copy_from_slice(&((20 + payload.len()) as u16).to_be_bytes());
                let sum = !checksum::fold(checksum::sum(&out[at..]));
                out[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
            }
            (local, remote) => {
                out.extend((6u32 << 28 | u32::from(tos) << 20).to_be_bytes());
                out.extend((payload.len() as u16).to_be_bytes());
                out.extend([next_header, HOP_LIMIT]);
                for address in [remote, local] {
                    match address {
                        IpAddr::V4(address) => out.extend(address.to_ipv6_mapped().octets()),
                        IpAddr::V6(address) => out.extend(address.octets()),
                    }
                }
            }
        }
        let at = out.len();
        out.extend_from_slice(payload);
        if self.nat_sum != 0 {
            self.correct(&mut out[at..], next_header);
        }
    }

    /// Set a checksum to what the sender would have made it over our addresses (RFC 3948 3.1.2, RFC 1624).
    fn correct(&self, payload: &mut [u8], next_header: u8) {
        let (protocol, at) = behind_options(payload, next_header);
        // Where protocols that sum their addresses keep that sum (RFC 9293 3.1, 768, 4340 5.1, 4443 2.1, 3828 3.1).
        let at = at
            + match protocol {
                TCP => 16,
                UDP | DCCP | UDP_LITE => 6,
                ICMPV6 => 2,
                _ => return,
            };
        let Some(field) = payload.get_mut(at..at + 2) else { return };
        let was = u32::from(u16::from_be_bytes([field[0], field[1]]));
        if protocol == UDP && was == 0 {
            return; // RFC 768: there is none
        }
        // Zero and all ones are one sum; only the latter never means "none".
        let sum = (was + u32::from(self.nat_sum)) % 65535;
        field.copy_from_slice(&(if sum == 0 { 65535 } else { sum as u16 }).to_be_bytes());
    }
}

/// The header behind destination options, and where it begins.
fn behind_options(payload: &[u8], mut following: u8) -> (u8, usize) {
    let mut at = 0;
    while following == DESTINATION && at + 2 <= payload.len() {
        following = payload[at];
        at += (usize::from(payload[at + 1]) + 1) * 8;
    }
    (following, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_is_what_stands_behind_the_header_and_its_options_are_refused() {
        let mut packet = vec![0x45, 0, 0, 24, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 1, 2, 3, 4, 9];
        assert_eq!(Part::of(&packet), Ok(Part { next_header: 17, start: 20, end: 24, named_at: 9 }));
        packet[7] = 1;
        assert_eq!(Part::of(&packet), Err(Reason::OutboundFragment));
        packet[7] = 0;
        packet[0] = 0x46;
        assert_eq!(Part::of(&packet), Err(Reason::TransportOptions));
    }

    #[test]
    fn rebuilt_packets_have_right_sums_also_where_a_nat_took_from_them() {
        let ends = |nat_sum| Ends { local: [10, 0, 0, 2].into(), remote: [10, 0, 0, 1].into(), nat_sum };
        let mut udp = vec![4, 210, 19, 196, 0, 12, 0, 0, 1, 2, 3, 4];
        // The peer sees itself as 192.168.0.9.
        let theirs = checksum::pseudo(&[192, 168, 0, 9, 10, 0, 0, 2], UDP, udp.len());
        let sum = !checksum::fold(theirs + checksum::sum(&udp));
        udp[6..8].copy_from_slice(&sum.to_be_bytes());
        let taken = (0xC0A8 + 9 - 0x0A00 - 1) as u16;
        let mut out = Vec::new();
        ends(taken).rebuild(&udp, UDP, 0xB8, &mut out);
        assert_eq!(checksum::fold(checksum::sum(&out[..20])), 0xFFFF);
        let ours = checksum::pseudo(&out[12..20], UDP, udp.len());
        assert_eq!(checksum::fold(ours + checksum::sum(&out[20..])), 0xFFFF);
        assert_eq!((out[1], out.len()), (0xB8, 32));
    }

    #[test]
    fn any_payload_is_taken() {
        let ends = Ends { local: "::2".parse().unwrap(), remote: "::1".parse().unwrap(), nat_sum: 7 };
        for length in 0..40 {
            for next_header in [0, 6, 17, 58, 60] {
                let mut out = Vec::new();
                ends.rebuild(&vec![60; length], next_header, 0, &mut out);
                assert_eq!(out.len(), 40 + length);
            }
        }
    }
}
