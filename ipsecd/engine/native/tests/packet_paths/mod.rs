//! What every sequence of bytes must come to, on both ways through the engine: shared by the mutation test beside this
//! directory and by the fuzz targets (../fuzz).

use _native::ah::Ah;
use _native::ah_inbound;
use _native::drops::Counters;
use _native::esp::{Esp, Suite};
use _native::inbound::{self, Bytes, Delivered, Outside};
use _native::join::{Joiner, Write};
use _native::lifetime::Volume;
use _native::outbound::Outbound;
use _native::outer;
use _native::plane::Plane;
use _native::sad::{Keys, PairSpec, Path};
use _native::segment::{Cutter, VNET_BYTES};
use _native::spd::{Action, Entry, Id, Selector, Selectors};
use _native::transport::{Ends, Part};
use _native::udp::RunSender;
use std::collections::HashMap;
use std::io::IoSlice;

const KEY: [u8; 36] = [7; 36];
// AES-GCM for IPv4, AES-CBC for IPv6; and two hosts in transport mode, each family, with a NAT between them.
const CHILDREN: [(Id, u16); 4] = [(0, 20), (1, 12), (2, 20), (3, 12)];
// AH: a tunnel, and two hosts of each family.
const AH_CHILDREN: [Id; 3] = [4, 5, 6];
const HMAC_SHA2_256: u16 = 12;
/// Inputs that begin with this and more are of AH.
pub const LEAST_AH: u8 = 128;
const NOW: f64 = 1.0;

fn selector(version: u8, low: u128, high: u128) -> Selector {
    Selector { version, low, high, protocol: 0, port_low: 0, port_high: 65535 }
}

fn selectors(child: Id, turned: bool) -> Selectors {
    let (near, far) = match child {
        0 => (selector(4, 0x0A01_0000, 0x0A01_FFFF), selector(4, 0x0A02_0000, 0x0A02_FFFF)),
        2 => (selector(4, 0x0A03_0001, 0x0A03_0001), selector(4, 0x0A04_0001, 0x0A04_0001)),
        3 => (selector(6, host(3), host(3)), selector(6, host(4), host(4))),
        4 => (selector(4, 0x0A05_0000, 0x0A05_FFFF), selector(4, 0x0A06_0000, 0x0A06_FFFF)),
        5 => (selector(4, 0x0A07_0001, 0x0A07_0001), selector(4, 0x0A08_0001, 0x0A08_0001)),
        6 => (selector(6, host(7), host(7)), selector(6, host(8), host(8))),
        _ => {
            let site = |number: u128| (0x2001_0db8 << 96) | (number << 80);
            (selector(6, site(1), site(2) - 1), selector(6, site(2), site(3) - 1))
        }
    };
    let (local, remote) = if turned { (far, near) } else { (near, far) };
    Selectors { local: vec![local], remote: vec![remote] }
}

fn host(number: u128) -> u128 {
    (0x2001_0db8 << 96) | (number << 80) | 1
}

fn ends(child: Id, turned: bool) -> Option<Ends> {
    let of = |side: &[Selector]| match side[0].version {
        4 => std::net::IpAddr::V4((side[0].low as u32).into()),
        _ => std::net::IpAddr::V6(side[0].low.into()),
    };
    let Selectors { local, remote } = selectors(child, turned);
    matches!(child, 2 | 3 | 5 | 6).then(|| Ends { local: of(&local), remote: of(&remote), nat_sum: 4711 })
}

fn suite(encr: u16) -> Suite<'static> {
    let aead = encr == 20;
    Suite {
        encr,
        integ: if aead { 0 } else { 12 },
        key_bytes: 32,
        esn: false,
        encr_key: if aead { &KEY } else { &KEY[..32] },
        integ_key: if aead { &[] } else { &KEY[..32] },
    }
}

/// SPI that the end named by `turned` receives on.
fn spi(child: Id, turned: bool) -> u32 {
    0x1000 + child * 2 + u32::from(turned)
}

/// Between the two gateways.
pub fn path() -> Path {
    let end = |text: &str| text.parse().expect("an endpoint");
    Path { local: end("192.0.2.1:4500"), remote: end("203.0.113.7:4500") }
}

/// The same for AH, whose header is of the family of its hosts.
fn ah_path(child: Id) -> Path {
    let end = |text: &str| text.parse().expect("an endpoint");
    match child {
        6 => Path { local: end("[2001:db8:a::1]:0"), remote: end("[2001:db8:b::1]:0") },
        _ => Path { local: end("192.0.2.1:0"), remote: end("203.0.113.7:0") },
    }
}

fn ah(spi: u32) -> Ah {
    Ah::new(spi, HMAC_SHA2_256, false, &KEY[..32]).expect("a key that fits")
}

/// A gateway with a pair of SAs for each family, whose window is this many packets; 0 takes any number.
pub fn near(window: u32) -> Plane {
    plane(false, window)
}

/// Its peer.
pub fn far(window: u32) -> Plane {
    plane(true, window)
}

fn plane(turned: bool, window: u32) -> Plane {
    let plane = Plane::new().expect("an eventfd");
    plane.add_device(0, None);
    plane.set_own_addresses(["192.0.2.1".parse().expect("an address")].into());
    let esp = CHILDREN.map(|(child, encr)| {
        let key = |spi| Esp::new(spi, &suite(encr)).expect("keys that fit");
        let keys = Keys::Esp { sealer: key(spi(child, !turned)), opener: key(spi(child, turned)) };
        (child, path(), keys)
    });
    let ah = AH_CHILDREN.map(|child| {
        let keys = Keys::Ah { sealer: ah(spi(child, !turned)), opener: ah(spi(child, turned)) };
        (child, ah_path(child), keys)
    });
    let all: Vec<_> = esp.into_iter().chain(ah).collect();
    let entry =
        |child: Id| Entry { action: Action::Protect(child), interface: None, selectors: selectors(child, turned) };
    plane.replace_policy(all.iter().map(|(child, ..)| entry(*child)).collect(), HashMap::new());
    for (child, path, keys) in all {
        let spec = PairSpec {
            spi_in: spi(child, turned),
            child,
            slot: 0,
            device: 0,
            esn: false,
            window,
            follow: false,
            volume: Volume::default(),
            selectors: selectors(child, turned),
            path,
            tfc: Default::default(),
            keys,
            transport: ends(child, turned),
        };
        assert!(plane.install(spec));
        plane.use_outbound(child, spi(child, turned), NOW);
    }
    plane
}

/// Takes frames as a device would, which cuts what was joined.
struct Card(usize);

impl Write for Card {
    fn write(&mut self, parts: &[IoSlice]) {
        let mut frame: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.0 += Cutter::new(&mut frame, true).expect("a frame that a device takes").count();
    }
}

/// Two gateways, back to back.
pub struct World {
    near: Plane,
    far: Plane,
    outbound: Outbound,
    sender: RunSender,
    joiner: Joiner,
    sequence: u32,
    /// Packets that came through, either way.
    pub delivered: usize,
    /// Those of them that left by AH.
    pub by_ah: usize,
}

impl Default for World {
    fn default() -> World {
        World {
            // Any number is taken, so that packets of many runs are.
            near: near(0),
            far: far(0),
            outbound: Outbound::default(),
            sender: RunSender::default(),
            joiner: Joiner::default(),
            sequence: 0,
            delivered: 0,
            by_ah: 0,
        }
    }
}

fn total(drops: &Counters) -> u64 {
    drops.read().iter().map(|(_, count)| count).sum()
}

fn outside() -> Outside {
    Outside { path: path(), tos: 0, now: NOW }
}

impl World {
    /// What a device may hand over: it leaves sealed, and opens at the peer, or waits, or is counted.
    pub fn frame(&mut self, frame: &[u8], vnet: bool) {
        let (before, waited) = (total(&self.near.drops), self.waiting());
        let mut copy = frame.to_vec();
        self.outbound.frame(&self.near, 0, &mut copy, vnet, NOW, &mut self.sender);
        let sent = self.sender.drain();
        assert!(!sent.is_empty() || total(&self.near.drops) > before || self.waiting() > waited, "it vanished");
        for (_, _, mut datagram) in sent {
            let length = datagram.len();
            let mut delivered = Delivered::default();
            if datagram[0] == 0 {
                assert!(CHILDREN.iter().any(|(child, _)| is_spi(&datagram, *child)), "in clear");
                inbound::datagrams(&self.far, &mut datagram, 0..length, length, &outside(), &mut delivered);
            } else {
                // A whole IP packet: our SPIs are small.
                let Ok(outer) = outer::read(&datagram) else { panic!("in clear") };
                assert!(AH_CHILDREN.iter().any(|child| is_spi(&datagram[outer.at + 4..], *child)), "in clear");
                ah_inbound::packet(&self.far, &mut datagram, 0..length, &outside(), &mut delivered);
                self.by_ah += delivered.packets.len();
            }
            self.write(&datagram, &delivered);
        }
        self.near.reports.take(usize::MAX);
        self.far.reports.take(usize::MAX);
    }

    /// What a socket may hand over, in datagrams of `segment` bytes: each is delivered, IKE, kept or counted.
    pub fn datagrams(&mut self, data: &[u8], segment: usize) {
        let (mut copy, mut delivered, before) = (data.to_vec(), Delivered::default(), total(&self.near.drops));
        let length = copy.len();
        inbound::datagrams(&self.near, &mut copy, 0..length, segment, &outside(), &mut delivered);
        let reports = self.near.reports.take(usize::MAX).len() as u64;
        let count = length.div_ceil(segment.max(1)).max(1) as u64;
        let ended = delivered.packets.len() as u64 + (total(&self.near.drops) - before) + reports;
        assert!(ended >= count, "{ended} of {count} datagrams came to an end");
        self.write(&copy, &delivered);
    }

    /// A peer that went bad: any inner packet, any trailer, sealed with the right keys.
    pub fn plaintext(&mut self, plaintext: &[u8], next_header: u8, broken_padding: bool) {
        for (child, encr) in CHILDREN {
            self.sequence += 1;
            let esp = Esp::new(spi(child, false), &suite(encr)).expect("keys that fit");
            let mut sealed = vec![0; esp.sealed_bytes(plaintext.len())];
            sealed[esp.head_bytes()..][..plaintext.len()].copy_from_slice(plaintext);
            assert!(esp.seal(&mut sealed, plaintext.len(), next_header, self.sequence.into()));
            if broken_padding {
                let last = sealed.len() - 1;
                sealed[last] ^= 1;
            }
            self.datagrams(&sealed, sealed.len());
        }
    }

    /// What the socket of AH may hand over: it is delivered or counted.
    pub fn ah_packet(&mut self, data: &[u8]) {
        let (mut copy, mut delivered, before) = (data.to_vec(), Delivered::default(), total(&self.near.drops));
        ah_inbound::packet(&self.near, &mut copy, 0..data.len(), &outside(), &mut delivered);
        self.near.reports.take(usize::MAX);
        assert!(!delivered.packets.is_empty() || total(&self.near.drops) > before, "it vanished");
        self.write(&copy, &delivered);
    }

    /// A peer that went bad, by AH: anything inside of a tunnel, and behind the headers of a host.
    pub fn authentic(&mut self, carried: &[u8], next_header: u8) {
        if carried.is_empty() {
            return; // no sender of ours makes a tunnel's packet of nothing
        }
        for child in AH_CHILDREN {
            self.sequence += 1;
            let (ah, path) = (ah(spi(child, false)), ah_path(child));
            let (version, start) = if path.local.is_ipv4() { (4u8, 20) } else { (6, 40) };
            let head = if child == 4 { ah.head_bytes(&path) } else { start + ah.size(version) };
            let mut sealed = vec![0; head + carried.len()];
            sealed[head..].copy_from_slice(carried);
            let made = if child == 4 {
                ah.seal(&mut sealed, &path, 0, self.sequence.into())
            } else {
                sealed[0] = if version == 4 { 0x45 } else { 0x60 };
                let part =
                    Part { next_header, start, end: start + carried.len(), named_at: if version == 4 { 9 } else { 6 } };
                ah.seal_part(&mut sealed, &part, &path, self.sequence.into())
            };
            assert!(made);
            self.ah_packet(&sealed);
        }
    }

    fn waiting(&self) -> usize {
        self.near.held.lock().expect("no panic before").counts().iter().map(|(_, count)| count).sum()
    }

    fn write(&mut self, read: &[u8], Delivered { packets, rebuilt }: &Delivered) {
        let mut card = Card(0);
        self.joiner.write(Bytes { read, rebuilt }, packets, true, &mut card);
        assert_eq!(card.0, packets.len(), "packets that were joined are all of those that came");
        self.delivered += packets.len();
    }
}

/// One input of any kind; the first byte says which.
pub fn any_input(world: &mut World, input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else { return };
    match kind % 4 {
        0 if *kind >= LEAST_AH => world.ah_packet(rest),
        3 if *kind >= LEAST_AH => {
            let (next_header, carried) = rest.split_at(rest.len().min(1));
            world.authentic(carried, next_header.first().copied().unwrap_or(59));
        }
        0 => world.frame(rest, false),
        1 => world.frame(rest, true),
        2 => {
            let (segment, data) = rest.split_at(rest.len().min(2));
            let segment = segment.iter().fold(0, |value, byte| value << 8 | usize::from(*byte));
            world.datagrams(data, segment);
        }
        _ => {
            let (trailer, packet) = rest.split_at(rest.len().min(1));
            let next_header = trailer.first().copied().unwrap_or(59);
            world.plaintext(packet, next_header, kind / 4 % 8 == 0);
        }
    }
}

/// The packets of tests/vectors/inner_packets.txt, both ways, in every form of `any_input`.
pub fn seeds() -> Vec<Vec<u8>> {
    let text = include_str!("../../../../../tests/vectors/inner_packets.txt");
    let hex = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(": ").nth(1));
    let mut found = Vec::new();
    for packet in hex.map(bytes) {
        let turned = turned(&packet);
        found.push([&[0], &packet[..]].concat());
        found.push([&[1], &[0; VNET_BYTES][..], &packet].concat());
        // A super-packet: its header says that checksum and cutting are left to us.
        let tcp = u8::from(packet[0] < 0x60) * 20 + u8::from(packet[0] >= 0x60) * 40;
        let kind = if packet[0] < 0x60 { 1 } else { 4 };
        found.push([&[1, 1, kind, 40, 0, 5, 0, tcp, 0, 16, 0], &packet[..]].concat());
        found.push([&[1, 1, 5, 28, 0, 3, 0, tcp, 0, 6, 0], &packet[..]].concat());
        found.push([&[2, 0xFF, 0xFF, 0, 0, 0x10, 0, 0, 0, 0, 1], &packet[..]].concat());
        found.push([&[2, 0, 40, 0, 0, 0, 0], &packet[..], &packet].concat());
        let next_header = if packet[0] < 0x60 { 4 } else { 41 };
        found.push([&[7, next_header], &turned[..]].concat());
        found.push([&[3, next_header], &turned[..]].concat());
        for child in AH_CHILDREN {
            let Some(ours) = between(child, &packet) else { continue };
            let theirs = self::turned(&ours);
            found.push([&[0], &ours[..]].concat());
            // Of the peer: all of it in the tunnel, what is behind its header from a host.
            let inside = if child == 4 { &theirs[..] } else { &theirs[tcp.into()..] };
            let next_header = if packet[0] < 0x60 { packet[9] } else { packet[6] };
            found.push([&[LEAST_AH + 3, next_header], inside].concat());
            found.push([&[LEAST_AH], &with_ah(spi(child, false), &theirs)[..]].concat());
        }
    }
    found
}

fn is_spi(bytes: &[u8], child: Id) -> bool {
    bytes.starts_with(&spi(child, true).to_be_bytes())
}

/// An IPv4 packet with AH of this SPI and no right ICV.
fn with_ah(spi: u32, packet: &[u8]) -> Vec<u8> {
    let size = ah(spi).size(4);
    let mut made = vec![0; 20 + size];
    made[0] = 0x45;
    made[2..4].copy_from_slice(&((20 + size + packet.len()) as u16).to_be_bytes());
    made[9] = _native::ip::AH;
    made[20..22].copy_from_slice(&[4, (size / 4 - 2) as u8]);
    made[24..28].copy_from_slice(&spi.to_be_bytes());
    made.extend_from_slice(packet);
    made
}

/// A packet with addresses that a child is for, `None` for one of the other family.
fn between(child: Id, packet: &[u8]) -> Option<Vec<u8>> {
    let Selectors { local, remote } = selectors(child, false);
    let (at, size) = if packet[0] < 0x60 { (12, 4) } else { (8, 16) };
    if (size == 4) != (local[0].version == 4) {
        return None;
    }
    let mut made = packet.to_vec();
    for (at, side) in [(at, local), (at + size, remote)] {
        made[at..at + size].copy_from_slice(&side[0].high.to_be_bytes()[16 - size..]);
    }
    Some(made)
}

fn turned(packet: &[u8]) -> Vec<u8> {
    let (at, size) = if packet[0] < 0x60 { (12, 4) } else { (8, 16) };
    let mut turned = packet.to_vec();
    turned[at..at + size].copy_from_slice(&packet[at + size..at + 2 * size]);
    turned[at + size..at + 2 * size].copy_from_slice(&packet[at..at + size]);
    turned
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().map(|digit| digit.to_digit(16).expect("a hexadecimal digit") as u8).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
