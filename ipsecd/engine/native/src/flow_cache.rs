//! Remembers which pair carries a flow, in front of SPD and SAD.
//!
//! Sets of a few places, found by a hash that needs no key: who makes flows collide only has them looked up as if they
//! were new.  A full set loses its oldest entry, nothing is ever cleared as a whole, and an entry counts only under the
//! generation of the tables that it was derived from, while its pair is still the one that sends.  So a rekey moves
//! the flows of its own pair, and ten thousand SAs that are renewed one after the other disturb no others.

use crate::ip::FlowKey;
use crate::sad::Pair;
use crate::spd::Id;
use std::sync::{Arc, Weak};

const SETS: usize = 8192;
const WAYS: usize = 4;
/// 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming 6.4).
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// A pair that is gone is not kept from ending, nor its keys from being erased.
struct Entry {
    device: Id,
    generation: u64,
    key: FlowKey,
    pair: Weak<Pair>,
}

#[derive(Default)]
struct Set {
    entries: [Option<Entry>; WAYS],
    next: usize,
}

/// The flows of one thread.  Takes its memory with the first flow.
#[derive(Default)]
pub struct FlowCache {
    sets: Vec<Set>,
}

impl FlowCache {
    /// The pair of a flow of a device.
    pub fn get(&self, device: Id, key: &FlowKey, generation: u64) -> Option<Arc<Pair>> {
        let set = self.sets.get(place(device, key))?;
        let is_it = |entry: &&Entry| entry.device == device && entry.generation == generation && entry.key == *key;
        let pair = set.entries.iter().flatten().find(is_it)?.pair.upgrade()?;
        pair.is_sending().then_some(pair)
    }

    /// Remember it.
    pub fn insert(&mut self, device: Id, key: FlowKey, generation: u64, pair: &Arc<Pair>) {
        if self.sets.is_empty() {
            self.sets.resize_with(SETS, Set::default);
        }
        let set = &mut self.sets[place(device, &key)];
        let same = |entry: &Entry| entry.device == device && entry.key == key;
        let at = set.entries.iter().position(|entry| entry.as_ref().is_some_and(same)).unwrap_or_else(|| {
            set.next = (set.next + 1) % WAYS;
            set.next
        });
        set.entries[at] = Some(Entry { device, generation, key, pair: Arc::downgrade(pair) });
    }
}

fn place(device: Id, key: &FlowKey) -> usize {
    let mixed =
        key.words().iter().fold(u64::from(device), |sum, word| (sum.rotate_left(23) ^ word).wrapping_mul(SPREAD));
    (mixed >> 32) as usize % SETS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sad::tests::pair;

    fn key(number: u32) -> FlowKey {
        let mut packet = [0; 28];
        packet[0] = 0x45;
        packet[3] = 28;
        packet[9] = 17;
        packet[16..20].copy_from_slice(&number.to_be_bytes());
        FlowKey::of(&packet, 28).unwrap()
    }

    fn sending() -> Arc<Pair> {
        let pair = Arc::new(pair(1, 0));
        pair.set_sending(true);
        pair
    }

    #[test]
    fn flow_is_known_under_its_device_and_generation_only() {
        let (mut cache, pair) = (FlowCache::default(), sending());
        assert!(cache.get(1, &key(5), 7).is_none());
        cache.insert(1, key(5), 7, &pair);
        assert!(Arc::ptr_eq(&cache.get(1, &key(5), 7).unwrap(), &pair));
        assert!(cache.get(2, &key(5), 7).is_none());
        assert!(cache.get(1, &key(5), 8).is_none());
        assert!(cache.get(1, &key(6), 7).is_none());
    }

    #[test]
    fn flow_of_a_pair_that_was_replaced_or_is_gone_is_not_known() {
        let (mut cache, pair) = (FlowCache::default(), sending());
        cache.insert(1, key(5), 7, &pair);
        pair.set_sending(false);
        assert!(cache.get(1, &key(5), 7).is_none());
        let gone = Arc::downgrade(&pair);
        drop(pair);
        assert!(gone.upgrade().is_none(), "the cache keeps it alive");
        assert!(cache.get(1, &key(5), 7).is_none());
    }

    #[test]
    fn ten_thousand_flows_are_nearly_all_known_at_once() {
        let (mut cache, pair) = (FlowCache::default(), sending());
        for number in 0..10_000 {
            cache.insert(1, key(0x0A02_0000 + number * 4), 7, &pair);
        }
        let known = (0..10_000).filter(|number| cache.get(1, &key(0x0A02_0000 + number * 4), 7).is_some()).count();
        assert!(known > 9_500, "{known}");
    }

    #[test]
    fn what_a_flood_of_flows_can_take_is_bounded() {
        let (mut cache, pair) = (FlowCache::default(), sending());
        for number in 0..200_000 {
            cache.insert(1, key(number), 7, &pair);
        }
        assert_eq!(Arc::weak_count(&pair), SETS * WAYS);
    }
}
