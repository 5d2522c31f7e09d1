//! The Security Policy Database: the ordered list, searched so that the first match wins (RFC 4301 4.4.1).
//!
//! A lookup bisects the address ranges of whichever side divides the list finer, and tries in order only the entries
//! that hold the packet's address there: a list of thousands of branches costs what a short one does.

use crate::ip::Headers;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Children, devices and interfaces are known by numbers here; native.py has their names.
pub type Id = u32;

/// One side's addresses, protocol and ports; bounds are inclusive, protocol 0 is any (RFC 7296 3.13.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Selector {
    pub version: u8,
    pub low: u128,
    pub high: u128,
    pub protocol: u8,
    pub port_low: u16,
    pub port_high: u16,
}

impl Selector {
    fn takes_address(&self, version: u8, address: u128, protocol: u8) -> bool {
        version == self.version
            && self.low <= address
            && address <= self.high
            && (self.protocol == 0 || self.protocol == protocol)
    }

    fn takes(&self, version: u8, address: u128, protocol: u8, port: Option<u16>) -> bool {
        if !self.takes_address(version, address, protocol) {
            return false;
        }
        match (self.port_low, self.port_high, port) {
            (0, 65535, _) => true,
            (low, high, None) => (low, high) == (65535, 0), // OPAQUE takes what shows no port
            (low, high, Some(port)) => low <= port && port <= high,
        }
    }
}

/// A packet as selectors see it from this gateway, whichever way it goes.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Flow {
    pub version: u8,
    pub local: u128,
    pub remote: u128,
    pub protocol: u8,
    pub local_port: Option<u16>,
    pub remote_port: Option<u16>,
}

impl Flow {
    /// View a packet on its way to the peer.
    pub fn outbound(headers: &Headers) -> Flow {
        Flow {
            version: headers.version,
            local: headers.source,
            remote: headers.destination,
            protocol: headers.protocol,
            local_port: headers.source_port,
            remote_port: headers.destination_port,
        }
    }

    /// View a packet that came from the peer, or reverse one that an ICMP error quotes (RFC 4301 6.2).
    pub fn inbound(headers: &Headers) -> Flow {
        Flow {
            version: headers.version,
            local: headers.destination,
            remote: headers.source,
            protocol: headers.protocol,
            local_port: headers.destination_port,
            remote_port: headers.source_port,
        }
    }
}

/// Selectors of both sides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Selectors {
    pub local: Vec<Selector>,
    pub remote: Vec<Selector>,
}

impl Selectors {
    /// Whether one selector of each side takes the flow.
    pub fn take(&self, flow: &Flow) -> bool {
        self.local.iter().any(|ts| ts.takes(flow.version, flow.local, flow.protocol, flow.local_port))
            && self.remote.iter().any(|ts| ts.takes(flow.version, flow.remote, flow.protocol, flow.remote_port))
    }

    /// Whether only ports that the packet does not show can have kept it out (RFC 4301 7).
    pub fn hide_ports(&self, flow: &Flow) -> bool {
        flow.local_port.is_none()
            && self.local.iter().any(|ts| ts.takes_address(flow.version, flow.local, flow.protocol))
            && self.remote.iter().any(|ts| ts.takes_address(flow.version, flow.remote, flow.protocol))
    }
}

/// What an entry decides (RFC 4301 4.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send on an SA of this child.
    Protect(Id),
    /// Not ours.
    Bypass,
    /// Drop.
    Discard,
}

/// One entry of the ordered list.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Entry {
    pub action: Action,
    pub interface: Option<Id>,
    pub selectors: Selectors,
}

/// One generation of the policy, never changed: a reload makes another.
pub struct Spd {
    entries: Vec<Entry>,
    index: SelectorIndex,
}

impl Spd {
    /// Index the list.
    pub fn new(entries: Vec<Entry>) -> Spd {
        let index = SelectorIndex::new(entries.iter().map(|entry| &entry.selectors));
        Spd { entries, index }
    }

    fn candidates(&self, flow: &Flow, interface: Option<Id>) -> impl Iterator<Item = &Entry> {
        let found = self.index.candidates(flow).iter().map(|at| &self.entries[*at as usize]);
        found.filter(move |entry| entry.interface.is_none() || entry.interface == interface)
    }

    /// The first entry that takes the flow.  `interface` is where the packet came from, if known.
    pub fn lookup(&self, flow: &Flow, interface: Option<Id>) -> Option<Action> {
        self.candidates(flow, interface).find(|entry| entry.selectors.take(flow)).map(|entry| entry.action)
    }

    /// Whether some entry would take the flow if its ports could be seen.
    pub fn hidden_ports_matter(&self, flow: &Flow, interface: Option<Id>) -> bool {
        self.candidates(flow, interface).any(|entry| entry.selectors.hide_ports(flow))
    }
}

/// Where in a list of selectors those are that may hold a flow's addresses, for both families.
pub struct SelectorIndex {
    v4: AddressIndex,
    v6: AddressIndex,
}

impl SelectorIndex {
    /// Index a list.
    pub fn new<'a>(list: impl Iterator<Item = &'a Selectors> + Clone) -> SelectorIndex {
        SelectorIndex { v4: AddressIndex::new(list.clone(), 4), v6: AddressIndex::new(list, 6) }
    }

    /// Their places, in order.
    pub fn candidates(&self, flow: &Flow) -> &[u32] {
        let index = if flow.version == 4 { &self.v4 } else { &self.v6 };
        index.candidates(flow)
    }
}

/// Places in a list by the address ranges of one side, for one family.
struct AddressIndex {
    by_remote: bool,
    starts: Vec<u128>,
    found: Vec<Arc<[u32]>>,
}

impl AddressIndex {
    fn new<'a>(list: impl Iterator<Item = &'a Selectors> + Clone, version: u8) -> AddressIndex {
        let local = ranges(list.clone().map(|selectors| &selectors.local), version);
        let remote = ranges(list.map(|selectors| &selectors.remote), version);
        let distinct = |ranges: &[Range]| ranges.iter().map(|r| (r.low, r.high)).collect::<BTreeSet<_>>().len();
        let by_remote = distinct(&remote) >= distinct(&local);
        let (starts, found) = slices(if by_remote { &remote } else { &local });
        AddressIndex { by_remote, starts, found }
    }

    fn candidates(&self, flow: &Flow) -> &[u32] {
        let address = if self.by_remote { flow.remote } else { flow.local };
        match self.starts.partition_point(|start| *start <= address) {
            0 => &[],
            at => &self.found[at - 1],
        }
    }
}

struct Range {
    low: u128,
    high: u128,
    entry: u32,
}

fn ranges<'a>(sides: impl Iterator<Item = &'a Vec<Selector>>, version: u8) -> Vec<Range> {
    let mut found = Vec::new();
    for (number, side) in sides.enumerate() {
        let of_family = side.iter().filter(|ts| ts.version == version);
        found.extend(of_family.map(|ts| Range { low: ts.low, high: ts.high, entry: number as u32 }));
    }
    found
}

/// Cut the address space where any range begins or ends.
fn slices(ranges: &[Range]) -> (Vec<u128>, Vec<Arc<[u32]>>) {
    let mut changes: BTreeMap<u128, Vec<(u32, i32)>> = BTreeMap::new();
    for range in ranges {
        changes.entry(range.low).or_default().push((range.entry, 1));
        // Behind the last address of a family there is nothing to cut.
        if let Some(end) = range.high.checked_add(1) {
            changes.entry(end).or_default().push((range.entry, -1));
        }
    }
    let mut active: BTreeMap<u32, i32> = BTreeMap::new();
    let (mut starts, mut found) = (Vec::new(), Vec::new());
    for (at, steps) in changes {
        for (entry, step) in steps {
            let count = active.entry(entry).or_default();
            *count += step;
        }
        active.retain(|_, count| *count != 0);
        starts.push(at);
        found.push(active.keys().copied().collect());
    }
    (starts, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(low: u128, high: u128) -> Selector {
        Selector { version: 4, low, high, protocol: 0, port_low: 0, port_high: 65535 }
    }

    fn entry(child: Id, low: u128, high: u128) -> Entry {
        let selectors = Selectors { local: vec![selector(0, u128::from(u32::MAX))], remote: vec![selector(low, high)] };
        Entry { action: Action::Protect(child), interface: None, selectors }
    }

    fn flow(remote: u128) -> Flow {
        Flow { version: 4, local: 5, remote, protocol: 17, local_port: Some(1), remote_port: Some(2) }
    }

    #[test]
    fn first_match_wins_also_where_ranges_overlap() {
        let spd = Spd::new(vec![entry(1, 10, 20), entry(2, 15, 30), entry(3, 0, 100)]);
        let found: Vec<_> = [9, 10, 15, 21, 31, 101].map(|remote| spd.lookup(&flow(remote), None)).to_vec();
        let child = |id| Some(Action::Protect(id));
        assert_eq!(found, [child(3), child(1), child(1), child(2), child(3), None]);
    }

    #[test]
    fn hidden_ports_are_told_from_no_match() {
        let mut with_ports = entry(1, 10, 20);
        with_ports.selectors.remote[0].port_high = 80;
        let spd = Spd::new(vec![with_ports]);
        let fragment = Flow { local_port: None, remote_port: None, ..flow(12) };
        assert_eq!(spd.lookup(&fragment, None), None);
        assert!(spd.hidden_ports_matter(&fragment, None));
        assert!(!spd.hidden_ports_matter(&flow(12), None));
    }
}
