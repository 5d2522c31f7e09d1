//! The Security Association Database: pairs by inbound SPI, and which of them each child sends on (RFC 4301 4.4.2).

use crate::ah::Ah;
use crate::drops::{Counters, Reason};
use crate::esp::Esp;
use crate::ip::{self, FlowKey};
use crate::lifetime::{LAST_EXTENDED_SEQUENCE, LAST_SEQUENCE, Meter, SOFT_EXTENDED_SEQUENCE, SOFT_SEQUENCE, Volume};
use crate::lock;
use crate::replay::Window;
use crate::slots::Slots;
use crate::spd::{Id, Selectors};
use crate::tfc::Tfc;
use crate::transport::Ends;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// Where datagrams leave and arrive: our endpoint, the peer's.  Without ports it is ESP's that goes without UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Path {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

impl Path {
    /// Whether what goes here is an IP protocol of its own, not UDP.
    pub fn is_raw(&self) -> bool {
        self.remote.port() == 0
    }

    /// The IP protocol of what goes here: by it and the local address its socket is found.
    pub fn carrier(&self) -> u8 {
        if self.is_raw() { ip::ESP } else { ip::UDP }
    }
}

/// What the control side says of a pair.
#[allow(missing_docs)]
pub struct PairSpec {
    pub spi_in: u32,
    pub child: Id,
    pub slot: i64,
    pub device: Id,
    pub esn: bool,
    pub window: u32,
    pub follow: bool,
    pub volume: Volume,
    pub selectors: Selectors,
    pub path: Path,
    pub tfc: Tfc,
    pub keys: Keys,
    /// Set in transport mode.
    pub transport: Option<Ends>,
}

/// The keys of both directions, by protocol.
#[allow(missing_docs)]
pub enum Keys {
    Esp { sealer: Esp, opener: Esp },
    Ah { sealer: Ah, opener: Ah },
}

/// One installed pair with all that moves.  Each direction has a lock of its own, so that the threads of both
/// directions never wait for each other; what both change is atomic.
pub struct Pair {
    /// What was installed.
    pub spec: PairSpec,
    /// Largest inner packet, 0: not known.
    pub inner_mtu: AtomicU32,
    /// Outbound direction.
    pub outward: Mutex<Outward>,
    /// Inbound direction.
    pub inward: Mutex<Inward>,
    /// Drops of this pair.
    pub drops: Counters,
    /// A move of the peer was reported and not yet taken: later ones need no report of their own.
    pub move_told: AtomicBool,
    path: Mutex<Path>,
    refusal: AtomicU8,
    sending: AtomicBool,
}

/// What sending changes.
pub struct Outward {
    /// Last number sent (RFC 4303 3.3.3: the first packet has 1).
    pub sequence: u64,
    /// Number at which to ring.
    pub alarm_sequence: u64,
    /// When the next large packet is worth a report.
    pub large_due: f64,
    /// Counters and limits.
    pub meter: Meter,
}

/// What receiving changes.
pub struct Inward {
    /// Anti-replay window.
    pub window: Window,
    /// Counters and limits.
    pub meter: Meter,
    /// An authenticated packet came.
    pub heard: bool,
    /// Flows that passed the selectors, under the tables of `generation`.
    pub flows: HashSet<FlowKey>,
    /// One of them, mostly the next one's too: it lies where the window does, which is read in any case.
    pub last_flow: Option<FlowKey>,
    /// See `flows`.
    pub generation: u64,
}

const NO_REFUSAL: u8 = u8::MAX;

impl Pair {
    /// A new pair; `None` for a replay window that does not exist.
    pub fn new(spec: PairSpec, inner_mtu: u32) -> Option<Pair> {
        let outward = Outward {
            sequence: 0,
            alarm_sequence: if spec.esn { SOFT_EXTENDED_SEQUENCE } else { SOFT_SEQUENCE },
            large_due: 0.0,
            meter: Meter::new(spec.volume),
        };
        let inward = Inward {
            window: Window::new(spec.window)?,
            meter: Meter::new(spec.volume),
            heard: false,
            flows: HashSet::new(),
            last_flow: None,
            generation: 0,
        };
        Some(Pair {
            inner_mtu: AtomicU32::new(inner_mtu),
            outward: Mutex::new(outward),
            inward: Mutex::new(inward),
            drops: Counters::new(),
            move_told: AtomicBool::new(false),
            path: Mutex::new(spec.path),
            refusal: AtomicU8::new(NO_REFUSAL),
            sending: AtomicBool::new(false),
            spec,
        })
    }

    /// Whether the peer's address may move (RFC 7296 2.23: without replay protection an old packet could move it).
    pub fn follows(&self) -> bool {
        self.spec.follow && self.spec.window > 0
    }

    /// The last number there is.
    pub fn last_sequence(&self) -> u64 {
        if self.spec.esn { LAST_EXTENDED_SEQUENCE } else { LAST_SEQUENCE }
    }

    /// Where the pair sends.
    pub fn path(&self) -> Path {
        *lock(&self.path)
    }

    /// Send elsewhere from now on.
    pub fn set_path(&self, path: Path) {
        *lock(&self.path) = path;
    }

    /// Whether it is the one that its slot sends on.
    pub fn is_sending(&self) -> bool {
        self.sending.load(Relaxed)
    }

    /// Note whether it is.  Read and written under the lock of the tables.
    pub fn set_sending(&self, sending: bool) {
        self.sending.store(sending, Relaxed);
    }

    /// Why nothing more is sent.
    pub fn refusal(&self) -> Option<Reason> {
        Reason::from_code(self.refusal.load(Relaxed))
    }

    /// Send nothing more.
    pub fn refuse(&self, reason: Reason) {
        self.refusal.store(reason as u8, Relaxed);
    }

    /// Read the counters.
    pub fn stats(&self) -> Stats {
        let (packets_out, bytes_out, last_out) = {
            let meter = &lock(&self.outward).meter;
            (meter.packets, meter.bytes, meter.last)
        };
        let inward = lock(&self.inward);
        Stats {
            packets_in: inward.meter.packets,
            bytes_in: inward.meter.bytes,
            packets_out,
            bytes_out,
            last_in: inward.meter.last,
            last_out,
            lost_in: inward.window.lost,
        }
    }
}

/// Counters of a pair since installation; times in seconds of CLOCK_BOOTTIME.
#[allow(missing_docs)]
pub struct Stats {
    pub packets_in: u64,
    pub bytes_in: u64,
    pub packets_out: u64,
    pub bytes_out: u64,
    pub last_in: Option<f64>,
    pub last_out: Option<f64>,
    pub lost_in: u64,
}

/// We draw the SPIs by which pairs are found, so that nobody can choose some that collide.
type SpiHash = BuildHasherDefault<SpiHasher>;

#[derive(Default)]
struct SpiHasher(u64);

impl Hasher for SpiHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        // The map takes its place from the low bits and its tag from the high ones: let all bits of an SPI reach both.
        self.0 = (self.0 ^ u64::from(value)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 ^= self.0 >> 32;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// All installed pairs.
#[derive(Default)]
pub struct Sad {
    by_spi: HashMap<u32, Arc<Pair>, SpiHash>,
    sending: HashMap<Id, Slots>,
}

impl Sad {
    /// Accept what arrives on the pair; sending waits for `choose`.  A pair of the same inbound SPI is replaced.
    pub fn install(&mut self, pair: Pair) {
        self.remove(pair.spec.spi_in);
        self.by_spi.insert(pair.spec.spi_in, Arc::new(pair));
    }

    /// Send the slot's traffic on this pair; `None` when it is not installed for that child, else whether it may take
    /// flows of other pairs.
    pub fn choose(&mut self, child: Id, spi_in: u32) -> Option<bool> {
        let pair = self.by_spi.get(&spi_in).filter(|pair| pair.spec.child == child)?;
        Some(self.sending.entry(child).or_default().set(pair.clone()))
    }

    /// Forget a pair.
    pub fn remove(&mut self, spi_in: u32) -> Option<Arc<Pair>> {
        let pair = self.by_spi.remove(&spi_in)?;
        if let Some(slots) = self.sending.get_mut(&pair.spec.child) {
            slots.remove(&pair);
            if slots.is_empty() {
                self.sending.remove(&pair.spec.child);
            }
        }
        Some(pair)
    }

    /// The pair of an inbound SPI.
    pub fn get(&self, spi_in: u32) -> Option<&Arc<Pair>> {
        self.by_spi.get(&spi_in)
    }

    /// The pair of an inbound SPI of ESP: an SPI belongs to a protocol (RFC 4301 4.1).
    pub fn esp(&self, spi_in: u32) -> Option<(&Arc<Pair>, &Esp)> {
        let pair = self.by_spi.get(&spi_in)?;
        match &pair.spec.keys {
            Keys::Esp { opener, .. } => Some((pair, opener)),
            Keys::Ah { .. } => None,
        }
    }

    /// The pair of an inbound SPI of AH.
    pub fn ah(&self, spi_in: u32) -> Option<(&Arc<Pair>, &Ah)> {
        let pair = self.by_spi.get(&spi_in)?;
        match &pair.spec.keys {
            Keys::Ah { opener, .. } => Some((pair, opener)),
            Keys::Esp { .. } => None,
        }
    }

    /// All pairs.
    pub fn pairs(&self) -> impl Iterator<Item = &Arc<Pair>> {
        self.by_spi.values()
    }

    /// The pairs that a child sends on, `None` where there are none.
    pub fn sending(&self, child: Id) -> Option<&Slots> {
        self.sending.get(&child)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::esp::Suite;
    use crate::spd::{Flow, Selector};

    /// A pair of a child and slot, its SPI 16 times the slot.
    pub fn pair(child: Id, slot: i64) -> Pair {
        let end = "192.0.2.1:4500".parse().unwrap();
        let suite = Suite { encr: 20, integ: 0, key_bytes: 16, esn: false, encr_key: &[7; 20], integ_key: &[] };
        let esp = || Esp::new(1, &suite).unwrap();
        let spec = PairSpec {
            spi_in: slot as u32 * 16,
            child,
            slot,
            device: 0,
            esn: false,
            window: 64,
            follow: true,
            volume: Volume::default(),
            selectors: Selectors::default(),
            path: Path { local: end, remote: end },
            tfc: Default::default(),
            keys: Keys::Esp { sealer: esp(), opener: esp() },
            transport: None,
        };
        Pair::new(spec, 0).unwrap()
    }

    fn at(remote: u32) -> Flow {
        let (local, remote) = (0x0A01_0001, remote.into());
        Flow { version: 4, local, remote, protocol: 17, local_port: Some(1), remote_port: Some(2) }
    }

    fn narrow(slot: i64, low: u32, high: u32) -> Pair {
        let range = |low, high| Selector { version: 4, low, high, protocol: 0, port_low: 0, port_high: 65535 };
        let (local, remote) = (vec![range(0, u32::MAX.into())], vec![range(low.into(), high.into())]);
        let spec = PairSpec { selectors: Selectors { local, remote }, ..pair(1, slot).spec };
        Pair::new(spec, 0).unwrap()
    }

    fn slots_that_take(sad: &Sad, flow: &Flow) -> Vec<i64> {
        let found = sad.sending(1).unwrap().candidates(flow);
        found.filter(|pair| pair.spec.selectors.take(flow)).map(|pair| pair.spec.slot).collect()
    }

    #[test]
    fn only_the_pair_that_a_slot_sends_on_is_marked_so() {
        let mut sad = Sad::default();
        sad.install(pair(1, 5));
        let first = sad.get(80).unwrap().clone();
        assert!(!first.is_sending());
        assert_eq!(sad.choose(2, 80), None, "of another child");
        assert_eq!(sad.choose(1, 80), Some(false));
        assert_eq!(sad.choose(1, 80), Some(false), "chosen again");
        assert!(first.is_sending());
        sad.remove(80);
        assert!(!first.is_sending() && sad.sending(1).is_none());
    }

    #[test]
    fn slots_are_found_in_order_and_follow_each_change() {
        let mut sad = Sad::default();
        for (slot, low, high) in [(3, 0, 100), (1, 50, 60), (2, 55, 70)] {
            sad.install(narrow(slot, low, high));
            sad.choose(1, slot as u32 * 16);
        }
        assert_eq!(slots_that_take(&sad, &at(57)), [1, 2, 3]);
        assert_eq!(slots_that_take(&sad, &at(65)), [2, 3]);
        assert!(slots_that_take(&sad, &at(101)).is_empty());
        sad.remove(16);
        assert_eq!(slots_that_take(&sad, &at(57)), [2, 3]);
    }

    #[test]
    fn pair_that_may_take_flows_of_others_is_told_from_a_rekey() {
        let mut sad = Sad::default();
        let mut choose = |pair: Pair, spi_in: u32| {
            sad.install(Pair::new(PairSpec { spi_in, ..pair.spec }, 0).unwrap());
            sad.choose(1, spi_in)
        };
        assert_eq!(choose(narrow(1, 0, 9), 101), Some(false), "the only one");
        assert_eq!(choose(narrow(2, 0, 99), 102), Some(true), "a slot beside others");
        assert_eq!(choose(narrow(1, 0, 9), 103), Some(false), "the same traffic");
        assert_eq!(choose(narrow(1, 0, 50), 104), Some(true), "more of it");
    }
}
