//! The way of a datagram from the peer to a TUN device (RFC 4301 5.2, RFC 3948 2), in UDP or without.
//!
//! 1 marker, keepalive, SPI  2 length  3 replay check  4 open  5 replay commit  6 count, path  7 trailer
//! 8 flow cache, else headers, selectors, SPD  9 ECN  10 deliver

use crate::drops::Reason;
use crate::esp::{self, Esp};
use crate::faults;
use crate::ip::{self, Fault, FlowKey, Headers};
use crate::lock;
use crate::outbound::address;
use crate::plane::{Plane, Tables};
use crate::replay::full_sequence;
use crate::reports::Report;
use crate::sad::{Inward, Pair, Path};
use crate::spd::{Action, Flow, Id};
use crate::tfc::NO_NEXT_HEADER;
use crate::transport::{self, Ends};
use crate::{ecn, ip::IPV4, ip::IPV6};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Entries of a pair's flow cache; a full one starts afresh.
const MAX_PAIR_FLOWS: usize = 2048;
const MARKER_BYTES: usize = 4; // RFC 3948 2.2: an SPI of 0 is never used
const KEEPALIVE: u8 = 0xFF; // RFC 3948 2.3

/// A packet that may leave the tunnel: where it lies in what was read, or among the rebuilt ones of transport mode, whose
/// header has no room in place.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Delivery {
    pub device: Id,
    pub rebuilt: bool,
    pub start: usize,
    pub length: usize,
}

/// What of one or more reads may leave the tunnel.
#[derive(Default)]
#[allow(missing_docs)]
pub struct Delivered {
    pub packets: Vec<Delivery>,
    pub rebuilt: Vec<u8>,
}

impl Delivered {
    /// Begin anew.
    pub fn clear(&mut self) {
        self.packets.clear();
        self.rebuilt.clear();
    }
}

/// The bytes behind deliveries.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct Bytes<'a> {
    pub read: &'a [u8],
    pub rebuilt: &'a [u8],
}

impl<'a> Bytes<'a> {
    /// The packet.
    pub fn of(self, delivery: &Delivery) -> &'a [u8] {
        let bytes = if delivery.rebuilt { self.rebuilt } else { self.read };
        &bytes[delivery.start..][..delivery.length]
    }
}

/// What is known of all datagrams of one read.
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct Outside {
    pub path: Path,
    pub tos: u8,
    pub now: f64,
}

/// Take the datagrams of one read apart: `data[at..at + length]`, each of `segment` bytes, the last may be shorter.
/// Packets are opened in place and appended to `delivered`.
pub fn datagrams(
    plane: &Plane,
    data: &mut [u8],
    span: std::ops::Range<usize>,
    segment: usize,
    outside: &Outside,
    delivered: &mut Delivered,
) {
    let raw = outside.path.is_raw();
    if span.is_empty() {
        plane.drop(if raw { Reason::EspShort } else { Reason::UdpEmpty }, None, 1);
        return;
    }
    let tables = plane.tables();
    let mut last: Option<(&Arc<Pair>, &Esp)> = None;
    for start in span.clone().step_by(segment.max(1)) {
        let end = span.end.min(start + segment.max(1));
        let datagram = &mut data[start..end];
        if datagram.len() < MARKER_BYTES {
            plane.drop(runt(datagram, raw), None, 1);
            continue;
        }
        let spi = u32::from_be_bytes([datagram[0], datagram[1], datagram[2], datagram[3]]);
        if last.is_none_or(|(pair, _)| pair.spec.spi_in != spi) {
            last = tables.sad.esp(spi);
        }
        match last {
            Some((pair, opener)) => match open(plane, &tables, pair, opener, datagram, outside, &mut delivered.rebuilt)
            {
                Ok(Opened { rebuilt, start: at, length }) => {
                    let start = if rebuilt { at } else { start + at };
                    delivered.packets.push(Delivery { device: pair.spec.device, rebuilt, start, length });
                }
                Err(reason) => plane.drop(reason, Some(pair), 1),
            },
            None if spi == 0 && !raw => {
                let report = Report::Ike(outside.path, (&datagram[MARKER_BYTES..]).into());
                if !plane.reports.push(report) {
                    plane.drop(Reason::IkeQueueOverflow, None, 1);
                }
            }
            None => {
                // Under the lock of the tables: an SA that is installed after this look finds it.
                lock(&plane.early).keep(spi, ip::ESP, datagram, outside);
                plane.unknown_spi(outside.path, spi, outside.now, Reason::EspUnknownSpi);
            }
        }
    }
}

/// Name a datagram too short to be told apart.
fn runt(datagram: &[u8], raw: bool) -> Reason {
    match datagram {
        _ if raw => Reason::EspShort,
        [KEEPALIVE] => Reason::UdpKeepalive,
        _ => Reason::UdpTruncated,
    }
}

/// Where the inner packet lies, in the datagram or among the rebuilt ones.
struct Opened {
    rebuilt: bool,
    start: usize,
    length: usize,
}

/// Open an ESP packet in place; in transport mode append the inner packet to `rebuilt`.
fn open(
    plane: &Plane,
    tables: &Tables,
    pair: &Arc<Pair>,
    opener: &Esp,
    data: &mut [u8],
    outside: &Outside,
    rebuilt: &mut Vec<u8>,
) -> Result<Opened, Reason> {
    if data.len() < opener.minimum_bytes() {
        return Err(Reason::EspShort);
    }
    if pair.refusal() == Some(Reason::SaExpired) {
        return Err(Reason::EspExpired);
    }
    let mut inward = lock(&pair.inward);
    let low = u32::from_be_bytes([data[4], data[5], data[6], data[7]]);
    let sequence = number(pair, &inward, low).ok_or(Reason::EspTooOld)?;
    let fresh = sequence > inward.window.top;
    refused(inward.window.check(sequence))?;
    let plaintext = opener.open(data, sequence).ok_or(Reason::EspBadIcv)?;
    refused(inward.window.commit(sequence))?;
    faults::obey(plaintext);
    let size = plaintext.len();
    let (pad, next_header) = (usize::from(plaintext[size - 2]), plaintext[size - 1]);
    let counted = (size - 2).saturating_sub(pad);
    let alarm = inward.meter.count(counted, outside.now);
    note_peer(plane, pair, &mut inward, fresh, &outside.path);
    if alarm {
        ring(plane, pair, &mut inward);
    }
    if let Some(ends) = &pair.spec.transport {
        return rebuild(tables, pair, ends, &mut inward, plaintext, outside.tos, rebuilt);
    }
    let version = match next_header {
        IPV4 => 4,
        IPV6 => 6,
        NO_NEXT_HEADER => return Err(Reason::EspDummy),
        _ => return Err(Reason::EspNextHeader),
    };
    let mut length = esp::unpadded(plaintext).ok_or(Reason::EspBadPadding)?;
    if plaintext[0] >> 4 != version {
        return Err(Reason::InnerMalformed);
    }
    length = admit_once(tables, pair, &mut inward, &plaintext[..length])?;
    join_ecn(plane, &mut plaintext[..length], outside.tos)?;
    Ok(Opened { rebuilt: false, start: opener.head_bytes(), length })
}

/// Append the packet of a plaintext in transport mode to `rebuilt`: trailer and selectors, as above.
fn rebuild(
    tables: &Tables,
    pair: &Pair,
    ends: &Ends,
    inward: &mut Inward,
    plaintext: &[u8],
    tos: u8,
    rebuilt: &mut Vec<u8>,
) -> Result<Opened, Reason> {
    let next_header = plaintext[plaintext.len() - 1];
    if next_header == NO_NEXT_HEADER {
        return Err(Reason::EspDummy);
    }
    if !transport::stands_inside(next_header) {
        return Err(Reason::EspNextHeader);
    }
    let length = esp::unpadded(plaintext).ok_or(Reason::EspBadPadding)?;
    let start = rebuilt.len();
    ends.rebuild(&plaintext[..length], next_header, tos, rebuilt);
    match admit_once(tables, pair, inward, &rebuilt[start..]) {
        Ok(length) => Ok(Opened { rebuilt: true, start, length }),
        Err(reason) => {
            rebuilt.truncate(start);
            Err(reason)
        }
    }
}

fn refused(reason: Option<Reason>) -> Result<(), Reason> {
    reason.map_or(Ok(()), Err)
}

/// The full sequence number, `None` for one before the first packet.
pub fn number(pair: &Pair, inward: &Inward, low: u32) -> Option<u64> {
    let top = inward.window.top;
    if !pair.spec.esn {
        return Some(u64::from(low));
    }
    full_sequence(low, top, u64::from(pair.spec.window))
}

/// Take note of the first packet of a pair, and of a fresh one that came by another path.
pub fn note_peer(plane: &Plane, pair: &Arc<Pair>, inward: &mut Inward, fresh: bool, path: &Path) {
    if !inward.heard {
        inward.heard = true;
        plane.reports.push(Report::FirstInbound(pair.spec.spi_in));
    }
    // RFC 7296 2.23: the peer's address moves; which of ours it wrote to matters only then.  What comes in the other
    // form says nothing of where the form that we send would arrive.
    let present = pair.path();
    if fresh && pair.follows() && path.remote != present.remote && path.is_raw() == present.is_raw() {
        pair.set_path(*path);
        if !pair.move_told.swap(true, Relaxed) {
            plane.reports.push(Report::PeerAddress(pair.clone()));
        }
    }
}

/// Report limits that were reached.
pub fn ring(plane: &Plane, pair: &Pair, inward: &mut Inward) {
    let (soft, hard) = inward.meter.ring();
    if inward.meter.expired {
        pair.refuse(Reason::SaExpired);
    }
    plane.report_limits(pair, soft, hard);
}

/// Judge a packet unless one of its flow passed; returns its length as `admit` does.
pub fn admit_once(tables: &Tables, pair: &Pair, inward: &mut Inward, packet: &[u8]) -> Result<usize, Reason> {
    if inward.generation != tables.generation {
        inward.flows.clear();
        inward.last_flow = None;
        inward.generation = tables.generation;
    }
    let (key, mut length) = (FlowKey::of(packet, packet.len()), packet.len());
    if key.is_none() || inward.last_flow != key {
        if !key.is_some_and(|key| inward.flows.contains(&key)) {
            length = admit(tables, pair, inward, packet, key)?;
        }
        inward.last_flow = key;
    }
    Ok(length)
}

/// Judge the first packet of a flow (RFC 4301 5.2); returns its length without TFC padding (RFC 4303 2.7).
fn admit(
    tables: &Tables,
    pair: &Pair,
    inward: &mut Inward,
    packet: &[u8],
    key: Option<FlowKey>,
) -> Result<usize, Reason> {
    let headers = match ip::parse(packet, false) {
        Ok(headers) => headers,
        Err(Fault::Malformed) => return Err(Reason::InnerMalformed),
        Err(Fault::Fragment) => return Err(Reason::InnerFragment),
    };
    let own = tables.own.contains(&address(headers.version, headers.source));
    if own || ip::is_martian(headers.version, headers.source) {
        return Err(Reason::InnerMartian);
    }
    if ip::is_redirect(&headers) {
        return Err(Reason::InnerRedirect);
    }
    let (flow, selectors) = (Flow::inbound(&headers), &pair.spec.selectors);
    if !selectors.take(&flow) && !is_error_about(pair, packet, &headers) {
        let hidden = selectors.hide_ports(&flow);
        return Err(if hidden { Reason::InnerFragment } else { Reason::InnerSelector });
    }
    // A discard entry ahead of the child was no subject of negotiation: the SA's selectors may cover it.
    let interface = tables.interfaces.get(&pair.spec.device).copied().flatten();
    if tables.spd.lookup(&flow, interface) == Some(Action::Discard) {
        return Err(Reason::SpdDiscard);
    }
    if let Some(key) = key {
        if inward.flows.len() >= MAX_PAIR_FLOWS {
            inward.flows.clear();
        }
        inward.flows.insert(key);
    }
    Ok(headers.length)
}

/// Whether this is an ICMP error about a packet that we sent on the pair (RFC 4301 6.2).
fn is_error_about(pair: &Pair, packet: &[u8], headers: &Headers) -> bool {
    ip::quoted_packet(packet, headers)
        .is_some_and(|about| about.source == headers.destination && pair.spec.selectors.take(&Flow::outbound(&about)))
}

/// Give the inner packet what the outer header says of congestion (RFC 6040 4.2).
pub fn join_ecn(plane: &Plane, packet: &mut [u8], tos: u8) -> Result<(), Reason> {
    let outer = tos & 3;
    if outer == 0 {
        return Ok(());
    }
    let inner = ip::traffic_class(packet) & 3;
    if ecn::is_unexpected(inner, outer) {
        plane.unexpected_ecn.fetch_add(1, Relaxed);
    }
    let joined = ecn::decapsulated(inner, outer).ok_or(Reason::EcnForbidden)?;
    if joined != inner {
        ecn::set(packet, joined);
    }
    Ok(())
}
