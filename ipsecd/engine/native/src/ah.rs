//! AH packets (RFC 4302 2, 3.3.3): making and verifying one direction of an SA, in place.
//!
//! ```text
//! IP header | next header 1 | length 1 | reserved 2 | SPI 4 | sequence 4 | ICV field | inner packet, or a part of one
//! ```
//!
//! The ICV covers all of it but what routers may change (see outer), with its own place zero, and behind it the high half
//! of an extended number, which is not sent.  GMAC's field begins with its IV, the counter (RFC 4543 3.1, 4).

use crate::ah_transport;
use crate::esp::{BadKeys, nonce};
use crate::ip;
use crate::outer::{self, Outer, V4_BYTES, V6_BYTES};
use crate::sad::Path;
use crate::transport::Part;
use aws_lc_rs::aead::{self, Aad, LessSafeKey, UnboundKey};
use aws_lc_rs::{constant_time, hmac};
use std::net::IpAddr;

/// RFC 4302 2: all ahead of the ICV.
pub const FIXED_BYTES: usize = 12;
const IV_BYTES: usize = 8;
const TAG_BYTES: usize = 16;
const SALT_BYTES: usize = 4;
/// RFC 1700, "IP TIME TO LIVE PARAMETER".
const HOPS: u8 = 64;

/// One direction's algorithm with its key.
pub struct Ah {
    spi: u32,
    esn: bool,
    mac: Mac,
    /// IV and ICV.
    field_bytes: usize,
}

enum Mac {
    /// RFC 4868.
    Hmac(Box<hmac::Key>),
    /// RFC 4543.
    Gmac { key: LessSafeKey, salt: [u8; SALT_BYTES] },
}

impl Ah {
    /// Key one direction; `integ` is IANA's number (RFC 7296 3.3.2), and GMAC's key ends with the salt.
    pub fn new(spi: u32, integ: u16, esn: bool, key: &[u8]) -> Result<Ah, BadKeys> {
        let wrong = BadKeys("integrity key of a wrong length");
        let hmac = |algorithm, key_bytes, field_bytes| match key.len() == key_bytes {
            true => Ok((Mac::Hmac(Box::new(hmac::Key::new(algorithm, key))), field_bytes)),
            false => Err(BadKeys("integrity key of a wrong length")),
        };
        let (mac, field_bytes) = match integ {
            2 => hmac(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, 20, 12)?,
            12 => hmac(hmac::HMAC_SHA256, 32, 16)?,
            13 => hmac(hmac::HMAC_SHA384, 48, 24)?,
            14 => hmac(hmac::HMAC_SHA512, 64, 32)?,
            9 => (gmac(&aead::AES_128_GCM, key).ok_or(wrong)?, IV_BYTES + TAG_BYTES),
            10 => (gmac(&aead::AES_192_GCM, key).ok_or(wrong)?, IV_BYTES + TAG_BYTES),
            11 => (gmac(&aead::AES_256_GCM, key).ok_or(wrong)?, IV_BYTES + TAG_BYTES),
            _ => return Err(BadKeys("an integrity algorithm that this engine does not have")),
        };
        Ok(Ah { spi, esn, mac, field_bytes })
    }

    /// Length of AH in an outer packet of an IP version (RFC 4302 2.6).
    pub fn size(&self, version: u8) -> usize {
        (FIXED_BYTES + self.field_bytes).next_multiple_of(if version == 4 { 4 } else { 8 })
    }

    /// Where the inner packet begins in a sealed one.
    pub fn head_bytes(&self, path: &Path) -> usize {
        if path.local.is_ipv4() { V4_BYTES + self.size(4) } else { V6_BYTES + self.size(6) }
    }

    /// Seal `out`, which holds the inner packet behind `head_bytes`, into a whole IP packet; `sequence` is all 64 bits,
    /// used once for a key.  The kernel puts in the checksum of an IPv4 header; that it leaves the Identification needs
    /// one that is not 0.  False where the library refuses, which no input of ours makes it do.
    #[must_use]
    pub fn seal(&self, out: &mut [u8], path: &Path, tos: u8, sequence: u64) -> bool {
        let next_header = if out[self.head_bytes(path)] >> 4 == 4 { ip::IPV4 } else { ip::IPV6 };
        let length = out.len();
        let at = match (path.local.ip(), path.remote.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let identification = (sequence % 0xFFFF) as u16 + 1;
                out[..2].copy_from_slice(&[0x45, tos]);
                out[2..4].copy_from_slice(&(length as u16).to_be_bytes());
                out[4..6].copy_from_slice(&identification.to_be_bytes());
                out[6..12].copy_from_slice(&[ip::DONT_FRAGMENT, 0, HOPS, ip::AH, 0, 0]);
                out[12..16].copy_from_slice(&source.octets());
                out[16..20].copy_from_slice(&destination.octets());
                V4_BYTES
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                out[..4].copy_from_slice(&(6 << 28 | u32::from(tos) << 20).to_be_bytes());
                out[4..6].copy_from_slice(&((length - V6_BYTES) as u16).to_be_bytes());
                out[6..8].copy_from_slice(&[ip::AH, HOPS]);
                out[8..24].copy_from_slice(&source.octets());
                out[24..40].copy_from_slice(&destination.octets());
                V6_BYTES
            }
            _ => return false,
        };
        let mut covered = [0; V6_BYTES];
        covered[..at].copy_from_slice(&out[..at]);
        outer::mask(&mut covered[..at]);
        self.finish(out, &covered[..at], next_header, sequence)
    }

    /// Seal `out`, which holds a packet's own headers, room for AH, and a part of the packet behind them.  False for a
    /// path of the other family, or options whose lengths are wrong.
    #[must_use]
    pub fn seal_part(&self, out: &mut [u8], part: &Part, path: &Path, sequence: u64) -> bool {
        if !ah_transport::write_head(out, part, path, sequence) {
            return false;
        }
        match outer::read(out) {
            Ok(outer) => self.finish(out, outer.covered(), part.next_header, sequence),
            Err(_) => false,
        }
    }

    /// Write AH behind the headers, of which the ICV covers `covered`.
    fn finish(&self, out: &mut [u8], covered: &[u8], next_header: u8, sequence: u64) -> bool {
        let size = self.size(out[0] >> 4);
        let (_, rest) = out.split_at_mut(covered.len());
        let (ah, inner) = rest.split_at_mut(size);
        ah.fill(0);
        ah[..2].copy_from_slice(&[next_header, (size / 4 - 2) as u8]);
        ah[4..8].copy_from_slice(&self.spi.to_be_bytes());
        ah[8..12].copy_from_slice(&(sequence as u32).to_be_bytes());
        let parts: [&[u8]; 3] = [covered, ah, inner];
        let mut field = [0; 64];
        if !self.make(&parts, sequence, &mut field[..self.field_bytes]) {
            return false;
        }
        ah[FIXED_BYTES..FIXED_BYTES + self.field_bytes].copy_from_slice(&field[..self.field_bytes]);
        true
    }

    /// Whether AH has the length that the suite gives it: more padding than needed is forbidden (RFC 4302 2.6).
    pub fn is_whole(&self, packet: &[u8], outer: &Outer) -> bool {
        let size = self.size(outer.version);
        outer.at + size <= outer.end && usize::from(packet[outer.at + 1]) == size / 4 - 2
    }

    /// Whether the ICV of a packet that `is_whole` is right; its place is zeroed.
    pub fn verify(&self, packet: &mut [u8], outer: &Outer, sequence: u64) -> bool {
        let place = outer.at + FIXED_BYTES..outer.at + FIXED_BYTES + self.field_bytes;
        let mut field = [0; 64];
        let field = &mut field[..self.field_bytes];
        field.copy_from_slice(&packet[place.clone()]);
        packet[place].fill(0);
        let parts: [&[u8]; 2] = [outer.covered(), &packet[outer.at..outer.end]];
        match &self.mac {
            Mac::Hmac(key) => {
                let tag = self.tag(key, &parts, sequence);
                constant_time::verify_slices_are_equal(field, &tag.as_ref()[..self.field_bytes]).is_ok()
            }
            Mac::Gmac { key, salt } => {
                let (iv, tag) = field.split_at_mut(IV_BYTES);
                let Ok(iv) = (&*iv).try_into() else { return false };
                key.open_in_place(nonce(*salt, iv), Aad::from(self.joined(&parts, sequence)), tag).is_ok()
            }
        }
    }

    fn make(&self, parts: &[&[u8]], sequence: u64, field: &mut [u8]) -> bool {
        match &self.mac {
            Mac::Hmac(key) => {
                let tag = self.tag(key, parts, sequence);
                field.copy_from_slice(&tag.as_ref()[..self.field_bytes]);
                true
            }
            Mac::Gmac { key, salt } => {
                let iv = sequence.to_be_bytes();
                let covered = Aad::from(self.joined(parts, sequence));
                let made = key.seal_in_place_separate_tag(nonce(*salt, iv), covered, &mut []);
                let Ok(tag) = made else { return false };
                field[..IV_BYTES].copy_from_slice(&iv);
                field[IV_BYTES..].copy_from_slice(tag.as_ref());
                true
            }
        }
    }

    fn tag(&self, key: &hmac::Key, parts: &[&[u8]], sequence: u64) -> hmac::Tag {
        let mut context = hmac::Context::with_key(key);
        for part in parts {
            context.update(part);
        }
        if let Some(high) = self.high(sequence) {
            context.update(&high);
        }
        context.sign()
    }

    /// GCM takes what it authenticates in one piece.
    fn joined(&self, parts: &[&[u8]], sequence: u64) -> Vec<u8> {
        let mut joined = parts.concat();
        joined.extend(self.high(sequence).into_iter().flatten());
        joined
    }

    /// RFC 4302 2.5.1: the high half is covered behind the packet.
    fn high(&self, sequence: u64) -> Option<[u8; 4]> {
        self.esn.then(|| ((sequence >> 32) as u32).to_be_bytes())
    }
}

fn gmac(algorithm: &'static aead::Algorithm, key: &[u8]) -> Option<Mac> {
    let (key, salt) = key.split_at_checked(algorithm.key_len())?;
    let key = UnboundKey::new(algorithm, key).ok()?;
    Some(Mac::Gmac { key: LessSafeKey::new(key), salt: salt.try_into().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_verifies_and_what_was_touched_does_not() {
        let suites = [(2, 20), (12, 32), (13, 48), (14, 64), (9, 20), (10, 28), (11, 36)];
        let ends = ["192.0.2.1:0", "203.0.113.7:0", "[2001:db8::1]:0", "[2001:db8::2]:0"].map(|text| text.parse());
        let [Ok(a), Ok(b), Ok(c), Ok(d)] = ends else { panic!("addresses") };
        for (integ, key_bytes) in suites {
            for esn in [false, true] {
                for path in [Path { local: a, remote: b }, Path { local: c, remote: d }] {
                    let ah = Ah::new(0x1234, integ, esn, &vec![7; key_bytes]).unwrap();
                    let head = ah.head_bytes(&path);
                    let mut out = vec![0x45; head + 100];
                    assert!(ah.seal(&mut out, &path, 0xB8, 5 << 32 | 6));
                    let Ok(outer) = outer::read(&out) else { panic!("headers") };
                    assert!(ah.is_whole(&out, &outer));
                    assert!(out[head..].iter().all(|byte| *byte == 0x45));
                    let mut touched = out.clone();
                    touched[head + 50] ^= 1;
                    assert!(!ah.verify(&mut touched, &outer, 5 << 32 | 6));
                    assert_eq!(ah.verify(&mut out.clone(), &outer, 6 << 32 | 6), !esn);
                    assert!(ah.verify(&mut out, &outer, 5 << 32 | 6));
                }
            }
        }
    }

    #[test]
    fn key_of_a_wrong_length_is_refused() {
        for (integ, key_bytes) in [(12, 31), (9, 16), (9, 21), (11, 32), (99, 32)] {
            assert!(Ah::new(1, integ, false, &vec![0; key_bytes]).is_err());
        }
    }
}
