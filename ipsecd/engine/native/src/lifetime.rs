//! Lifetimes by volume (RFC 4301 4.4.2.1) and the end of the sequence numbers (RFC 4303 3.3.3).
//!
//! The hot path adds to a meter and compares with two alarms; only when one rings does `ring` look at the limits
//! themselves.  A packet that crosses a hard limit is still carried; none after it.

/// RFC 4303 3.3.3: the counter must not cycle.
pub const LAST_SEQUENCE: u64 = u32::MAX as u64;
/// The same with extended numbers.
pub const LAST_EXTENDED_SEQUENCE: u64 = u64::MAX;
/// Half of the numbers are left for the rekeying that this starts.
pub const SOFT_SEQUENCE: u64 = 1 << 31;
/// The same with extended numbers.
pub const SOFT_EXTENDED_SEQUENCE: u64 = 1 << 63;
const NEVER: u64 = u64::MAX;

/// Limits of one direction; 0 means no such limit.
#[derive(Clone, Copy, Default)]
pub struct Volume {
    /// Bytes at which to ask for a successor.
    pub soft_bytes: u64,
    /// Bytes at which the pair ends.
    pub hard_bytes: u64,
    /// Packets at which to ask for a successor.
    pub soft_packets: u64,
    /// Packets at which the pair ends.
    pub hard_packets: u64,
}

/// Counts one direction of a pair against its volume limits.
pub struct Meter {
    /// Packets so far.
    pub packets: u64,
    /// Bytes of inner packets so far.
    pub bytes: u64,
    /// Time of the last packet, `None` for never.
    pub last: Option<f64>,
    /// A hard limit was reached.
    pub expired: bool,
    volume: Volume,
    alarm_packets: u64,
    alarm_bytes: u64,
}

fn first_of(soft: u64, hard: u64) -> u64 {
    match (soft, hard) {
        (0, 0) => NEVER,
        (0, hard) => hard,
        (soft, _) => soft,
    }
}

impl Meter {
    /// Nothing counted yet.
    pub fn new(volume: Volume) -> Meter {
        Meter {
            packets: 0,
            bytes: 0,
            last: None,
            expired: false,
            alarm_packets: first_of(volume.soft_packets, volume.hard_packets),
            alarm_bytes: first_of(volume.soft_bytes, volume.hard_bytes),
            volume,
        }
    }

    /// Count a packet; true when `ring` must be called.
    pub fn count(&mut self, bytes: usize, now: f64) -> bool {
        self.packets += 1;
        self.bytes += bytes as u64;
        self.last = Some(now);
        self.packets >= self.alarm_packets || self.bytes >= self.alarm_bytes
    }

    /// Why the soft and the hard limit were reached (`None` where not); sets the alarms anew.
    pub fn ring(&mut self) -> (Option<String>, Option<String>) {
        let limits = self.volume;
        let (mut soft, mut hard) = (None, None);
        if self.packets >= self.alarm_packets {
            if self.alarm_packets == limits.soft_packets {
                soft = Some(format!("soft limit of {} packets", limits.soft_packets));
            }
            self.alarm_packets = first_of(0, limits.hard_packets);
        }
        if self.bytes >= self.alarm_bytes {
            if self.alarm_bytes == limits.soft_bytes {
                soft = Some(format!("soft limit of {} bytes", limits.soft_bytes));
            }
            self.alarm_bytes = first_of(0, limits.hard_bytes);
        }
        if limits.hard_packets > 0 && self.packets >= limits.hard_packets {
            hard = Some(format!("hard limit of {} packets", limits.hard_packets));
        } else if limits.hard_bytes > 0 && self.bytes >= limits.hard_bytes {
            hard = Some(format!("hard limit of {} bytes", limits.hard_bytes));
        }
        if hard.is_some() {
            self.expired = true;
            self.alarm_packets = NEVER;
            self.alarm_bytes = NEVER;
        }
        (soft, hard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_rings_once_and_the_hard_one_last() {
        let mut meter = Meter::new(Volume { soft_packets: 2, hard_packets: 4, ..Volume::default() });
        assert!(!meter.count(100, 0.0));
        assert!(meter.count(100, 0.0));
        assert_eq!(meter.ring(), (Some("soft limit of 2 packets".into()), None));
        assert!(!meter.count(100, 0.0));
        assert!(meter.count(100, 0.0));
        assert_eq!(meter.ring(), (None, Some("hard limit of 4 packets".into())));
        assert!(meter.expired);
        assert!(!meter.count(100, 0.0));
    }
}
