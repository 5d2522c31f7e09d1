//! The way of a packet from a TUN device to the peer (RFC 4301 5.1).
//!
//! 1 virtio header  2 flow cache  3 headers  4 loop guard  5 SPD  6 the child's SA, else hold and acquire
//! then, in protect.rs, for each segment: 7 limits  8 number and count  9 cut, seal

use crate::drops::Reason;
use crate::flow_cache::FlowCache;
use crate::ip::{self, Fault, FlowKey, Headers};
use crate::lock;
use crate::plane::{Plane, Tables};
use crate::protect::Numbered;
use crate::reports::Report;
use crate::sad::{Pair, Path};
use crate::segment::Cutter;
use crate::spd::{Action, Flow, Id};
use std::net::IpAddr;
use std::sync::Arc;

/// Of the packet, enough for its headers.
const ACQUIRE_BYTES: usize = 128;
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
        let numbered = self.number(plane, &plane.tables(), device, cutter, now);
        if let Some(numbered) = numbered {
            numbered.seal(plane, cutter, sink);
        }
    }

    /// The first half: decide what becomes of a packet, and give its segments their numbers where it is to be sealed.
    pub fn number(
        &mut self,
        plane: &Plane,
        tables: &Tables,
        device: Id,
        cutter: &Cutter,
        now: f64,
    ) -> Option<Numbered> {
        match self.route(plane, tables, device, cutter.packet(), now) {
            Verdict::Send(pair) => return Numbered::new(plane, pair, cutter, now),
            Verdict::Hold(child) => self.hold(plane, child, device, cutter, now),
            Verdict::Drop(reason) => plane.drop(reason, None, cutter.count() as u64),
        }
        None
    }

    /// Number a packet on an SA of the child, without asking the SPD (probes); false when there is none that takes it.
    pub fn inject(plane: &Plane, child: Id, cutter: &Cutter, now: f64) -> (bool, Option<Numbered>) {
        let Ok(headers) = ip::parse(cutter.packet(), false) else { return (false, None) };
        let flow = Flow::outbound(&headers);
        let tables = plane.tables();
        let Some(slots) = tables.sad.sending(child) else { return (false, None) };
        match slots.candidates(&flow).find(|pair| pair.spec.selectors.take(&flow)) {
            Some(pair) => (true, Numbered::new(plane, pair.clone(), cutter, now)),
            None => (false, None),
        }
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
