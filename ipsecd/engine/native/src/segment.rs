//! Cuts super-packets that the kernel hands over behind a virtio header (virtio 1.1, 5.1.6): TCP and UDP of up to
//! 64 KiB, whose segments and checksums are ours to make.
//!
//! The checksum field of such a packet holds the sum of the pseudo-header with the length of the whole, so that of a
//! segment follows from it by exchanging the length (RFC 1624).

use crate::checksum;
use crate::ip::{self, TCP, UDP, be16};

/// Length of the virtio header on our devices.
pub const VNET_BYTES: usize = 10;
/// Flag: the checksum is to be completed.
pub const NEEDS_CSUM: u8 = 1;
/// Kinds of super-packets.
pub const GSO_TCPV4: u8 = 1;
/// See `GSO_TCPV4`.
pub const GSO_TCPV6: u8 = 4;
/// See `GSO_TCPV4`; from Linux 6.2.
pub const GSO_UDP_L4: u8 = 5;
const GSO_NONE: u8 = 0;
const GSO_ECN: u8 = 0x80;

const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
const UDP_HEADER_BYTES: usize = 8;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// A packet with what is needed to write its segments; a plain packet is its own only one.
pub struct Cutter<'a> {
    packet: &'a [u8],
    gso: Option<Gso>,
}

struct Gso {
    protocol: u8,
    upper: usize,
    payload: usize,
    size: usize,
    congestion: bool,
}

impl<'a> Cutter<'a> {
    /// Read the virtio header where there is one, and complete the checksum of a plain packet that lacks it.  `None`
    /// for what is no packet.
    pub fn new(frame: &'a mut [u8], vnet: bool) -> Option<Cutter<'a>> {
        if !vnet {
            return (!frame.is_empty()).then_some(Cutter { packet: frame, gso: None });
        }
        let (header, packet) = frame.split_at_mut_checked(VNET_BYTES)?;
        let field = |at: usize| usize::from(u16::from_ne_bytes([header[at], header[at + 1]]));
        let (start, place) = (field(6), field(6) + field(8));
        if packet.is_empty() {
            return None;
        }
        match header[1] & !GSO_ECN {
            GSO_NONE => {
                if header[0] & NEEDS_CSUM != 0 {
                    complete(packet, start, place)?;
                }
                Some(Cutter { packet, gso: None })
            }
            kind @ (GSO_TCPV4 | GSO_TCPV6 | GSO_UDP_L4) => {
                let protocol = if kind == GSO_UDP_L4 { UDP } else { TCP };
                let mut gso = Gso::read(packet, protocol, field(4))?;
                gso.congestion = header[1] & GSO_ECN != 0;
                (header[0] & NEEDS_CSUM != 0 && start == gso.upper).then_some(Cutter { packet, gso: Some(gso) })
            }
            _ => None,
        }
    }

    /// The whole packet.
    pub fn packet(&self) -> &[u8] {
        self.packet
    }

    /// How many segments there are, at least one.
    pub fn count(&self) -> usize {
        self.gso.as_ref().map_or(1, |gso| (self.packet.len() - gso.payload).div_ceil(gso.size).max(1))
    }

    /// Length of a segment with its headers.
    pub fn length(&self, number: usize) -> usize {
        let Some(gso) = &self.gso else { return self.packet.len() };
        let rest = self.packet.len() - gso.payload - number * gso.size;
        gso.payload + rest.min(gso.size)
    }

    /// Write a segment with finished checksums, from its byte `cut` on, into a place of that length; `cut` is 0, or lies
    /// behind the network header and not behind that of the upper layer.
    pub fn write(&self, number: usize, cut: usize, place: &mut [u8]) {
        let Some(gso) = &self.gso else { return place.copy_from_slice(&self.packet[cut..cut + place.len()]) };
        let (from, head) = (gso.payload + number * gso.size, gso.payload - cut);
        let size = place.len() - head;
        place[..head].copy_from_slice(&self.packet[cut..gso.payload]);
        place[head..].copy_from_slice(&self.packet[from..from + size]);
        if cut == 0 {
            write_network_header(place, number);
        }
        gso.write_upper_header(&mut place[gso.upper - cut..], number, number + 1 == self.count(), self.packet.len());
    }
}

impl Gso {
    fn read(packet: &[u8], protocol: u8, size: usize) -> Option<Gso> {
        let headers = ip::parse(packet, false).ok()?;
        let upper = headers.payload;
        let fragment = headers.version == 4 && be16(packet, 6) & 0x3FFF != 0;
        if size == 0 || fragment || headers.protocol != protocol || headers.length != packet.len() {
            return None;
        }
        let header = match protocol {
            TCP => usize::from(*packet.get(upper + 12)? >> 4) * 4,
            _ => UDP_HEADER_BYTES,
        };
        let payload = upper + header;
        let whole = payload <= packet.len() && (protocol == UDP || header >= 20);
        whole.then_some(Gso { protocol, upper, payload, size, congestion: false })
    }

    fn write_upper_header(&self, upper: &mut [u8], number: usize, last: bool, whole: usize) {
        let length = whole - self.upper;
        let at = if self.protocol == TCP { TCP_CHECKSUM } else { UDP_CHECKSUM };
        let partial = u64::from(u16::from_be_bytes([upper[at], upper[at + 1]]));
        if self.protocol == TCP {
            let first = u32::from_be_bytes([upper[4], upper[5], upper[6], upper[7]]);
            let sequence = first.wrapping_add((number * self.size) as u32);
            upper[4..8].copy_from_slice(&sequence.to_be_bytes());
            if !last {
                upper[13] &= !(FIN | PSH);
            }
            if self.congestion && number > 0 {
                upper[13] &= !CWR; // RFC 3168 6.1.2: said once
            }
        } else {
            let length = upper.len() as u16;
            upper[4..6].copy_from_slice(&length.to_be_bytes());
        }
        upper[at..at + 2].fill(0);
        let other_length = u64::from(!(length as u16)) + upper.len() as u64;
        let sum = !checksum::fold(partial + other_length + checksum::sum(upper));
        // RFC 768: a sum of zero is sent as all ones.
        let sum = if self.protocol == UDP && sum == 0 { 0xFFFF } else { sum };
        upper[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

fn write_network_header(place: &mut [u8], number: usize) {
    let length = place.len();
    if place[0] >> 4 == 6 {
        place[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
        return;
    }
    let id = (be16(place, 4) + number) as u16;
    place[2..4].copy_from_slice(&(length as u16).to_be_bytes());
    place[4..6].copy_from_slice(&id.to_be_bytes());
    place[10..12].fill(0);
    let header = usize::from(place[0] & 15) * 4;
    let sum = !checksum::fold(checksum::sum(&place[..header]));
    place[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Complete the checksum at `place` over everything from `start`; the field holds the sum of the pseudo-header.
fn complete(packet: &mut [u8], start: usize, place: usize) -> Option<()> {
    if place + 2 > packet.len() || start > place {
        return None;
    }
    let sum = !checksum::fold(checksum::sum(&packet[start..]));
    let udp = place == start + UDP_CHECKSUM;
    let sum = if udp && sum == 0 { 0xFFFF } else { sum };
    packet[place..place + 2].copy_from_slice(&sum.to_be_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A super-packet behind its header, IPv4, `data` bytes of payload.
    fn super_packet(protocol: u8, data: usize, size: u16) -> Vec<u8> {
        let (header, at, kind) = if protocol == TCP { (20, 16, GSO_TCPV4) } else { (8, 6, GSO_UDP_L4) };
        let total = 20 + header + data;
        let mut packet = vec![0x45, 0, 0, 0, 0, 9, 0x40, 0, 64, protocol, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1];
        packet[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        packet.extend(vec![0; header]);
        if protocol == TCP {
            packet[32] = 5 << 4;
            packet[33] = 0x10 | FIN | PSH;
        }
        packet.extend((0..data).map(|n| (n * 7) as u8));
        let partial = checksum::fold(checksum::pseudo(&packet[12..20], protocol, total - 20));
        packet[20 + at..22 + at].copy_from_slice(&partial.to_be_bytes());
        let mut frame = vec![NEEDS_CSUM, kind, 0, 0, 0, 0, 20, 0, at as u8, 0];
        frame[4..6].copy_from_slice(&size.to_ne_bytes());
        frame.extend(packet);
        frame
    }

    #[test]
    fn segments_are_whole_packets_with_right_checksums() {
        for (protocol, header) in [(TCP, 40), (UDP, 28)] {
            let mut frame = super_packet(protocol, 3001, 1000);
            let cutter = Cutter::new(&mut frame, true).unwrap();
            assert_eq!(cutter.count(), 4);
            let mut data = Vec::new();
            for number in 0..4 {
                let mut segment = vec![0; cutter.length(number)];
                cutter.write(number, 0, &mut segment);
                let mut upper = vec![0; segment.len() - 20];
                cutter.write(number, 20, &mut upper);
                assert_eq!(upper, segment[20..]);
                assert_eq!(checksum::fold(checksum::sum(&segment[..20])), 0xFFFF);
                let sum = checksum::pseudo(&segment[12..20], protocol, segment.len() - 20);
                assert_eq!(checksum::fold(sum + checksum::sum(&segment[20..])), 0xFFFF);
                assert_eq!(be16(&segment, 2), segment.len());
                if protocol == TCP {
                    assert_eq!(be16(&segment, 26), number * 1000);
                    assert_eq!(segment[33] & (FIN | PSH) != 0, number == 3);
                }
                data.extend_from_slice(&segment[header..]);
            }
            assert_eq!(data, (0..3001).map(|n| (n * 7) as u8).collect::<Vec<_>>());
        }
    }

    #[test]
    fn broken_super_packets_are_refused() {
        for (at, value) in [(0, 0), (1, 3), (4, 0), (6, 24), (10, 0x46), (17, 0x20), (19, 50)] {
            let mut frame = super_packet(TCP, 3001, 1000);
            frame[at] = value;
            if at == 4 {
                frame[5] = 0;
            }
            if at == 17 {
                frame.swap(16, 17);
            }
            assert!(Cutter::new(&mut frame, true).is_none(), "{at}");
        }
        for length in 0..60 {
            let mut frame = super_packet(TCP, 3001, 1000);
            frame.truncate(length);
            assert!(Cutter::new(&mut frame, true).is_none());
        }
    }
}
