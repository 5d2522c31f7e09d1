//! ESP packets (RFC 4303 2): sealing and opening one direction of an SA, in place.
//!
//! ```text
//! SPI 4 | sequence 4 | IV | ciphertext of (packet | padding 1,2,3.. | pad length 1 | next header 1) | ICV
//! ```
//!
//! All ciphers come from aws-lc-rs.  Against ring 0.17.14 on one machine with VAES (Xeon, AES-256-GCM, one thread):
//! 64 bytes 96 ns against 98, 1420 bytes 229 ns against 283, 8900 bytes 806 ns against 1232; ChaCha20-Poly1305 is the
//! same within 5 %.  ring has neither AES-192-GCM nor AES-CBC, which the configuration offers.

use crate::aead_key::AeadKey;
use aws_lc_rs::aead::{self, Nonce, UnboundKey};
use aws_lc_rs::cipher::{self, DecryptingKey, DecryptionContext, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{constant_time, hmac, rand};

/// SPI and sequence number.
pub const HEADER_BYTES: usize = 8;
const AEAD_IV_BYTES: usize = 8;
/// ICV of an AEAD suite.
pub const AEAD_ICV_BYTES: usize = 16;
const BLOCK_BYTES: usize = 16;
const TRAILER_BYTES: usize = 2;

/// Keys that do not fit their suite.
#[derive(Debug)]
pub struct BadKeys(pub &'static str);

/// What a suite is made of; IDs are IANA's (RFC 7296 3.3.2).
pub struct Suite<'a> {
    /// Encryption algorithm.
    pub encr: u16,
    /// Integrity algorithm, 0 with a combined mode.
    pub integ: u16,
    /// Length of the cipher key without salt, in bytes.
    pub key_bytes: usize,
    /// Extended sequence numbers.
    pub esn: bool,
    /// Cipher key followed by its salt.
    pub encr_key: &'a [u8],
    /// Empty with a combined mode.
    pub integ_key: &'a [u8],
}

/// One direction's cipher with its keys.
pub struct Esp {
    spi: [u8; 4],
    esn: bool,
    cipher: Cipher,
}

enum Cipher {
    /// AES-GCM (RFC 4106), ChaCha20-Poly1305 (RFC 7634).
    Aead { key: AeadKey, salt: [u8; 4] },
    /// AES-CBC with HMAC, encrypt then MAC (RFC 3602, 4868).
    Cbc(Box<Cbc>),
}

struct Cbc {
    encrypt: EncryptingKey,
    decrypt: DecryptingKey,
    mac: hmac::Key,
    icv_bytes: usize,
}

impl Esp {
    /// Key one direction.
    pub fn new(spi: u32, suite: &Suite) -> Result<Esp, BadKeys> {
        let cipher = match suite.encr {
            12 => Cipher::Cbc(Box::new(Cbc::new(suite)?)),
            _ => aead(suite)?,
        };
        Ok(Esp { spi: spi.to_be_bytes(), esn: suite.esn, cipher })
    }

    fn iv_bytes(&self) -> usize {
        if matches!(self.cipher, Cipher::Aead { .. }) { AEAD_IV_BYTES } else { BLOCK_BYTES }
    }

    fn icv_bytes(&self) -> usize {
        match &self.cipher {
            Cipher::Aead { .. } => AEAD_ICV_BYTES,
            Cipher::Cbc(cbc) => cbc.icv_bytes,
        }
    }

    fn block_bytes(&self) -> usize {
        if matches!(self.cipher, Cipher::Aead { .. }) { 4 } else { BLOCK_BYTES }
    }

    /// Where the inner packet begins in a sealed one.
    pub fn head_bytes(&self) -> usize {
        HEADER_BYTES + self.iv_bytes()
    }

    /// RFC 4303 2: header, IV, an empty trailer, ICV.
    pub fn minimum_bytes(&self) -> usize {
        self.head_bytes() + self.block_bytes() + self.icv_bytes()
    }

    /// Length of the ESP packet that carries `inner` bytes.
    pub fn sealed_bytes(&self, inner: usize) -> usize {
        self.head_bytes() + (inner + TRAILER_BYTES).next_multiple_of(self.block_bytes()) + self.icv_bytes()
    }

    /// Seal `out`, of `sealed_bytes(inner)` bytes, which holds the inner packet behind `head_bytes`.  `sequence` is all
    /// 64 bits, used once for a key.  False where the library refuses, which no input of ours makes it do.
    #[must_use]
    pub fn seal(&self, out: &mut [u8], inner: usize, next_header: u8, sequence: u64) -> bool {
        let (head, icv) = (self.head_bytes(), self.icv_bytes());
        let body_end = out.len() - icv;
        write_trailer(&mut out[head + inner..body_end], next_header);
        out[..4].copy_from_slice(&self.spi);
        out[4..8].copy_from_slice(&(sequence as u32).to_be_bytes());
        let (header, rest) = out.split_at_mut(HEADER_BYTES);
        match &self.cipher {
            Cipher::Aead { key, salt } => {
                // RFC 4106 3.1: the counter is the IV, unique for a key because it never repeats.
                rest[..AEAD_IV_BYTES].copy_from_slice(&sequence.to_be_bytes());
                let (body, tag_place) = rest[AEAD_IV_BYTES..].split_at_mut(body_end - head);
                let nonce = nonce(*salt, sequence.to_be_bytes());
                match self.esn {
                    true => key.seal(nonce, &self.extended(sequence), body, tag_place),
                    false => key.seal(nonce, header, body, tag_place),
                }
            }
            Cipher::Cbc(cbc) => cbc.seal(header, rest, self.high(sequence)),
        }
    }

    /// Open the ESP packet `data`, of at least `minimum_bytes`, in place; the plaintext with its trailer, `None` where
    /// the ICV is wrong.
    pub fn open<'a>(&self, data: &'a mut [u8], sequence: u64) -> Option<&'a mut [u8]> {
        let (header, rest) = data.split_at_mut(HEADER_BYTES);
        match &self.cipher {
            Cipher::Aead { key, salt } => {
                let (iv, body) = rest.split_at_mut(AEAD_IV_BYTES);
                let nonce = nonce(*salt, iv.as_ref().try_into().ok()?);
                match self.esn {
                    true => key.open(nonce, &self.extended(sequence), body),
                    false => key.open(nonce, header, body),
                }
            }
            Cipher::Cbc(cbc) => cbc.open(header, rest, self.high(sequence)),
        }
    }

    /// RFC 4106 5: with extended numbers all 64 bits are authenticated.
    fn extended(&self, sequence: u64) -> [u8; 12] {
        let mut associated = [0; 12];
        associated[..4].copy_from_slice(&self.spi);
        associated[4..].copy_from_slice(&sequence.to_be_bytes());
        associated
    }

    /// RFC 4303 2.2.1: with AES-CBC the ICV covers the high half behind the packet.
    fn high(&self, sequence: u64) -> Option<[u8; 4]> {
        self.esn.then(|| ((sequence >> 32) as u32).to_be_bytes())
    }
}

impl Cbc {
    fn new(suite: &Suite) -> Result<Cbc, BadKeys> {
        let cipher = match suite.key_bytes {
            16 => &cipher::AES_128,
            24 => &cipher::AES_192,
            32 => &cipher::AES_256,
            _ => return Err(BadKeys("AES-CBC has no such key length")),
        };
        // RFC 7296 3.3.2 and RFC 4868 2.1: algorithm, length of key and of ICV.
        let (algorithm, key_bytes, icv_bytes) = match suite.integ {
            2 => (hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, 20, 12),
            12 => (hmac::HMAC_SHA256, 32, 16),
            13 => (hmac::HMAC_SHA384, 48, 24),
            14 => (hmac::HMAC_SHA512, 64, 32),
            _ => return Err(BadKeys("AES-CBC needs an integrity algorithm")),
        };
        if suite.encr_key.len() != suite.key_bytes || suite.integ_key.len() != key_bytes {
            return Err(BadKeys("keys of a wrong length"));
        }
        let key = || UnboundCipherKey::new(cipher, suite.encr_key);
        let refused = |_| BadKeys("AES-CBC refused its key");
        Ok(Cbc {
            encrypt: EncryptingKey::cbc(key().map_err(refused)?).map_err(refused)?,
            decrypt: DecryptingKey::cbc(key().map_err(refused)?).map_err(refused)?,
            mac: hmac::Key::new(algorithm, suite.integ_key),
            icv_bytes,
        })
    }

    fn seal(&self, header: &[u8], rest: &mut [u8], high: Option<[u8; 4]>) -> bool {
        let mut iv = [0u8; BLOCK_BYTES];
        if rand::fill(&mut iv).is_err() {
            return false; // RFC 3602 3: the IV is unpredictable, or nothing is sent
        }
        let covered = rest.len() - self.icv_bytes;
        rest[..BLOCK_BYTES].copy_from_slice(&iv);
        let context = EncryptionContext::Iv128(FixedLength::from(&iv));
        if self.encrypt.less_safe_encrypt(&mut rest[BLOCK_BYTES..covered], context).is_err() {
            return false;
        }
        let tag = self.tag(header, &rest[..covered], high);
        rest[covered..].copy_from_slice(&tag.as_ref()[..self.icv_bytes]);
        true
    }

    fn open<'a>(&self, header: &[u8], rest: &'a mut [u8], high: Option<[u8; 4]>) -> Option<&'a mut [u8]> {
        // Lengths first: a ciphertext that is no whole number of blocks gets the one answer of a bad ICV.
        let covered = rest.len().checked_sub(self.icv_bytes)?;
        if covered < 2 * BLOCK_BYTES || covered % BLOCK_BYTES != 0 {
            return None;
        }
        let (sealed, icv) = rest.split_at_mut(covered);
        let tag = self.tag(header, sealed, high);
        constant_time::verify_slices_are_equal(icv, &tag.as_ref()[..self.icv_bytes]).ok()?;
        let (iv, body) = sealed.split_at_mut(BLOCK_BYTES);
        let iv: [u8; BLOCK_BYTES] = iv.as_ref().try_into().ok()?;
        self.decrypt.decrypt(body, DecryptionContext::Iv128(FixedLength::from(&iv))).ok()
    }

    fn tag(&self, header: &[u8], sealed: &[u8], high: Option<[u8; 4]>) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.mac);
        context.update(header);
        context.update(sealed);
        if let Some(high) = high {
            context.update(&high);
        }
        context.sign()
    }
}

fn aead(suite: &Suite) -> Result<Cipher, BadKeys> {
    let algorithm: &aead::Algorithm = match (suite.encr, suite.key_bytes) {
        (20, 16) => &aead::AES_128_GCM,
        (20, 24) => &aead::AES_192_GCM,
        (20, 32) => &aead::AES_256_GCM,
        (28, 32) => &aead::CHACHA20_POLY1305,
        _ => return Err(BadKeys("a cipher that this engine does not have")),
    };
    let (key, salt) = suite.encr_key.split_at_checked(suite.key_bytes).ok_or(BadKeys("encryption key too short"))?;
    let salt = salt.try_into().map_err(|_| BadKeys("salt of a wrong length"))?;
    let key = UnboundKey::new(algorithm, key).map_err(|_| BadKeys("the cipher refused its key"))?;
    Ok(Cipher::Aead { key: AeadKey::new(key), salt })
}

/// RFC 4106 4, RFC 7634 2: nonce = salt | IV.
pub fn nonce(salt: [u8; 4], iv: [u8; AEAD_IV_BYTES]) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&salt);
    bytes[4..].copy_from_slice(&iv);
    Nonce::assume_unique_for_key(bytes)
}

/// RFC 4303 2.4: padding counts 1, 2, 3, then its length and the next header.
fn write_trailer(place: &mut [u8], next_header: u8) {
    let pad = place.len() - TRAILER_BYTES;
    for (number, byte) in place[..pad].iter_mut().enumerate() {
        *byte = number as u8 + 1;
    }
    place[pad] = pad as u8;
    place[pad + 1] = next_header;
}

/// Length of the payload, `None` where padding and trailer are not as RFC 4303 2.4 has them.
pub fn unpadded(plaintext: &[u8]) -> Option<usize> {
    let trailer = plaintext.len().checked_sub(TRAILER_BYTES)?;
    let length = trailer.checked_sub(usize::from(plaintext[trailer]))?;
    let counts = plaintext[length..trailer].iter().zip(1..=u8::MAX).all(|(byte, number)| *byte == number);
    counts.then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suites() -> Vec<(u16, usize, usize, u16, usize)> {
        let aead = [(20, 16, 4), (20, 24, 4), (20, 32, 4), (28, 32, 4)].map(|(id, key, salt)| (id, key, salt, 0, 0));
        let macs = [(2, 20), (12, 32), (13, 48), (14, 64)];
        let cbc = macs.into_iter().flat_map(|(id, bytes)| [16, 24, 32].map(|key| (12, key, 0, id, bytes)));
        aead.into_iter().chain(cbc).collect()
    }

    #[test]
    fn what_is_sealed_opens_and_what_was_touched_does_not() {
        for (encr, key_bytes, salt, integ, integ_bytes) in suites() {
            for esn in [false, true] {
                let (encr_key, integ_key) = (vec![7; key_bytes + salt], vec![9; integ_bytes]);
                let suite = Suite { encr, integ, key_bytes, esn, encr_key: &encr_key, integ_key: &integ_key };
                let esp = Esp::new(0x1234, &suite).unwrap();
                for inner in [0, 1, 20, 1400] {
                    let mut out = vec![0; esp.sealed_bytes(inner)];
                    out[esp.head_bytes()..][..inner].fill(0x45);
                    assert!(esp.seal(&mut out, inner, 4, 5 << 32 | 6));
                    let mut broken = out.clone();
                    broken[esp.head_bytes()] ^= 1;
                    assert!(esp.open(&mut broken, 5 << 32 | 6).is_none());
                    assert_eq!(esp.open(&mut out.clone(), 6 << 32 | 6).is_none(), esn);
                    let plaintext = esp.open(&mut out, 5 << 32 | 6).unwrap();
                    assert_eq!(unpadded(plaintext), Some(inner));
                    assert!(plaintext[..inner].iter().all(|byte| *byte == 0x45));
                }
            }
        }
    }

    #[test]
    fn padding_that_does_not_count_is_refused() {
        assert_eq!(unpadded(&[9, 1, 2, 2, 4]), Some(1));
        assert_eq!(unpadded(&[9, 1, 3, 2, 4]), None);
        assert_eq!(unpadded(&[1, 9, 4]), None);
    }
}
