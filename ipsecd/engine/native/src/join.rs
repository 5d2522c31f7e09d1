//! Joins segments for TUN devices with a virtio header (virtio 1.1, 5.1.6), as receive offload of a card would.
//!
//! The segments of a flow that arrived in one batch become one packet of up to 64 KiB, so that the kernel's stack is
//! walked once for many.  Joining asks for what the kernel's own receive offload asks for: equal headers, consecutive
//! sequence numbers, equal sizes.  A joined packet is handed over as "checksum to be completed", so the checksum of
//! every segment must be right first; one with a wrong sum goes alone, and the receiver finds it.

use crate::checksum;
use crate::inbound::{Bytes, Delivery};
use crate::ip::{TCP, UDP, be16};
use crate::segment::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VNET_BYTES};
use std::io::IoSlice;

/// RFC 791 3.1: total length.
const MAX_JOINED_BYTES: usize = 65_535;
/// Below IOV_MAX (1024), two parts are headers.
const MAX_TCP_PARTS: usize = 512;
/// UDP_MAX_SEGMENTS of Linux before 6.9; the device refuses more.
const MAX_UDP_PARTS: usize = 64;
/// Flows joined at a time; a batch has seldom more.
const MAX_RUNS: usize = 64;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const NONE: usize = usize::MAX;

/// Where frames go; returns whether the device took it.
pub trait Write {
    /// Write one frame from its parts.
    fn write(&mut self, parts: &[IoSlice]);
}

/// Segments of one flow that follow each other: a chain through `Joiner::next`.
struct Run {
    key: Key,
    first: usize,
    last: usize,
    count: usize,
    upper: usize,
    payload: usize,
    size: usize,
    total: usize,
    following: u32,
    open: bool,
}

/// What tells flows apart cheaply; the headers themselves are compared then.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    ports: u32,
    ends: u32,
    protocol: u8,
}

/// Reusable memory.
#[derive(Default)]
pub struct Joiner {
    runs: Vec<Run>,
    next: Vec<usize>,
}

impl Joiner {
    /// Write the packets of a batch for one device, joined where possible.  `udp` says that it takes joined UDP too.
    pub fn write(&mut self, bytes: Bytes, delivered: &[Delivery], udp: bool, out: &mut impl Write) {
        self.next.clear();
        self.next.resize(delivered.len(), NONE);
        for (number, delivery) in delivered.iter().enumerate() {
            let packet = bytes.of(delivery);
            let Some((key, upper)) = key_of(packet, udp) else {
                write_plain(packet, out);
                continue;
            };
            if let Some(at) = self.runs.iter().position(|run| run.key == key) {
                if self.append(at, bytes, delivered, number, packet) {
                    continue;
                }
                let run = self.runs.remove(at);
                self.close(&run, bytes, delivered, out);
            }
            match Run::begin(key, number, packet, upper) {
                Some(run) => {
                    if self.runs.len() >= MAX_RUNS {
                        let oldest = self.runs.remove(0);
                        self.close(&oldest, bytes, delivered, out);
                    }
                    self.runs.push(run);
                }
                None => write_plain(packet, out),
            }
        }
        for run in std::mem::take(&mut self.runs) {
            self.close(&run, bytes, delivered, out);
        }
    }

    fn append(&mut self, at: usize, bytes: Bytes, delivered: &[Delivery], number: usize, packet: &[u8]) -> bool {
        let run = &mut self.runs[at];
        let first = bytes.of(&delivered[run.first]);
        if !run.takes(first, packet) {
            return false;
        }
        let size = packet.len() - run.payload;
        self.next[run.last] = number;
        run.last = number;
        run.count += 1;
        run.total += size;
        run.following = run.following.wrapping_add(if run.key.protocol == TCP { size as u32 } else { 1 });
        run.open = size == run.size && (run.key.protocol == UDP || packet[run.upper + 13] & PSH == 0);
        true
    }

    /// Write one joined packet, or the only packet as it came.
    fn close(&self, run: &Run, bytes: Bytes, delivered: &[Delivery], out: &mut impl Write) {
        let packet = |number: usize| bytes.of(&delivered[number]);
        let first = packet(run.first);
        if run.count == 1 {
            return write_plain(first, out);
        }
        let mut header = [0; 256];
        let header = &mut header[..run.payload];
        header.copy_from_slice(&first[..run.payload]);
        run.write_header(header, packet(run.last));
        let vnet = run.vnet(first[0] >> 4 == 6);
        let mut parts = Vec::with_capacity(run.count + 2);
        parts.push(IoSlice::new(&vnet));
        parts.push(IoSlice::new(header));
        let mut number = run.first;
        while number != NONE {
            parts.push(IoSlice::new(&packet(number)[run.payload..]));
            number = self.next[number];
        }
        out.write(&parts);
    }
}

fn write_plain(packet: &[u8], out: &mut impl Write) {
    out.write(&[IoSlice::new(&[0; VNET_BYTES]), IoSlice::new(packet)]);
}

/// The key of an unfragmented TCP or UDP packet without options or extension headers, and where its upper layer begins.
fn key_of(packet: &[u8], udp: bool) -> Option<(Key, usize)> {
    let version4 = packet[0] == 0x45;
    let upper = if version4 { 20 } else { 40 };
    if packet.len() < upper + 8 || (version4 && be16(packet, 6) & 0xBFFF != 0) || (!version4 && packet[0] >> 4 != 6) {
        return None;
    }
    let protocol = packet[if version4 { 9 } else { 6 }];
    if !(protocol == TCP && packet.len() >= upper + 20 || protocol == UDP && udp) {
        return None;
    }
    let word = |at: usize| u32::from_ne_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
    let ends = if version4 { word(12).rotate_left(7) ^ word(16) } else { word(20).rotate_left(7) ^ word(36) };
    Some((Key { ports: word(upper), ends, protocol }, upper))
}

impl Run {
    /// Start with a packet that others may follow.
    fn begin(key: Key, number: usize, packet: &[u8], upper: usize) -> Option<Run> {
        let (payload, following) = match key.protocol {
            TCP => (upper + usize::from(packet[upper + 12] >> 4) * 4, 0),
            _ => (upper + 8, 0),
        };
        let size = packet.len().checked_sub(payload)?;
        let mut run = Run {
            key,
            first: number,
            last: number,
            count: 1,
            upper,
            payload,
            size,
            total: packet.len(),
            following,
            open: true,
        };
        let alone = match key.protocol {
            // ACK alone: what carries other flags, or no data, is not to be delayed or changed.
            TCP => packet[upper + 13] != ACK || payload < upper + 20,
            _ => be16(packet, upper + 6) == 0 || be16(packet, upper + 4) != packet.len() - upper,
        };
        if alone || size == 0 || !run.sums_up(packet) {
            return None;
        }
        run.following = run.position(packet).wrapping_add(if key.protocol == TCP { size as u32 } else { 1 });
        Some(run)
    }

    /// What must rise from segment to segment: TCP's sequence number, or the identification of an IPv4 packet.
    fn position(&self, packet: &[u8]) -> u32 {
        match (self.key.protocol, self.upper) {
            (TCP, at) => u32::from_be_bytes([packet[at + 4], packet[at + 5], packet[at + 6], packet[at + 7]]),
            (_, 20) => u32::from(u16::from_be_bytes([packet[4], packet[5]])),
            _ => 0,
        }
    }

    /// Whether a packet of the same key belongs behind the last.
    fn takes(&self, first: &[u8], packet: &[u8]) -> bool {
        let Some(size) = packet.len().checked_sub(self.payload) else { return false };
        self.open
            && size > 0
            && size <= self.size
            && self.count < if self.key.protocol == TCP { MAX_TCP_PARTS } else { MAX_UDP_PARTS }
            && self.total + size <= MAX_JOINED_BYTES
            && self.follows(packet)
            && self.equal_headers(first, packet)
            && (self.key.protocol == TCP || be16(packet, self.upper + 6) != 0)
            && self.sums_up(packet)
    }

    fn follows(&self, packet: &[u8]) -> bool {
        match (self.key.protocol, self.upper) {
            (TCP, _) => self.position(packet) == self.following,
            // The kernel numbers the segments it makes of this: without DF that must be what they came with.
            (_, 20) => packet[6] & 0x40 != 0 || self.position(packet) == self.following & 0xFFFF,
            _ => true,
        }
    }

    /// Whether all header bytes are equal but lengths, identification, checksums, sequence number and PSH.
    fn equal_headers(&self, a: &[u8], b: &[u8]) -> bool {
        let upper = self.upper;
        let network = match upper {
            20 => a[..2] == b[..2] && a[6..10] == b[6..10] && a[12..20] == b[12..20],
            _ => a[..4] == b[..4] && a[6..40] == b[6..40],
        };
        if self.key.protocol == UDP {
            let whole = be16(b, upper + 4) == b.len() - upper;
            return network && whole && a[upper..upper + 4] == b[upper..upper + 4];
        }
        network
            && a[upper..upper + 4] == b[upper..upper + 4]
            && a[upper + 8..upper + 13] == b[upper + 8..upper + 13]
            && a[upper + 13] & !PSH == b[upper + 13] & !PSH
            && a[upper + 14..upper + 16] == b[upper + 14..upper + 16]
            && a[upper + 18..self.payload] == b[upper + 18..self.payload]
    }

    fn sums_up(&self, packet: &[u8]) -> bool {
        let sum = self.pseudo(packet, packet.len() - self.upper) + checksum::sum(&packet[self.upper..]);
        checksum::fold(sum) == 0xFFFF && (self.upper == 40 || checksum::fold(checksum::sum(&packet[..20])) == 0xFFFF)
    }

    fn pseudo(&self, packet: &[u8], length: usize) -> u64 {
        let addresses = if self.upper == 20 { &packet[12..20] } else { &packet[8..40] };
        checksum::pseudo(addresses, self.key.protocol, length)
    }

    fn write_header(&self, header: &mut [u8], last: &[u8]) {
        let length = self.total - self.upper;
        if self.upper == 20 {
            header[2..4].copy_from_slice(&(self.total as u16).to_be_bytes());
            header[10..12].fill(0);
            let sum = !checksum::fold(checksum::sum(&header[..20]));
            header[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            header[4..6].copy_from_slice(&(length as u16).to_be_bytes());
        }
        let partial = checksum::fold(self.pseudo(header, length)).to_be_bytes();
        let upper = &mut header[self.upper..];
        if self.key.protocol == TCP {
            upper[13] = last[self.upper + 13];
            upper[16..18].copy_from_slice(&partial);
        } else {
            upper[4..6].copy_from_slice(&(length as u16).to_be_bytes());
            upper[6..8].copy_from_slice(&partial);
        }
    }

    fn vnet(&self, ipv6: bool) -> [u8; VNET_BYTES] {
        let (kind, at) = match (self.key.protocol, ipv6) {
            (UDP, _) => (GSO_UDP_L4, 6),
            (_, false) => (GSO_TCPV4, 16),
            (_, true) => (GSO_TCPV6, 16),
        };
        let mut vnet = [0; VNET_BYTES];
        vnet[0] = NEEDS_CSUM;
        vnet[1] = kind;
        for (place, value) in [(2, self.payload), (4, self.size), (6, self.upper), (8, at)] {
            vnet[place..place + 2].copy_from_slice(&(value as u16).to_ne_bytes());
        }
        vnet
    }
}

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;
