//! The one step of an AEAD suite that costs in proportion to the bytes.  The feature `no-crypto` leaves it out: what
//! scripts/bench then measures is the path of a packet without its cipher.  Such a build protects nothing, so it has
//! another name (see python.rs), and no configuration can load it.

#[cfg(not(feature = "no-crypto"))]
use aws_lc_rs::aead::{Aad, LessSafeKey};
use aws_lc_rs::aead::{Nonce, UnboundKey};

/// A key of AES-GCM or ChaCha20-Poly1305.
#[cfg(not(feature = "no-crypto"))]
pub struct AeadKey(LessSafeKey);

#[cfg(not(feature = "no-crypto"))]
impl AeadKey {
    /// Take a key into use.
    pub fn new(key: UnboundKey) -> AeadKey {
        AeadKey(LessSafeKey::new(key))
    }

    /// Seal `body` in place and write its ICV; false where the library refuses.
    pub fn seal(&self, nonce: Nonce, associated: &[u8], body: &mut [u8], icv: &mut [u8]) -> bool {
        let tag = self.0.seal_in_place_separate_tag(nonce, Aad::from(associated), body);
        tag.map(|tag| icv.copy_from_slice(tag.as_ref())).is_ok()
    }

    /// Open `body`, which ends with its ICV, in place; `None` where the ICV is wrong.
    pub fn open<'a>(&self, nonce: Nonce, associated: &[u8], body: &'a mut [u8]) -> Option<&'a mut [u8]> {
        self.0.open_in_place(nonce, Aad::from(associated), body).ok()
    }
}

/// Stands where a key would.
#[cfg(feature = "no-crypto")]
pub struct AeadKey;

#[cfg(feature = "no-crypto")]
impl AeadKey {
    /// Forget a key.
    pub fn new(_: UnboundKey) -> AeadKey {
        AeadKey
    }

    /// Leave `body` in clear.
    pub fn seal(&self, _: Nonce, _: &[u8], _: &mut [u8], icv: &mut [u8]) -> bool {
        icv.fill(0);
        true
    }

    /// Return `body` without the place of its ICV.
    pub fn open<'a>(&self, _: Nonce, _: &[u8], body: &'a mut [u8]) -> Option<&'a mut [u8]> {
        let length = body.len().checked_sub(super::esp::AEAD_ICV_BYTES)?;
        Some(&mut body[..length])
    }
}
