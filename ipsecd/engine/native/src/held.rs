//! Packets that wait for their SA (RFC 4301 leaves holding open; a first packet lost costs a TCP second).
//!
//! Each child has a queue bounded in packets and bytes, all queues together a bound in bytes; the oldest go first.  One
//! acquire is told when a child begins to wait, and none more until the child moved.

use crate::spd::Id;
use std::collections::{HashMap, HashSet, VecDeque};

/// A few round trips of several flows.
const MAX_CHILD_PACKETS: usize = 64;
const MAX_CHILD_BYTES: usize = 256 * 1024;
const MAX_TOTAL_BYTES: usize = 16 * 1024 * 1024;
/// What is older was sent again, or nobody wants it any more.
const MAX_AGE_S: f64 = 30.0;
/// An abandoned child may be asked for again at once: its LAN must not make the control side's work at packet rate.
const ACQUIRE_INTERVAL_S: f64 = 1.0;

/// A packet that may go now, and the device that it came from.
pub type Released = (Id, Box<[u8]>);

struct Waiting {
    device: Id,
    packet: Box<[u8]>,
    since: f64,
}

#[derive(Default)]
struct Queue {
    packets: VecDeque<Waiting>,
    bytes: usize,
    number: u64,
}

impl Queue {
    fn drop_oldest(&mut self) -> usize {
        let size = self.packets.pop_front().map_or(0, |oldest| oldest.packet.len());
        self.bytes -= size;
        size
    }
}

/// The queues of all children.
#[derive(Default)]
pub struct Held {
    queues: HashMap<Id, Queue>,
    total: usize,
    begun: u64,
    /// Last acquire, and whether it still stands.
    told: HashMap<Id, (f64, bool)>,
}

impl Held {
    /// Hold a packet; returns how many had to go for it.
    pub fn add(&mut self, child: Id, device: Id, packet: &[u8], now: f64) -> u64 {
        self.begun += 1;
        let number = self.begun;
        let queue = self.queues.entry(child).or_insert_with(|| Queue { number, ..Queue::default() });
        queue.packets.push_back(Waiting { device, packet: packet.into(), since: now });
        queue.bytes += packet.len();
        self.total += packet.len();
        let mut dropped = 0;
        while queue.packets.len() > MAX_CHILD_PACKETS || queue.bytes > MAX_CHILD_BYTES {
            self.total -= queue.drop_oldest();
            dropped += 1;
        }
        if queue.packets.is_empty() {
            self.queues.remove(&child);
        }
        while self.total > MAX_TOTAL_BYTES && self.drop_from_longest_waiting() {
            dropped += 1;
        }
        dropped
    }

    fn drop_from_longest_waiting(&mut self) -> bool {
        let Some((&child, _)) = self.queues.iter().min_by_key(|(_, queue)| queue.number) else { return false };
        let Some(queue) = self.queues.get_mut(&child) else { return false };
        self.total -= queue.drop_oldest();
        if queue.packets.is_empty() {
            self.queues.remove(&child);
        }
        true
    }

    /// Whether the control side must be told that this child is wanted; notes that it was.
    pub fn should_acquire(&mut self, child: Id, now: f64) -> bool {
        if let Some((last, standing)) = self.told.get(&child) {
            if *standing || now - last < ACQUIRE_INTERVAL_S {
                return false;
            }
        }
        self.told.insert(child, (now, true));
        true
    }

    /// Hand out (device, packet) in order of arrival, and how many were too old; later packets ask anew.
    pub fn release(&mut self, child: Id, now: f64) -> (Vec<Released>, u64) {
        let packets = self.take(child);
        let all = packets.len();
        let fresh = packets.into_iter().filter(|waiting| now - waiting.since <= MAX_AGE_S);
        let fresh: Vec<_> = fresh.map(|waiting| (waiting.device, waiting.packet)).collect();
        let old = (all - fresh.len()) as u64;
        (fresh, old)
    }

    /// Drop what a child holds; returns how many packets that were.
    pub fn abandon(&mut self, child: Id) -> u64 {
        self.take(child).len() as u64
    }

    /// Abandon the queues of children that are gone from the policy; returns how many packets that were.
    pub fn keep_only(&mut self, children: &HashSet<Id>) -> u64 {
        self.told.retain(|child, _| children.contains(child));
        let gone: Vec<Id> = self.queues.keys().copied().filter(|child| !children.contains(child)).collect();
        gone.into_iter().map(|child| self.abandon(child)).sum()
    }

    /// How many packets each waiting child holds.
    pub fn counts(&self) -> Vec<(Id, usize)> {
        self.queues.iter().map(|(child, queue)| (*child, queue.packets.len())).collect()
    }

    fn take(&mut self, child: Id) -> VecDeque<Waiting> {
        if let Some((_, standing)) = self.told.get_mut(&child) {
            *standing = false;
        }
        let queue = self.queues.remove(&child).unwrap_or_default();
        self.total -= queue.bytes;
        queue.packets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_keeps_the_youngest_and_gives_them_in_order() {
        let mut held = Held::default();
        let dropped: u64 = (0..70u8).map(|n| held.add(1, 9, &[n], 0.0)).sum();
        assert_eq!(dropped, 6);
        let (packets, old) = held.release(1, 1.0);
        assert_eq!((packets.len(), old), (64, 0));
        assert_eq!(&*packets[0].1, &[6]);
        assert_eq!(held.total, 0);
    }

    #[test]
    fn all_queues_together_are_bounded() {
        let mut held = Held::default();
        let packet = vec![0; 60_000];
        let dropped: u64 = (0..400).map(|child| held.add(child, 9, &packet, 0.0)).sum();
        assert!(held.total <= MAX_TOTAL_BYTES);
        assert_eq!(dropped, 400 - MAX_TOTAL_BYTES as u64 / 60_000);
        assert!(!held.queues.contains_key(&0));
    }

    #[test]
    fn acquire_is_told_once_until_the_child_moves_and_at_most_once_a_second() {
        let mut held = Held::default();
        assert!(held.should_acquire(1, 0.0));
        assert!(!held.should_acquire(1, 5.0));
        held.abandon(1);
        assert!(!held.should_acquire(1, 0.5));
        assert!(held.should_acquire(1, 5.0));
    }

    #[test]
    fn what_is_too_old_is_not_sent() {
        let mut held = Held::default();
        held.add(1, 9, &[1], 0.0);
        held.add(1, 9, &[2], 20.0);
        let (packets, old) = held.release(1, 40.0);
        assert_eq!((packets.len(), old), (1, 1));
    }
}
