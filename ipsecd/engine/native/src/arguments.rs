//! Plain values that pass between Python and the engine.

use crate::ah::Ah;
use crate::esp::{BadKeys, Esp, Suite};
use crate::lifetime::Volume;
use crate::sad::{Keys, PairSpec, Path, Stats};
use crate::spd::{Action, Entry, Id, Selector, Selectors};
use crate::tfc::Tfc;
use crate::transport::Ends;
use pyo3::prelude::*;
use std::net::{IpAddr, SocketAddr};

/// RFC 7296 3.3.1.
const AH: u8 = 2;

/// Version, low, high, protocol, lowest and highest port.
pub type SelectorTuple = (u8, u128, u128, u8, u16, u16);
/// Local address and port, remote address and port.
pub type PathTuple = (IpAddr, u16, IpAddr, u16);
/// Packets and bytes in, packets and bytes out, last in, last out, lost.
pub type StatsTuple = (u64, u64, u64, u64, Option<f64>, Option<f64>, u64);

/// Read a path.
pub fn path_of((local, local_port, remote, remote_port): PathTuple) -> Path {
    Path { local: SocketAddr::new(local, local_port), remote: SocketAddr::new(remote, remote_port) }
}

/// Write a path.
pub fn tuple_of(path: &Path) -> PathTuple {
    (path.local.ip(), path.local.port(), path.remote.ip(), path.remote.port())
}

fn selectors_of(local: &[SelectorTuple], remote: &[SelectorTuple]) -> Selectors {
    let all = |tuples: &[SelectorTuple]| {
        let one = |&(version, low, high, protocol, port_low, port_high): &SelectorTuple| Selector {
            version,
            low,
            high,
            protocol,
            port_low,
            port_high,
        };
        tuples.iter().map(one).collect()
    };
    Selectors { local: all(local), remote: all(remote) }
}

/// Write counters.
pub fn stats_of(stats: &Stats) -> StatsTuple {
    let Stats { packets_in, bytes_in, packets_out, bytes_out, last_in, last_out, lost_in } = *stats;
    (packets_in, bytes_in, packets_out, bytes_out, last_in, last_out, lost_in)
}

/// A SaPair, keys laid open.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct PairArguments {
    child: Id,
    slot: i64,
    device: Id,
    protocol: u8,
    encr: u16,
    integ: u16,
    key_bytes: usize,
    esn: bool,
    spi_in: u32,
    spi_out: u32,
    encr_key_in: Vec<u8>,
    integ_key_in: Vec<u8>,
    encr_key_out: Vec<u8>,
    integ_key_out: Vec<u8>,
    local: Vec<SelectorTuple>,
    remote: Vec<SelectorTuple>,
    path: PathTuple,
    window: u32,
    follow: bool,
    volume: (u64, u64, u64, u64),
    tfc: (usize, bool),
    transport: Option<(IpAddr, IpAddr, u16)>,
}

impl PairArguments {
    fn keyed(&self, spi: u32, encr_key: &[u8], integ_key: &[u8]) -> Result<Esp, BadKeys> {
        let PairArguments { encr, integ, key_bytes, esn, .. } = *self;
        Esp::new(spi, &Suite { encr, integ, key_bytes, esn, encr_key, integ_key })
    }

    fn keys(&self) -> Result<Keys, BadKeys> {
        if self.protocol == AH {
            return Ok(Keys::Ah {
                sealer: Ah::new(self.spi_out, self.integ, self.esn, &self.integ_key_out)?,
                opener: Ah::new(self.spi_in, self.integ, self.esn, &self.integ_key_in)?,
            });
        }
        Ok(Keys::Esp {
            sealer: self.keyed(self.spi_out, &self.encr_key_out, &self.integ_key_out)?,
            opener: self.keyed(self.spi_in, &self.encr_key_in, &self.integ_key_in)?,
        })
    }

    /// Key both directions.
    pub fn spec(&self) -> Result<PairSpec, BadKeys> {
        let (soft_bytes, hard_bytes, soft_packets, hard_packets) = self.volume;
        Ok(PairSpec {
            spi_in: self.spi_in,
            child: self.child,
            slot: self.slot,
            device: self.device,
            esn: self.esn,
            window: self.window,
            follow: self.follow,
            volume: Volume { soft_bytes, hard_bytes, soft_packets, hard_packets },
            selectors: selectors_of(&self.local, &self.remote),
            path: path_of(self.path),
            tfc: Tfc { pad_to: self.tfc.0, randomly: self.tfc.1 },
            keys: self.keys()?,
            transport: self.transport.map(|(local, remote, nat_sum)| Ends { local, remote, nat_sum }),
        })
    }
}

/// One entry of the SPD: action, child, interface, selectors of both sides.
pub type EntryTuple = (String, Option<Id>, Option<Id>, Vec<SelectorTuple>, Vec<SelectorTuple>);

/// Read an entry.
pub fn entry_of((action, child, interface, local, remote): &EntryTuple) -> Entry {
    let action = match (action.as_str(), child) {
        ("protect", Some(child)) => Action::Protect(*child),
        ("discard", _) => Action::Discard,
        _ => Action::Bypass,
    };
    Entry { action, interface: *interface, selectors: selectors_of(local, remote) }
}
