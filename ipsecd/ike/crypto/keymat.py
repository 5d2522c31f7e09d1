"""Key material of IKE SAs and their children (RFC 7296 2.13, 2.14, 2.17, 2.18; RFC 9370 2.2.2, 2.2.4)."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ipsecd.errors import LocalError
from ipsecd.secret import Secret
from ipsecd.suites import ChildSuite, IkeSuite, Prf

MAX_PRF_PLUS_BLOCKS = 255       # RFC 7296 2.13: the counter is one octet


@dataclass(frozen=True, slots=True)
class IkeKeys:
    """The seven keys of an IKE SA; i and r are the *original* initiator and responder (RFC 7296 2.14).

    With an AEAD cipher `sk_a*` are empty and `sk_e*` end with the salt (RFC 5282 7.1).
    """

    sk_d: Secret
    sk_ai: Secret
    sk_ar: Secret
    sk_ei: Secret
    sk_er: Secret
    sk_pi: Secret
    sk_pr: Secret


@dataclass(frozen=True, slots=True)
class ChildKeys:
    """Keys of both directions of a Child SA; i is the initiator of the exchange that made it (RFC 7296 2.17).

    `encr_i` and `integ_i` protect what the initiator sends.  Encryption keys end with the salt and are empty with AH;
    integrity keys are empty with an AEAD cipher, and end with the salt with GMAC (RFC 4543 5.3).
    """

    encr_i: Secret
    integ_i: Secret
    encr_r: Secret
    integ_r: Secret


def prf(prf_: Prf, key: bytes, data: bytes) -> bytes:
    """Return the output of the PRF, `prf_.size` bytes: HMAC, not truncated (RFC 4868 2.1.2)."""
    return hmac.digest(key, data, prf_.hash_name)


def prf_plus(prf_: Prf, key: bytes, seed: bytes, length: int) -> bytes:
    """Return the first `length` bytes of prf+(key, seed) (RFC 7296 2.13)."""
    count = -(-length // prf_.size)
    if count > MAX_PRF_PLUS_BLOCKS:
        raise LocalError(f"prf+ gives {MAX_PRF_PLUS_BLOCKS * prf_.size} bytes at most, {length} asked")
    blocks: list[bytes] = []
    last = b""
    for counter in range(1, count + 1):
        last = prf(prf_, key, last + seed + bytes([counter]))
        blocks.append(last)
    return b"".join(blocks)[:length]


def ike_keys(suite: IkeSuite, *, ni: bytes, nr: bytes, shared: Secret, spi_i: bytes, spi_r: bytes) -> IkeKeys:
    """Return the keys of an IKE SA made by IKE_SA_INIT (RFC 7296 2.14); nonces are payload bodies."""
    skeyseed = prf(suite.prf, ni + nr, shared.reveal())
    return _from_skeyseed(suite, skeyseed, ni + nr + spi_i + spi_r)


def resumed_ike_keys(suite: IkeSuite, old_sk_d: Secret, *, ni: bytes, nr: bytes, spi_i: bytes, spi_r: bytes) -> IkeKeys:
    """Return the keys of an IKE SA that IKE_SESSION_RESUME takes up again, its suite kept (RFC 5723 5.1)."""
    skeyseed = prf(suite.prf, old_sk_d.reveal(), b"Resumption" + ni + nr)
    return _from_skeyseed(suite, skeyseed, ni + nr + spi_i + spi_r)


def rekeyed_ike_keys(old_prf: Prf, old_sk_d: Secret, suite: IkeSuite, *, ni: bytes, nr: bytes, shared: Secret,
                     spi_i: bytes, spi_r: bytes, additional: Sequence[Secret] = ()) -> IkeKeys:
    """Return the keys of an IKE SA made by CREATE_CHILD_SA (RFC 7296 2.18); nonces and SPIs are the new ones.

    `additional` holds the secrets of IKE_FOLLOWUP_KE in order (RFC 9370 2.2.4).  With the PRF, nonces and SPIs of an
    IKE SA itself these are also its keys after one more IKE_INTERMEDIATE, whose formula is the same (RFC 9370 2.2.2).

    RFC 7296 2.18: SKEYSEED comes from the old SA's PRF and the keys from the new one's.  strongSwan uses the old PRF
    for both, so a rekey should offer the PRF in use and nothing else: then both readings agree.
    """
    skeyseed = prf(old_prf, old_sk_d.reveal(), shared.reveal() + ni + nr + _joined(additional))
    return _from_skeyseed(suite, skeyseed, ni + nr + spi_i + spi_r)


def ppk_ike_keys(prf_: Prf, keys: IkeKeys, ppk: Secret) -> IkeKeys:
    """Return the keys with a post-quantum pre-shared key in SK_d, SK_pi and SK_pr (RFC 8784 3); the others stay."""
    def mix(key: Secret) -> Secret:
        return Secret(prf_plus(prf_, ppk.reveal(), key.reveal(), len(key)))

    return replace(keys, sk_d=mix(keys.sk_d), sk_pi=mix(keys.sk_pi), sk_pr=mix(keys.sk_pr))


def child_keys(prf_: Prf, sk_d: Secret, suite: ChildSuite, *, ni: bytes, nr: bytes, shared: Secret | None,
               additional: Sequence[Secret] = ()) -> ChildKeys:
    """Return the keys of a Child SA (RFC 7296 2.17, RFC 9370 2.2.4); `shared` is None where there was no KE."""
    seed = (shared.reveal() if shared is not None else b"") + ni + nr + _joined(additional)
    encr_bytes, integ_bytes = suite.key_bytes
    keymat = prf_plus(prf_, sk_d.reveal(), seed, 2 * (encr_bytes + integ_bytes))
    return ChildKeys(*_cut(keymat, encr_bytes, integ_bytes, encr_bytes, integ_bytes))


def _joined(secrets: Sequence[Secret]) -> bytes:
    return b"".join(secret.reveal() for secret in secrets)


def _from_skeyseed(suite: IkeSuite, skeyseed: bytes, seed: bytes) -> IkeKeys:
    prf_bytes = suite.prf.size
    integ_bytes = suite.integ.key_bytes if suite.integ else 0
    encr_bytes = suite.encr.key_bytes + suite.encr.salt_bytes
    sizes = (prf_bytes, integ_bytes, integ_bytes, encr_bytes, encr_bytes, prf_bytes, prf_bytes)
    return IkeKeys(*_cut(prf_plus(suite.prf, skeyseed, seed, sum(sizes)), *sizes))


def _cut(keymat: bytes, *sizes: int) -> list[Secret]:
    keys: list[Secret] = []
    at = 0
    for size in sizes:
        keys.append(Secret(keymat[at:at + size]))
        at += size
    return keys
