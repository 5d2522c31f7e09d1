"""IKE_AUTH with certificates and signatures (RFC 7296 2.15, 3.6, 3.7; RFC 7427; RFC 4945)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509

from ipsecd.causes import CATALOGUE, Cause
from ipsecd.events import IkeAttemptFailed, LocalFault, Warned
from ipsecd.ike.consts import IdType
from ipsecd.ike.crypto.certificates import authority_hash, parse_certificate
from ipsecd.policy import AuthPolicy, CertificateTrust, Credential, Identity, Policy, Revocation
from ipsecd.reports import ChildUp, IkeFailed, IkeUp
from tests.support.exchange import Two, fqdn, ike_policy, policy_a, policy_b
from tests.support.pki import NOW, YEAR, Entity, authority, general_name, issue, name
from tests.support.sim import exchange, sent_by
from tests.unit.crypto.test_revocation import crl

ROOT = authority()
INTER = authority("O=Example, CN=Inter", ROOT, which=91)
OTHER_ROOT = authority("O=Other, CN=Root", which=92)
GW_A = issue("O=Example, CN=a", ROOT, which=1, sans=("a.example",))
GW_B = issue("O=Example, CN=b", ROOT, which=2, sans=("b.example",))
DAY = timedelta(days=1)


def trust(*roots: Entity, **said: object) -> CertificateTrust:
    anchors = roots or (ROOT,)
    hashes = tuple(authority_hash(parse_certificate(e.der)) for e in anchors)
    return replace(CertificateTrust(tuple(e.der for e in anchors), hashes), **said)  # type: ignore[arg-type]


def credential(entity: Entity, *above: Entity) -> Credential:
    return Credential((entity.der, *(e.der for e in above)), entity.pkcs8)


def by_certificate(entity: Entity, *above: Entity, trusted: CertificateTrust | None = None) -> AuthPolicy:
    return AuthPolicy(credential(entity, *above), trusted or trust())


def with_auth(base: Policy, auth: AuthPolicy, **changes: object) -> Policy:
    return replace(base, peers=(replace(base.peers[0], auth=auth, **changes),))  # type: ignore[arg-type]


def pair(a: AuthPolicy | None = None, b: AuthPolicy | None = None, *, seed: object = 0) -> Two:
    return Two(with_auth(policy_a(), a or by_certificate(GW_A)), with_auth(policy_b(), b or by_certificate(GW_B)),
               seed=seed)


def refused_on_both(two: Two) -> tuple[Cause, Cause]:
    """Run an attempt that must fail; return the causes on A and B; nothing may be left."""
    two.initiate(two.a)
    two.net.run(45)
    assert not two.a.endpoint.views() + two.b.endpoint.views()
    assert not two.a.reports(ChildUp) + two.b.reports(ChildUp)
    assert not two.a.events(LocalFault) + two.b.events(LocalFault)
    return two.a.reports(IkeFailed)[0].failure.cause, two.b.last_event(IkeAttemptFailed).failure.cause


def why(two: Two) -> str:
    return two.b.last_event(IkeAttemptFailed).failure.detail


@pytest.mark.parametrize("kind", ["rsa2048", "p256", "p384", "p521", "ed25519", "ed448"])
def test_certificates_of_every_kind_establish(kind: str) -> None:
    # IKE_AUTH { IDi, CERT, CERTREQ, IDr, AUTH, SA, TSi, TSr } -->
    # <-- IKE_AUTH { IDr, CERT, AUTH, SA, TSi, TSr }
    root = authority(kind=kind)
    a, b = (issue(f"CN={n}", root, kind=kind, which=i, sans=(f"{n}.example",)) for i, n in enumerate("ab"))
    pair(by_certificate(a, trusted=trust(root)), by_certificate(b, trusted=trust(root))).establish()


def test_two_kinds_of_keys_meet() -> None:
    root = authority(kind="rsa3072")
    a = issue("CN=a", root, kind="ed25519", sans=("a.example",))
    b = issue("CN=b", root, kind="rsa2048", sans=("b.example",))
    pair(by_certificate(a, trusted=trust(root)), by_certificate(b, trusted=trust(root))).establish()


def test_ce01_chain_with_an_intermediate_is_sent_and_taken() -> None:
    leaf = issue("CN=a", INTER, which=3, sans=("a.example",))
    pair(by_certificate(leaf, INTER)).establish()


def test_ce02_intermediate_that_is_missing_may_be_configured() -> None:
    leaf = issue("CN=a", INTER, which=3, sans=("a.example",))
    two = pair(by_certificate(leaf))
    assert refused_on_both(two) == (Cause.PEER_REFUSED_AUTH, Cause.CERTIFICATE_REFUSED)
    pair(by_certificate(leaf), by_certificate(GW_B, trusted=trust(intermediates=(INTER.der,)))).establish()


def test_ce01_leaf_that_is_not_first_is_refused() -> None:
    leaf = issue("CN=a", INTER, which=3, sans=("a.example",))
    swapped = AuthPolicy(Credential((INTER.der, leaf.der), leaf.pkcs8), trust())
    assert refused_on_both(pair(swapped)) == (Cause.PEER_REFUSED_AUTH, Cause.CERTIFICATE_REFUSED)


@pytest.mark.parametrize(("leaf", "text"), [
    (issue("O=Other, CN=a", OTHER_ROOT, which=1, sans=("a.example",)), "no trusted authority"),
    (issue("O=Example, CN=a", which=1, sans=("a.example",)), "no trusted authority"),
    (issue("O=Example, CN=a", ROOT, which=1, sans=("a.example",), end=NOW - DAY), "expired"),
    (issue("O=Example, CN=a", ROOT, which=1, sans=("a.example",), start=NOW + DAY), "not valid yet"),
    (issue("O=Example, CN=a.example", ROOT, which=1, sans=("x.example",)), "is not for a.example"),
    (issue("O=Example, CN=a.example", ROOT, which=1), "is not for a.example"),
], ids=["other CA", "self-signed", "expired", "early", "other name", "CN alone"])
def test_ce07_08_12_certificates_that_do_not_prove_it(leaf: Entity, text: str) -> None:
    two = pair(by_certificate(leaf))
    assert refused_on_both(two) == (Cause.PEER_REFUSED_AUTH, Cause.CERTIFICATE_REFUSED)
    assert text in why(two)


def test_responder_with_a_wrong_certificate_is_refused_by_the_initiator() -> None:
    two = pair(b=by_certificate(issue("O=Other, CN=b", OTHER_ROOT, which=2, sans=("b.example",))))
    two.initiate(two.a)
    two.net.run(45)
    assert not two.a.reports(IkeUp)
    assert two.a.reports(IkeFailed)[0].failure.cause is Cause.CERTIFICATE_REFUSED
    assert not two.a.endpoint.views() + two.b.endpoint.views()


def test_au02_every_refusal_looks_alike_from_outside() -> None:
    sizes = []
    for a in (by_certificate(issue("CN=a", OTHER_ROOT, which=1, sans=("a.example",))),
              by_certificate(issue("CN=a", ROOT, which=1, sans=("a.example",), end=NOW - DAY)), AuthPolicy()):
        two = pair(a)
        refused_on_both(two)
        sizes.append([len(d.data) for d in two.net.sent if sent_by(two.b)(d)][-1])
    assert len(set(sizes)) == 1


def test_key_of_another_certificate_does_not_sign() -> None:
    stolen = AuthPolicy(Credential((GW_A.der,), GW_B.pkcs8), trust())
    assert refused_on_both(pair(stolen)) == (Cause.PEER_REFUSED_AUTH, Cause.AUTHENTICATION_FAILED)


@pytest.mark.parametrize(("a", "b"), [
    (AuthPolicy(credential(GW_A), None), AuthPolicy(None, trust())),        # A by certificate, B by key
    (AuthPolicy(None, trust()), AuthPolicy(credential(GW_B), None))])
def test_au07_each_direction_may_have_its_own_method(a: AuthPolicy, b: AuthPolicy) -> None:
    pair(a, b).establish()


@pytest.mark.parametrize(("a", "b"), [
    (AuthPolicy(), by_certificate(GW_B)), (by_certificate(GW_A), AuthPolicy()),
    (AuthPolicy(None, trust()), by_certificate(GW_B)), (AuthPolicy(credential(GW_A), None), AuthPolicy())])
def test_au07_08_a_method_that_is_not_configured_is_refused(a: AuthPolicy, b: AuthPolicy) -> None:
    two = Two(with_auth(policy_a(), a), with_auth(policy_b(), b))
    assert refused_on_both(two) == (Cause.PEER_REFUSED_AUTH, Cause.AUTH_METHOD)


def test_key_whose_signature_the_peer_cannot_verify_is_a_failure_with_its_reason() -> None:
    # B wants a pre-shared key and says nothing of RFC 7427; A has only an RSA key to show
    ours = issue("CN=a", ROOT, kind="rsa2048", which=1, sans=("a.example",))
    two = Two(with_auth(policy_a(), AuthPolicy(credential(ours), None)))
    two.initiate(two.a)
    two.net.run(45)
    failure = two.a.reports(IkeFailed)[0].failure
    assert failure.cause is Cause.AUTH_METHOD
    assert "no list of hashes (RFC 7427)" in failure.detail
    assert not two.a.endpoint.views() + two.b.endpoint.views()


def test_au15_own_identity_is_refused_before_its_certificate() -> None:
    mirror = Two(with_auth(policy_a(), by_certificate(GW_A)), with_auth(
        policy_b(), by_certificate(GW_A), local_identity=fqdn("a.example"), remote_identity=fqdn("a.example")))
    assert not mirror.a.reports(IkeUp)
    refused_on_both(mirror)


def test_ce18_unreadable_certificate_beside_a_good_chain_is_passed_over() -> None:
    leaf = issue("CN=a", INTER, which=3, sans=("a.example",))
    beside = AuthPolicy(Credential((leaf.der, b"not a certificate", INTER.der), leaf.pkcs8), trust())
    pair(beside).establish()
    first = AuthPolicy(Credential((b"not a certificate", leaf.der, INTER.der), leaf.pkcs8), trust())
    assert refused_on_both(pair(first)) == (Cause.PEER_REFUSED_AUTH, Cause.CERTIFICATE_REFUSED)


@pytest.mark.parametrize(("count", "good"), [(8, True), (9, False)])
def test_ce18_eight_certificates_are_taken_and_nine_are_not(count: int, good: bool) -> None:
    many = AuthPolicy(Credential((GW_A.der, *[OTHER_ROOT.der] * (count - 1)), GW_A.pkcs8), trust())
    two = pair(many)
    if good:
        two.establish()
    else:
        two.initiate(two.a)
        two.net.run(45)
        assert not two.b.reports(ChildUp)
        assert not two.a.endpoint.views() + two.b.endpoint.views()


def test_issuer_constraint_keeps_other_authorities_out() -> None:
    both = trust(ROOT, OTHER_ROOT, issuer=name("O=Other, CN=Root").public_bytes())
    two = pair(b=by_certificate(GW_B, trusted=both))
    assert refused_on_both(two)[1] is Cause.CERTIFICATE_REFUSED
    assert "not by" in why(two)
    other = issue("CN=a", OTHER_ROOT, which=1, sans=("a.example",))
    pair(by_certificate(other), by_certificate(GW_B, trusted=both)).establish()


@pytest.mark.parametrize(("revoked", "mode", "good"), [
    ((GW_A,), Revocation.IF_AVAILABLE, False), ((GW_A,), Revocation.STRICT, False), ((GW_A,), Revocation.OFF, True),
    ((), Revocation.STRICT, True), (None, Revocation.STRICT, False), (None, Revocation.IF_AVAILABLE, True)])
def test_ce09_revocation_decides_in_the_exchange(revoked: tuple[Entity, ...] | None, mode: Revocation,
                                                 good: bool) -> None:
    lists = () if revoked is None else (crl(ROOT, revoked),)
    two = pair(b=by_certificate(GW_B, trusted=trust(crls=lists, revocation=mode)))
    if good:
        two.establish()
    else:
        assert refused_on_both(two)[1] is Cause.CERTIFICATE_REFUSED


def test_ce12_distinguished_name_is_an_identity() -> None:
    def dn(entity: Entity) -> Identity:
        return Identity(IdType.DER_ASN1_DN, entity.cert.subject.public_bytes())

    Two(with_auth(policy_a(), by_certificate(GW_A), local_identity=dn(GW_A), remote_identity=dn(GW_B)),
        with_auth(policy_b(), by_certificate(GW_B), local_identity=dn(GW_B), remote_identity=dn(GW_A))).establish()


def test_ce18_long_chain_is_fragmented_both_ways_and_survives_loss() -> None:
    root = authority(kind="rsa3072")
    inter = authority("O=Example, CN=Inter", root, kind="rsa3072", which=91)
    a, b = (issue(f"CN={n}", inter, kind="rsa2048", which=i, sans=(f"{n}.example",)) for i, n in enumerate("ab"))
    small = ike_policy(fragment_bytes=576)
    two = Two(with_auth(policy_a(ike=small), by_certificate(a, inter, trusted=trust(root))),
              with_auth(policy_b(ike=small), by_certificate(b, inter, trusted=trust(root))))
    two.net.loss = 0.2
    two.initiate(two.a)
    two.net.run(90)
    assert two.a.reports(ChildUp)
    assert two.b.reports(ChildUp)
    auth = [d for d in two.net.sent if exchange(35)(d)]
    assert all(len(d.data) <= 576 for d in auth)
    assert all(len([d for d in auth if sent_by(host)(d)]) >= 4 for host in (two.a, two.b))


def test_attack_section_13_no_changed_certificate_is_a_fault_of_ours() -> None:
    # A signs rightly and shows its certificate with one byte changed: B refuses, or takes what means the same.
    outcomes = set()
    for index in range(0, len(GW_A.der), 9):
        changed = GW_A.der[:index] + bytes([GW_A.der[index] ^ 0x21]) + GW_A.der[index + 1:]
        two = pair(AuthPolicy(Credential((changed,), GW_A.pkcs8), trust()), seed=index)
        two.initiate(two.a)
        two.net.run(2)
        assert not two.b.events(LocalFault)
        assert not two.b.reports(ChildUp)
        outcomes.add(two.b.last_event(IkeAttemptFailed).failure.cause)
    assert outcomes == {Cause.CERTIFICATE_REFUSED}


def test_validity_follows_the_time_of_day() -> None:
    two = pair()
    two.net.wall_offset += 2 * YEAR.total_seconds()
    assert refused_on_both(two)[1] is Cause.CERTIFICATE_REFUSED
    two = pair()
    two.net.wall_offset = -two.net.now                     # a gateway whose clock stands at the epoch
    assert refused_on_both(two)[1] is Cause.CERTIFICATE_REFUSED


def test_ce20_renewed_certificate_is_used_by_new_handshakes_and_disturbs_nothing() -> None:
    two = pair()
    two.establish()
    renewed = issue("O=Example, CN=b", ROOT, which=7, sans=("b.example",), end=NOW + 2 * YEAR)
    two.b.endpoint.replace_policy(with_auth(policy_b(), by_certificate(renewed)), two.net.now)
    two.net.run(1)
    assert len(two.b.established()) == 1
    two.initiate(two.a)
    two.net.run(2)
    assert len(two.a.reports(IkeUp)) == 2


def test_policy_that_changed_while_a_signature_was_checked_is_not_used() -> None:
    two = pair()
    two.initiate(two.a)
    entry = two.b.endpoint._table.policy.peers[0]
    two.net.run(0.015)
    assert entry.auth.remote is not None
    two.b.endpoint.replace_policy(with_auth(policy_b(), by_certificate(GW_B, trusted=trust(OTHER_ROOT))), two.net.now)
    two.net.run(45)
    assert not two.b.reports(ChildUp)


def test_pre_shared_keys_say_nothing_of_signatures() -> None:
    two = Two()
    two.establish()
    hashes = bytes.fromhex("402f")                          # SIGNATURE_HASH_ALGORITHMS, 16431
    assert all(b"\0\0" + hashes not in d.data for d in two.net.sent if exchange(34)(d))
    two = pair()
    two.establish()
    assert all(b"\0\0" + hashes in d.data for d in two.net.sent if exchange(34)(d))


def test_ce17_responder_names_its_authorities_in_the_first_answer() -> None:
    two = pair()
    two.establish()
    wanted = authority_hash(parse_certificate(ROOT.der))
    answers = [d for d in two.net.sent if exchange(34)(d) and sent_by(two.b)(d)]
    assert all(wanted in d.data for d in answers)


@pytest.mark.parametrize("initiator", ["a", "b"])
@pytest.mark.parametrize("asked", [(ROOT,), (OTHER_ROOT,), (OTHER_ROOT, ROOT), ()])
def test_ce17_certificate_is_chosen_by_the_authority_that_the_peer_asks_for(asked: tuple[Entity, ...],
                                                                            initiator: str) -> None:
    # A has two certificates of one name; B trusts some authority, and with too many of them names none
    other = issue("O=Other, CN=a", OTHER_ROOT, which=3, sans=("a.example",))
    ours = AuthPolicy(below(ROOT, GW_A), trust(), others=(below(OTHER_ROOT, other),))
    theirs = trust(*asked) if asked else replace(trust(ROOT, OTHER_ROOT), authority_hashes=())
    two = pair(ours, by_certificate(GW_B, trusted=theirs))
    if initiator == "a":
        two.establish()
    else:
        two.initiate(two.b)
        two.net.run(1)
        assert two.b.reports(ChildUp)
    two.check()


def below(issuer: Entity, entity: Entity) -> Credential:
    return replace(credential(entity), issuer_hashes=(authority_hash(parse_certificate(issuer.der)),))


def test_ce17_authority_that_nobody_knows_is_answered_with_the_usual_certificate() -> None:
    third = authority("O=Third, CN=Root", which=93)
    other = issue("O=Other, CN=a", OTHER_ROOT, which=3, sans=("a.example",))
    ours = AuthPolicy(below(ROOT, GW_A), trust(), others=(below(OTHER_ROOT, other),))
    wrong = replace(trust(), authority_hashes=trust(third).authority_hashes)     # CERTREQ is no more than a hint
    pair(ours, by_certificate(GW_B, trusted=wrong)).establish()


def test_cause_has_an_advice() -> None:
    assert "peers.P" in CATALOGUE[Cause.CERTIFICATE_REFUSED].hint


CDP = "http://pki.example/root.crl"
POINT = x509.DistributionPoint([general_name("uri:" + CDP)], None, None, None)
PUBLISHED = (x509.CRLDistributionPoints([POINT]), False)
GW_A_CDP = issue("O=Example, CN=a", ROOT, which=1, sans=("a.example",), extra=(PUBLISHED,))


@pytest.mark.parametrize("mode", [Revocation.STRICT, Revocation.IF_AVAILABLE])
def test_revocation_list_is_fetched_where_the_certificate_says(mode: Revocation) -> None:
    two = pair(by_certificate(GW_A_CDP), by_certificate(GW_B, trusted=trust(revocation=mode)))
    two.b.web[CDP] = crl(ROOT)
    two.establish()
    assert two.b.fetched == [CDP]
    assert not two.a.fetched                          # B's certificate names no place


@pytest.mark.parametrize("mode", [Revocation.STRICT, Revocation.IF_AVAILABLE])
def test_certificate_that_a_fetched_list_names_is_refused(mode: Revocation) -> None:
    two = pair(by_certificate(GW_A_CDP), by_certificate(GW_B, trusted=trust(revocation=mode)))
    two.b.web[CDP] = crl(ROOT, (GW_A_CDP,))
    assert refused_on_both(two)[1] is Cause.CERTIFICATE_REFUSED
    assert "was revoked" in why(two)


@pytest.mark.parametrize("answer", [None, b"<html>", crl(OTHER_ROOT)])
def test_useless_answer_refuses_a_peer_where_revocation_is_strict(answer: bytes | None) -> None:
    two = pair(by_certificate(GW_A_CDP), by_certificate(GW_B, trusted=trust(revocation=Revocation.STRICT)))
    two.b.web |= {CDP: answer} if answer is not None else {}
    assert refused_on_both(two)[1] is Cause.CERTIFICATE_REFUSED
    assert "revocation is strict" in why(two)


def test_silent_server_lets_a_peer_in_where_revocation_is_asked_if_available_and_says_so() -> None:
    two = pair(by_certificate(GW_A_CDP), by_certificate(GW_B))
    two.establish()
    assert [e.what for e in two.b.events(Warned)] == ["revocation_unknown"]


@pytest.mark.parametrize("claim", ["wrong name", "wrong authority", "wrong key"])
def test_nothing_is_fetched_for_a_peer_that_is_not_proved_otherwise(claim: str) -> None:
    # A peer must not choose what we ask of the network, nor make us ask at all.
    extra = {"extra": (PUBLISHED,)}
    shown = {"wrong name": issue("CN=x", ROOT, which=1, sans=("x.example",), **extra),
             "wrong authority": issue("CN=a", OTHER_ROOT, which=1, sans=("a.example",), **extra),
             "wrong key": replace(GW_A_CDP, key=issue("CN=o", ROOT, which=7).key)}[claim]
    two = pair(by_certificate(shown), by_certificate(GW_B, trusted=trust(revocation=Revocation.STRICT)))
    two.b.web[CDP] = crl(ROOT)
    refused_on_both(two)
    assert not two.b.fetched


def test_revocation_that_is_off_fetches_nothing() -> None:
    two = pair(by_certificate(GW_A_CDP), by_certificate(GW_B, trusted=trust(revocation=Revocation.OFF)))
    two.establish()
    assert not two.b.fetched
