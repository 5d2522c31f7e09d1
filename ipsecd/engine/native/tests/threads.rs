//! Several threads on one pair of SAs: each number is used once, and each packet is delivered once.

#[allow(dead_code)] // the rest serves the mutations
mod packet_paths;

use packet_paths::{far, near, path};

use _native::inbound::{self, Delivered, Outside};
use _native::order::Order;
use _native::outbound::Outbound;
use _native::segment::Cutter;
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

#[test]
fn packets_that_several_threads_seal_leave_in_the_order_of_their_numbers() {
    const BATCH: usize = 8;
    let (near, order, sent) = (near(64), Order::default(), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for turns in 0..THREADS {
            let (near, order, sent) = (&near, &order, &sent);
            scope.spawn(move || {
                let (mut outbound, mut sender) = (Outbound::default(), RunSender::default());
                for batch in 0..EACH / BATCH {
                    let mut frames = [PACKET; BATCH];
                    let cutters: Vec<_> = frames.iter_mut().filter_map(|frame| Cutter::new(frame, false)).collect();
                    let (turn, numbered) = order.turn(|| {
                        let tables = near.tables();
                        let number = |cutter| outbound.number(near, &tables, 0, cutter, 1.0);
                        cutters.iter().map(number).collect::<Vec<_>>()
                    });
                    if (batch + turns) % 9 == 0 {
                        thread::yield_now(); // as if it were interrupted here
                    }
                    for (numbered, cutter) in numbered.iter().zip(&cutters) {
                        numbered.as_ref().expect("an SA").seal(near, cutter, &mut sender);
                    }
                    turn.send(&mut sender, |sealed| sent.lock().unwrap().extend(sealed.drain()));
                }
            });
        }
    });
    let number = |datagram: &[u8]| u32::from_be_bytes(datagram[4..8].try_into().unwrap());
    let numbers: Vec<_> = sent.into_inner().unwrap().iter().map(|(_, _, datagram)| number(datagram)).collect();
    assert_eq!(numbers, (1..=(THREADS * (EACH / BATCH) * BATCH) as u32).collect::<Vec<_>>());
}

#[test]
fn turn_that_fails_and_one_that_cannot_be_sent_hold_nobody_up() {
    let (order, mut sender) = (Order::default(), RunSender::default());
    let sent = Mutex::new(0);
    for _ in 0..40 {
        drop(order.turn(|| ())); // as a panic between numbers and sending does
        let (turn, ()) = order.turn(|| ());
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            turn.send(&mut RunSender::default(), |_| panic!("in a system call"));
        }));
        assert!(failed.is_err());
        let (turn, ()) = order.turn(|| ());
        turn.send(&mut sender, |_| *sent.lock().unwrap() += 1);
    }
    for _ in 0..40 {
        drop(order.turn(|| ())); // nobody sends any more, and still nobody waits
    }
    assert_eq!(sent.into_inner().unwrap(), 40);
}
