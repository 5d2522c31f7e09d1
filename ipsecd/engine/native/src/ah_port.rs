//! Reading the socket of AH, whose ICV covers the IP header (raw(7), ipv6(7)).
//!
//! In IPv4 the kernel gives the header.  In IPv6 it keeps it to itself: what AH covers of it is known from the socket and
//! the control messages, and what is not told (flow label, hop limit) is not covered.

use crate::ip::{AH, DESTINATION, HOP_BY_HOP, ROUTING};
use crate::outer::V6_BYTES;
use crate::sys::{self, Messages};
use crate::udp::Port;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

/// The longest packet, and in front of it a header and extensions of no more than control messages can bring.
const PACKET_BYTES: usize = 65_536;
const HEADROOM: usize = V6_BYTES + 1024;
const SO_RXQ_OVFL: i32 = 40;

/// Buffer of one packet.
pub struct AhReader {
    /// Where `receive` says that the packet lies.
    pub data: Box<[u8]>,
    /// Packets that the kernel dropped for want of room, as it last told.
    pub overflow: Option<u32>,
    messages: Messages,
}

impl AhReader {
    /// An empty one.
    pub fn new() -> AhReader {
        let data = vec![0; HEADROOM + PACKET_BYTES].into_boxed_slice();
        AhReader { data, overflow: None, messages: Messages::new() }
    }

    /// Read one packet, without waiting: where it lies with its IP header, and its sender.
    pub fn receive(&mut self, port: &Port) -> io::Result<(Range<usize>, Option<SocketAddr>)> {
        let (length, from) = sys::receive_packet(&port.fd, &mut self.data[HEADROOM..], &mut self.messages)?;
        let (mut tos, mut following, mut extensions) = (0, AH, Vec::new());
        let overflow = &mut self.overflow;
        self.messages.each(|level, kind, value| match (level, kind) {
            (libc::SOL_SOCKET, SO_RXQ_OVFL) => {
                *overflow = value.first_chunk().copied().map(u32::from_ne_bytes);
            }
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                tos = value.first_chunk().copied().map_or(0, i32::from_ne_bytes) as u8;
            }
            (libc::IPPROTO_IPV6, libc::IPV6_HOPOPTS) => extend(&mut following, HOP_BY_HOP, &mut extensions, value),
            (libc::IPPROTO_IPV6, libc::IPV6_RTHDR) => extend(&mut following, ROUTING, &mut extensions, value),
            (libc::IPPROTO_IPV6, libc::IPV6_DSTOPTS) => extend(&mut following, DESTINATION, &mut extensions, value),
            _ => {}
        });
        let end = HEADROOM + length;
        if let (IpAddr::V6(own), Some(SocketAddr::V6(sender))) = (port.local.ip(), &from) {
            let start = HEADROOM - extensions.len() - V6_BYTES;
            let payload = (extensions.len() + length).min(usize::from(u16::MAX)) as u16;
            let header = &mut self.data[start..HEADROOM];
            header[..4].copy_from_slice(&(6 << 28 | u32::from(tos) << 20).to_be_bytes());
            header[4..6].copy_from_slice(&payload.to_be_bytes());
            header[6..8].copy_from_slice(&[following, 0]);
            header[8..24].copy_from_slice(&sender.ip().octets());
            header[24..40].copy_from_slice(&own.octets());
            header[V6_BYTES..].copy_from_slice(&extensions);
            return Ok((start..end, from));
        }
        Ok((HEADROOM..end, from))
    }
}

impl Default for AhReader {
    fn default() -> Self {
        Self::new()
    }
}

/// Note an extension header; the first is what the IP header is followed by.
fn extend(following: &mut u8, kind: u8, extensions: &mut Vec<u8>, value: &[u8]) {
    if extensions.is_empty() {
        *following = kind;
    }
    extensions.extend_from_slice(value);
}
