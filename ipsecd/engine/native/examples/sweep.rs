//! What a packet costs inside the engine, as policies and SAs grow: nanoseconds a packet, no system calls.
//!
//!     cargo run --release --no-default-features --example sweep

use _native::esp::{Esp, Suite};
use _native::inbound::{self, Delivered, Outside};
use _native::lifetime::Volume;
use _native::outbound::Outbound;
use _native::plane::Plane;
use _native::sad::{Keys, PairSpec, Path};
use _native::spd::{Action, Entry, Id, Selector, Selectors};
use _native::udp::RunSender;
use std::collections::HashMap;
use std::time::Instant;

const KEY: [u8; 36] = [7; 36];

fn selector(low: u32, high: u32) -> Selector {
    Selector { version: 4, low: low.into(), high: high.into(), protocol: 0, port_low: 0, port_high: 65535 }
}

fn remote(number: u32) -> u32 {
    0x0A80_0000 + number * 256
}

fn selectors(number: u32, turned: bool) -> Selectors {
    let (local, remote) =
        (vec![selector(0x0A01_0000, 0x0A01_FFFF)], vec![selector(remote(number), remote(number) + 255)]);
    if turned { Selectors { local: remote, remote: local } } else { Selectors { local, remote } }
}

fn plane(policies: u32, sas: u32, turned: bool) -> Plane {
    let plane = Plane::new().unwrap();
    plane.add_device(0, None);
    let entry =
        |number| Entry { action: Action::Protect(number as Id), interface: None, selectors: selectors(number, turned) };
    plane.replace_policy((0..policies).map(entry).collect(), HashMap::new());
    let end = |text: &str| text.parse().unwrap();
    for number in 0..sas {
        let suite = Suite { encr: 20, integ: 0, key_bytes: 32, esn: false, encr_key: &KEY, integ_key: &[] };
        let esp = || Esp::new(0x1000 + number, &suite).unwrap();
        let spec = PairSpec {
            spi_in: 0x1000 + number,
            child: number,
            slot: 0,
            device: 0,
            esn: false,
            window: 1024,
            follow: true,
            volume: Volume::default(),
            selectors: selectors(number, turned),
            path: Path { local: end("192.0.2.1:4500"), remote: end("192.0.2.2:4500") },
            tfc: Default::default(),
            keys: Keys::Esp { sealer: esp(), opener: esp() },
            transport: None,
        };
        assert!(plane.install(spec));
        plane.use_outbound(number, 0x1000 + number, 1.0);
    }
    plane
}

fn packet(number: u32, size: usize) -> Vec<u8> {
    let mut packet = vec![0; size];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(size as u16).to_be_bytes());
    packet[8..10].copy_from_slice(&[64, 17]);
    packet[12..16].copy_from_slice(&0x0A01_0001u32.to_be_bytes());
    packet[16..20].copy_from_slice(&(remote(number) + 1).to_be_bytes());
    packet[24..26].copy_from_slice(&((size - 20) as u16).to_be_bytes());
    packet
}

fn order(spread: u32, count: usize) -> Vec<u32> {
    let mut state = 12345u64;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 33) as u32) % spread
        })
        .collect()
}

fn measure(policies: u32, sas: u32, spread: u32, size: usize, rounds: usize) -> (f64, f64) {
    let (a, b) = (plane(policies, sas, false), plane(policies, sas, true));
    let (mut outbound, mut sender) = (Outbound::default(), RunSender::default());
    let mut delivered = Delivered::default();
    let (mut out, mut into) = (0.0, 0.0);
    let packets: Vec<_> = (0..spread).map(|number| packet(number, size)).collect();
    let path = Path { local: "192.0.2.2:4500".parse().unwrap(), remote: "192.0.2.1:4500".parse().unwrap() };
    let order = order(spread, rounds);
    let mut counted = 0;
    for (round, chunk) in order.chunks(64).enumerate() {
        let start = Instant::now();
        for number in chunk {
            let mut frame = packets[*number as usize].clone();
            outbound.frame(&a, 0, &mut frame, false, 1.0, &mut sender);
        }
        let middle = start.elapsed();
        let datagrams = sender.drain();
        assert_eq!(datagrams.len(), chunk.len());
        let start = Instant::now();
        for (_, tos, mut datagram) in datagrams {
            let length = datagram.len();
            inbound::datagrams(&b, &mut datagram, 0..length, length, &Outside { path, tos, now: 1.0 }, &mut delivered);
        }
        assert_eq!(delivered.packets.len(), chunk.len(), "{:?}", b.drops.read());
        delivered.clear();
        if round * 64 >= rounds / 2 {
            out += middle.as_secs_f64();
            into += start.elapsed().as_secs_f64();
            counted += chunk.len();
        }
    }
    (out * 1e9 / counted as f64, into * 1e9 / counted as f64)
}

/// Policies, SAs, and of these how many carry packets in turn.
const POINTS: [(u32, u32, u32); 6] =
    [(1, 1, 1), (10_000, 1, 1), (10_000, 10_000, 1), (100, 100, 100), (1000, 1000, 1000), (10_000, 10_000, 10_000)];

fn main() {
    for size in [64, 1400] {
        for (policies, sas, spread) in POINTS {
            let (out, into) = measure(policies, sas, spread, size, 400_000);
            println!(
                "{size:5} bytes {policies:6} policies {sas:6} SAs {spread:6} used: out {out:6.0} ns, in {into:6.0} ns"
            );
        }
    }
}
