//! The way of an AH packet from the network (RFC 4302 3.4, RFC 4301 5.2), as inbound has it for ESP.
//!
//! 1 outer headers  2 SA by SPI  3 length  4 replay check  5 verify  6 commit  7 count, path  8 next header, in transport
//! mode the packet made again  9 selectors  10 ECN

use crate::ah::{Ah, FIXED_BYTES};
use crate::ah_transport;
use crate::drops::Reason;
use crate::inbound::{Delivered, Delivery, Outside, admit_once, join_ecn, note_peer, number, ring};
use crate::ip;
use crate::lock;
use crate::outer::{self, Outer};
use crate::plane::{Plane, Tables};
use crate::sad::Pair;
use std::sync::Arc;

/// Open a whole IP packet with AH: `data[span]`.  What is in it is appended to `delivered`.
pub fn packet(
    plane: &Plane,
    data: &mut [u8],
    span: std::ops::Range<usize>,
    outside: &Outside,
    delivered: &mut Delivered,
) {
    let start = span.start;
    let packet = &mut data[span];
    let outer = match outer::read(packet) {
        Ok(outer) if outer.at + FIXED_BYTES <= outer.end => outer,
        Ok(_) => return plane.drop(Reason::AhShort, None, 1),
        Err(reason) => return plane.drop(reason, None, 1),
    };
    let word = |at: usize| u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
    let (spi, low) = (word(outer.at + 4), word(outer.at + 8));
    let tables = plane.tables();
    let Some((pair, opener)) = tables.sad.ah(spi) else {
        // Under the lock of the tables: an SA that is installed after this look finds it.
        lock(&plane.early).keep(spi, ip::AH, packet, outside);
        return plane.unknown_spi(outside.path, spi, outside.now, Reason::AhUnknownSpi);
    };
    match open(plane, &tables, pair, opener, packet, &outer, low, outside) {
        Ok((offset, length)) => {
            let start = start + offset;
            delivered.packets.push(Delivery { device: pair.spec.device, rebuilt: false, start, length });
        }
        Err(reason) => plane.drop(reason, Some(pair), 1),
    }
}

/// Open a packet of a pair in place; returns where the inner packet lies in it.
#[allow(clippy::too_many_arguments)]
fn open(
    plane: &Plane,
    tables: &Tables,
    pair: &Arc<Pair>,
    opener: &Ah,
    packet: &mut [u8],
    outer: &Outer,
    low: u32,
    outside: &Outside,
) -> Result<(usize, usize), Reason> {
    if !opener.is_whole(packet, outer) {
        return Err(Reason::AhMalformed);
    }
    if pair.refusal() == Some(Reason::SaExpired) {
        return Err(Reason::AhExpired);
    }
    let (tos, next_header, at) = (ip::traffic_class(packet), packet[outer.at], outer.at + opener.size(outer.version));
    let mut inward = lock(&pair.inward);
    let sequence = number(pair, &inward, low).ok_or(Reason::AhTooOld)?;
    let fresh = sequence > inward.window.top;
    refused(inward.window.check(sequence))?;
    if !opener.verify(packet, outer, sequence) {
        return Err(Reason::AhBadIcv);
    }
    refused(inward.window.commit(sequence))?;
    let alarm = inward.meter.count(outer.end - at, outside.now);
    note_peer(plane, pair, &mut inward, fresh, &outside.path);
    if alarm {
        ring(plane, pair, &mut inward);
    }
    if let Some(ends) = &pair.spec.transport {
        let start = ah_transport::restore(packet, outer, opener.size(outer.version), ends)?;
        let length = admit_once(tables, pair, &mut inward, &packet[start..outer.end])?;
        return Ok((start, length));
    }
    let inner = &mut packet[at..outer.end];
    let version = match next_header {
        ip::IPV4 => 4,
        ip::IPV6 => 6,
        _ => return Err(Reason::AhNextHeader),
    };
    if inner.first().is_none_or(|first| first >> 4 != version) {
        return Err(Reason::InnerMalformed);
    }
    let length = admit_once(tables, pair, &mut inward, inner)?;
    join_ecn(plane, &mut inner[..length], tos)?;
    Ok((at, length))
}

fn refused(reason: Option<Reason>) -> Result<(), Reason> {
    match reason {
        None => Ok(()),
        Some(Reason::EspReplayed) => Err(Reason::AhReplayed),
        Some(_) => Err(Reason::AhTooOld),
    }
}
