//! The way of a packet from a TUN device to the peer (RFC 4301 5.1).
//!
//! 1 virtio header  2 flow cache  3 headers  4 loop guard  5 SPD  6 the child's SA, else hold and acquire
//! 7 for each segment: limits, number, cut, seal  8 count

use crate::drops::Reason;
use crate::flow_cache::FlowCache;
use crate::ip::{self, Fault, FlowKey, Headers};
use crate::lock;
use crate::plane::{Plane, Tables};
use crate::reports::Report;
use crate::sad::{Keys, Outward, Pair, Path};
use crate::segment::Cutter;
use crate::spd::{Action, Flow, Id};
use crate::tfc;
use crate::transport::Part;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Of the packet, enough for its headers.
const ACQUIRE_BYTES: usize = 128;
/// Inner packets above tell that large datagrams flow (ipsec/mtu.py).
const LARGE_PACKET_BYTES: usize = 1024;
/// Seconds between two such reports of one pair.
const LARGE_REPORT_S: f64 = 2.0;
const IKE_PORTS: [Option<u16>; 2] = [Some(500), Some(4500)];

/// Takes sealed datagrams in order.
pub trait Sink {
    /// Room for a datagram of exactly `size` bytes, which the caller fills; `carrier` is the IP protocol it goes by.
    fn place(&mut self, path: &Path, carrier: u8, tos: u8, size: usize) -> &mut [u8];
    /// The last place was not filled after all.
    fn take_back(&mut self);
}

enum Verdict {
    Send(Arc<Pair>),
    Hold(Id),
    Drop(Reason),
}

/// One thread's outbound side.
#[derive(Default)]
pub struct Outbound {
    flows: FlowCache,
    scratch: Vec<u8>,
}

impl Outbound {
    /// Carry what one read of a device brought to its end; `vnet` says that a virtio header is ahead of it.
    pub fn frame(&mut self, plane: &Plane, device: Id, frame: &mut [u8], vnet: bool, now: f64, sink: &mut impl Sink) {
        match Cutter::new(frame, vnet) {
            Some(cutter) => self.packet(plane, device, &cutter, now, sink),
            None => plane.drop(Reason::TunMalformed, None, 1),
        }
    }

    /// The same with a whole packet; also for packets that were held.
    pub fn packet(&mut self, plane: &Plane, device: Id, cutter: &Cutter, now: f64, sink: &mut impl Sink) {
        let tables = plane.tables();
        match self.route(plane, &tables, device, cutter.packet(), now) {
            Verdict::Send(pair) => protect(plane, &pair, cutter, now, sink),
            Verdict::Hold(child) => self.hold(plane, child, device, cutter, now),
            Verdict::Drop(reason) => plane.drop(reason, None, cutter.count() as u64),
        }
    }

    /// Send a packet on an SA of the child, without asking the SPD (probes); false when there is none that takes it.
    pub fn inject(plane: &Plane, child: Id, packet: &mut [u8], now: f64, sink: &mut impl Sink) -> bool {
        let Ok(headers) = ip::parse(packet, false) else { return false };
        let flow = Flow::outbound(&headers);
        let tables = plane.tables();
        let Some(slots) = tables.sad.sending(child) else { return false };
        let Some(pair) = slots.candidates(&flow).find(|pair| pair.spec.selectors.take(&flow)) else { return false };
        if let Some(cutter) = Cutter::new(packet, false) {
            protect(plane, pair, &cutter, now, sink);
        }
        true
    }

    fn hold(&mut self, plane: &Plane, child: Id, device: Id, cutter: &Cutter, now: f64) {
        let mut held = lock(&plane.held);
        for number in 0..cutter.count() {
            self.scratch.resize(cutter.length(number), 0);
            cutter.write(number, 0, &mut self.scratch);
            plane.drops.add(Reason::HeldOverflow, held.add(child, device, &self.scratch, now));
            if held.should_acquire(child, now) {
                plane.reports.push(acquire(child, &self.scratch));
            }
        }
    }

    fn route(&mut self, plane: &Plane, tables: &Tables, device: Id, packet: &[u8], now: f64) -> Verdict {
        let key = FlowKey::of(packet, packet.len());
        if let Some(pair) = key.and_then(|key| self.flows.get(device, &key, tables.generation)) {
            return Verdict::Send(pair);
        }
        let verdict = decide(plane, tables, device, packet, now);
        if let (Some(key), Verdict::Send(pair)) = (key, &verdict) {
            self.flows.insert(device, key, tables.generation, pair);
        }
        verdict
    }
}

fn acquire(child: Id, packet: &[u8]) -> Report {
    Report::Acquire(child, packet[..packet.len().min(ACQUIRE_BYTES)].into())
}

fn decide(plane: &Plane, tables: &Tables, device: Id, packet: &[u8], now: f64) -> Verdict {
    let headers = match ip::parse(packet, false) {
        Ok(headers) => headers,
        Err(Fault::Malformed) => return Verdict::Drop(Reason::TunMalformed),
        Err(Fault::Fragment) => return Verdict::Drop(Reason::OutboundFragment),
    };
    if is_own(tables, &headers) {
        return Verdict::Drop(Reason::TunLooped);
    }
    let interface = tables.interfaces.get(&device).copied().flatten();
    let refused = match search(tables, &Flow::outbound(&headers), interface) {
        Ok(pair) => return Verdict::Send(pair.clone()),
        Err(refused) => refused,
    };
    if matches!(refused.0, Reason::SpdNoMatch | Reason::OutsideNegotiated) {
        // RFC 4301 6.2: an ICMP error travels on the SA of the packet it is about, back to that packet's sender only.
        let about = ip::quoted_packet(packet, &headers).filter(|about| about.source == headers.destination);
        if let Some(Ok(pair)) = about.map(|about| search(tables, &Flow::inbound(&about), interface)) {
            return Verdict::Send(pair.clone());
        }
    }
    match refused {
        (Reason::NoSa, Some(child)) => Verdict::Hold(child),
        (reason, child) => {
            if let (Reason::OutsideNegotiated, Some(child)) = (reason, child) {
                // With one SA for each selector pair, another may come up.
                if lock(&plane.held).should_acquire(child, now) {
                    plane.reports.push(acquire(child, packet));
                }
            }
            Verdict::Drop(reason)
        }
    }
}

/// Whether this is our own IKE, ESP or AH, sent into the tunnel by a broken route.
fn is_own(tables: &Tables, headers: &Headers) -> bool {
    tables.own.contains(&address(headers.version, headers.source))
        && (matches!(headers.protocol, ip::ESP | ip::AH)
            || (headers.protocol == ip::UDP
                && (IKE_PORTS.contains(&headers.source_port) || IKE_PORTS.contains(&headers.destination_port))))
}

/// An address of a family in the library's form.
pub fn address(version: u8, value: u128) -> IpAddr {
    if version == 4 { IpAddr::V4((value as u32).into()) } else { IpAddr::V6(value.into()) }
}

/// What SPD and SAD say: a pair, or the reason why not, with the child that it concerns.
fn search<'a>(tables: &'a Tables, flow: &Flow, interface: Option<Id>) -> Result<&'a Arc<Pair>, (Reason, Option<Id>)> {
    let child = match tables.spd.lookup(flow, interface) {
        Some(Action::Protect(child)) => child,
        Some(Action::Discard) => return Err((Reason::SpdDiscard, None)),
        Some(Action::Bypass) => return Err((Reason::SpdBypassInTun, None)),
        None if flow.local_port.is_none() && tables.spd.hidden_ports_matter(flow, interface) => {
            return Err((Reason::OutboundFragment, None));
        }
        None => return Err((Reason::SpdNoMatch, None)),
    };
    let Some(slots) = tables.sad.sending(child) else { return Err((Reason::NoSa, Some(child))) };
    let mut pairs = slots.candidates(flow);
    if let Some(pair) = pairs.clone().find(|pair| pair.spec.selectors.take(flow)) {
        return Ok(pair);
    }
    let hidden = pairs.any(|pair| pair.spec.selectors.hide_ports(flow));
    Err((if hidden { Reason::OutboundFragment } else { Reason::OutsideNegotiated }, Some(child)))
}

/// Seal all segments of a packet.
fn protect(plane: &Plane, pair: &Pair, cutter: &Cutter, now: f64, sink: &mut impl Sink) {
    let packet = cutter.packet();
    let (tos, path) = (ip::traffic_class(packet), pair.path());
    let part = if pair.spec.transport.is_some() { Part::of(packet) } else { Ok(Part::whole(packet)) };
    let mtu = pair.inner_mtu.load(Relaxed) as usize;
    let mut outward = lock(&pair.outward);
    for number in 0..cutter.count() {
        let length = cutter.length(number);
        let refusal = pair.refusal().or((mtu > 0 && length > mtu).then_some(Reason::TooBig));
        let part = match refusal.map_or(part, Err) {
            Ok(part) => part,
            Err(reason) => {
                plane.drop(reason, Some(pair), 1);
                continue;
            }
        };
        let length = length - part.start - (packet.len() - part.end);
        if length > LARGE_PACKET_BYTES && now >= outward.large_due {
            outward.large_due = now + LARGE_REPORT_S;
            plane.reports.push(Report::LargeOutbound(pair.spec.spi_in));
        }
        // Counted up before sealing: a number is never used twice, whatever happens to the packet (RFC 4106 3.1).
        outward.sequence += 1;
        let sequence = outward.sequence;
        if !seal(pair, &path, tos, cutter, number, &part, length, sequence, sink) {
            sink.take_back();
            plane.drop(Reason::SendFailed, Some(pair), 1);
            continue;
        }
        let alarm = outward.meter.count(length, now);
        if alarm || sequence >= outward.alarm_sequence {
            ring(plane, pair, &mut outward);
        }
    }
}

/// Seal a part of one segment in the place that it is sent from.
#[allow(clippy::too_many_arguments)]
fn seal(
    pair: &Pair,
    path: &Path,
    tos: u8,
    cutter: &Cutter,
    number: usize,
    part: &Part,
    length: usize,
    sequence: u64,
    sink: &mut impl Sink,
) -> bool {
    match &pair.spec.keys {
        Keys::Esp { sealer, .. } => {
            let largest = pair.inner_mtu.load(Relaxed) as usize;
            let tunnel = pair.spec.transport.is_none();
            let padded = if tunnel { pair.spec.tfc.padded_bytes(length, largest) } else { length };
            let place = sink.place(path, path.carrier(), tos, sealer.sealed_bytes(padded));
            let (inner, padding) = place[sealer.head_bytes()..][..padded].split_at_mut(length);
            cutter.write(number, part.start, inner);
            padding.fill(0);
            sealer.seal(place, padded, part.next_header, sequence)
        }
        Keys::Ah { sealer, .. } => {
            let head = sealer.head_bytes(path);
            let place = sink.place(path, ip::AH, tos, head + length);
            cutter.write(number, part.start, &mut place[head..]);
            sealer.seal(place, path, tos, sequence)
        }
    }
}

/// Seal `size` bytes of nothing, which the peer discards (RFC 4303 2.6); false where the pair sends no more.
pub fn dummy(plane: &Plane, pair: &Pair, size: usize, now: f64, sink: &mut impl Sink) -> bool {
    let Keys::Esp { sealer, .. } = &pair.spec.keys else { return false }; // AH has no such thing
    let mtu = pair.inner_mtu.load(Relaxed) as usize;
    let refusal = pair.refusal().or((mtu > 0 && size > mtu).then_some(Reason::TooBig));
    if let Some(reason) = refusal {
        plane.drop(reason, Some(pair), 1);
        return false;
    }
    let path = pair.path();
    let mut outward = lock(&pair.outward);
    outward.sequence += 1; // before sealing, as above
    let sequence = outward.sequence;
    let place = sink.place(&path, path.carrier(), 0, sealer.sealed_bytes(size));
    place[sealer.head_bytes()..][..size].fill(0);
    if !sealer.seal(place, size, tfc::NO_NEXT_HEADER, sequence) {
        sink.take_back();
        plane.drop(Reason::SendFailed, Some(pair), 1);
        return false;
    }
    let alarm = outward.meter.count(size, now);
    if alarm || sequence >= outward.alarm_sequence {
        ring(plane, pair, &mut outward);
    }
    true
}

/// Report limits that were reached, and stop the pair at a hard one.
fn ring(plane: &Plane, pair: &Pair, outward: &mut Outward) {
    let (mut soft, mut hard) = outward.meter.ring();
    if outward.sequence >= outward.alarm_sequence {
        if outward.sequence >= pair.last_sequence() {
            // RFC 4303 3.3.3: the counter must not cycle.
            pair.refuse(Reason::SequenceExhausted);
            hard.get_or_insert_with(|| "no sequence numbers left".into());
        } else {
            outward.alarm_sequence = pair.last_sequence();
            soft.get_or_insert_with(|| "half of the sequence numbers used".into());
        }
    }
    if outward.meter.expired {
        pair.refuse(Reason::SaExpired);
    }
    plane.report_limits(pair, soft, hard);
}
