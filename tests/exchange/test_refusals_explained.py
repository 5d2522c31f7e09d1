"""Every refusal says what each side offered, and what to change: by the one that refuses, and by the one refused."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest

from ipsecd.causes import Cause, Failure
from ipsecd.events import ChildFailed, IkeAttemptFailed
from ipsecd.policy import AuthPolicy, Policy, Ppk, Revocation
from ipsecd.secret import Secret
from tests.exchange.test_auth_cert import GW_A, GW_B, OTHER_ROOT, by_certificate, trust, with_auth
from tests.support.exchange import Two, esp, fqdn, ike, ike_policy, policy_a, policy_b
from tests.support.pki import issue

OTHER_KEY = Secret(b"another key of more than 16 bytes")
PPK = Ppk(b"key-1", Secret(bytes(range(32))), required=True)
GCM256, CBC = "aes256gcm16-prfsha384-x25519", "aes128-sha256-prfsha256-ecp256"


class Refusal(NamedTuple):
    """A attempts, B's policy does not fit: what each of them reports.

    `None` where that side has no attempt that fails, but an IKE SA that the other one closes.
    """

    a: Policy
    b: Policy
    at_a: Cause | None
    at_b: Cause | None


def only(base: Policy, **changes: object) -> Policy:
    return replace(base, peers=(replace(base.peers[0], **changes),))  # type: ignore[arg-type]


def cert_b(**said: object) -> Policy:
    return with_auth(policy_b(), by_certificate(GW_B, trusted=trust(**said)))


CERT_A = with_auth(policy_a(), by_certificate(GW_A))
STRANGER = with_auth(policy_a(), by_certificate(issue("CN=a", OTHER_ROOT, which=1, sans=("a.example",))))
REFUSED = Cause.PEER_REFUSED_AUTH
REFUSALS = {
    "ike proposals": Refusal(policy_a(ike=ike_policy(proposals=(ike(GCM256),))),
                             policy_b(ike=ike_policy(proposals=(ike(CBC),))), Cause.NO_PROPOSAL, Cause.NO_PROPOSAL),
    "ike group": Refusal(policy_a(ike=ike_policy(proposals=(ike(GCM256),))),
                         policy_b(ike=ike_policy(proposals=(ike("aes256gcm16-prfsha384-ecp384"),))),
                         Cause.NO_PROPOSAL, Cause.NO_PROPOSAL),
    "esp proposals": Refusal(policy_a(proposals=(esp("aes256gcm16"),)), policy_b(proposals=(esp("aes128-sha256"),)),
                             Cause.NO_CHILD_PROPOSAL, Cause.NO_CHILD_PROPOSAL),
    "selectors": Refusal(policy_a("voice"), policy_b("guest"), Cause.TS_UNACCEPTABLE, Cause.TS_UNACCEPTABLE),
    "shared key": Refusal(policy_a(psk=OTHER_KEY), policy_b(), REFUSED, Cause.AUTHENTICATION_FAILED),
    "unknown identity": Refusal(only(policy_a(), local_identity=fqdn("x.example")), policy_b(), REFUSED,
                                Cause.UNKNOWN_IDENTITY),
    "method": Refusal(policy_a(), cert_b(), REFUSED, Cause.AUTH_METHOD),
    "authority": Refusal(STRANGER, cert_b(), REFUSED, Cause.CERTIFICATE_REFUSED),
    "issuer": Refusal(CERT_A, cert_b(issuer=OTHER_ROOT.cert.subject.public_bytes()), REFUSED,
                      Cause.CERTIFICATE_REFUSED),
    "revocation": Refusal(CERT_A, cert_b(revocation=Revocation.STRICT), REFUSED, Cause.CERTIFICATE_REFUSED),
    "signature": Refusal(with_auth(policy_a(), AuthPolicy(replace(by_certificate(GW_A).local,  # type: ignore[type-var]
                                                                  private_key=GW_B.pkcs8), trust())), cert_b(),
                         REFUSED, Cause.AUTHENTICATION_FAILED),
    "ppk required by the responder": Refusal(policy_a(), only(policy_b(), ppk=PPK), REFUSED, Cause.PPK_MISMATCH),
    "ppk required by the initiator": Refusal(only(policy_a(), ppk=PPK), policy_b(), Cause.PPK_MISMATCH, None),
    "ppk of another name": Refusal(only(policy_a(), ppk=replace(PPK, id=b"key-2")), only(policy_b(), ppk=PPK),
                                   REFUSED, Cause.PPK_MISMATCH),
    "responder's identity": Refusal(only(policy_a(), remote_identity=None), policy_b(), Cause.WRONG_IDENTITY, None),
    "responder's key": Refusal(CERT_A, with_auth(policy_b(), by_certificate(
        issue("CN=b", OTHER_ROOT, which=2, sans=("b.example",)))), Cause.CERTIFICATE_REFUSED, None),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_both_ends_say_what_each_offered(name: str) -> None:
    case = REFUSALS[name]
    two = Two(case.a, case.b)
    two.initiate(two.a, two.a.endpoint._table.policy.peers[0].children[0].key.child)
    two.net.run(45)
    for host, cause in ((two.a, case.at_a), (two.b, case.at_b)):
        said: list[Failure] = [e.failure for kind in (IkeAttemptFailed, ChildFailed) for e in host.events(kind)]
        if cause is None:
            continue
        assert {failure.cause for failure in said} == {cause}
        for failure in said:
            assert failure.ours
            assert failure.theirs or failure.notify             # who was refused knows no more than the notify
            # `where` is the line of the key that the hint names first; an entry that is missing has none.
            assert cause is Cause.UNKNOWN_IDENTITY or "peers.P." in failure.hint or "gateway." in failure.hint
            assert len(failure.ours) <= 512


def test_second_ike_sa_of_an_identity_is_refused_with_the_first() -> None:
    two = Two(b=policy_b(ike=ike_policy(unique="reject")))
    two.establish()
    two.initiate(two.a)
    two.net.run(5)
    failure = two.b.last_event(IkeAttemptFailed).failure
    assert (failure.cause, failure.theirs) == (Cause.OCCUPIED, "a.example")
    assert "192.0.2.1" in failure.ours
