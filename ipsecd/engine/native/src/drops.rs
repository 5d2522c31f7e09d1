//! Why a packet ended: the names of `ipsecd.drops.DropReason`, and counters of them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! reasons {
    ($($variant:ident $name:literal,)*) => {
        /// A named end of a packet's way.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        #[allow(missing_docs)]
        pub enum Reason { $($variant,)* }

        /// Names by discriminant, as Python and the metrics spell them.
        pub const NAMES: &[&str] = &[$($name,)*];
        const ALL: &[Reason] = &[$(Reason::$variant,)*];
    };
}

reasons! {
    UdpEmpty "udp_empty",
    UdpKeepalive "udp_keepalive",
    UdpTruncated "udp_truncated",
    IkeQueueOverflow "ike_queue_overflow",
    EspShort "esp_short",
    EspUnknownSpi "esp_unknown_spi",
    EspReplayed "esp_replayed",
    EspTooOld "esp_too_old",
    EspBadIcv "esp_bad_icv",
    EspBadPadding "esp_bad_padding",
    EspDummy "esp_dummy",
    EspNextHeader "esp_next_header",
    EspExpired "esp_expired",
    AhShort "ah_short",
    AhMalformed "ah_malformed",
    AhFragment "ah_fragment",
    AhUnknownSpi "ah_unknown_spi",
    AhReplayed "ah_replayed",
    AhTooOld "ah_too_old",
    AhBadIcv "ah_bad_icv",
    AhNextHeader "ah_next_header",
    AhExpired "ah_expired",
    EcnForbidden "ecn_forbidden",
    InnerMalformed "inner_malformed",
    InnerSelector "inner_selector",
    InnerMartian "inner_martian",
    InnerFragment "inner_fragment",
    InnerRedirect "inner_redirect",
    TunMalformed "tun_malformed",
    TunLooped "looped",
    SpdDiscard "spd_discard",
    SpdNoMatch "spd_no_match",
    SpdBypassInTun "spd_bypass_in_tun",
    OutboundFragment "outbound_fragment",
    OutsideNegotiated "outside_negotiated",
    TransportOptions "transport_options",
    NoSa "no_sa",
    HeldOverflow "held_overflow",
    HeldAbandoned "held_abandoned",
    SequenceExhausted "sequence_exhausted",
    SaExpired "sa_expired",
    TooBig "too_big",
    SendFailed "send_failed",
    SendQueueFull "send_queue_full",
    TunWriteFailed "tun_write_failed",
}

impl Reason {
    /// The reason of a discriminant that was stored in an atomic.
    pub fn from_code(code: u8) -> Option<Reason> {
        ALL.get(usize::from(code)).copied()
    }
}

/// One counter for each reason; threads add to it without a lock.
pub struct Counters([AtomicU64; NAMES.len()]);

impl Counters {
    /// All zero.
    pub fn new() -> Self {
        Counters(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    /// Count dropped packets.
    pub fn add(&self, reason: Reason, count: u64) {
        if count > 0 {
            self.0[reason as usize].fetch_add(count, Relaxed);
        }
    }

    /// The counters that are not zero, by name.
    pub fn read(&self) -> Vec<(&'static str, u64)> {
        let all = NAMES.iter().zip(&self.0).map(|(name, count)| (*name, count.load(Relaxed)));
        all.filter(|(_, count)| *count > 0).collect()
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}
