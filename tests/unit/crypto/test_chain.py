from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from ipsecd.ike.crypto import chain as chain_module
from ipsecd.ike.crypto.certificates import Certificate, CertificateRefused, parse_certificate
from ipsecd.ike.crypto.chain import Chain, Trust, verify_chain
from tests.support.pki import (
    IPSEC_IKE,
    NOW,
    SERVER_AUTH,
    WALL_NOW,
    YEAR,
    Entity,
    authority,
    constraints,
    issue,
    key,
    usage,
)

ROOT = authority("CN=Root", which=90)
INTER = authority("CN=Inter", ROOT, which=91)
LEAF = issue("CN=gw", INTER, sans=("gw.example.net",))


def facts(*entities: Entity) -> tuple[Certificate, ...]:
    return tuple(parse_certificate(e.der) for e in entities)


def verify(*received: Entity, roots: tuple[Entity, ...] = (ROOT,), local: tuple[Entity, ...] = (),
           wall_now: float = WALL_NOW, **said: Any) -> Chain:
    return verify_chain(facts(*received), Trust(facts(*roots), facts(*local), **said), wall_now=wall_now)


def refused(*received: Entity, match: str, **said: Any) -> None:
    with pytest.raises(CertificateRefused, match=match):
        verify(*received, **said)


def test_ce01_leaf_is_first_and_intermediates_come_in_any_order() -> None:
    lower = authority("CN=Lower", INTER, which=92)
    leaf = issue("CN=gw", lower)
    for order in ((INTER, lower), (lower, INTER), (lower, INTER, LEAF, ROOT)):
        assert verify(leaf, *order).path == facts(leaf, lower, INTER, ROOT)
    refused(INTER, leaf, lower, match="authority's certificate")
    refused(match="no certificate")


@pytest.mark.parametrize("kind", ["rsa2048", "p384", "p521", "ed25519", "ed448"])
def test_chains_of_every_kind_of_key_hold(kind: str) -> None:
    root = authority("CN=Root", kind=kind, which=90)
    inter = authority("CN=Inter", root, kind=kind, which=91)
    leaf = issue("CN=gw", inter, kind=kind)
    assert verify(leaf, inter, roots=(root,)).key == leaf.key.public_key()
    refused(leaf, inter, roots=(authority("CN=Root", kind=kind, which=93),), match="no trusted authority")


def test_ce02_intermediates_sent_configured_half_each_or_missing() -> None:
    lower = authority("CN=Lower", INTER, which=92)
    leaf = issue("CN=gw", lower)
    for sent, local in (((INTER, lower), ()), ((), (INTER, lower)), ((INTER,), (lower,)), ((lower,), (INTER,))):
        assert len(verify(leaf, *sent, local=local).path) == 4
    refused(leaf, lower, match="no trusted authority")


def test_ce03_cross_signed_loop_ends() -> None:
    a = authority("CN=A", authority("CN=B", which=2), which=1)
    b = authority("CN=B", authority("CN=A", which=1), which=2)
    refused(issue("CN=gw", a), a, b, match="no trusted authority")


def test_ce03_many_cross_signed_authorities_cost_a_bounded_number_of_signatures() -> None:
    levels = [[authority(f"CN=L{i}", authority(f"CN=L{i + 1}", which=i + 1), which=i, key_ids=False, serial=n + 1)
               for n in range(4)] for i in range(8)]
    leaf = issue("CN=gw", levels[0][0], key_ids=False)
    crowd = facts(*(entity for level in levels for entity in level))
    with pytest.raises(CertificateRefused):
        verify_chain((*facts(leaf), *crowd), Trust(facts(ROOT)), wall_now=WALL_NOW)


def test_ce03_depth_is_seven() -> None:
    def ladder(rungs: int) -> list[Entity]:
        steps = [ROOT]
        for rung in range(rungs):
            steps.append(authority(f"CN=Rung{rung}", steps[-1], which=rung))
        return [issue("CN=gw", steps[-1]), *steps[1:]]

    assert len(verify(*ladder(5)).path) == 7
    refused(*ladder(6), match="no trusted authority")


def test_ce04_path_length_is_held() -> None:
    short = authority("CN=Short", ROOT, which=93, path_length=0)
    below = authority("CN=Below", short, which=94)
    assert verify(issue("CN=gw", short), short)
    refused(issue("CN=gw", below), below, short, match=r"allows 0 authorities")
    renewed = authority("CN=Short", short, which=95, path_length=0)      # self-issued: does not count
    assert verify(issue("CN=gw", renewed), renewed, short)


def test_ce04_what_is_no_authority_issues_nothing() -> None:
    for issuer in (issue("CN=Fake", ROOT, which=93), issue("CN=Fake", ROOT, which=93, basic=False),
                   authority("CN=Fake", ROOT, which=93, key_usage=usage(digital_signature=True, crl_sign=True))):
        refused(issue("CN=gw", issuer), issuer, match="no authority|issuing certificates")


def test_ce04_leaf_that_is_an_authority_is_refused() -> None:
    refused(authority("CN=gw", ROOT, which=93), match="authority's certificate")


@pytest.mark.parametrize(("said", "good"), [
    ({}, True), ({"key_usage": usage(digital_signature=True)}, True),
    ({"key_usage": usage(content_commitment=True)}, True), ({"key_usage": usage(key_encipherment=True)}, False),
    ({"eku": (IPSEC_IKE,)}, True),
    ({"eku": (x509.ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)}, True),
    ({"eku": (SERVER_AUTH, IPSEC_IKE)}, True), ({"eku": (SERVER_AUTH,)}, False)])
def test_ce05_key_usage_and_purpose(said: dict[str, Any], good: bool) -> None:
    leaf = issue("CN=gw", ROOT, **said)
    if good:
        assert verify(leaf)
    else:
        refused(leaf, match="key usage")


def test_ce05_other_purposes_pass_where_configured() -> None:
    assert verify(issue("CN=gw", ROOT, eku=(SERVER_AUTH,)), any_purpose=True)


def test_ce07_no_trust_comes_from_what_was_sent() -> None:
    fake_root = authority("CN=Root", which=95)
    refused(issue("CN=gw", fake_root), fake_root, match="no trusted authority")
    refused(issue("CN=gw"), match="no trusted authority")
    refused(LEAF, INTER, roots=(), match="no trusted authority")
    other = authority("CN=Other", which=96)
    refused(issue("CN=gw", other), other, match="no trusted authority")


def test_ce07_same_names_and_key_identifiers_with_another_key_do_not_hold() -> None:
    impostor = Entity(ROOT.cert, key("p256", 97))
    refused(issue("CN=gw", impostor, key_ids=False), match="no trusted authority")


@pytest.mark.parametrize("late", ["leaf", "inter", "root"])
@pytest.mark.parametrize(("start", "end", "why"), [
    (NOW - YEAR, NOW - timedelta(days=1), "expired"), (NOW + timedelta(days=1), NOW + YEAR, "not valid yet")])
def test_ce08_every_certificate_of_the_chain_must_be_valid_now(late: str, start: Any, end: Any, why: str) -> None:
    def when(which: str) -> dict[str, Any]:
        return {"start": start, "end": end} if which == late else {}

    root = authority("CN=Root", **when("root"))
    inter = authority("CN=Inter", root, which=91, **when("inter"))
    refused(issue("CN=gw", inter, **when("leaf")), inter, roots=(root,), match=why)


def test_ce08_end_of_the_chain_is_the_earliest_end() -> None:
    assert verify(issue("CN=gw", ROOT, end=NOW + timedelta(days=3))).not_after == (NOW + timedelta(days=3)).timestamp()


def test_ce19_signatures_with_sha1_are_refused_below_the_anchor_only() -> None:
    root = authority("CN=Root", kind="rsa2048")
    inter = authority("CN=Inter", root, kind="rsa2048", which=91)
    leaf = issue("CN=gw", inter, kind="rsa2048")
    assert verify_chain(facts(leaf, inter), Trust((with_sha1(root, root),)), wall_now=WALL_NOW)
    for weak in ((with_sha1(leaf, inter), *facts(inter)), (*facts(leaf), with_sha1(inter, root))):
        with pytest.raises(CertificateRefused, match=r"weaker|no trusted"):
            verify_chain(weak, Trust(facts(root)), wall_now=WALL_NOW)


def with_sha1(entity: Entity, issuer: Entity) -> Certificate:
    """Return the same certificate, signed by RSA with SHA-1: the library makes no such one any more."""
    sha256, sha1 = (bytes.fromhex(f"06092a864886f70d0101{last}0500") for last in ("0b", "05"))
    tbs = entity.cert.tbs_certificate_bytes.replace(sha256, sha1)
    signature = cast("rsa.RSAPrivateKey", issuer.key).sign(tbs, padding.PKCS1v15(), hashes.SHA1())
    return parse_certificate(entity.der.replace(sha256, sha1)[:-256] + signature)


def test_ce16_renewed_authority_beside_the_old_one_is_found() -> None:
    old = authority("CN=Root", which=90, end=NOW - timedelta(days=1), start=NOW - YEAR)
    assert verify(LEAF, INTER, roots=(old, ROOT)).path[-1] == facts(ROOT)[0]
    assert verify(LEAF, INTER, roots=(ROOT, old)).path[-1] == facts(ROOT)[0]


def test_issuer_constraint_wants_an_authority_in_the_chain() -> None:
    for wanted in (ROOT, INTER):
        assert verify(LEAF, INTER, issuer=facts(wanted)[0].subject)
    refused(LEAF, INTER, issuer=facts(LEAF)[0].subject, match="was issued by")


def nested(permitted: tuple[str, ...] = (), excluded: tuple[str, ...] = (), *, kind: str = "p256", **leaf: Any,
           ) -> tuple[Entity, Entity]:
    inter = authority("CN=Inter", ROOT, which=91,
                      extra=((constraints(permitted=permitted, excluded=excluded), True),))
    return issue(leaf.pop("subject", "CN=gw"), inter, kind=kind, **leaf), inter


@pytest.mark.parametrize("kind", ["p256", "ed25519"])        # with the library's validator, and without
@pytest.mark.parametrize(("permitted", "excluded", "sans", "good"), [
    (("example.net",), (), ("gw.example.net",), True), ((".example.net",), (), ("gw.example.net",), True),
    ((".example.net",), (), ("example.net",), False), ((), (".example.net",), ("example.net",), False),
    (("example.net",), (), ("EXAMPLE.Net",), True),
    (("example.net",), (), ("gw.example.org",), False), (("example.net",), (), ("badexample.net",), False),
    (("example.net",), (), ("10.0.0.1",), True), (("example.net",), (), ("gw.example.net", "gw.example.org"), False),
    ((), ("example.net",), ("gw.Example.NET",), False), ((), ("example.net",), ("gw.example.org",), True),
    ((), ("gw.example.net",), ("*.example.net",), False),
    (("net:10.0.0.0/8",), (), ("10.1.2.3",), True), (("net:10.0.0.0/8",), (), ("11.0.0.1",), False),
    ((), ("net:10.0.0.0/8",), ("10.1.2.3",), False), (("net:10.0.0.0/8",), (), ("2001:db8::1",), False),
    (("net:2001:db8::/32",), (), ("2001:db8::1",), True),
    (("mail:example.net",), (), ("a@example.net",), True), (("mail:example.net",), (), ("a@sub.example.net",), False),
    (("mail:.example.net",), (), ("a@sub.example.net",), True), (("mail:.example.net",), (), ("a@example.net",), False),
    (("a@example.net",), (), ("a@Example.net",), True), (("a@example.net",), (), ("b@example.net",), False),
    ((), ("mail:EXAMPLE.net",), ("a@example.NET",), False),
    ((), ("uri:example.net",), ("gw.example.net",), True), ((), ("uri:example.net",), ("uri:http://x.org/",), False),
])
def test_ce15_name_constraints(kind: str, permitted: tuple[str, ...], excluded: tuple[str, ...],
                               sans: tuple[str, ...], good: bool) -> None:
    chain = nested(permitted, excluded, kind=kind, sans=sans)
    if good:
        assert verify(*chain)
    else:
        refused(*chain, match="may not certify|cannot be evaluated|does not hold")


@pytest.mark.parametrize(("permitted", "excluded", "subject", "good"), [
    (("dn:O=Example",), (), "O=Example, CN=gw", True), (("dn:O=Example",), (), "O=example, CN=gw", True),
    (("dn:O=Example",), (), "O=Other, CN=gw", False), (("dn:O=Example, OU=North",), (), "O=Example, CN=gw", False),
    ((), ("dn:O=EXAMPLE",), "O=Example, CN=gw", False), ((), ("dn:O=Other",), "O=Example, CN=gw", True),
    (("mail:example.net",), (), "O=Example, E=a@example.org", False),
    (("mail:example.net",), (), "O=Example, E=a@example.net", True),
    (("mail:example.net",), (), "O=Example, E=nobody", False)])
def test_ce15_name_constraints_on_the_subject(permitted: tuple[str, ...], excluded: tuple[str, ...], subject: str,
                                              good: bool) -> None:
    chain = nested(permitted, excluded, subject=subject)
    if good:
        assert verify(*chain)
    else:
        refused(*chain, match="may not certify|cannot be evaluated")


def test_ce15_constraints_of_two_levels_both_hold() -> None:
    root = authority("CN=Root", extra=((constraints(permitted=("example.net",)), True),))
    inter = authority("CN=Inter", root, which=91, extra=((constraints(excluded=("secret.example.net",)), True),))
    assert verify(issue("CN=gw", inter, sans=("a.example.net",)), inter, roots=(root,))
    for bad in ("a.example.org", "a.secret.example.net"):
        refused(issue("CN=gw", inter, sans=(bad,)), inter, roots=(root,), match="may not certify")


def test_library_validator_is_asked_where_it_knows_everything() -> None:
    assert chain_module._library_knows(facts(LEAF, INTER, ROOT))
    ed = authority("CN=Root", kind="ed25519")
    assert not chain_module._library_knows(facts(issue("CN=gw", ed), ed))
    with pytest.raises(CertificateRefused, match="does not hold"):
        chain_module._check_with_library(facts(LEAF, ROOT), WALL_NOW)
