//! What happens to a packet that has its SA (RFC 4301 5.1), in two halves: first limits and numbers, in the order in which
//! packets leave (see order.rs), then each segment is cut and sealed, by as many threads as there are.

use crate::ah_transport;
use crate::drops::Reason;
use crate::faults;
use crate::ip;
use crate::lock;
use crate::outbound::Sink;
use crate::plane::Plane;
use crate::reports::Report;
use crate::sad::{Keys, Outward, Pair, Path};
use crate::segment::Cutter;
use crate::tfc;
use crate::transport::Part;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

/// Packets above, with TFC padding, tell that large datagrams flow (ipsec/mtu.py).
const LARGE_PACKET_BYTES: usize = 1024;
/// Seconds between two such reports of one pair.
const LARGE_REPORT_S: f64 = 2.0;

/// A packet whose segments have their numbers and are yet to be sealed; a number that is not used is lost.
pub struct Numbered {
    pair: Arc<Pair>,
    path: Path,
    tos: u8,
    part: Part,
    /// Those of the segments that are sent: the first ones may be too big, the last ones beyond a limit.
    segments: Range<usize>,
    /// Number of the first of them; the others follow.
    first: u64,
}

impl Numbered {
    /// Judge the segments of a packet by the limits of its pair, and number them; `None` where none is left.
    pub fn new(plane: &Plane, pair: Arc<Pair>, cutter: &Cutter, now: f64) -> Option<Numbered> {
        let packet = cutter.packet();
        let part = match (&pair.spec.transport, &pair.spec.keys) {
            (None, _) => Ok(Part::whole(packet)),
            (_, Keys::Esp { .. }) => Part::of(packet),
            (_, Keys::Ah { .. }) => ah_transport::part_of(packet),
        };
        let mtu = pair.inner_mtu.load(Relaxed) as usize;
        let (mut segments, mut first) = (0..0, 0);
        let mut outward = lock(&pair.outward);
        for number in 0..cutter.count() {
            let length = cutter.length(number);
            let refusal = pair.refusal().or((mtu > 0 && length > mtu).then_some(Reason::TooBig));
            let length = match refusal.map_or(part, Err) {
                Ok(part) => length - part.start - (packet.len() - part.end),
                Err(reason) => {
                    plane.drop(reason, Some(&pair), 1);
                    continue;
                }
            };
            let most = match pair.spec.keys {
                Keys::Esp { .. } if pair.spec.transport.is_none() => pair.spec.tfc.most_bytes(length, mtu),
                _ => length,
            };
            if most > LARGE_PACKET_BYTES && now >= outward.large_due {
                outward.large_due = now + LARGE_REPORT_S;
                plane.reports.push(Report::LargeOutbound(pair.spec.spi_in));
            }
            let sequence = count(plane, &pair, &mut outward, length, now);
            if segments.is_empty() {
                (segments, first) = (number..number, sequence);
            }
            segments.end = number + 1;
        }
        drop(outward);
        let (part, path, tos) = (part.ok()?, pair.path(), ip::traffic_class(packet));
        (!segments.is_empty()).then_some(Numbered { pair, path, tos, part, segments, first })
    }

    /// Seal all segments in the places that they are sent from; `cutter` holds the packet that was numbered.
    pub fn seal(&self, plane: &Plane, cutter: &Cutter, sink: &mut impl Sink) {
        let outside = cutter.packet().len() - (self.part.end - self.part.start);
        for (sequence, number) in (self.first..).zip(self.segments.clone()) {
            let length = cutter.length(number) - outside;
            if !self.seal_one(cutter, number, length, sequence, sink) {
                sink.take_back();
                plane.drop(Reason::SendFailed, Some(&self.pair), 1);
            }
        }
    }

    fn seal_one(&self, cutter: &Cutter, number: usize, length: usize, sequence: u64, sink: &mut impl Sink) -> bool {
        let (spec, path, part) = (&self.pair.spec, &self.path, &self.part);
        match &spec.keys {
            Keys::Esp { sealer, .. } => {
                let largest = self.pair.inner_mtu.load(Relaxed) as usize;
                let padded = if spec.transport.is_none() { spec.tfc.padded_bytes(length, largest) } else { length };
                let place = sink.place(path, path.carrier(), self.tos, sealer.sealed_bytes(padded));
                let (inner, padding) = place[sealer.head_bytes()..][..padded].split_at_mut(length);
                cutter.write(number, part.start, inner);
                faults::obey(inner);
                padding.fill(0);
                sealer.seal(place, padded, part.next_header, sequence)
            }
            Keys::Ah { sealer, .. } if spec.transport.is_some() => {
                let size = sealer.size(cutter.packet()[0] >> 4);
                let place = sink.place(path, ip::AH, self.tos, size + part.start + length);
                cutter.write(number, 0, &mut place[size..]);
                place.copy_within(size..size + part.start, 0);
                sealer.seal_part(place, part, path, sequence)
            }
            Keys::Ah { sealer, .. } => {
                let head = sealer.head_bytes(path);
                let place = sink.place(path, ip::AH, self.tos, head + length);
                cutter.write(number, part.start, &mut place[head..]);
                sealer.seal(place, path, self.tos, sequence)
            }
        }
    }
}

/// A packet of nothing, which the peer discards (RFC 4303 2.6).
pub struct Dummy {
    pair: Arc<Pair>,
    path: Path,
    size: usize,
    sequence: u64,
}

impl Dummy {
    /// Number one around `size` bytes; `None` where the pair sends no more.
    pub fn new(plane: &Plane, pair: &Arc<Pair>, size: usize, now: f64) -> Option<Dummy> {
        if matches!(pair.spec.keys, Keys::Ah { .. }) {
            return None; // AH has no such thing
        }
        let largest = match pair.inner_mtu.load(Relaxed) as usize {
            0 => tfc::MAX_DUMMY_BYTES,
            mtu => mtu.min(tfc::MAX_DUMMY_BYTES),
        };
        if let Some(reason) = pair.refusal().or((size > largest).then_some(Reason::TooBig)) {
            plane.drop(reason, Some(pair), 1);
            return None;
        }
        let sequence = count(plane, pair, &mut lock(&pair.outward), size, now);
        Some(Dummy { path: pair.path(), pair: pair.clone(), size, sequence })
    }

    /// Seal it; false where the library refuses.
    pub fn seal(&self, plane: &Plane, sink: &mut impl Sink) -> bool {
        let Keys::Esp { sealer, .. } = &self.pair.spec.keys else { return false };
        let place = sink.place(&self.path, self.path.carrier(), 0, sealer.sealed_bytes(self.size));
        place[sealer.head_bytes()..][..self.size].fill(0);
        if sealer.seal(place, self.size, tfc::NO_NEXT_HEADER, self.sequence) {
            return true;
        }
        sink.take_back();
        plane.drop(Reason::SendFailed, Some(&self.pair), 1);
        false
    }
}

/// Count a packet of `length` bytes, and return its number.  Counted up before sealing: a number is never used twice,
/// whatever happens to the packet (RFC 4106 3.1).
fn count(plane: &Plane, pair: &Pair, outward: &mut Outward, length: usize, now: f64) -> u64 {
    outward.sequence += 1;
    let sequence = outward.sequence;
    let alarm = outward.meter.count(length, now);
    if alarm || sequence >= outward.alarm_sequence {
        ring(plane, pair, outward);
    }
    sequence
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
