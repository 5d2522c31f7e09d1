//! What the data plane tells the control side: a queue, and an eventfd that the event loop watches.
//!
//! The queue is bounded by what may arrive at packet rate (IKE datagrams); of the rest there is at most one for each
//! child or pair and state.  A thread that reports never waits: it drops, with a count.

use crate::lock;
use crate::sad::{Pair, Path};
use crate::spd::Id;
use crate::sys::EventFd;
use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex};

/// Waiting IKE datagrams; one beyond is dropped, its sender retransmits.
const MAX_IKE: usize = 4096;

/// One report; see ipsecd.engine.contract.EngineListener.
pub enum Report {
    /// An IKE datagram, marker removed.
    Ike(Path, Box<[u8]>),
    /// A packet has no SA to go on; its first bytes.
    Acquire(Id, Box<[u8]>),
    /// A pair should be rekeyed.
    SoftLifetime(u32, String),
    /// A pair carries no more traffic.
    HardLifetime(u32, String),
    /// The peer moved; where to is read when the report is taken.
    PeerAddress(Arc<Pair>),
    /// The first authenticated packet of a pair.
    FirstInbound(u32),
    /// A packet left on a pair that only a path of more than the least size carries.
    LargeOutbound(u32),
    /// ESP for an SPI that is not installed.
    UnknownSpi(Path, u32),
    /// A fault of our own in a thread, caught.
    Fault(String),
}

#[derive(Default)]
struct Queue {
    reports: VecDeque<Report>,
    ike: usize,
}

/// The queue and what wakes the event loop.
pub struct Reports {
    queue: Mutex<Queue>,
    wake: EventFd,
}

impl Reports {
    /// An empty queue.
    pub fn new() -> io::Result<Reports> {
        Ok(Reports { queue: Mutex::default(), wake: EventFd::new()? })
    }

    /// Tell; false where the queue of IKE datagrams is full.
    pub fn push(&self, report: Report) -> bool {
        let mut queue = lock(&self.queue);
        if matches!(report, Report::Ike(..)) {
            if queue.ike >= MAX_IKE {
                return false;
            }
            queue.ike += 1;
        }
        queue.reports.push_back(report);
        if queue.reports.len() == 1 {
            self.wake.signal();
        }
        true
    }

    /// Take up to `most`; the descriptor stays readable while there are more.
    pub fn take(&self, most: usize) -> Vec<Report> {
        let mut queue = lock(&self.queue);
        let count = most.min(queue.reports.len());
        let taken: Vec<Report> = queue.reports.drain(..count).collect();
        queue.ike -= taken.iter().filter(|report| matches!(report, Report::Ike(..))).count();
        if queue.reports.is_empty() {
            self.wake.clear();
        }
        taken
    }

    /// What becomes readable when there are reports.
    pub fn descriptor(&self) -> RawFd {
        self.wake.raw()
    }
}
