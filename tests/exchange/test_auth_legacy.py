"""Certificates toward peers without RFC 7427: methods 1, 9, 10 and 11 (RFC 7296 2.15, RFC 4754), in both roles."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipsecd.causes import Cause
from ipsecd.errors import AuthenticationError
from ipsecd.events import IkeAttemptFailed, LocalFault
from ipsecd.ike.consts import AuthMethod, CertEncoding, ExchangeType, NotifyType, PayloadType
from ipsecd.ike.crypto.auth import signed_octets
from ipsecd.ike.crypto.signatures import Signature, sign, verify
from ipsecd.ike.tasks.pick import first, identity, need
from ipsecd.ike.wire.notify import find
from ipsecd.ike.wire.payloads import AuthPayload, CertPayload, IdPayload
from ipsecd.policy import Policy
from ipsecd.reports import ChildRequest
from tests.exchange.test_auth_cert import by_certificate, trust, with_auth
from tests.support.exchange import policy_a
from tests.support.mallory import Mallory, Payloads, child_payloads
from tests.support.pki import Entity, authority, issue
from tests.support.victim import Victim

METHODS = {"rsa2048": AuthMethod.RSA_SIGNATURE, "p256": AuthMethod.ECDSA_256, "p384": AuthMethod.ECDSA_384,
           "p521": AuthMethod.ECDSA_521}


class OldPeer(Mallory):
    """An honest peer that announces no hashes and signs as peers did before RFC 7427."""

    entity: Entity

    def proof(self, type_: PayloadType) -> tuple[IdPayload, CertPayload, AuthPayload]:
        """Return identity, certificate and AUTH of this side."""
        own = IdPayload(type_, self.own.type, self.own.data)
        value = sign(self.entity.key, self._octets(own, initiator=type_ is PayloadType.IDI), peer_hashes=(),
                     legacy=True)
        return (own, CertPayload(CertEncoding.X509_SIGNATURE, self.entity.der), AuthPayload(value.method, value.data))

    def verified(self, payloads: Payloads, type_: PayloadType, key: Entity) -> int:
        """Return the method by which the other side proved to hold a key; raise AuthenticationError if it did not."""
        shown = identity(payloads, type_)
        assert shown is not None
        auth = need(payloads, AuthPayload)
        verify(key.cert.public_key(), Signature(auth.method, auth.data),        # type: ignore[arg-type]
               self._octets(shown, initiator=type_ is PayloadType.IDI), legacy=True)
        return auth.method

    def _octets(self, own: IdPayload, *, initiator: bool) -> bytes:
        assert self.crypto is not None
        keys = self.crypto.keys
        message, nonce, sk_p = ((self.init_request, self.nr, keys.sk_pi) if initiator
                                else (self.init_response, self.ni, keys.sk_pr))
        return signed_octets(self.crypto.suite.prf, message=message, nonce=nonce, sk_p=sk_p, id_body=own.build(),
                             int_auth=b"")


def world(kind: str, *, legacy: bool) -> tuple[Victim, OldPeer, Entity]:
    root = authority(kind=kind)
    a, b = (issue(f"CN={n}", root, kind=kind, which=i, sans=(f"{n}.example",)) for i, n in enumerate("ab"))
    policy: Policy = with_auth(policy_a(), replace(by_certificate(a, trusted=trust(root)), legacy=legacy))
    victim = Victim(policy)
    peer = OldPeer(victim)
    peer.entity = b
    return victim, peer, a


@pytest.mark.parametrize("kind", list(METHODS))
def test_au09_old_initiator_is_let_in_and_answered_by_its_own_method(kind: str) -> None:
    victim, peer, ours = world(kind, legacy=True)
    assert peer.init()
    answer = peer.request(ExchangeType.IKE_AUTH, *peer.proof(PayloadType.IDI), *child_payloads()[:3])
    assert answer is not None
    assert peer.verified(answer, PayloadType.IDR, ours) == METHODS[kind]
    assert victim.established()
    victim.check()


@pytest.mark.parametrize("kind", list(METHODS))
def test_au09_old_responder_is_proved_to_and_believed_by_its_own_method(kind: str) -> None:
    victim, peer, ours = world(kind, legacy=True)
    child = victim.endpoint._table.policy.peers[0].children[0]
    header, asked = peer.accept_init((ChildRequest(child.key, 0, child.local, child.remote),))
    assert peer.verified(asked, PayloadType.IDI, ours) == METHODS[kind]
    peer.respond(header, *peer.proof(PayloadType.IDR), *peer.child_answer(asked)[:3])
    assert victim.established()
    victim.check()


def test_au09_sha1_is_neither_signed_nor_believed_unless_the_entry_is_legacy() -> None:
    victim, peer, _ = world("rsa2048", legacy=False)
    assert peer.init()
    answer = peer.request(ExchangeType.IKE_AUTH, *peer.proof(PayloadType.IDI), *child_payloads()[:3])
    assert answer is not None
    assert find(answer, NotifyType.AUTHENTICATION_FAILED)
    assert first(answer, AuthPayload) is None
    assert not victim.established()
    assert not victim.events(LocalFault)
    (failed,) = victim.events(IkeAttemptFailed)
    assert failed.failure.cause is Cause.AUTHENTICATION_FAILED      # type: ignore[attr-defined]
    assert "RSA_SIGNATURE" in failed.failure.detail                 # type: ignore[attr-defined]


def test_au09_curve_and_method_belong_together() -> None:
    victim, peer, _ = world("p256", legacy=True)
    assert peer.init()
    own, cert, auth = peer.proof(PayloadType.IDI)
    peer.request(ExchangeType.IKE_AUTH, own, cert, AuthPayload(AuthMethod.ECDSA_384, auth.data), *child_payloads()[:3])
    assert not victim.established()
    with pytest.raises(AuthenticationError):
        verify(peer.entity.cert.public_key(), Signature(AuthMethod.ECDSA_384, auth.data), b"", legacy=True)  # type: ignore[arg-type]
