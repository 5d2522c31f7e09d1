//! The native engine of ipsecd: the data plane in threads of its own (ipsecd.engine.contract).
//!
//! ```text
//! TUN   -> threads::read_tun  -> outbound (segment, spd, sad, esp) -> udp::RunSender -> UDP_SEGMENT
//! UDP   -> threads::read_port -> inbound (esp, replay, ip, spd, ecn) -> tun, join    -> TUN
//! Python -> python::Engine    -> plane (commands)      reports -> eventfd -> Python
//! ```
//!
//! It is the twin of ipsecd/ipsec/*.py, file by file; tests/property holds both to the same answers.

mod aead_key;
pub mod ah;
pub mod ah_inbound;
pub mod ah_port;
pub mod ah_transport;
mod arguments;
pub mod checksum;
pub mod drops;
pub mod early;
pub mod ecn;
pub mod esp;
#[cfg(test)]
mod fault_tests;
mod faults;
pub mod flow_cache;
pub mod held;
pub mod inbound;
pub mod ip;
pub mod join;
pub mod lifetime;
pub mod order;
pub mod outbound;
pub mod outer;
pub mod panics;
pub mod plane;
pub mod protect;
mod python;
pub mod replay;
pub mod reports;
pub mod sad;
pub mod segment;
pub mod slots;
pub mod spd;
pub mod sys;
pub mod tfc;
pub mod threads;
pub mod transport;
pub mod tun;
pub mod udp;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Lock, also after a panic of another holder: every value behind a lock is complete between any two statements, and a
/// sequence number is counted up before it is used.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
