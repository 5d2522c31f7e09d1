//! What all threads share: tables, held packets, counters; and the commands of the control side.
//!
//! A thread reads the tables under a lock that it holds for one read of its device or socket, never over a system call;
//! a command changes them between two such reads.  What threads derived from the tables (flow caches) carries the
//! generation it was derived under, so a change counts for the next packet of every flow, and none is lost.

use crate::drops::{Counters, Reason};
use crate::early::Early;
use crate::held::{Held, Released};
use crate::lock;
use crate::reports::{Report, Reports};
use crate::sad::{Pair, PairSpec, Path, Sad, Stats};
use crate::spd::{Action, Entry, Id, Spd};
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// RFC 7296 1.5: what an unauthenticated sender triggers is limited.
const UNKNOWN_SPI_REPORTS_PER_S: u32 = 10;

/// Policy and SAs.
pub struct Tables {
    /// Counts changes that cached answers may differ from; those of a pair are told by the pair itself.
    pub generation: u64,
    /// The policy.
    pub spd: Spd,
    /// The SAs.
    pub sad: Sad,
    /// Ingress interface that a device serves (`None`: all that have no device of their own).
    pub interfaces: HashMap<Id, Option<Id>>,
    /// Our own outside addresses: the loop guard and the martian check know them.
    pub own: HashSet<IpAddr>,
    inner_mtus: HashMap<Id, u32>,
}

struct Unknown {
    since: f64,
    count: u32,
}

/// See the module.
pub struct Plane {
    tables: RwLock<Tables>,
    /// Packets without an SA.
    pub held: Mutex<Held>,
    /// ESP whose SA is on its way.
    pub early: Mutex<Early>,
    /// To the control side.
    pub reports: Reports,
    /// Drops of all kinds.
    pub drops: Counters,
    /// RFC 6040 4.2: combinations worth a look.
    pub unexpected_ecn: AtomicU64,
    unknown: Mutex<Unknown>,
}

impl Plane {
    /// Without policy and SAs: everything is dropped.
    pub fn new() -> io::Result<Plane> {
        let tables = Tables {
            generation: 1,
            spd: Spd::new(Vec::new()),
            sad: Sad::default(),
            interfaces: HashMap::new(),
            own: HashSet::new(),
            inner_mtus: HashMap::new(),
        };
        Ok(Plane {
            tables: RwLock::new(tables),
            held: Mutex::default(),
            early: Mutex::default(),
            reports: Reports::new()?,
            drops: Counters::new(),
            unexpected_ecn: AtomicU64::new(0),
            unknown: Mutex::new(Unknown { since: 0.0, count: 0 }),
        })
    }

    /// Look at the tables.
    pub fn tables(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn tables_mut(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// For what may send a flow another way, or refuse it: no cached answer counts any more.
    fn change(&self) -> RwLockWriteGuard<'_, Tables> {
        let mut tables = self.tables_mut();
        tables.generation += 1;
        tables
    }

    /// Count dropped packets, for the pair too where there is one.
    pub fn drop(&self, reason: Reason, pair: Option<&Pair>, count: u64) {
        self.drops.add(reason, count);
        if let Some(pair) = pair {
            pair.drops.add(reason, count);
        }
    }

    /// Know a device and the ingress interface that it serves.
    pub fn add_device(&self, device: Id, interface: Option<Id>) {
        self.change().interfaces.insert(device, interface);
    }

    /// Know our own addresses.
    pub fn set_own_addresses(&self, own: HashSet<IpAddr>) {
        self.change().own = own;
    }

    /// Accept inbound packets of the pair; false for a replay window that does not exist.
    pub fn install(&self, spec: PairSpec) -> bool {
        let mut tables = self.tables_mut();
        let mtu = tables.inner_mtus.get(&spec.child).copied().unwrap_or(0);
        let Some(pair) = Pair::new(spec, mtu) else { return false };
        tables.sad.install(pair);
        true
    }

    /// Send the slot's traffic on this pair; returns what was held as (device, packet), to be sent now.
    pub fn use_outbound(&self, child: Id, spi_in: u32, now: f64) -> Vec<Released> {
        let mut tables = self.tables_mut();
        let Some(takes_others) = tables.sad.choose(child, spi_in) else { return Vec::new() };
        tables.generation += u64::from(takes_others);
        // Under the same lock: no thread can hold a packet for a child that has an SA already.
        let (packets, old) = lock(&self.held).release(child, now);
        self.drops.add(Reason::HeldAbandoned, old);
        packets
    }

    /// Send the pair's packets over another path.
    pub fn update_path(&self, spi_in: u32, path: Path) {
        if let Some(pair) = self.tables().sad.get(spi_in) {
            pair.set_path(path);
        }
    }

    /// Forget both directions of a pair; returns its last counters and drops.
    pub fn remove(&self, spi_in: u32) -> Option<(Stats, Vec<(&'static str, u64)>)> {
        let pair = self.tables_mut().sad.remove(spi_in)?;
        Some((pair.stats(), pair.drops.read()))
    }

    /// Drop, with a count, what is held for a child; the next packet asks anew.
    pub fn abandon_held(&self, child: Id) {
        self.drops.add(Reason::HeldAbandoned, lock(&self.held).abandon(child));
    }

    /// Replace the policy as a whole; the next packet of every flow, either way, meets the new one.
    pub fn replace_policy(&self, entries: Vec<Entry>, inner_mtus: HashMap<Id, u32>) {
        let child = |entry: &Entry| match entry.action {
            Action::Protect(child) => Some(child),
            _ => None,
        };
        let children: HashSet<Id> = entries.iter().filter_map(child).collect();
        let spd = Spd::new(entries); // before the lock: with thousands of entries it takes milliseconds
        let old = {
            let mut tables = self.change();
            for pair in tables.sad.pairs() {
                pair.inner_mtu.store(inner_mtus.get(&pair.spec.child).copied().unwrap_or(0), Relaxed);
            }
            tables.inner_mtus = inner_mtus;
            self.drops.add(Reason::HeldAbandoned, lock(&self.held).keep_only(&children));
            std::mem::replace(&mut tables.spd, spd)
        };
        std::mem::drop(old);
    }

    /// Count ESP or AH that belongs to no pair, and report some of it.
    pub fn unknown_spi(&self, path: Path, spi: u32, now: f64, reason: Reason) {
        self.drops.add(reason, 1);
        let mut unknown = lock(&self.unknown);
        if now - unknown.since >= 1.0 {
            *unknown = Unknown { since: now, count: 0 };
        }
        unknown.count += 1;
        if unknown.count <= UNKNOWN_SPI_REPORTS_PER_S {
            self.reports.push(Report::UnknownSpi(path, spi));
        }
    }

    /// Report limits that were reached by `soft` and `hard`.
    pub fn report_limits(&self, pair: &Pair, soft: Option<String>, hard: Option<String>) {
        if let Some(why) = soft {
            self.reports.push(Report::SoftLifetime(pair.spec.spi_in, why));
        }
        if let Some(why) = hard {
            self.reports.push(Report::HardLifetime(pair.spec.spi_in, why));
        }
    }
}
