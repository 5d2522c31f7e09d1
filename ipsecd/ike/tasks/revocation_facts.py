"""Asking the outside whether a certificate was revoked, the peer's or our own, while IKE_AUTH waits.

Of the peer's it happens last: the chain ends at an authority of the entry, the certificate names the identity, and its
key made AUTH.  So what is fetched is named by certificates whose issuers the operator trusts, and nobody who is not
proved otherwise makes us fetch anything.  What our own certificate names is fetched as often as a cache lets.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from ipsecd.effects import RevocationQuery
from ipsecd.events import Warned
from ipsecd.ike.crypto.chain import Chain
from ipsecd.ike.crypto.revocation import Evidence, about, check_revocation, fetched, unknown_text, unsettled
from ipsecd.ike.session import Session
from ipsecd.ike.steps import Steps, Worked, look_up, work
from ipsecd.policy import CertificateTrust, Credential, PeerPolicy

MAX_STAPLED_BYTES = 8192        # of an OCSP response that goes along in IKE_AUTH; one with its certificate has 2 KiB


class Unsettled(NamedTuple):
    """A verified chain of which the evidence at hand says too little, and where more may be had."""

    chain: Chain
    evidence: Evidence
    queries: tuple[RevocationQuery, ...]


def settle_revocation(session: Session, peer: PeerPolicy, trust: CertificateTrust, found: Unsettled,
                      ) -> Steps[float]:
    """Return the time at which the policy is satisfied; raise CertificateRefused where it is not."""
    answers: tuple[bytes | None, ...] = ()
    if found.queries:
        looked = yield from look_up(found.queries)
        answers = looked.value
    wall_now = session.host.wall_now()
    more = fetched(found.queries, answers)
    evidence = Evidence((*found.evidence.crls, *more.crls), (*found.evidence.ocsp, *more.ocsp))

    def judge() -> str:
        check_revocation(found.chain, evidence, trust.revocation, wall_now=wall_now)
        return unknown_text(unsettled(found.chain, evidence, wall_now=wall_now))
    worked = yield from work(judge)
    if worked.value and found.queries:
        session.emit(Warned("revocation_unknown", f"{peer.name}: {worked.value}; taken all the same, because "
                                                  f"revocation is {trust.revocation}"))
    return worked.now


def stapled(credential: Credential | None, now: float, *, wall_now: float) -> Steps[Worked[tuple[bytes, ...]]]:
    """Return an OCSP response about our own certificate, for a peer that asks for one (RFC 4806 4.2), and the time.

    There is none where the certificate names no responder, or its issuer is not known here; nor where none was fetched
    yet: a slow responder of ours must not delay our peers.
    """
    if credential is None or credential.raw or not credential.issuer:
        return Worked((), now)
    built = yield from work(partial(about, credential.chain[0], credential.issuer, wall_now=wall_now))
    if not built.value:
        return Worked((), built.now)
    looked = yield from look_up(built.value, at_hand=True)
    found = [data for data in looked.value if data is not None and len(data) <= MAX_STAPLED_BYTES]
    return Worked(tuple(found[:1]), looked.now)
