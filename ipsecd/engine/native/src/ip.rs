//! Reads the headers of inner packets: lengths first, then what selectors need (RFC 791 3.1, RFC 8200 3 and 4).
//!
//! `FlowKey::of` serves the packets that nearly all are; `parse` takes every form of header with all checks.

/// Next header of an IPv4 packet in a tunnel (RFC 4303 2.6).
pub const IPV4: u8 = 4;
/// Next header of an IPv6 packet in a tunnel.
pub const IPV6: u8 = 41;
/// Protocol numbers that are looked at.
pub const ICMP: u8 = 1;
/// See `ICMP`.
pub const TCP: u8 = 6;
/// See `ICMP`.
pub const UDP: u8 = 17;
/// See `ICMP`.
pub const ESP: u8 = 50;
/// See `ICMP`.
pub const AH: u8 = 51;
/// See `ICMP`.
pub const ICMPV6: u8 = 58;

/// No honest chain comes near, and a walk must end (RFC 8504 5.3 lets a node limit what it parses).
pub const MAX_EXTENSION_HEADERS: usize = 8;
/// See `MAX_EXTENSION_HEADERS`.
pub const MAX_EXTENSION_BYTES: usize = 256;

/// The first byte of flags and offset in an IPv4 header.
pub const DONT_FRAGMENT: u8 = 0x40;

/// Extension headers of IPv6.
pub const HOP_BY_HOP: u8 = 0;
/// See `HOP_BY_HOP`.
pub const ROUTING: u8 = 43;
/// See `HOP_BY_HOP`.
pub const FRAGMENT: u8 = 44;
/// See `HOP_BY_HOP`.
pub const DESTINATION: u8 = 60;
const ICMP_HEADER_BYTES: usize = 8;

/// Why headers were refused; each direction has its own drop reason for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Lengths or versions that contradict each other.
    Malformed,
    /// RFC 4301 7, RFC 1858: a fragment made to hide its ports.
    Fragment,
}

/// What selectors see of a packet.  A port is `None` where the packet does not show one; ICMP has type * 256 + code in
/// both (RFC 7296 3.13.1).  `length` is the packet's own, `payload` the offset of the upper layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Headers {
    pub version: u8,
    pub source: u128,
    pub destination: u128,
    pub protocol: u8,
    pub source_port: Option<u16>,
    pub destination_port: Option<u16>,
    pub length: usize,
    pub payload: usize,
}

/// What tells flows apart: addresses, ports and protocol as they stand in the packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    addresses: [u64; 4],
    ports: u32,
    protocol: u8,
}

impl FlowKey {
    /// The key of an unfragmented TCP or UDP packet of exactly `length` bytes, else `None`.
    pub fn of(packet: &[u8], length: usize) -> Option<FlowKey> {
        if length < 24 || packet.len() < length {
            return None;
        }
        if packet[0] == 0x45 {
            let protocol = packet[9];
            if be16(packet, 2) != length || be16(packet, 6) & 0xBFFF != 0 || !matches!(protocol, TCP | UDP) {
                return None;
            }
            let addresses = [ne64(packet, 12), 0, 0, 0];
            return Some(FlowKey { addresses, ports: ne32(packet, 20), protocol });
        }
        if packet[0] >> 4 == 6 && length >= 44 {
            let protocol = packet[6];
            if be16(packet, 4) + 40 != length || !matches!(protocol, TCP | UDP) {
                return None;
            }
            let addresses = [ne64(packet, 8), ne64(packet, 16), ne64(packet, 24), ne64(packet, 32)];
            return Some(FlowKey { addresses, ports: ne32(packet, 40), protocol });
        }
        None
    }

    /// Everything that it holds.
    pub fn words(&self) -> [u64; 5] {
        let [a, b, c, d] = self.addresses;
        [a, b, c, d, u64::from(self.ports) << 8 | u64::from(self.protocol)]
    }
}

/// A 16-bit field as a length.
pub fn be16(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

fn ne32(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn ne64(bytes: &[u8], at: usize) -> u64 {
    u64::from(ne32(bytes, at)) | u64::from(ne32(bytes, at + 4)) << 32
}

fn address(bytes: &[u8], at: usize, length: usize) -> u128 {
    bytes[at..at + length].iter().fold(0, |value, byte| value << 8 | u128::from(*byte))
}

/// DSCP and ECN, the byte that encapsulation copies outside (RFC 4301 5.1.2, RFC 6040 4.1).
pub fn traffic_class(packet: &[u8]) -> u8 {
    if packet[0] >> 4 == 4 { packet[1] } else { packet[0] << 4 | packet[1] >> 4 }
}

/// Read the headers of a whole packet, or with `quoted` of one that an ICMP error cut short.
pub fn parse(packet: &[u8], quoted: bool) -> Result<Headers, Fault> {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => parse_v4(packet, quoted),
        Some(6) => parse_v6(packet, quoted),
        _ => Err(Fault::Malformed),
    }
}

/// Tells flows apart, for spreading them; fragments, which may show no ports, by their addresses alone.
pub fn flow_hash(packet: &[u8]) -> u32 {
    let (addresses, protocol, payload) = match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= 20 => {
            let fragment = be16(packet, 6) & 0x3FFF != 0;
            (12..20, if fragment { 0 } else { packet[9] }, usize::from(packet[0] & 15) * 4)
        }
        Some(6) if packet.len() >= 40 => (8..40, packet[6], 40),
        _ => return 0,
    };
    let ports = if matches!(protocol, TCP | UDP) { packet.get(payload..payload + 4) } else { None };
    let bytes = packet[addresses].iter().chain(ports.unwrap_or_default());
    // FNV-1a, which spreads neighbours well enough.
    let mixed = bytes.fold(0x811C_9DC5u32, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    mixed ^ mixed >> 16
}

/// The headers of the packet that an ICMP error is about; `None` when this is no ICMP error (RFC 4301 6.2).
pub fn quoted_packet(packet: &[u8], headers: &Headers) -> Option<Headers> {
    let kind = icmp_type(headers)?;
    // RFC 792, RFC 4443 2.1: messages that quote the packet they are about.  A redirect is none: see `is_redirect`.
    let quotes = if headers.version == 4 { matches!(kind, 3 | 11 | 12) } else { matches!(kind, 1..=4) };
    let from = headers.payload + ICMP_HEADER_BYTES;
    if !quotes || from > headers.length {
        return None;
    }
    let inner = parse(packet.get(from..headers.length.min(packet.len()))?, true).ok()?;
    (inner.version == headers.version).then_some(inner)
}

/// Whether this is an ICMP redirect, which no tunnel delivers (RFC 4301 6.1.2).
pub fn is_redirect(headers: &Headers) -> bool {
    icmp_type(headers) == Some(if headers.version == 4 { 5 } else { 137 })
}

fn icmp_type(headers: &Headers) -> Option<u16> {
    if !matches!(headers.protocol, ICMP | ICMPV6) {
        return None;
    }
    headers.source_port.map(|kind| kind >> 8)
}

/// Whether no host can have this source address (RFC 1812 5.3.7, RFC 4291 2.5.2, 2.5.3, 2.5.5.2, 2.7).
pub fn is_martian(version: u8, address: u128) -> bool {
    if version == 4 {
        let first = address >> 24;
        return first == 0 || first == 127 || first >= 224;
    }
    address <= 1 || address >> 120 == 0xFF || address >> 32 == 0xFFFF
}

fn parse_v4(packet: &[u8], quoted: bool) -> Result<Headers, Fault> {
    if packet.len() < 20 {
        return Err(Fault::Malformed);
    }
    let (header, total, field) = (usize::from(packet[0] & 15) * 4, be16(packet, 2), be16(packet, 6));
    if header < 20 || total < header || packet.len() < header || (total > packet.len() && !quoted) {
        return Err(Fault::Malformed);
    }
    let protocol = packet[9];
    let offset = (field & 0x1FFF) * 8;
    if offset + total - header > 65535 {
        return Err(Fault::Malformed);
    }
    let mut ports = (None, None);
    if offset == 0 {
        ports = read_ports(packet, header, total.min(packet.len()), protocol, field & 0x2000 != 0)?;
    } else if offset == 8 && protocol == TCP {
        // RFC 1858 3.2.2, RFC 4301 7.2: at offset 8 it could overwrite the TCP flags that were judged.
        return Err(Fault::Fragment);
    }
    Ok(Headers {
        version: 4,
        source: address(packet, 12, 4),
        destination: address(packet, 16, 4),
        protocol,
        source_port: ports.0,
        destination_port: ports.1,
        length: total,
        payload: header,
    })
}

fn parse_v6(packet: &[u8], quoted: bool) -> Result<Headers, Fault> {
    if packet.len() < 40 {
        return Err(Fault::Malformed);
    }
    let (payload, mut following) = (be16(packet, 4), packet[6]);
    let total = payload + 40;
    // A jumbogram (RFC 2675) says 0 here: no path of ours carries one.
    if payload == 0 || (total > packet.len() && !quoted) {
        return Err(Fault::Malformed);
    }
    let end = total.min(packet.len());
    let (mut at, mut first_fragment, mut later_fragment, mut seen) = (40, false, false, 0);
    while matches!(following, HOP_BY_HOP | ROUTING | FRAGMENT | DESTINATION) {
        seen += 1;
        if seen > MAX_EXTENSION_HEADERS || at + 8 > end || (following == HOP_BY_HOP && at != 40) {
            return Err(Fault::Malformed);
        }
        let kind = following;
        following = packet[at];
        if kind == FRAGMENT {
            let field = be16(packet, at + 2);
            // RFC 8200 4.5 has one such header; an atomic fragment (RFC 6946) no longer has a sender (RFC 8021).
            if first_fragment || field & 0xFFF9 == 0 {
                return Err(Fault::Fragment);
            }
            at += 8;
            if field & 0xFFF8 != 0 {
                later_fragment = true;
                break;
            }
            first_fragment = true;
        } else {
            at += (usize::from(packet[at + 1]) + 1) * 8;
        }
        if at > end || at - 40 > MAX_EXTENSION_BYTES {
            return Err(Fault::Malformed);
        }
    }
    let mut ports = (None, None);
    if !later_fragment {
        ports = read_ports(packet, at, end, following, first_fragment)?;
    }
    Ok(Headers {
        version: 6,
        source: address(packet, 8, 16),
        destination: address(packet, 24, 16),
        protocol: following,
        source_port: ports.0,
        destination_port: ports.1,
        length: total,
        payload: at,
    })
}

type Ports = (Option<u16>, Option<u16>);

fn read_ports(packet: &[u8], at: usize, end: usize, protocol: u8, first_fragment: bool) -> Result<Ports, Fault> {
    // TCP, UDP, DCCP, SCTP, UDP-Lite
    let has_ports = matches!(protocol, 6 | 17 | 33 | 132 | 136);
    let needed = if has_ports { 4 } else { 2 };
    if !has_ports && !matches!(protocol, ICMP | ICMPV6) {
        return Ok((None, None));
    }
    if at + needed > end {
        // RFC 1858 3: a first fragment too small for its ports exists only to slip past selectors.
        return Err(if first_fragment { Fault::Fragment } else { Fault::Malformed });
    }
    let first = be16(packet, at) as u16;
    Ok((Some(first), Some(if has_ports { be16(packet, at + 2) as u16 } else { first })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp4() -> Vec<u8> {
        let mut packet = vec![0x45, 0xB8, 0, 32, 0, 7, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1];
        packet.extend([4, 210, 19, 196, 0, 12, 0, 0, 1, 2, 3, 4]);
        packet
    }

    #[test]
    fn headers_of_a_udp_packet_are_read() {
        let headers = parse(&udp4(), false).unwrap();
        assert_eq!((headers.source, headers.destination), (0x0A01_0001, 0x0A02_0001));
        assert_eq!((headers.source_port, headers.destination_port), (Some(1234), Some(5060)));
        assert_eq!(traffic_class(&udp4()), 0xB8);
    }

    #[test]
    fn every_cut_of_a_packet_ends_in_a_fault_or_a_quote() {
        let packet = udp4();
        for length in 0..packet.len() {
            assert_eq!(parse(&packet[..length], false), Err(Fault::Malformed));
            let _ = parse(&packet[..length], true);
        }
    }

    #[test]
    fn fragment_over_the_tcp_flags_is_refused() {
        let mut packet = udp4();
        packet[9] = TCP;
        packet[7] = 1;
        packet[6] = 0;
        assert_eq!(parse(&packet, false), Err(Fault::Fragment));
    }
}
