//! The pairs that one child sends on, in order of their slots, with an index in front: a child of a peer entry with a
//! pattern has one for each of its remotes, thousands perhaps.

use crate::sad::Pair;
use crate::spd::{Flow, SelectorIndex};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// See the module.
#[derive(Default)]
pub struct Slots {
    by_slot: BTreeMap<i64, Arc<Pair>>,
    /// Made by the first packet that asks after a change: many changes in a row cost one index.
    index: OnceLock<Index>,
}

struct Index {
    pairs: Vec<Arc<Pair>>,
    by_address: SelectorIndex,
}

impl Slots {
    /// Send the slot's traffic on this pair.  True where it may take flows of other pairs: it comes to a slot between
    /// others, or takes other traffic than the one before.
    pub fn set(&mut self, pair: Arc<Pair>) -> bool {
        self.index.take();
        pair.set_sending(true);
        let before = self.by_slot.insert(pair.spec.slot, pair.clone());
        if let Some(before) = &before {
            before.set_sending(Arc::ptr_eq(before, &pair));
        }
        let same = before.is_some_and(|before| before.spec.selectors == pair.spec.selectors);
        self.by_slot.len() > 1 && !same
    }

    /// Send on this pair no more.
    pub fn remove(&mut self, pair: &Arc<Pair>) {
        pair.set_sending(false);
        if self.by_slot.get(&pair.spec.slot).is_some_and(|other| Arc::ptr_eq(other, pair)) {
            self.by_slot.remove(&pair.spec.slot);
            self.index.take();
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_slot.is_empty()
    }

    /// Those whose selectors may hold the flow's addresses, in order.
    pub fn candidates(&self, flow: &Flow) -> impl Iterator<Item = &Arc<Pair>> + Clone {
        let index = self.index.get_or_init(|| {
            let pairs: Vec<_> = self.by_slot.values().cloned().collect();
            let by_address = SelectorIndex::new(pairs.iter().map(|pair| &pair.spec.selectors));
            Index { pairs, by_address }
        });
        index.by_address.candidates(flow).iter().map(|at| &index.pairs[*at as usize])
    }
}
