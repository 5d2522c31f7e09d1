//! Any bytes, as frames of a device, as datagrams, or sealed with the right keys by a peer that went bad.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;

#[path = "../../tests/packet_paths/mod.rs"]
#[allow(dead_code)] // the seeds are for others
mod packet_paths;

thread_local! {
    static WORLD: RefCell<packet_paths::World> = RefCell::default();
}

fuzz_target!(|input: &[u8]| WORLD.with(|world| packet_paths::any_input(&mut world.borrow_mut(), input)));
