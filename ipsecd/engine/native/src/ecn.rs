//! Explicit congestion notification through the tunnel (RFC 6040).

use crate::checksum;

const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;
const DROP: u8 = 4;

/// RFC 6040 4.2, figure 4: row = inner, column = outer Not-ECT, ECT(1), ECT(0), CE.
const TABLE: [[u8; 4]; 4] =
    [[NOT_ECT, NOT_ECT, NOT_ECT, DROP], [ECT_1, ECT_1, ECT_1, CE], [ECT_0, ECT_1, ECT_0, CE], [CE, CE, CE, CE]];

/// The field that leaves the tunnel, `None` where the packet must be dropped.
pub fn decapsulated(inner: u8, outer: u8) -> Option<u8> {
    let joined = TABLE[usize::from(inner & 3)][usize::from(outer & 3)];
    (joined != DROP).then_some(joined)
}

/// Whether the same figure marks the combination "(!!!)" or "(!)": no sender of today makes it.
pub fn is_unexpected(inner: u8, outer: u8) -> bool {
    matches!((inner, outer), (NOT_ECT, ECT_1 | ECT_0 | CE) | (ECT_1, ECT_0) | (CE, ECT_1))
}

/// Write another ECN field; the IPv4 header checksum follows (RFC 1624 3, equation 3).
pub fn set(packet: &mut [u8], ecn: u8) {
    if packet[0] >> 4 == 6 {
        packet[1] = packet[1] & 0xCF | ecn << 4;
        return;
    }
    let before = u16::from_be_bytes([packet[0], packet[1]]);
    packet[1] = packet[1] & 0xFC | ecn;
    let after = u16::from_be_bytes([packet[0], packet[1]]);
    let old = u16::from_be_bytes([packet[10], packet[11]]);
    let sum = u64::from(!old) + u64::from(!before) + u64::from(after);
    packet[10..12].copy_from_slice(&(!checksum::fold(sum)).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn congestion_survives_and_is_dropped_where_the_sender_would_not_hear_of_it() {
        assert_eq!(decapsulated(ECT_0, CE), Some(CE));
        assert_eq!(decapsulated(ECT_0, ECT_1), Some(ECT_1));
        assert_eq!(decapsulated(NOT_ECT, CE), None);
    }

    #[test]
    fn header_checksum_follows_the_field() {
        let mut packet = [0x45, 2, 0, 20, 0, 7, 0x40, 0, 64, 17, 0, 0, 10, 1, 0, 1, 10, 2, 0, 1];
        let sum = !checksum::fold(checksum::sum(&packet));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        set(&mut packet, CE);
        assert_eq!(packet[1], 3);
        assert_eq!(checksum::fold(checksum::sum(&packet)), 0xFFFF);
    }
}
