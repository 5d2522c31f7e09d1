//! Joined packets against the segments they were made of.

use super::*;
use crate::segment::Cutter;
use std::collections::BTreeMap;

/// What a device would make of the frames: whole packets.
#[derive(Default)]
struct Card {
    frames: usize,
    packets: Vec<Vec<u8>>,
}

impl Write for Card {
    fn write(&mut self, parts: &[IoSlice]) {
        let mut frame: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let cutter = Cutter::new(&mut frame, true).expect("a frame that a device takes");
        self.frames += 1;
        for number in 0..cutter.count() {
            let mut packet = vec![0; cutter.length(number)];
            cutter.write(number, 0, &mut packet);
            self.packets.push(packet);
        }
    }
}

struct Segment {
    protocol: u8,
    port: u8,
    id: u16,
    sequence: u32,
    flags: u8,
    data: Vec<u8>,
}

impl Segment {
    fn packet(&self) -> Vec<u8> {
        let header = if self.protocol == TCP { 20 } else { 8 };
        let total = 20 + header + self.data.len();
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, self.protocol, 0, 0, 10, 2, 0, 1, 10, 1, 0, 1];
        packet[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        packet[4..6].copy_from_slice(&self.id.to_be_bytes());
        let sum = !checksum::fold(checksum::sum(&packet));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        let mut upper = vec![0; header];
        upper[1] = self.port;
        if self.protocol == TCP {
            upper[4..8].copy_from_slice(&self.sequence.to_be_bytes());
            upper[12..14].copy_from_slice(&[0x50, self.flags]);
        } else {
            upper[4..6].copy_from_slice(&((total - 20) as u16).to_be_bytes());
        }
        upper.extend(&self.data);
        let at = if self.protocol == TCP { 16 } else { 6 };
        let pseudo = checksum::pseudo(&packet[12..20], self.protocol, total - 20);
        let sum = !checksum::fold(pseudo + checksum::sum(&upper));
        upper[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        packet.extend(upper);
        packet
    }
}

fn by_flow(packets: &[Vec<u8>]) -> BTreeMap<(u8, u8), Vec<Vec<u8>>> {
    let mut flows: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for packet in packets {
        flows.entry((packet[9], packet[21])).or_default().push(packet.clone());
    }
    flows
}

fn join(packets: &[Vec<u8>], udp: bool) -> Card {
    let data: Vec<u8> = packets.concat();
    let mut start = 0;
    let mut delivered = Vec::new();
    for packet in packets {
        delivered.push(Delivery { device: 0, rebuilt: false, start, length: packet.len() });
        start += packet.len();
    }
    let mut card = Card::default();
    Joiner::default().write(Bytes { read: &data, rebuilt: &[] }, &delivered, udp, &mut card);
    card
}

#[test]
fn what_is_joined_comes_apart_into_what_it_was() {
    let mut state = 5u64;
    let mut chance = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let (mut frames, mut total) = (0, 0);
    for _ in 0..300 {
        let mut next = [100u32; 8];
        let mut ids = [0u16; 8];
        let packets: Vec<Vec<u8>> = (0..chance(200))
            .map(|_| {
                let flow = chance(8) as usize;
                let size = [1000, 1000, 1000, 1000, 1000, 1000, 998, 3, 0][chance(9) as usize];
                let flags = [ACK, ACK, ACK, ACK, ACK | PSH, 0x11, 0x12][chance(7) as usize];
                let protocol = if flow < 4 { TCP } else { UDP };
                let data = vec![chance(256) as u8; size];
                let segment = Segment { protocol, port: flow as u8, id: ids[flow], sequence: next[flow], flags, data };
                next[flow] += size as u32 + u32::from(chance(20) == 0);
                ids[flow] += 1 + u16::from(chance(20) == 0);
                let mut packet = segment.packet();
                if chance(20) == 0 && size > 0 {
                    let last = packet.len() - 1;
                    packet[last] ^= 1; // a wrong checksum must stay one
                }
                packet
            })
            .collect();
        let card = join(&packets, true);
        // TCP segments are numbered anew by whoever cuts them, which without DF matters to fragments only.
        let without_id = |packets: &[Vec<u8>]| {
            let blank = packets.iter().cloned().map(|mut packet| {
                if packet[9] == TCP {
                    packet[4..6].fill(0);
                    packet[10..12].fill(0);
                }
                packet
            });
            by_flow(&blank.collect::<Vec<_>>())
        };
        assert_eq!(without_id(&card.packets), without_id(&packets));
        frames += card.frames;
        total += packets.len();
    }
    assert!(frames < total * 3 / 4, "{frames} of {total}");
}

#[test]
fn udp_stays_apart_where_the_device_does_not_take_it_joined_and_below_its_limit() {
    let segment = |id| Segment { protocol: UDP, port: 1, id, sequence: 0, flags: 0, data: vec![7; 36] };
    let packets: Vec<Vec<u8>> = (0..200).map(|id| segment(id).packet()).collect();
    assert_eq!(join(&packets, false).frames, 200);
    assert_eq!(join(&packets, true).frames, 4);
}
