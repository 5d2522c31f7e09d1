//! A panic in the middle of a packet: what it leaves behind is closed.

use crate::outbound::{Outbound, Sink};
use crate::panics;
use crate::plane::Plane;
use crate::sad::tests::pair;
use crate::sad::{PairSpec, Path};
use crate::spd::{Action, Entry, Selector, Selectors};
use crate::udp::RunSender;
use std::collections::HashMap;

const PACKET: [u8; 28] =
    [0x45, 0, 0, 28, 0, 7, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1, 4, 210, 19, 196, 0, 8, 0, 0];

/// Fails where the room for a sealed packet is asked for: its number is taken, the locks of pair and tables are held.
struct Broken;

impl Sink for Broken {
    fn place(&mut self, _: &Path, _: u8, _: u8, _: usize) -> &mut [u8] {
        panic!("a fault, with a value that nobody must see")
    }

    fn take_back(&mut self) {}
}

fn plane() -> Plane {
    let plane = Plane::new().unwrap();
    let any = Selector { version: 4, low: 0, high: u32::MAX.into(), protocol: 0, port_low: 0, port_high: 65535 };
    let selectors = Selectors { local: vec![any], remote: vec![any] };
    let entry = Entry { action: Action::Protect(1), interface: None, selectors: selectors.clone() };
    plane.replace_policy(vec![entry], HashMap::new());
    assert!(plane.install(PairSpec { selectors, ..pair(1, 2).spec }));
    plane.use_outbound(1, 32, 0.0);
    plane
}

#[test]
fn packet_after_a_panic_is_sealed_under_a_number_of_its_own_and_none_left_in_clear() {
    panics::install();
    let (plane, mut outbound, mut sender) = (plane(), Outbound::default(), RunSender::default());
    let broken = |outbound: &mut Outbound| outbound.frame(&plane, 0, &mut PACKET.clone(), false, 1.0, &mut Broken);
    let why = panics::caught(|| broken(&mut outbound)).expect_err("the fault");
    assert!(why.starts_with("panic at") && !why.contains("value"), "{why}");
    // As a thread does: caches begin anew.
    let mut outbound = Outbound::default();
    outbound.frame(&plane, 0, &mut PACKET.clone(), false, 1.0, &mut sender);
    let sent = sender.drain();
    assert_eq!(sent.len(), 1);
    let datagram = &sent[0].2;
    assert_eq!(datagram[4..8], [0, 0, 0, 2], "the number that the fault took is never used again");
    assert!(!datagram.windows(8).any(|window| window == &PACKET[12..20]));
}

#[test]
fn tables_change_after_a_panic_of_a_reader() {
    panics::install();
    let (plane, mut outbound) = (plane(), Outbound::default());
    let broken = || outbound.frame(&plane, 0, &mut PACKET.clone(), false, 1.0, &mut Broken);
    panics::caught(broken).expect_err("the fault");
    assert!(plane.remove(32).is_some());
    let (mut outbound, mut sender) = (Outbound::default(), RunSender::default());
    outbound.frame(&plane, 0, &mut PACKET.clone(), false, 1.0, &mut sender);
    assert!(sender.drain().is_empty(), "without its SA a packet is held");
}
