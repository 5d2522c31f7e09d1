"""IKE_AUTH with bare public keys (RFC 7670) and with NULL authentication (RFC 7619), and every confusion of methods."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipsecd.causes import Cause
from ipsecd.events import IkeAttemptFailed
from ipsecd.ike.consts import CertEncoding
from ipsecd.ike.crypto.public_keys import key_bytes
from ipsecd.policy import NOBODY, AuthPolicy, Credential, NullAuth, RawKeys
from ipsecd.reports import ChildUp, IkeUp
from tests.exchange.test_auth_cert import GW_A, GW_B, by_certificate, refused_on_both, trust, with_auth
from tests.support.exchange import Two, policy_a, policy_b
from tests.support.pki import Entity, issue
from tests.support.sim import exchange

PSK = AuthPolicy()
NULL = NullAuth()


def public(entity: Entity) -> bytes:
    return key_bytes(entity.key.public_key())


def raw(entity: Entity) -> Credential:
    return Credential((public(entity),), entity.pkcs8, raw=True)


def two(a: AuthPolicy, b: AuthPolicy) -> Two:
    """Return both gateways; a side that proves nothing has no name."""
    names: list[dict[str, object]] = []
    for auth in (a, b):
        names.append(({"local_identity": NOBODY} if auth.local == NULL else {})
                     | ({"remote_identity": NOBODY} if auth.remote == NULL else {}))
    return Two(with_auth(policy_a(), a, **names[0]), with_auth(policy_b(), b, **names[1]))


@pytest.mark.parametrize("kind", ["rsa2048", "p256", "p384", "p521", "ed25519", "ed448"])
def test_bare_public_keys_of_every_kind_establish(kind: str) -> None:
    # IKE_AUTH { IDi, CERT(raw), CERTREQ(raw), IDr, AUTH, SA, TSi, TSr } -->
    # <-- IKE_AUTH { IDr, CERT(raw), AUTH, SA, TSi, TSr }
    a, b = (issue(f"CN={n}", kind=kind, which=i) for i, n in enumerate("ab"))
    pair = two(AuthPolicy(raw(a), RawKeys((public(b),))), AuthPolicy(raw(b), RawKeys((public(a),))))
    pair.establish()
    request = bytes([41, 0, 0, 5, CertEncoding.RAW_PUBLIC_KEY])        # RFC 7670 3: CERTREQ names no authority
    assert any(request[2:] in d.data for d in pair.net.sent if exchange(34, response=True)(d))


def test_one_of_several_public_keys_is_enough_so_that_a_key_can_be_renewed() -> None:
    several = RawKeys((public(GW_B), public(GW_A)))
    two(AuthPolicy(raw(GW_A), RawKeys((public(GW_B),))), AuthPolicy(raw(GW_B), several)).establish()
    # A peer that sends no CERT (the key is known beforehand) is tried with each.
    silent = replace(raw(GW_A), chain=())
    two(AuthPolicy(silent, RawKeys((public(GW_B),))), AuthPolicy(raw(GW_B), several)).establish()


@pytest.mark.parametrize("credential", [
    raw(issue("CN=x", which=5)),                                        # another key, honestly shown
    Credential((public(GW_A),), issue("CN=x", which=5).pkcs8, raw=True),  # the right one shown, another one signs
    replace(by_certificate(GW_A).local, chain=(GW_B.der,)),             # a certificate of somebody else, the right key
], ids=["other", "stolen name", "certificate"])
def test_only_the_configured_key_proves_the_peer(credential: Credential) -> None:
    pair = two(AuthPolicy(credential, None), AuthPolicy(None, RawKeys((public(GW_A),))))
    if credential.raw:
        assert refused_on_both(pair) == (Cause.PEER_REFUSED_AUTH, Cause.AUTHENTICATION_FAILED)
    else:
        pair.establish()                # its certificates mean nothing: the key that signed is the configured one


def test_null_authentication_of_one_side_or_both_establishes_where_both_entries_say_so() -> None:
    # IKE_AUTH { IDi(ID_NULL), AUTH(NULL), SA, TSi, TSr } -->
    # <-- IKE_AUTH { IDr, AUTH, SA, TSi, TSr }
    for other in (None, by_certificate(GW_B).local, NULL):
        theirs = trust() if isinstance(other, Credential) else other
        pair = two(AuthPolicy(NULL, theirs), AuthPolicy(other, NULL))
        pair.establish()
        assert pair.b.established()[0].remote_identity == "nobody"


def test_nobody_never_says_that_it_is_alone() -> None:
    # RFC 7619 2.4: no INITIAL_CONTACT, and one that comes all the same means nothing.
    pair = two(AuthPolicy(NULL, None), AuthPolicy(None, NULL))
    pair.establish()
    pair.net.restart(pair.a, pair.a.endpoint._table.policy)
    pair.initiate(pair.a)
    pair.net.run(10)
    assert len(pair.b.established()) == 2
    assert "INITIAL_CONTACT" not in str(pair.a.log)


METHODS = {"psk": (None, None), "cert": (by_certificate(GW_A).local, trust()),
           "raw": (raw(GW_A), RawKeys((public(GW_A),))), "null": (NULL, NULL)}


@pytest.mark.parametrize("shown", METHODS)
@pytest.mark.parametrize("wanted", METHODS)
def test_each_method_is_taken_only_where_the_entry_says_so(shown: str, wanted: str) -> None:
    pair = two(AuthPolicy(METHODS[shown][0], None), AuthPolicy(None, METHODS[wanted][1]))
    signed = {shown, wanted} == {"cert", "raw"}
    if shown == wanted or (shown, wanted) == ("cert", "raw"):           # a certificate's key may be a configured one
        pair.establish()
        return
    causes = refused_on_both(pair)
    expected = (Cause.UNKNOWN_IDENTITY if "null" in (shown, wanted)
                else Cause.CERTIFICATE_REFUSED if signed else Cause.AUTH_METHOD)
    assert causes == (Cause.PEER_REFUSED_AUTH, expected)


def test_name_with_null_authentication_is_refused() -> None:
    # A claims to be a.example, whom B knows by its key, and proves nothing.
    pair = Two(with_auth(policy_a(), AuthPolicy(NULL, None)), policy_b())
    assert refused_on_both(pair) == (Cause.PEER_REFUSED_AUTH, Cause.AUTH_METHOD)
    assert pair.b.last_event(IkeAttemptFailed).failure.theirs == "NULL"


def test_responder_that_proves_nothing_is_refused_by_who_expects_a_proof() -> None:
    pair = two(PSK, AuthPolicy(NULL, None))
    pair.initiate(pair.a)
    pair.net.run(45)
    assert not pair.a.reports(IkeUp) + pair.a.reports(ChildUp)
    assert not pair.a.endpoint.views() + pair.b.endpoint.views()
