//! Several threads on one pair of SAs: each number is used once, and each packet is delivered once.

#[allow(dead_code)] // the rest serves the mutations
mod packet_paths;

use packet_paths::{far, near, path};

use _native::inbound::{self, Delivered, Outside};
use _native::outbound::Outbound;
use _native::udp::RunSender;
use std::collections::HashSet;
use std::sync::Mutex;
use std::thread;

const THREADS: usize = 4;
const EACH: usize = 500;
const PACKET: [u8; 28] =
    [0x45, 0, 0, 28, 0, 7, 0x40, 0, 64, 17, 0x26, 0xC6, 10, 1, 0, 1, 10, 2, 0, 1, 4, 210, 19, 196, 0, 8, 0, 0];

#[test]
fn numbers_are_used_once_and_packets_delivered_once_by_several_threads() {
    const WINDOW: u32 = 4096; // holds all of them: what is late is not too late
    let (near, far) = (near(WINDOW), far(WINDOW));
    let sent = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let (mut outbound, mut sender) = (Outbound::default(), RunSender::default());
                for _ in 0..EACH {
                    outbound.frame(&near, 0, &mut PACKET.clone(), false, 1.0, &mut sender);
                }
                sent.lock().unwrap().extend(sender.drain().into_iter().map(|(_, _, datagram)| datagram));
            });
        }
    });
    let sent = sent.into_inner().unwrap();
    let numbers: HashSet<_> = sent.iter().map(|datagram| datagram[4..8].to_vec()).collect();
    assert_eq!((sent.len(), numbers.len()), (THREADS * EACH, THREADS * EACH));

    // Every thread gets all of them: one wins, the others have a replay.
    let delivered = Mutex::new(0);
    thread::scope(|scope| {
        for turn in 0..THREADS {
            let (sent, far, delivered) = (&sent, &far, &delivered);
            scope.spawn(move || {
                let mut found = Delivered::default();
                for at in 0..sent.len() {
                    let mut datagram = sent[(at + turn * EACH) % sent.len()].clone();
                    let length = datagram.len();
                    let outside = Outside { path: path(), tos: 0, now: 1.0 };
                    inbound::datagrams(far, &mut datagram, 0..length, length, &outside, &mut found);
                }
                *delivered.lock().unwrap() += found.packets.len();
            });
        }
    });
    assert_eq!(delivered.into_inner().unwrap(), THREADS * EACH);
    let replayed = ((THREADS - 1) * THREADS * EACH) as u64;
    assert_eq!(far.drops.read(), [("esp_replayed", replayed)]);
}
